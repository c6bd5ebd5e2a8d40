//! Which architecture a file's weights have: what is stated, and what names and shapes tell.

use std::collections::HashMap;

use serde_json::Value as Json;

use super::value::HostTensor;
use crate::error::{Error, Result};
use crate::model::{Era, ModelOverrides};

/// What a `config.json` states; Llama's and Qwen3's kin are mapped to the era with their arithmetic.
pub fn stated(json: &Json) -> Result<ModelOverrides> {
    let mut stated = ModelOverrides::from_json(json)?;
    let kin = json.get("model_type").and_then(Json::as_str).unwrap_or_default();
    match kin {
        "llama" => {
            stated.era = stated.era.or(Some(Era::MiniMind2));
            stated.rope_theta = stated.rope_theta.or(Some(1e4));
        }
        "qwen3" | "qwen3_moe" => stated.era = stated.era.or(Some(Era::MiniMind3)),
        _ => {}
    }
    if let Some(theta) = json.get("rope_parameters").and_then(|r| r.get("rope_theta")).and_then(Json::as_f64)
    {
        stated.rope_theta = Some(theta);
    }
    if kin == "qwen3_moe" {
        stated.use_moe = Some(true);
    }
    for key in ["rope_scaling", "rope_parameters"] {
        let scaling = json.get(key).and_then(|r| r.get("rope_type").or(r.get("type"))).and_then(Json::as_str);
        if let Some(kind) = scaling.filter(|kind| !["default", "yarn"].contains(kind)) {
            return Err(Error::failed(format!("`{key}` of the model is {kind}; only yarn is supported")));
        }
    }
    match json.get("hidden_act").and_then(Json::as_str) {
        None | Some("silu" | "swish") => Ok(stated),
        Some(other) => {
            Err(Error::failed(format!("the model's activation is {other}; only silu is supported")))
        }
    }
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
        use_moe: Some(experts.is_some()),
        num_experts: experts,
        n_shared_experts: experts.map(|_| count(&format!("{block}.mlp.shared_experts.")).unwrap_or(0)),
        moe_intermediate_size: inner("experts.0."),
        ..ModelOverrides::default()
    };
    (told, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_models_keys_are_mapped_or_refused() {
        let llama = serde_json::json!({"model_type": "llama", "hidden_act": "silu", "rope_scaling": null});
        let told = stated(&llama).unwrap();
        assert_eq!((told.era, told.rope_theta), (Some(Era::MiniMind2), Some(1e4)));
        let qwen = serde_json::json!({"model_type": "qwen3_moe", "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}});
        let told = stated(&qwen).unwrap();
        assert_eq!((told.era, told.rope_theta, told.use_moe), (Some(Era::MiniMind3), Some(5e5), Some(true)));
        assert!(stated(&serde_json::json!({"rope_scaling": {"rope_type": "llama3"}})).is_err());
        assert!(stated(&serde_json::json!({"hidden_act": "gelu"})).is_err());
    }
}
