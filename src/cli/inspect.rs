//! `minimind inspect`: what is in a checkpoint, a safetensors file, a TorchScript module, a folder of weights or a run.
//!
//! Nothing is built or run: shapes and types are read from the file, so any size is quick. Results go to
//! stdout. Next: `facts` (what stands beside the weights), `tree` (how tensors are shown).

mod adapter_folder;
mod facts;
mod gguf_file;
mod tree;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Value as Json, json};

use super::pull;
use crate::checkpoint::adapter::detect::is_peft_folder_alone;
use crate::checkpoint::adapter::lora::layer_order;
use crate::checkpoint::architecture::{Architecture, architecture};
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::value::Value;
use crate::checkpoint::weights::EMBEDDING;
use crate::checkpoint::{Weights, gguf, pth, read_weights};
use crate::error::{Error, Result};

/// The file or folder to describe.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .pth, a .safetensors, a .gguf, a TorchScript .pt, a folder with weights, a run's folder, or RUN:stage
    pub file: String,
    /// Print one JSON value
    #[arg(long)]
    pub json: bool,
}

/// Prints what the file holds.
///
/// # Errors
/// There is no such file (input), or it is broken or in no known format.
pub fn run(args: Args) -> Result<()> {
    // No model, so it is not looked for as one.
    let named = Path::new(&args.file);
    let path = if is_peft_folder_alone(named) { named.to_owned() } else { pull::locate(&args.file)? };
    let found = complete(look(&path)?);
    let text = if args.json {
        serde_json::to_string_pretty(&found).map_err(|e| Error::failed("cannot write JSON").because(e))?
    } else {
        describe(&found)
    };
    println!("{text}");
    Ok(())
}

/// Reads `path`'s names, types and shapes as the JSON value that `--json` prints. No model is built.
///
/// # Errors
/// As [`run`].
pub fn look(path: &Path) -> Result<Json> {
    if gguf::is_gguf(path) {
        return gguf_file::look(path);
    }
    if is_peft_folder_alone(path) {
        return adapter_folder::look(path);
    }
    if path.is_file() && pth::is_script(path) {
        return look_script(path);
    }
    let is_pth = path.is_file() && path.extension().is_none_or(|e| e != "safetensors");
    // A program's own dict with a model in it; with a position or an optimizer training can resume from it.
    let goes_on = |v: &Value| {
        v.get("model").is_some() && ["epoch", "step", "optimizer"].iter().any(|k| v.get(k).is_some())
    };
    let resume = if is_pth { pth::read(path).ok().filter(goes_on) } else { None };
    let weights = read_weights(path)?;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut tensors: Vec<(&String, &HostTensor)> = weights.tensors.iter().collect();
    tensors.sort_by(|a, b| layer_order(a.0).cmp(&layer_order(b.0)));
    let mut seen = std::collections::HashSet::new();
    let mut total = 0u64;
    let architecture = architecture_json(path, &weights);
    let tied = architecture["config"]["tie_word_embeddings"] == true;
    for (name, tensor) in &tensors {
        // A tied weight is one parameter under two names; upstream's half copies no longer share a storage.
        if tied && *name == "lm_head.weight" {
            continue;
        }
        let own =
            seen.insert((std::sync::Arc::as_ptr(tensor.storage()) as usize, tensor.offset(), tensor.shape()));
        if own {
            total += tensor.numel() as u64;
            *kinds.entry(tensor.dtype().name()).or_default() += tensor.numel() as u64;
        }
    }
    let list: Vec<Json> = tensors
        .iter()
        .map(|(name, t)| json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape()}))
        .collect();
    Ok(json!({
        "path": path.display().to_string(),
        "kind": kind_of(path, resume.is_some(), &weights.tensors),
        "parameters": total,
        "dtypes": kinds,
        "architecture": architecture,
        "under": weights.state_dict_key,
        "resume": resume.as_ref().map(facts::position),
        "optimizer": resume.as_ref().map(facts::optimizer),
        "tokens": facts::tokens(weights.metadata.as_ref(), resume.as_ref()),
        "provenance": facts::provenance(weights.metadata.as_ref(), resume.as_ref()),
        "metadata": weights.metadata,
        "tensors": list,
    }))
}

/// A TorchScript module: its parameters, and its methods by their headings.
fn look_script(path: &Path) -> Result<Json> {
    let script = pth::read_script(path)?;
    let metadata: Option<Json> =
        script.metadata.as_deref().and_then(|bytes| serde_json::from_slice(bytes).ok());
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut seen = std::collections::HashSet::new();
    let frozen = script.tensors.is_empty() && !script.constants.is_empty();
    let constants = script.constants.iter().filter(|_| frozen);
    for tensor in script.tensors.iter().map(|(_, t)| t).chain(constants) {
        if seen.insert((tensor.storage().bytes().as_ptr() as usize, tensor.offset(), tensor.shape())) {
            *kinds.entry(tensor.dtype().name()).or_default() += tensor.numel() as u64;
        }
    }
    let config = metadata.as_ref().and_then(|m| m.get("config")).cloned();
    let architecture = config.map(|c| json!({"config": c, "from": "the file's own metadata", "notes": []}));
    let list: Vec<Json> = script
        .tensors
        .iter()
        .map(|(name, t)| json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape()}))
        .collect();
    Ok(json!({
        "path": path.display().to_string(),
        "kind": "TorchScript",
        "parameters": kinds.values().sum::<u64>(),
        "dtypes": kinds,
        "architecture": architecture,
        "resume": null,
        "optimizer": null,
        "tokens": facts::tokens(metadata.as_ref(), None),
        "provenance": facts::provenance(metadata.as_ref(), None),
        "torchscript": {
            "class": script.class,
            "methods": script.methods,
            "frozen": frozen,
        },
        "metadata": metadata,
        "tensors": list,
    }))
}

/// Adds what follows from the rest: the commonest type, the era, the adapter, the tree.
fn complete(mut found: Json) -> Json {
    let rows = rows(&found);
    let kinds = found["dtypes"].as_object().into_iter().flatten();
    let dtype = kinds.max_by_key(|(_, n)| n.as_u64()).map(|(kind, _)| kind.clone());
    let era = found["architecture"]["config"]["era"].clone();
    if let Some(object) = found.as_object_mut() {
        object.insert("dtype".into(), json!(dtype));
        object.insert("era".into(), era);
        object.insert("lora".into(), facts::lora(&rows));
        object.insert("tree".into(), tree::nested(&rows));
    }
    found
}

fn rows(found: &Json) -> Vec<tree::Row> {
    let row = |t: &Json| {
        let shape = t["shape"].as_array()?.iter().filter_map(Json::as_i64).collect();
        Some((t["name"].as_str()?.to_owned(), t["dtype"].as_str()?.to_owned(), shape))
    };
    found["tensors"].as_array().into_iter().flatten().filter_map(row).collect()
}

fn kind_of(path: &Path, resume: bool, tensors: &HashMap<String, HostTensor>) -> &'static str {
    if path.is_dir() {
        "folder of weights"
    } else if resume {
        "resume checkpoint"
    } else if tensors.keys().any(|name| name.contains(".lora.")) {
        "LoRA adapter"
    } else if path.extension().is_some_and(|e| e == "safetensors") {
        "safetensors"
    } else {
        "weights"
    }
}

fn architecture_json(path: &Path, weights: &Weights) -> Json {
    if !weights.tensors.contains_key(EMBEDDING) {
        return Json::Null;
    }
    match architecture(path, weights) {
        Ok(Architecture { config, source: from, notes }) => {
            let differ = facts::contradictions(&config, &from, weights);
            let mut found = json!({"config": config.to_json(), "from": from, "notes": notes});
            if let (Some(object), false) = (found.as_object_mut(), differ.is_empty()) {
                object.insert("contradictions".into(), differ.into());
            }
            found
        }
        Err(fault) => json!({"unknown": fault.to_string()}),
    }
}

fn describe(found: &Json) -> String {
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!("{}: {}", text("path"), text("kind"))];
    let kinds = found["dtypes"].as_object().into_iter().flatten().map(|(k, n)| format!("{n} {k}"));
    lines.push(format!("parameters: {} ({})", found["parameters"], kinds.collect::<Vec<_>>().join(", ")));
    if let Some(keys) = found["under"].as_str() {
        lines.push(format!("weights under: {keys}"));
    }
    lines.extend(adapter_folder::lines(&found["adapter"]));
    let architecture = &found["architecture"];
    if let Some(config) = architecture["config"].as_object() {
        let pairs: Vec<String> = config.iter().map(|(k, v)| format!("{k}={v}")).collect();
        lines.push(format!("architecture: {}", pairs.join(" ")));
        lines.push(format!("  known from: {}", architecture["from"].as_str().unwrap_or_default()));
        let notes = architecture["notes"].as_array().into_iter().flatten().filter_map(Json::as_str);
        lines.extend(notes.map(|note| format!("  note: {note}")));
        let differ = architecture["contradictions"].as_array().into_iter().flatten();
        lines.extend(differ.filter_map(|d| d["text"].as_str()).map(|text| format!("  note: {text}")));
    } else if let Some(why) = architecture["unknown"].as_str() {
        lines.push(format!("architecture: unknown\n{why}"));
    }
    if found["resume"].is_object() {
        lines.push(format!("resume: epoch {} step {}", found["resume"]["epoch"], found["resume"]["step"]));
    }
    for key in ["optimizer", "lora", "provenance"] {
        if let Some(parts) = found[key].as_object() {
            let parts: Vec<String> = parts.iter().map(|(k, v)| format!("{k}={v}")).collect();
            lines.push(format!("{key}: {}", parts.join(" ")));
        }
    }
    if !found["tokens"].is_null() {
        lines.push(format!("trained on: {} tokens", found["tokens"]));
    }
    let script = &found["torchscript"];
    if script.is_object() {
        let frozen = if script["frozen"] == true { ", frozen: its weights are constants" } else { "" };
        lines.push(format!("class: {}{frozen}", script["class"].as_str().unwrap_or_default()));
        let methods = script["methods"].as_array().into_iter().flatten().filter_map(Json::as_str);
        lines.extend(methods.map(|method| format!("  {method}")));
    }
    lines.extend(tree::lines(&rows(found)));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::checkpoint::Value;

    #[test]
    fn a_missing_file_is_an_input_fault_and_a_broken_one_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pth");
        let ask = |path: &PathBuf| run(Args { file: path.display().to_string(), json: true }).unwrap_err();
        assert_eq!(ask(&path).exit_code(), 2);
        std::fs::write(&path, "no zip").unwrap();
        assert_eq!(ask(&path).exit_code(), 1);
    }

    #[test]
    fn a_resume_file_tells_its_position() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a_resume.pth");
        let value = Value::dict([
            ("model", Value::dict([("w", Value::None)])),
            ("epoch", Value::Int(1)),
            ("step", Value::Int(7)),
        ]);
        pth::write(&path, &value, &[]).unwrap();
        let found = look(&path).unwrap();
        assert_eq!(
            (found["kind"].as_str(), found["resume"]["step"].as_i64()),
            (Some("resume checkpoint"), Some(7))
        );
    }

    #[test]
    fn a_config_that_the_weights_gainsay_is_noted() {
        use crate::model::{CausalLm, Params, config::preset};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft_32.pth");
        let mut stated = preset("minimind3").unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(1), Some(64));
        let config = stated.resolve().unwrap();
        let model = CausalLm::new(&config, Params::init(&config, tch::Device::Cpu).unwrap());
        let value = crate::engine::resume::weights_value(&model, tch::Kind::Float).unwrap();
        pth::write(&path, &value, &[]).unwrap();
        let beside = |changes: &[(&str, Json)]| {
            let mut json = config.to_json();
            for (key, value) in changes {
                json[*key] = value.clone();
            }
            std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
            look(&path).unwrap()
        };
        assert!(beside(&[])["architecture"].get("contradictions").is_none());
        let found = beside(&[("vocab_size", json!(48)), ("num_hidden_layers", json!(3))]);
        let differ = found["architecture"]["contradictions"].as_array().unwrap();
        let three = |d: &Json| (d["key"].clone(), d["config"].clone(), d["weights"].clone());
        assert_eq!(
            differ.iter().map(three).collect::<Vec<_>>(),
            [(json!("num_hidden_layers"), json!(3), json!(1)), (json!("vocab_size"), json!(48), json!(64))]
        );
        let text = describe(&found);
        assert!(
            text.contains("note: `vocab_size` is 48 by ") && text.contains("but 64 by the weights"),
            "{text}"
        );
        // No key is wrong, but a weight is missing.
        let Value::Dict(mut entries) = value else { panic!("a dict") };
        entries.retain(|(name, _)| name.as_str() != Some("model.norm.weight"));
        pth::write(&path, &Value::Dict(entries), &[]).unwrap();
        assert!(describe(&beside(&[])).contains("missing: model.norm.weight"));
    }

    #[test]
    fn a_reference_checkpoint_is_described() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let path = root.join("minimind3/dense/resume/pretrain_32_resume.pth");
        let found = look(&path).unwrap();
        assert_eq!(found["kind"], "resume checkpoint");
        assert_eq!(found["parameters"], 47296);
        let text = describe(&found);
        assert!(
            text.contains("0..1 (2 alike)")
                && text.contains("q_norm.weight")
                && text.contains("resume: epoch"),
            "{text}"
        );
    }
}
