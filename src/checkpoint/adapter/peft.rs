//! PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
//!
//! [`config`] reads the keys, `tensor_names` the names of tensors; here both must agree. Formulas: `LoraLayer` of the
//! peft library. Next: `super::apply`.

pub mod config;
mod pattern;
mod targets;
mod tensor_names;
mod values;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use self::config::PeftConfig;
use self::tensor_names::{PREFIX, Part};
use super::detect::{PEFT_CONFIG, is_peft_folder};
use super::lora::{Adapter, BaseInit, LoraPair, NewRows, WholeTensor, layer_order};
use crate::atomic;
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::read::read_weights;
use crate::checkpoint::safetensors;
use crate::checkpoint::weights::read_json;
use crate::error::{Error, Place, Result};

const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];

/// Reads a folder.
///
/// # Errors
/// There is no adapter, a key of its config asks for what is not computed here, or its weights do not fit the config.
pub fn read(folder: &Path) -> Result<Adapter> {
    let (settings, file) = read_config(folder)?;
    let weights = weight_file(folder)?;
    let mut read = Parts::default();
    for (name, tensor) in read_weights(&weights)?.tensors {
        read.put(&settings, &name, tensor).map_err(|e| e.at(Place::file(&weights)))?;
    }
    let mut adapter = read.adapter(&settings).map_err(|e| e.at(Place::file(&file)))?;
    if adapter.pairs.is_empty() && adapter.whole.is_empty() && adapter.rows.is_empty() {
        return Err(Error::input("this adapter is empty").at(Place::file(&weights)));
    }
    adapter.base = settings.base;
    Ok(adapter)
}

/// The weight file of a folder.
///
/// # Errors
/// There is none.
pub fn weight_file(folder: &Path) -> Result<PathBuf> {
    let weights = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    weights.ok_or_else(|| {
        Error::input("this adapter has no weights")
            .at(Place::file(folder))
            .hint(format!("it needs {}", WEIGHTS.join(" or ")))
    })
}

/// The config of a folder, and its path.
///
/// # Errors
/// There is none, it is no JSON, or a key asks for what is not computed here.
pub fn read_config(folder: &Path) -> Result<(PeftConfig, PathBuf)> {
    let file = folder.join(PEFT_CONFIG);
    if !is_peft_folder(folder) {
        return Err(Error::input("this folder holds no adapter")
            .at(Place::file(folder))
            .hint(format!("PEFT's folders have {PEFT_CONFIG}; upstream's adapter is a .pth file")));
    }
    let settings = PeftConfig::read(&read_json(&file)?).map_err(|e| e.at(Place::file(&file)))?;
    Ok((settings, file))
}

/// An adapter while its tensors are read, in any order.
#[derive(Default)]
struct Parts {
    modules: HashMap<String, HashMap<Part, HostTensor>>,
    whole: Vec<WholeTensor>,
}

impl Parts {
    fn put(&mut self, settings: &PeftConfig, name: &str, tensor: HostTensor) -> Result<()> {
        let (module, part) = tensor_names::parse(name).ok_or_else(|| {
            Error::failed(format!("`{name}` is no part of a LoRA adapter"))
                .hint("matrices A and B, DoRA's magnitudes, new rows and whole modules are read")
        })?;
        let (parameter, saved) = match &part {
            Part::Original => return Ok(()),
            Part::Base(parameter) => (parameter, false),
            Part::Saved(parameter) => (parameter, true),
            _ => {
                if self.modules.entry(module.clone()).or_default().insert(part, tensor).is_some() {
                    return Err(Error::failed(format!("two adapters of `{module}` are in one file")));
                }
                return Ok(());
            }
        };
        let own = settings.saves(&module);
        if saved && !own {
            return Err(Error::failed(format!(
                "`modules_to_save` does not name `{module}`, which comes whole"
            )));
        }
        if parameter == "bias" && !own && !settings.bias {
            return Err(Error::failed(format!("`bias` is none, but the weights hold one of `{module}`")));
        }
        let name = format!("{module}.{parameter}");
        if let Some(other) = self.whole.iter().find(|whole| whole.name == name) {
            // `bias` and `modules_to_save` each write a bias that both choose.
            if other.tensor.shape() == tensor.shape()
                && other.tensor.dtype() == tensor.dtype()
                && other.tensor.bytes()? == tensor.bytes()?
            {
                return Ok(());
            }
            return Err(Error::failed(format!("`{name}` comes twice")));
        }
        self.whole.push(WholeTensor { name, tensor, own });
        Ok(())
    }

    fn adapter(self, settings: &PeftConfig) -> Result<Adapter> {
        let mut adapter = Adapter { whole: self.whole, keep_tie: settings.keep_tie, ..Adapter::default() };
        for (module, mut parts) in self.modules {
            if let Some(rows) = parts.remove(&Part::TokenRows) {
                adapter.rows.push(new_rows(settings, &module, rows)?);
            }
            if !parts.is_empty() {
                // The output layer's follows the embedding's where the config ties them.
                if !(settings.keep_tie && module == "lm_head") {
                    settings.expect_target(&module)?;
                }
                let pair = pair(settings, &module, parts)?;
                adapter.pairs.push((module, pair));
            }
        }
        if let Some((module, _)) = settings.tokens.first().filter(|_| adapter.rows.is_empty()) {
            return Err(Error::failed(format!(
                "`trainable_token_indices` names `{module}`, whose rows are not in the weights"
            )));
        }
        for name in &settings.modules_to_save {
            let there = |whole: &WholeTensor| whole.own && settings.saves_as(&whole.name, name);
            if !adapter.whole.iter().any(there) {
                return Err(Error::failed(format!(
                    "`modules_to_save` names `{name}`, which is not in the weights"
                )));
            }
        }
        adapter.pairs.sort_by(|a, b| layer_order(&a.0).cmp(&layer_order(&b.0)));
        adapter.whole.sort_by(|a, b| a.name.cmp(&b.name));
        adapter.rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(adapter)
    }
}

/// The pair of a module, with all parts that belong to it.
fn pair(settings: &PeftConfig, module: &str, mut parts: HashMap<Part, HostTensor>) -> Result<LoraPair> {
    let embedding = parts.contains_key(&Part::EmbeddingA) || parts.contains_key(&Part::EmbeddingB);
    let halves = if embedding {
        // An embedding is a Linear from ids seen from the other side: A is [R, V] and B [D, R].
        let transpose = |half: Option<HostTensor>| half.map(|half| half.transposed()).transpose();
        (transpose(parts.remove(&Part::EmbeddingB))?, transpose(parts.remove(&Part::EmbeddingA))?)
    } else {
        (parts.remove(&Part::A), parts.remove(&Part::B))
    };
    let (Some(a), Some(b)) = halves else {
        return Err(Error::failed(format!("the adapter of `{module}` lacks its A or its B"))
            .hint("copy or download the adapter again"));
    };
    let rank = a.shape().first().copied().unwrap_or(0);
    let mut pair = LoraPair::new(module, a, b, settings.scale(module, rank)?)?;
    pair.embedding = embedding;
    // peft prepares embeddings in no way.
    pair.start = if embedding { BaseInit::Same } else { settings.start };
    pair.magnitude = parts.remove(&Part::Magnitude);
    pair.bias = parts.remove(&Part::BiasOfB);
    for (key, asked, there) in [
        ("use_dora", settings.dora, pair.magnitude.is_some()),
        ("lora_bias", settings.lora_bias, pair.bias.is_some()),
    ] {
        if asked != there {
            let (holds, what) = (
                if there { "hold" } else { "lack" },
                if key == "use_dora" { "magnitudes" } else { "a bias" },
            );
            return Err(Error::failed(format!(
                "`{key}` is {asked}, but the weights {holds} {what} of `{module}`"
            )));
        }
    }
    Ok(pair)
}

fn new_rows(settings: &PeftConfig, module: &str, rows: HostTensor) -> Result<NewRows> {
    let named = settings.tokens.iter().find(|(name, _)| module.ends_with(name.as_str()));
    let (_, indices) = named.ok_or_else(|| {
        Error::failed(format!("`trainable_token_indices` does not name `{module}`, which has new rows"))
    })?;
    Ok(NewRows { name: format!("{module}.weight"), indices: indices.clone(), rows })
}

/// Writes a folder. `base` is the model that the library loads under the adapter.
///
/// # Errors
/// The disk fails, or the adapter is more than plain LoRA.
pub fn write(adapter: &Adapter, base: Option<&str>, folder: &Path) -> Result<()> {
    adapter.check_plain("the folder that is written here")?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
    let mut tensors: Vec<(String, HostTensor)> = Vec::new();
    let uniform = uniform(adapter);
    for (module, pair) in &adapter.pairs {
        // One alpha for all where possible; else the scale is multiplied into B.
        let pair = if uniform.is_some() { pair.clone() } else { pair.folded()? };
        tensors.push((format!("{PREFIX}{module}.lora_A.weight"), pair.a));
        tensors.push((format!("{PREFIX}{module}.lora_B.weight"), pair.b));
    }
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::write(&folder.join(WEIGHTS[0]), &tensors, metadata)?;
    let config = config(adapter, uniform, base.or(adapter.base.as_deref()));
    let mut text =
        serde_json::to_string_pretty(&config).map_err(|e| Error::failed("cannot write JSON").because(e))?;
    text.push('\n');
    atomic::write_bytes(&folder.join(PEFT_CONFIG), text.as_bytes())
}

/// Rank and scale, if all pairs have the same.
fn uniform(adapter: &Adapter) -> Option<(i64, f64)> {
    let first = &adapter.pairs.first()?.1;
    let same = |pair: &LoraPair| pair.rank() == first.rank() && pair.scale == first.scale;
    adapter.pairs.iter().all(|(_, pair)| same(pair)).then_some((first.rank(), first.scale))
}

fn config(adapter: &Adapter, uniform: Option<(i64, f64)>, base: Option<&str>) -> Json {
    let largest = adapter.pairs.iter().map(|(_, pair)| pair.rank()).max().unwrap_or(1);
    let (rank, scale) = uniform.unwrap_or((largest, 1.0));
    let mut ranks = Map::new();
    let mut alphas = Map::new();
    for (module, pair) in adapter.pairs.iter().filter(|(_, pair)| pair.rank() != rank) {
        ranks.insert(module.clone(), pair.rank().into());
        alphas.insert(module.clone(), pair.rank().into());
    }
    let alpha = rank as f64 * scale;
    json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": true,
        "r": rank,
        "lora_alpha": if alpha.fract() == 0.0 { json!(alpha as i64) } else { json!(alpha) },
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "modules_to_save": null,
        "rank_pattern": ranks,
        "alpha_pattern": alphas,
        "target_modules": targets(adapter),
    })
}

/// `target_modules`: the last parts of the names (`q_proj`) where these mean the same Linears in every layer, else all
/// names.
fn targets(adapter: &Adapter) -> Vec<String> {
    let split = |name: &str| {
        let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
        Some((layer.parse::<usize>().ok()?, rest.strip_prefix("self_attn.")?.to_owned()))
    };
    let all: Option<Vec<(usize, String)>> = adapter.pairs.iter().map(|(name, _)| split(name)).collect();
    let names = || adapter.pairs.iter().map(|(name, _)| name.clone()).collect();
    let Some(all) = all else { return names() };
    let parts: BTreeSet<&String> = all.iter().map(|(_, part)| part).collect();
    let layers: BTreeSet<usize> = all.iter().map(|(layer, _)| *layer).collect();
    let whole = layers.iter().copied().eq(0..layers.len()) && all.len() == parts.len() * layers.len();
    if whole { parts.into_iter().cloned().collect() } else { names() }
}
