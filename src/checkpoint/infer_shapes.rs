//! Infers the architecture of weights from their names and shapes.
//!
//! What a `config.json` states is read by `model`; `architecture` puts both together.

use std::collections::HashMap;

use super::host_tensor::HostTensor;
use super::weights::{EMBEDDING, LM_HEAD};
use crate::model::{Era, ModelOverrides};

/// Number of query heads where neither the weights nor a config states one.
const DEFAULT_HEADS: i64 = 8;

/// The keys of a config that names and shapes determine, and notes for the user on what had to be assumed. Without q_norm
/// the width of a head is not in the weights: `heads` is the number of query heads if something states it.
pub fn infer_shapes(
    tensors: &HashMap<String, HostTensor>,
    heads: Option<i64>,
) -> (ModelOverrides, Vec<String>) {
    let dim = |name: &str, axis: usize| tensors.get(name).and_then(|t| t.shape().get(axis).copied());
    let count = |prefix: &str| {
        let number = |name: &String| name.strip_prefix(prefix)?.split('.').next()?.parse::<i64>().ok();
        tensors.keys().filter_map(number).max().map(|n| n.saturating_add(1))
    };
    let mut notes = Vec::new();
    let block = "model.layers.0";
    let (q, k) = (format!("{block}.self_attn.q_proj.weight"), format!("{block}.self_attn.k_proj.weight"));
    let (q, k) = (dim(&q, 0), dim(&k, 0));
    let norm = dim(&format!("{block}.self_attn.q_norm.weight"), 0).filter(|e| *e > 0);
    let heads = match (norm, q) {
        (Some(e), Some(q)) => Some(q / e),
        _ => heads.or_else(|| {
            notes.push(format!(
                "the number of attention heads is not told by the weights; {DEFAULT_HEADS} is assumed"
            ));
            Some(DEFAULT_HEADS)
        }),
    };
    let head_dim =
        norm.or_else(|| q.zip(heads).filter(|(_, h)| *h > 0).map(|(q, h)| q / h)).filter(|e| *e > 0);
    let experts = dim(&format!("{block}.mlp.gate.weight"), 0);
    let inner = |part: &str| dim(&format!("{block}.mlp.{part}gate_proj.weight"), 0);
    if experts.is_some() {
        notes.push(EXPERTS_NOTE.to_owned());
    }
    let inferred = ModelOverrides {
        era: Some(if norm.is_some() { Era::MiniMind3 } else { Era::MiniMind2 }),
        hidden_size: dim(EMBEDDING, 1),
        num_hidden_layers: count("model.layers."),
        num_attention_heads: heads,
        num_key_value_heads: k.zip(head_dim).map(|(k, e)| k / e),
        head_dim,
        vocab_size: dim(EMBEDDING, 0),
        intermediate_size: inner(""),
        tie_word_embeddings: Some(is_tied(tensors)),
        qkv_bias: Some(tensors.contains_key(&format!("{block}.self_attn.q_proj.bias"))),
        o_bias: Some(tensors.contains_key(&format!("{block}.self_attn.o_proj.bias"))),
        mlp_bias: Some(tensors.contains_key(&format!("{block}.mlp.gate_proj.bias"))),
        use_moe: Some(experts.is_some()),
        num_experts: experts,
        n_shared_experts: experts.map(|_| count(&format!("{block}.mlp.shared_experts.")).unwrap_or(0)),
        moe_intermediate_size: inner("experts.0."),
        ..ModelOverrides::default()
    };
    (inferred, notes)
}

/// The note on the key of a mixture of experts that no shape determines.
pub(super) const EXPERTS_NOTE: &str =
    "experts per token are not told by the weights; where nothing states them, the era's default is used";

/// Whether the output layer is the embedding: absent, the same storage, or the same numbers.
fn is_tied(tensors: &HashMap<String, HostTensor>) -> bool {
    let same = |a: &HostTensor, b: &HostTensor| {
        a.is_same(b) || a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes().ok() == b.bytes().ok()
    };
    match (tensors.get(LM_HEAD), tensors.get(EMBEDDING)) {
        (Some(head), Some(embedding)) => same(head, embedding),
        _ => true,
    }
}
