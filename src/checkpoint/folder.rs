//! A Hugging Face folder's weights: one file, or shards that an index names.
//!
//! safetensors are preferred to PyTorch's pickles, as the transformers library prefers them. Experts that
//! newer versions of it store fused are taken apart, so that the rest sees one name a matrix. Next: `load`.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::load::{self, Weights};
use super::names::{self, own_name};
use super::resolve::FOLDER_WEIGHTS;
use super::value::HostTensor;
use crate::error::{Error, Place, Result};

/// More experts than this are taken for damage.
const MOST_EXPERTS: i64 = 1 << 12;

/// Reads a folder's weights.
///
/// # Errors
/// There are none, a shard is missing, or a tensor does not lie in the shard that the index says.
pub fn read(folder: &Path) -> Result<Weights> {
    let found = FOLDER_WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file());
    let file = found.ok_or_else(|| {
        if super::adapter::peft::is_alone(folder) {
            return adapter_alone(folder);
        }
        Error::input("this folder holds no weights")
            .at(Place::file(folder))
            .hint(format!("it needs one of {}", FOLDER_WEIGHTS.join(", ")))
    })?;
    let mut weights = if file.extension().is_some_and(|e| e == "json") {
        Weights { tensors: shards(folder, &file)?, metadata: None, under: None }
    } else {
        load::read_stored(&file)?
    };
    weights.tensors = names::of_language_model(weights.tensors);
    unfuse(&mut weights.tensors).map_err(|e| e.at(Place::file(folder)))?;
    Ok(weights)
}

/// A folder of PEFT's where a model is wanted.
pub fn adapter_alone(folder: &Path) -> Error {
    Error::input("this folder holds an adapter, not a model")
        .at(Place::file(folder))
        .hint("name its model: --model M --adapter FOLDER, or make one file of both: minimind adapter merge")
}

/// The files of an index in order, each with the names it must hold.
fn listed(index: &Path) -> Result<BTreeMap<String, Vec<String>>> {
    let wrong = |what: String| Error::failed(what).at(Place::file(index));
    let json = load::read_json(index)?;
    let map = json
        .get("weight_map")
        .and_then(serde_json::Value::as_object)
        .ok_or_else(|| wrong("this index has no `weight_map`".to_owned()))?;
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().unwrap_or_default();
        let mut parts = Path::new(file).components();
        let plain = matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(_)), None));
        if !plain {
            return Err(wrong(format!("the index names a file outside its folder: `{file}`")));
        }
        files.entry(file.to_owned()).or_default().push(own_name(name).into_owned());
    }
    Ok(files)
}

fn shards(folder: &Path, index: &Path) -> Result<HashMap<String, HostTensor>> {
    let mut tensors = HashMap::new();
    for (file, names) in listed(index)? {
        let path: PathBuf = folder.join(&file);
        let mut shard = load::read_stored(&path)?.tensors;
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

/// `experts.gate_up_proj` `[N, 2I, D]` and `experts.down_proj` `[N, D, I]` become a matrix an expert
/// (the layout of `Qwen3MoeExperts` in transformers 5).
fn unfuse(tensors: &mut HashMap<String, HostTensor>) -> Result<()> {
    let fused: Vec<String> = tensors
        .keys()
        .filter(|name| {
            name.ends_with(".mlp.experts.gate_up_proj") || name.ends_with(".mlp.experts.down_proj")
        })
        .cloned()
        .collect();
    for name in fused {
        let Some(tensor) = tensors.remove(&name) else { continue };
        let (stem, part) = name.rsplit_once('.').unwrap_or_default();
        let [n, rows, columns] = tensor.shape()[..] else {
            return Err(Error::failed(format!(
                "`{name}` has shape {:?}, not experts x rows x columns",
                tensor.shape()
            )));
        };
        if !(1..=MOST_EXPERTS).contains(&n) || tensor.numel() == 0 {
            return Err(Error::failed(format!("`{name}` holds {n} experts of {rows} x {columns}")));
        }
        let parts: &[&str] = if part == "down_proj" { &["down_proj"] } else { &["gate_proj", "up_proj"] };
        let height = rows / parts.len() as i64;
        let strides = tensor.strides().to_vec();
        for expert in 0..n {
            for (i, own) in parts.iter().enumerate() {
                let offset = tensor.offset() + expert * strides[0] + i as i64 * height * strides[1];
                let view = HostTensor::new(
                    tensor.dtype(),
                    vec![height, columns],
                    strides[1..].to_vec(),
                    offset,
                    Arc::clone(tensor.storage()),
                )?;
                tensors.insert(format!("{stem}.{expert}.{own}.weight"), view);
            }
        }
    }
    Ok(())
}
