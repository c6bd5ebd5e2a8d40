//! Reads weights of any format (`.pth`, safetensors, GGUF, TorchScript, Hugging Face folders) without building a model.
//!
//! In a folder safetensors are preferred to PyTorch's pickles, as the transformers library prefers them; shards are
//! those that the index names. Next: `state_dict` (names), `load` (the model).

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};

use super::adapter::detect::{adapter_without_model, is_peft_folder_alone};
use super::host_tensor::HostTensor;
use super::state_dict::{self, strip_wrappers};
use super::weights::{FOLDER_WEIGHTS, METADATA, Weights, folder_weights, parse_json, read_json};
use super::{fused_experts, gguf, pth, safetensors};
use crate::error::{Error, Place, Result};

/// Bytes that tell a file's format: safetensors begin with a length of 8 bytes and a `{`.
const HEAD_BYTES: u64 = 9;

/// Reads the weights of a file or folder under a causal language model's names (`model.layers.0...`).
///
/// # Errors
/// The file cannot be read, is damaged, or holds no weights that are known by name; a folder has no weights, lacks a
/// shard, or a tensor is not in the shard that the index names.
pub fn read_weights(path: &Path) -> Result<Weights> {
    let mut weights = if path.is_dir() { read_folder(path)? } else { read_file(path)? };
    weights.tensors = state_dict::to_causal_lm_names(weights.tensors);
    Ok(weights)
}

/// Whether the first bytes of a file are those of safetensors.
pub(super) fn is_safetensors(path: &Path, head: &[u8]) -> bool {
    path.extension().is_some_and(|e| e == "safetensors") || head.get(8) == Some(&b'{')
}

/// The first bytes of a file, enough to tell its format.
///
/// # Errors
/// The file cannot be read.
pub(super) fn head_of(path: &Path) -> Result<Vec<u8>> {
    let read = crate::files::open(path).and_then(|file| {
        let mut head = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, HEAD_BYTES), &mut head).map(|_| head)
    });
    read.map_err(|e| Error::io("read the weights", path, e))
}

/// Reads one file, names as stored but for what module wrappers add.
fn read_file(path: &Path) -> Result<Weights> {
    let head = head_of(path)?;
    let at = |e: Error| e.at(Place::file(path));
    if head.starts_with(gguf::MAGIC) {
        return gguf::read_weights(path);
    }
    if is_safetensors(path, &head) {
        let contents = safetensors::read(path)?;
        let metadata = contents.metadata.get(METADATA);
        let metadata = metadata.map(|text| parse_json(path, text.as_bytes())).transpose()?;
        let tensors = state_dict::without_wrappers(contents.tensors).map_err(at)?;
        return Ok(Weights { tensors, metadata, state_dict_key: None });
    }
    let mut key = String::new();
    let (tensors, metadata) = match pth::read_either(path, METADATA)? {
        pth::Contents::Tree(value, metadata) => {
            if let Some(names) = state_dict::several_state_dicts(&value) {
                return Err(at(ambiguous(&names)));
            }
            key = state_dict::find(&value).1.join(".");
            (state_dict::tensors_of(&value).map_err(at)?, metadata)
        }
        pth::Contents::Script(script) => {
            check_has_weights(&script).map_err(at)?;
            (state_dict::without_wrappers(script.tensors).map_err(at)?, script.metadata)
        }
    };
    let metadata = metadata.map(|bytes| parse_json(path, &bytes)).transpose()?;
    Ok(Weights { tensors, metadata, state_dict_key: Some(key).filter(|key| !key.is_empty()) })
}

fn ambiguous(names: &[&str]) -> Error {
    let names = names.iter().map(|name| name.escape_debug().to_string()).collect::<Vec<_>>();
    Error::failed(format!("this file holds the weights of several models: {}", names.join(", ")))
        .hint("in Python, save one of them alone: torch.save(torch.load(FILE)[NAME], NEW)")
}

/// Refuses a TorchScript program (read as data, never run) whose weights have no names.
fn check_has_weights(script: &pth::ScriptContents) -> Result<()> {
    if !script.tensors.is_empty() {
        return Ok(());
    }
    let what = match script.constants.is_empty() {
        true => "this TorchScript program holds no weights",
        false => "this TorchScript program is frozen: its weights have no names",
    };
    Err(Error::failed(what).hint("export it without --freeze, or give the weights that it was exported from"))
}

/// Reads a Hugging Face folder: one weight file, or shards. Fused experts become one matrix per expert.
fn read_folder(folder: &Path) -> Result<Weights> {
    let file = folder_weights(folder).ok_or_else(|| {
        if is_peft_folder_alone(folder) {
            return adapter_without_model(folder);
        }
        Error::input("this folder holds no weights")
            .at(Place::file(folder))
            .hint(format!("it needs one of {}", FOLDER_WEIGHTS.join(", ")))
    })?;
    let mut weights = if file.extension().is_some_and(|e| e == "json") {
        Weights { tensors: read_shards(folder, &file)?, metadata: None, state_dict_key: None }
    } else {
        read_file(&file)?
    };
    weights.tensors = state_dict::to_causal_lm_names(weights.tensors);
    fused_experts::split(&mut weights.tensors).map_err(|e| e.at(Place::file(folder)))?;
    Ok(weights)
}

/// The shards that an index (`*.index.json`, `weight_map`) names, in order, each with the tensors it must hold.
fn shards_of(index: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let wrong = |what: String| Error::failed(what).at(Place::file(index));
    let json = read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| wrong("this index has no `weight_map`".to_owned()))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().unwrap_or_default();
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(wrong(format!("the index names a file outside its folder: `{file}`")));
        }
        shards.entry(file.to_owned()).or_default().push(strip_wrappers(name).into_owned());
    }
    Ok(shards)
}

fn read_shards(folder: &Path, index: &Path) -> Result<HashMap<String, HostTensor>> {
    let mut tensors = HashMap::new();
    for (file, names) in shards_of(index)? {
        let path = folder.join(&file);
        let mut shard = read_file(&path)?.tensors;
        for name in names {
            let tensor = shard.remove(&name).ok_or_else(|| {
                Error::failed(format!("`{name}` is not in the shard that the index names"))
                    .at(Place::file(&path))
                    .hint("copy or download the folder again")
            })?;
            tensors.insert(name, tensor);
        }
    }
    Ok(tensors)
}
