//! InternLM2's weights under Llama's names: the same arithmetic, with query, key and value in one matrix.
//!
//! `wqkv` `[K (G + 2) E, D]` holds, for each kv head, its G query heads, then its key, then its value
//! (InternLM2's `modeling_internlm2.py`, `InternLM2Attention.forward`). Dynamic rotary scaling acts beyond
//! `max_position_embeddings` alone, which we do not go beyond.
//!
//! K kv heads, G query heads a kv head, E head dim, D hidden.

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::convert;
use super::host_tensor::HostTensor;
use crate::error::{Error, Result};
use crate::model::{ModelConfig, ModelOverrides};

/// Whether a `config.json` is InternLM2's.
pub(super) fn is(config: &Json) -> bool {
    config["model_type"].as_str().is_some_and(|kind| kind == "internlm2")
}

/// Names that change, but for `wqkv`.
const NAMES: [(&str, &str); 7] = [
    ("attention.wo.", "self_attn.o_proj."),
    ("feed_forward.w1.", "mlp.gate_proj."),
    ("feed_forward.w3.", "mlp.up_proj."),
    ("feed_forward.w2.", "mlp.down_proj."),
    ("attention_norm.", "input_layernorm."),
    ("ffn_norm.", "post_attention_layernorm."),
    ("model.tok_embeddings.", "model.embed_tokens."),
];

/// Renames the weights to Llama's and returns the architecture.
///
/// # Errors
/// Biases, or shapes that do not fit the config.
pub(super) fn as_llama(config: &Json, tensors: &mut HashMap<String, HostTensor>) -> Result<ModelConfig> {
    if config["bias"].as_bool() == Some(true) {
        return Err(Error::failed("an InternLM2 with biases is not supported"));
    }
    let mut llama = config.clone();
    if let Some(map) = llama.as_object_mut() {
        map.insert("model_type".into(), json!("llama"));
        map.remove("rope_scaling");
        // A reward model has no output layer; a tied one is no weight of its own.
        map.insert("tie_word_embeddings".into(), json!(true));
    }
    let model = ModelOverrides::from_json(&llama)?.resolve()?;
    let old: Vec<String> = tensors.keys().cloned().collect();
    for name in old {
        if let Some(stem) = name.strip_suffix("attention.wqkv.weight") {
            let Some(joined) = tensors.remove(&name) else { continue };
            for (part, tensor) in split_wqkv(&joined, &model)? {
                tensors.insert(format!("{stem}self_attn.{part}_proj.weight"), tensor);
            }
            continue;
        }
        let new = NAMES.iter().find_map(|(from, to)| name.contains(from).then(|| name.replace(from, to)));
        let new = new.or_else(|| (name == "v_head.weight").then(|| "score.weight".to_owned()));
        if let Some(new) = new
            && let Some(tensor) = tensors.remove(&name)
        {
            tensors.insert(new, tensor);
        }
    }
    // A score needs no output layer.
    tensors.remove("output.weight");
    Ok(model)
}

/// Query `[K G E, D]`, key and value `[K E, D]` out of `wqkv`.
fn split_wqkv(joined: &HostTensor, model: &ModelConfig) -> Result<[(&'static str, HostTensor); 3]> {
    let (k, e, d) = (model.num_key_value_heads, model.head_dim, model.hidden_size);
    let g = model.num_attention_heads / k;
    let whole = convert::to_tensor(joined)?;
    if whole.size() != [k * (g + 2) * e, d] {
        return Err(Error::failed(format!(
            "`wqkv` is {:?}, the architecture wants {:?}",
            whole.size(),
            [k * (g + 2) * e, d]
        )));
    }
    let heads = whole.view([k, g + 2, e, d]); // [K, G + 2, E, D]
    let part = |from: i64, count: i64| convert::to_host(&heads.narrow(1, from, count).reshape([-1, d]));
    Ok([("q", part(0, g)?), ("k", part(g, 1)?), ("v", part(g + 1, 1)?)])
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use tch::Tensor;

    /// Llama's weights by InternLM2's names.
    pub(in crate::checkpoint) fn renamed(
        tensors: &HashMap<String, Tensor>,
        model: &ModelConfig,
    ) -> HashMap<String, Tensor> {
        let (k, e, d) = (model.num_key_value_heads, model.head_dim, model.hidden_size);
        let mut out = HashMap::new();
        for (name, tensor) in tensors {
            if let Some(stem) = name.strip_suffix("self_attn.q_proj.weight") {
                let get =
                    |part: &str| tensors[&format!("{stem}self_attn.{part}_proj.weight")].view([k, -1, e, d]);
                let joined = Tensor::cat(&[get("q"), get("k"), get("v")], 1).reshape([-1, d]);
                out.insert(format!("{stem}attention.wqkv.weight"), joined);
            } else if !name.contains("k_proj") && !name.contains("v_proj") {
                let back =
                    NAMES.iter().find_map(|(to, from)| name.contains(from).then(|| name.replace(from, to)));
                let back = back.unwrap_or_else(|| name.replace("score.weight", "v_head.weight"));
                out.insert(back, tensor.shallow_clone());
            }
        }
        out
    }
}
