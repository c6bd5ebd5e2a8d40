//! Tensor names and layouts: llama.cpp's, and upstream's.
//!
//! Two layouts differ. Under the architecture `llama`, llama.cpp's rotary embedding rotates neighbouring pairs where
//! upstream rotates the halves of a head, so the rows of q and k are interleaved (`permute` in its
//! `convert_hf_to_gguf.py`). And the experts of a layer are one tensor `[N, I, D]`.
//!
//! H heads, E head dim, N experts, I inner width, D hidden.

use std::collections::HashMap;
use std::sync::Arc;

use super::arch::{Arch, Heads};
use super::ggml_type::{FileType, GgmlType, floats};
use super::reader::{Gguf, TensorInfo, damaged};
use super::rope_freqs::FACTORS;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::{HostTensor, Storage};
use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// Names outside the blocks: llama.cpp's, upstream's.
const WHOLE: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Names inside a block: llama.cpp's, upstream's, both without `.weight` or `.bias`.
const IN_BLOCK: [(&str, &str); 12] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
    ("ffn_gate_inp", "mlp.gate"),
];

/// Names of the experts' matrices: llama.cpp's, upstream's.
const EXPERTS: [(&str, &str); 3] =
    [("ffn_gate_exps", "gate_proj"), ("ffn_up_exps", "up_proj"), ("ffn_down_exps", "down_proj")];

/// Number of heads whose rows are interleaved in a tensor of llama.cpp's; `None` where the layouts agree.
fn interleaved(part: &str, arch: Arch, heads: Heads) -> Option<i64> {
    match part {
        "attn_q" if arch == Arch::Llama => Some(heads.query),
        "attn_k" if arch == Arch::Llama => Some(heads.kv),
        _ => None,
    }
}

/// The row of upstream's that llama.cpp has at `row`: it counts (head, pair, half), upstream (head, half, pair).
fn our_row(row: usize, head_dim: usize) -> usize {
    let (head, within) = (row / head_dim, row % head_dim);
    head * head_dim + within % 2 * (head_dim / 2) + within / 2
}

/// Every tensor of a file under upstream's name.
///
/// # Errors
/// A type or a kind of rope scaling that is not read here; shapes that do not fit the heads.
pub fn from_file(file: &Gguf, arch: Arch, heads: Heads) -> Result<HashMap<String, HostTensor>> {
    let mut tensors = HashMap::new();
    for entry in file.tensors() {
        if entry.name == FACTORS {
            continue; // Part of the architecture, not a weight.
        }
        if entry.name.starts_with("rope_") {
            return Err(Error::failed("this kind of rope scaling is not read here")
                .because(format!("it has a tensor `{}`", entry.name)));
        }
        if let Some((_, ours)) = WHOLE.iter().find(|(theirs, _)| *theirs == entry.name) {
            tensors.insert((*ours).to_owned(), decoded(file, entry, None)?);
            continue;
        }
        let Some((layer, part, kind)) = in_block(&entry.name) else {
            // Kept under its own name: the strict check reports it as extra.
            tensors.insert(entry.name.clone(), decoded(file, entry, None)?);
            continue;
        };
        if let Some((_, ours)) = EXPERTS.iter().find(|(theirs, _)| *theirs == part) {
            let all = decoded(file, entry, None)?;
            let [n, rows, row] = all.shape()[..] else {
                return Err(damaged(format!("`{}` has {} dimensions", entry.name, all.shape().len())));
            };
            for e in 0..n {
                let storage = Arc::clone(all.storage());
                let view =
                    HostTensor::new(all.dtype(), vec![rows, row], vec![row, 1], e * rows * row, storage)?;
                tensors.insert(format!("model.layers.{layer}.mlp.experts.{e}.{ours}.{kind}"), view);
            }
            continue;
        }
        let ours = IN_BLOCK.iter().find(|(theirs, _)| *theirs == part).map(|(_, ours)| *ours);
        let name = ours.map_or(entry.name.clone(), |ours| format!("model.layers.{layer}.{ours}.{kind}"));
        tensors.insert(name, decoded(file, entry, interleaved(part, arch, heads))?);
    }
    Ok(tensors)
}

/// `blk.3.attn_q.weight` as layer, part and kind.
fn in_block(name: &str) -> Option<(u32, &str, &str)> {
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = rest.rsplit_once('.').filter(|(_, kind)| ["weight", "bias"].contains(kind))?;
    Some((layer.parse().ok()?, part, kind))
}

/// A tensor as stored in the file, or dequantised to f32; its rows in upstream's order.
fn decoded(file: &Gguf, entry: &TensorInfo, heads: Option<i64>) -> Result<HostTensor> {
    let at = |e: Error| e.because(format!("tensor `{}`", entry.name.escape_debug()));
    let stored = file.storage(entry)?;
    let (dtype, storage) = match entry.element.dtype() {
        Some(dtype) => (dtype, stored),
        None => {
            let weights = entry.element.decode(stored.bytes()).map_err(at)?;
            (DType::F32, Storage::owned(weights.into_iter().flat_map(f32::to_le_bytes).collect()))
        }
    };
    let Some(heads) = heads else { return HostTensor::contiguous(dtype, entry.shape.clone(), storage) };
    let rows = entry.shape[0];
    if heads < 1 || rows % heads != 0 || rows / heads % 2 != 0 {
        return Err(damaged(format!("`{}` has {rows} rows for {heads} heads", entry.name)));
    }
    let bytes = storage.bytes();
    let row_bytes = bytes.len() / rows as usize;
    let mut turned = vec![0; bytes.len()];
    for (row, from) in bytes.chunks_exact(row_bytes).enumerate() {
        let to = our_row(row, (rows / heads) as usize) * row_bytes;
        turned[to..to + row_bytes].copy_from_slice(from);
    }
    HostTensor::contiguous(dtype, entry.shape.clone(), Storage::owned(turned))
}

/// A tensor to be written: its parts one after another.
#[derive(Debug)]
pub struct PlannedTensor<'a> {
    /// llama.cpp's name.
    pub name: String,
    /// Outermost first.
    pub shape: Vec<i64>,
    /// How it is stored.
    pub element: GgmlType,
    parts: Vec<&'a HostTensor>,
    head_dim: Option<usize>,
}

impl PlannedTensor<'_> {
    /// Its size in the file in bytes.
    pub fn bytes(&self) -> usize {
        self.shape.iter().product::<i64>() as usize / self.element.block() * self.element.block_bytes()
    }

    /// Gives its bytes to `put` part by part, so that one expert is in memory at a time.
    ///
    /// # Errors
    /// A weight does not fit the type; what `put` returns.
    pub fn encode(&self, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut out = Vec::new();
        for part in &self.parts {
            let mut weights = floats(part)?;
            if let Some(head_dim) = self.head_dim {
                let row = weights.len() / part.shape()[0] as usize;
                let from = std::mem::take(&mut weights);
                for i in 0..part.shape()[0] as usize {
                    let at = our_row(i, head_dim) * row;
                    weights.extend_from_slice(&from[at..at + row]);
                }
            }
            out.clear();
            self.element.encode(&weights, &mut out).map_err(|e| {
                Error::failed(format!("`{}`: {}", self.name, e.what())).hint("export with --precision f32")
            })?;
            put(&out)?;
        }
        Ok(())
    }
}

/// A tensor to be written in f32, names and rows as they are.
pub fn unchanged<'a>(name: &str, tensor: &'a HostTensor) -> PlannedTensor<'a> {
    let element = GgmlType::f32();
    PlannedTensor {
        name: name.to_owned(),
        shape: tensor.shape(),
        element,
        parts: vec![tensor],
        head_dim: None,
    }
}

/// A tensor's elements as f32, whatever type they are stored in.
///
/// # Errors
/// The type is not read here.
pub fn to_floats(file: &Gguf, entry: &TensorInfo) -> Result<Vec<f32>> {
    floats(&decoded(file, entry, None)?)
}

/// The type that a tensor is stored in, by llama.cpp's name or upstream's: norms, biases and gates stay f32.
fn stored_type(name: &str, shape: &[i64], file_type: FileType) -> GgmlType {
    let gate = name.ends_with("ffn_gate_inp.weight") || name.ends_with("mlp.gate.weight");
    if shape.len() < 2 || gate {
        return GgmlType::f32();
    }
    let outer = WHOLE.iter().any(|(theirs, ours)| name == *theirs || name == *ours);
    GgmlType::chosen(file_type, shape.last().copied().unwrap_or(1), outer)
}

/// A weight, of any shape, as a file of this type gives it back: quantised and dequantised.
///
/// # Errors
/// It does not fit the type.
pub fn rounded(name: &str, weight: &HostTensor, file_type: FileType) -> Result<HostTensor> {
    let (mut bytes, element) = (Vec::new(), stored_type(name, &weight.shape(), file_type));
    element.encode(&floats(weight)?, &mut bytes)?;
    let weights = element.decode(&bytes)?.into_iter().flat_map(f32::to_le_bytes).collect();
    HostTensor::contiguous(DType::F32, weight.shape(), Storage::owned(weights))
}

/// The tensors of a file of this model, in llama.cpp's usual order.
///
/// # Errors
/// A weight is missing; biases that the architecture does not have.
pub fn to_file<'a>(
    config: &ModelConfig,
    arch: Arch,
    weights: &'a HashMap<String, HostTensor>,
    file_type: FileType,
) -> Result<Vec<PlannedTensor<'a>>> {
    let find =
        |name: &str| weights.get(name).ok_or_else(|| Error::failed(format!("the weights hold no `{name}`")));
    let planned = |name: String, parts: Vec<&'a HostTensor>, stack: bool| {
        let mut shape = parts[0].shape();
        let element = stored_type(&name, &shape, file_type);
        if stack {
            shape.insert(0, parts.len() as i64);
        }
        PlannedTensor { name, shape, element, parts, head_dim: None }
    };
    let mut plan = Vec::new();
    for (theirs, ours) in WHOLE {
        if ours != "lm_head.weight" || !config.tie_word_embeddings {
            plan.push(planned(theirs.to_owned(), vec![find(ours)?], false));
        }
    }
    let heads = Heads { query: config.num_attention_heads, kv: config.num_key_value_heads };
    for layer in 0..config.num_hidden_layers {
        let block = format!("model.layers.{layer}");
        for (theirs, ours) in IN_BLOCK {
            for kind in ["weight", "bias"] {
                let Some(tensor) = weights.get(&format!("{block}.{ours}.{kind}")) else { continue };
                if kind == "bias" && arch != Arch::Llama {
                    return Err(Error::failed("llama.cpp has no architecture that computes this model")
                        .because("Qwen3 there has no biases, and this model has"));
                }
                let mut one = planned(format!("blk.{layer}.{theirs}.{kind}"), vec![tensor], false);
                one.head_dim = interleaved(theirs, arch, heads).map(|_| config.head_dim as usize);
                plan.push(one);
            }
        }
        let Some(moe) = &config.moe else { continue };
        for (theirs, ours) in EXPERTS {
            let name = |e| format!("{block}.mlp.experts.{e}.{ours}.weight");
            let parts = (0..moe.num_experts).map(|e| find(&name(e))).collect::<Result<Vec<_>>>()?;
            plan.push(planned(format!("blk.{layer}.{theirs}.weight"), parts, true));
        }
    }
    Ok(plan)
}
