//! What `minimind inspect` tells of a GGUF.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::checkpoint::gguf;
use crate::error::{Place, Result};
use crate::model::ModelOverrides;

/// Describes a GGUF from its header as JSON; no weight is dequantised.
///
/// # Errors
/// The file cannot be read, or its header is broken.
pub fn look(path: &Path) -> Result<Json> {
    let file = gguf::open(path)?;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    file.tensors().iter().for_each(|e| *kinds.entry(e.element.name()).or_default() += e.numel());
    let stated = gguf::config_json(&file).and_then(|json| ModelOverrides::from_json(&json)?.resolve());
    let architecture = match stated {
        Ok(config) => json!({"config": config.to_json(), "from": "the file's own metadata", "notes": []}),
        Err(fault) => json!({"unknown": fault.at(Place::file(path)).to_string()}),
    };
    let list = file.tensors().iter();
    let list: Vec<Json> =
        list.map(|e| json!({"name": e.name, "dtype": e.element.name(), "shape": e.shape})).collect();
    Ok(json!({
        "path": path.display().to_string(),
        "kind": "GGUF",
        "parameters": kinds.values().sum::<u64>(),
        "dtypes": kinds,
        "architecture": architecture,
        "resume": null,
        "metadata": file.to_json(),
        "tensors": list,
    }))
}
