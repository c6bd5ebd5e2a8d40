//! What `minimind inspect` tells of a PEFT folder: its tensors as they are stored, and what its config makes of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value as Json, json};

use crate::checkpoint::adapter::lora::layer_order;
use crate::checkpoint::adapter::{Adapter, peft};
use crate::checkpoint::read_weights;
use crate::error::Result;

/// Describes a PEFT folder as JSON. An adapter with features that this program does not compute is still described; its
/// `adapter.refused` names the key.
///
/// # Errors
/// The folder's weights cannot be read.
pub fn look(folder: &Path) -> Result<Json> {
    let weights = read_weights(&peft::weight_file(folder)?)?;
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut tensors: Vec<_> = weights.tensors.iter().collect();
    tensors.sort_by(|a, b| layer_order(a.0).cmp(&layer_order(b.0)));
    for (_, tensor) in &tensors {
        *kinds.entry(tensor.dtype().name()).or_default() += tensor.numel() as u64;
    }
    let list: Vec<Json> = tensors
        .iter()
        .map(|(name, t)| json!({"name": name, "dtype": t.dtype().name(), "shape": t.shape()}))
        .collect();
    let adapter = match peft::read_config(folder)
        .and_then(|(settings, _)| Ok((settings, Adapter::read(folder)?)))
    {
        Ok((settings, adapter)) => {
            let (rank, alpha) = settings.defaults();
            json!({
                "r": rank, "lora_alpha": alpha, "linears": adapter.pairs.len(), "whole": adapter.whole.len(),
                "new_rows": adapter.rows.iter().map(|rows| rows.indices.len()).sum::<usize>(),
                "beyond_plain": settings.features(), "base": adapter.base,
            })
        }
        Err(fault) => json!({"refused": fault.to_string()}),
    };
    Ok(json!({
        "path": folder.display().to_string(),
        "kind": "LoRA adapter of PEFT",
        "parameters": kinds.values().sum::<u64>(),
        "dtypes": kinds,
        "architecture": null,
        "resume": null,
        "adapter": adapter,
        "metadata": weights.metadata,
        "tensors": list,
    }))
}

/// The lines that `minimind inspect` prints for the `adapter` value of [`look`].
pub fn lines(adapter: &Json) -> Vec<String> {
    if let Some(why) = adapter["refused"].as_str() {
        return vec!["adapter: not computed here".to_owned(), why.to_owned()];
    }
    let Some(parts) = adapter.as_object() else { return Vec::new() };
    let parts: Vec<String> = parts.iter().map(|(key, value)| format!("{key}={value}")).collect();
    vec![format!("adapter: {}", parts.join(" "))]
}
