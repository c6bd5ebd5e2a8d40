//! PEFT's adapter folders: `adapter_config.json` and `adapter_model.safetensors` (or `.bin`).
//!
//! Plain LoRA alone is read: DoRA, trained biases and whole trained modules would be lost in a merge, so
//! they are refused. Formulas: `LoraLayer` of the peft library. Next: `merge`.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;

use serde_json::{Map, Value as Json, json};

use super::{Adapter, Halves, Pair};
use crate::checkpoint::value::HostTensor;
use crate::checkpoint::{atomic, load, safetensors, strip_prefix};
use crate::error::{Error, Place, Result};

const CONFIG: &str = "adapter_config.json";
const WEIGHTS: [&str; 2] = ["adapter_model.safetensors", "adapter_model.bin"];
const PREFIX: &str = "base_model.model.";

/// Reads a folder.
pub fn read(folder: &Path) -> Result<Adapter> {
    let file = folder.join(CONFIG);
    if !file.is_file() {
        return Err(Error::input("this folder holds no adapter")
            .at(Place::file(folder))
            .hint(format!("PEFT's folders have {CONFIG}; upstream's adapter is a .pth file")));
    }
    let config = load::read_json(&file)?;
    refuse(&config).map_err(|e| e.at(Place::file(&file)))?;
    let weights = WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let weights = weights.ok_or_else(|| {
        Error::input("this adapter has no weights")
            .at(Place::file(folder))
            .hint(format!("it needs {}", WEIGHTS.join(" or ")))
    })?;
    let at = |e: Error| e.at(Place::file(&weights));
    let mut halves = Halves::default();
    let mut ranks: HashMap<String, i64> = HashMap::new();
    for (name, tensor) in load::read_weights(&weights)?.tensors {
        let own = strip_prefix(name.strip_prefix(PREFIX).unwrap_or(&name));
        // `.lora_A.weight`, or `.lora_A.default.weight` in a state dict that was saved as it is.
        let found = own.split_once(".lora_").and_then(|(module, half)| {
            let letter = half.strip_suffix(".weight")?.split('.').next()?;
            Some((module.to_owned(), format!("{letter}.weight")))
        });
        let Some((module, half)) = found else {
            return Err(at(Error::failed(format!("`{name}` is no part of a plain LoRA adapter"))
                .hint("modules_to_save, trained biases and adapted embeddings are not supported")));
        };
        if half == "A.weight" {
            ranks.insert(module.clone(), tensor.shape().first().copied().unwrap_or(0));
        }
        halves.put(&module, &half, tensor).map_err(at)?;
    }
    let scale = |module: &str| scale(&config, module, ranks.get(module).copied().unwrap_or(0));
    let mut adapter = halves.adapter(scale).map_err(at)?;
    if adapter.pairs.is_empty() {
        return Err(at(Error::input("this adapter is empty")));
    }
    adapter.base = config["base_model_name_or_path"].as_str().filter(|s| !s.is_empty()).map(str::to_owned);
    Ok(adapter)
}

/// What a merge as plain LoRA would get wrong.
fn refuse(config: &Json) -> Result<()> {
    let kind = config["peft_type"].as_str().unwrap_or("LORA");
    if kind != "LORA" {
        return Err(Error::failed(format!("this adapter is of type {kind}")).hint("only LORA is supported"));
    }
    let on = |key: &str| config[key].as_bool().unwrap_or(false);
    let set = |key: &str| match &config[key] {
        Json::Null | Json::Bool(false) => false,
        Json::Array(list) => !list.is_empty(),
        Json::Object(map) => !map.is_empty(),
        _ => true,
    };
    let faults = [
        ("use_dora", on("use_dora")),
        ("fan_in_fan_out", on("fan_in_fan_out")),
        ("lora_bias", on("lora_bias")),
        ("use_qalora", on("use_qalora")),
        ("modules_to_save", set("modules_to_save")),
        ("layer_replication", set("layer_replication")),
        ("target_parameters", set("target_parameters")),
        ("trainable_token_indices", set("trainable_token_indices")),
        ("alora_invocation_tokens", set("alora_invocation_tokens")),
        ("use_bdlora", set("use_bdlora")),
        ("kasa_config", set("kasa_config")),
        ("monteclora_config", set("monteclora_config")),
        ("bias", config["bias"].as_str().is_some_and(|bias| bias != "none")),
    ];
    match faults.iter().find(|(_, wrong)| *wrong) {
        Some((key, _)) => Err(Error::failed(format!("this adapter has `{key}` set, which is not supported"))
            .hint("only plain LoRA can be read: matrices A and B, a rank and an alpha")),
        None => Ok(()),
    }
}

/// `alpha / rank`, or `alpha / sqrt(rank)` where the config says rslora; patterns win over the defaults.
fn scale(config: &Json, module: &str, rank: i64) -> Result<f64> {
    let alpha =
        pattern(&config["alpha_pattern"], module).or(config["lora_alpha"].as_f64()).ok_or_else(|| {
            Error::failed(format!("{CONFIG} states no `lora_alpha`"))
                .hint("add it; without one nothing can be scaled")
        })?;
    let stated = pattern(&config["rank_pattern"], module).or(config["r"].as_f64());
    if stated.is_some_and(|r| r != rank as f64) {
        let stated = stated.unwrap_or_default();
        return Err(Error::failed(format!(
            "{CONFIG} states rank {stated} for `{module}`, its weights have {rank}"
        )));
    }
    let rank = rank.max(1) as f64;
    let rslora = config["use_rslora"].as_bool().unwrap_or(false);
    Ok(alpha / if rslora { rank.sqrt() } else { rank })
}

/// A pattern's key is a module's whole name or the end of it after a dot. (The library takes regular
/// expressions too; a name is the usual one.)
fn pattern(patterns: &Json, module: &str) -> Option<f64> {
    let fits = |key: &str| module == key || module.strip_suffix(key).is_some_and(|rest| rest.ends_with('.'));
    patterns.as_object()?.iter().find(|(key, _)| fits(key.trim_start_matches('^')))?.1.as_f64()
}

/// Writes a folder; `base` is the model that the library should load under it.
///
/// # Errors
/// The disk fails.
pub fn write(adapter: &Adapter, base: Option<&str>, folder: &Path) -> Result<()> {
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
