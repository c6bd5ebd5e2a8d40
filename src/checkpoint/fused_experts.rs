//! Experts that a Hugging Face folder stores fused, taken apart into one matrix per expert and projection.
//!
//! The layout is that of `Qwen3MoeExperts` in transformers 5. Next: `read`.
//!
//! N experts, I inner width, D hidden.

use std::collections::HashMap;
use std::sync::Arc;

use super::host_tensor::HostTensor;
use crate::error::{Error, Result};

/// More experts than this are taken for damage.
const MAX_EXPERTS: i64 = 1 << 12;

/// Replaces `experts.gate_up_proj` `[N, 2I, D]` and `experts.down_proj` `[N, D, I]` by `experts.{n}.gate_proj.weight`
/// `[I, D]`, `up_proj` `[I, D]` and `down_proj` `[D, I]`, views of the same storage.
///
/// # Errors
/// A fused tensor is not three-dimensional, is empty, or has an implausible number of experts.
pub(super) fn split(tensors: &mut HashMap<String, HostTensor>) -> Result<()> {
    let is_fused = |name: &&String| {
        name.ends_with(".mlp.experts.gate_up_proj") || name.ends_with(".mlp.experts.down_proj")
    };
    let fused: Vec<String> = tensors.keys().filter(is_fused).cloned().collect();
    for name in fused {
        let Some(tensor) = tensors.remove(&name) else { continue };
        let (stem, part) = name.rsplit_once('.').unwrap_or_default();
        let [n, rows, columns] = tensor.shape()[..] else {
            return Err(Error::failed(format!(
                "`{name}` has shape {:?}, not experts x rows x columns",
                tensor.shape()
            )));
        };
        if !(1..=MAX_EXPERTS).contains(&n) || tensor.numel() == 0 {
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
