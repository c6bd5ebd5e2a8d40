//! PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
//!
//! What the config says is `config`'s, which part a tensor is `parts`' to know; here they must agree. Formulas:
//! `LoraLayer` of the peft library. Next: `apply`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::config::Settings;
use super::parts::{self, Part};
use super::{Adapter, CONFIG, Pair, Rows, Start, Whole, natural};
use crate::atomic;
use crate::checkpoint::resolve::FOLDER_WEIGHTS;
use crate::checkpoint::value::HostTensor;
use crate::checkpoint::{load, safetensors};
use crate::error::{Error, Place, Result};

const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
const PREFIX: &str = "base_model.model.";

/// Reads a folder.
///
/// # Errors
/// There is none, a key of its config asks for what is not computed here, or its weights do not fit the config.
pub fn read(folder: &Path) -> Result<Adapter> {
    let (settings, file) = settings(folder)?;
    let weights = weights_of(folder)?;
    let mut read = Read::default();
    for (name, tensor) in load::read_weights(&weights)?.tensors {
        read.put(&settings, &name, tensor).map_err(|e| e.at(Place::file(&weights)))?;
    }
    let mut adapter = read.adapter(&settings).map_err(|e| e.at(Place::file(&file)))?;
    if adapter.pairs.is_empty() && adapter.whole.is_empty() && adapter.rows.is_empty() {
        return Err(Error::input("this adapter is empty").at(Place::file(&weights)));
    }
    adapter.base = settings.base;
    Ok(adapter)
}

/// Whether a folder holds an adapter's config.
pub fn is_folder(folder: &Path) -> bool {
    folder.join(CONFIG).is_file()
}

/// Whether it does, and no model.
pub fn is_alone(folder: &Path) -> bool {
    is_folder(folder) && !FOLDER_WEIGHTS.iter().any(|name| folder.join(name).is_file())
}

/// The file with a folder's tensors.
///
/// # Errors
/// There is none.
pub fn weights_of(folder: &Path) -> Result<PathBuf> {
    let weights = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    weights.ok_or_else(|| {
        Error::input("this adapter has no weights")
            .at(Place::file(folder))
            .hint(format!("it needs {}", WEIGHTS.join(" or ")))
    })
}

/// The config of a folder, and its file.
pub fn settings(folder: &Path) -> Result<(Settings, PathBuf)> {
    let file = folder.join(CONFIG);
    if !file.is_file() {
        return Err(Error::input("this folder holds no adapter")
            .at(Place::file(folder))
            .hint(format!("PEFT's folders have {CONFIG}; upstream's adapter is a .pth file")));
    }
    let settings = Settings::read(&load::read_json(&file)?).map_err(|e| e.at(Place::file(&file)))?;
    Ok((settings, file))
}

/// An adapter while its tensors are read, in any order.
#[derive(Default)]
struct Read {
    modules: HashMap<String, HashMap<Part, HostTensor>>,
    whole: Vec<Whole>,
}

impl Read {
    fn put(&mut self, settings: &Settings, name: &str, tensor: HostTensor) -> Result<()> {
        let (module, part) = parts::of(name).ok_or_else(|| {
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
        let own = settings.saved(&module);
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
        self.whole.push(Whole { name, tensor, own });
        Ok(())
    }

    fn adapter(self, settings: &Settings) -> Result<Adapter> {
        let mut adapter = Adapter { whole: self.whole, keep_tie: settings.keep_tie, ..Adapter::default() };
        for (module, mut parts) in self.modules {
            if let Some(rows) = parts.remove(&Part::Tokens) {
                adapter.rows.push(new_rows(settings, &module, rows)?);
            }
            if !parts.is_empty() {
                // The output layer's follows the embedding's where the config ties them.
                if !(settings.keep_tie && module == "lm_head") {
                    settings.expect(&module)?;
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
            let there = |whole: &Whole| whole.own && settings.saved_as(&whole.name, name);
            if !adapter.whole.iter().any(there) {
                return Err(Error::failed(format!(
                    "`modules_to_save` names `{name}`, which is not in the weights"
                )));
            }
        }
        adapter.pairs.sort_by(|a, b| natural(&a.0).cmp(&natural(&b.0)));
        adapter.whole.sort_by(|a, b| a.name.cmp(&b.name));
        adapter.rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(adapter)
    }
}

/// A module's matrices with all that belongs to them.
fn pair(settings: &Settings, module: &str, mut parts: HashMap<Part, HostTensor>) -> Result<Pair> {
    let embedding = parts.contains_key(&Part::EmbeddingA) || parts.contains_key(&Part::EmbeddingB);
    let halves = if embedding {
        // An embedding is a Linear from ids seen from the other side: A is [R, V] and B [D, R].
        let turn = |half: Option<HostTensor>| half.map(|half| half.transposed()).transpose();
        (turn(parts.remove(&Part::EmbeddingB))?, turn(parts.remove(&Part::EmbeddingA))?)
    } else {
        (parts.remove(&Part::A), parts.remove(&Part::B))
    };
    let (Some(a), Some(b)) = halves else {
        return Err(Error::failed(format!("the adapter of `{module}` lacks its A or its B"))
            .hint("copy or download the adapter again"));
    };
    let rank = a.shape().first().copied().unwrap_or(0);
    let mut pair = Pair::new(module, a, b, settings.scale(module, rank)?)?;
    pair.embedding = embedding;
    // peft takes embeddings apart for no kind of start.
    pair.start = if embedding { Start::Same } else { settings.start };
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

fn new_rows(settings: &Settings, module: &str, rows: HostTensor) -> Result<Rows> {
    let named = settings.tokens.iter().find(|(name, _)| module.ends_with(name.as_str()));
    let (_, indices) = named.ok_or_else(|| {
        Error::failed(format!("`trainable_token_indices` does not name `{module}`, which has new rows"))
    })?;
    Ok(Rows { name: format!("{module}.weight"), indices: indices.clone(), rows })
}

/// Writes a folder; `base` is the model that the library should load under it.
///
/// # Errors
/// The disk fails, or the adapter is more than plain LoRA.
pub fn write(adapter: &Adapter, base: Option<&str>, folder: &Path) -> Result<()> {
    adapter.plain("the folder that is written here")?;
    std::fs::create_dir_all(folder).map_err(|e| Error::io("create the folder", folder, e))?;
    let mut tensors: Vec<(String, HostTensor)> = Vec::new();
    let uniform = uniform(adapter);
    for (module, pair) in &adapter.pairs {
        // One alpha stands for all where it can; else B takes the scale up.
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
    atomic::write_bytes(&folder.join(CONFIG), text.as_bytes())
}

/// Rank and scale where all pairs have the same.
fn uniform(adapter: &Adapter) -> Option<(i64, f64)> {
    let first = &adapter.pairs.first()?.1;
    let same = |pair: &Pair| pair.rank() == first.rank() && pair.scale == first.scale;
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

/// The last parts of the names (`q_proj`) where these mean the same Linears in every layer, else all names.
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
