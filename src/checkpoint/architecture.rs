//! Which architecture a file's weights have by their names and shapes.
//!
//! What a config states is read by `model::hf_config`; [`super::load::architecture`] puts both together.

use std::collections::HashMap;

use super::value::HostTensor;
use crate::model::{Era, ModelOverrides};

/// What a recipe wishes and the weights deny: the key, and what to say.
pub fn denied(wish: &ModelOverrides, told: &ModelOverrides) -> Vec<(&'static str, String)> {
    let numbers = [
        ("hidden_size", wish.hidden_size, told.hidden_size),
        ("num_hidden_layers", wish.num_hidden_layers, told.num_hidden_layers),
        ("num_attention_heads", wish.num_attention_heads, told.num_attention_heads),
        ("num_key_value_heads", wish.num_key_value_heads, told.num_key_value_heads),
        ("head_dim", wish.head_dim, told.head_dim),
        ("vocab_size", wish.vocab_size, told.vocab_size),
        ("intermediate_size", wish.intermediate_size, told.intermediate_size),
        ("num_experts", wish.num_experts, told.num_experts),
        ("n_shared_experts", wish.n_shared_experts, told.n_shared_experts),
        ("moe_intermediate_size", wish.moe_intermediate_size, told.moe_intermediate_size),
    ];
    let apart = numbers.into_iter().filter_map(|(key, wish, told)| {
        let (wish, told) = (wish?, told?);
        (wish != told).then(|| {
            (
                key,
                format!(
                    "`{key}` of the recipe's model is {wish}, that of these weights {told}, which is taken"
                ),
            )
        })
    });
    apart.collect()
}

/// What a recipe states otherwise than a config beside the weights, in words.
pub fn overruled(wish: &ModelOverrides, beside: &ModelOverrides) -> Vec<String> {
    let number = |n: Option<i64>| n.map(|n| n as f64);
    let keys = [
        ("num_attention_heads", number(wish.num_attention_heads), number(beside.num_attention_heads)),
        ("num_experts_per_tok", number(wish.num_experts_per_tok), number(beside.num_experts_per_tok)),
        (
            "max_position_embeddings",
            number(wish.max_position_embeddings),
            number(beside.max_position_embeddings),
        ),
        ("rope_theta", wish.rope_theta, beside.rope_theta),
        ("rms_norm_eps", wish.rms_norm_eps, beside.rms_norm_eps),
        ("aux_loss_coef", wish.aux_loss_coef, beside.aux_loss_coef),
    ];
    let apart = keys.into_iter().filter_map(|(key, wish, beside)| {
        let (wish, beside) = (wish?, beside?);
        (wish != beside).then(|| format!("`{key}` is {wish} by the recipe and {beside} by the config.json beside it: the recipe's is taken"))
    });
    apart.collect()
}

/// What names and shapes tell; `heads` is the number of query heads if it is stated.
/// Also says, for the user, what had to be assumed.
pub fn inferred(tensors: &HashMap<String, HostTensor>, heads: Option<i64>) -> (ModelOverrides, Vec<String>) {
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
            notes.push("the number of attention heads is not told by the weights; 8 is assumed".to_owned());
            Some(8)
        }),
    };
    let head_dim =
        norm.or_else(|| q.zip(heads).filter(|(_, h)| *h > 0).map(|(q, h)| q / h)).filter(|e| *e > 0);
    let experts = dim(&format!("{block}.mlp.gate.weight"), 0);
    let inner = |part: &str| dim(&format!("{block}.mlp.{part}gate_proj.weight"), 0);
    let hidden = dim("model.embed_tokens.weight", 1);
    let same = |a: &HostTensor, b: &HostTensor| {
        a.is_same(b) || a.dtype() == b.dtype() && a.shape() == b.shape() && a.bytes().ok() == b.bytes().ok()
    };
    let tied = match (tensors.get("lm_head.weight"), tensors.get("model.embed_tokens.weight")) {
        (Some(head), Some(embedding)) => same(head, embedding),
        _ => true,
    };
    if experts.is_some() {
        notes.push("experts per token are not told by the weights; where nothing states them, the era's default is used".to_owned());
    }
    let told = ModelOverrides {
        era: Some(if norm.is_some() { Era::MiniMind3 } else { Era::MiniMind2 }),
        hidden_size: hidden,
        num_hidden_layers: count("model.layers."),
        num_attention_heads: heads,
        num_key_value_heads: k.zip(head_dim).map(|(k, e)| k / e),
        head_dim,
        vocab_size: dim("model.embed_tokens.weight", 0),
        intermediate_size: inner(""),
        tie_word_embeddings: Some(tied),
        qkv_bias: Some(tensors.contains_key(&format!("{block}.self_attn.q_proj.bias"))),
        o_bias: Some(tensors.contains_key(&format!("{block}.self_attn.o_proj.bias"))),
        mlp_bias: Some(tensors.contains_key(&format!("{block}.mlp.gate_proj.bias"))),
        use_moe: Some(experts.is_some()),
        num_experts: experts,
        n_shared_experts: experts.map(|_| count(&format!("{block}.mlp.shared_experts.")).unwrap_or(0)),
        moe_intermediate_size: inner("experts.0."),
        ..ModelOverrides::default()
    };
    (told, notes)
}
