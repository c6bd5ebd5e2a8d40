//! Where a config and the weights it stands beside say different things.
//!
//! For looking at files: what loads a model demands that all fits (`load`).

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::load;
use super::value::HostTensor;
use crate::checkpoint::architecture::inferred;
use crate::model::ModelConfig;

/// A key of a config that the weights gainsay.
#[derive(Debug, Clone, PartialEq)]
pub struct Contradiction {
    /// Its name in a config.
    pub key: &'static str,
    /// What the config states.
    pub config: Json,
    /// What the weights have.
    pub weights: Json,
}

/// What keeps the weights from being a model of this architecture: the keys that differ, else what the check says.
/// Nothing where they fit.
pub fn contradictions(
    config: &ModelConfig,
    tensors: &HashMap<String, HostTensor>,
) -> (Vec<Contradiction>, Option<String>) {
    let Err(fault) = load::check(config, &mut tensors.clone()) else { return (Vec::new(), None) };
    let (told, _) = inferred(tensors, Some(config.num_attention_heads));
    let moe = config.moe.as_ref();
    let pairs = [
        ("era", json!(config.era.name()), json!(told.era.map(|era| era.name()))),
        ("hidden_size", json!(config.hidden_size), json!(told.hidden_size)),
        ("num_hidden_layers", json!(config.num_hidden_layers), json!(told.num_hidden_layers)),
        ("num_attention_heads", json!(config.num_attention_heads), json!(told.num_attention_heads)),
        ("num_key_value_heads", json!(config.num_key_value_heads), json!(told.num_key_value_heads)),
        ("head_dim", json!(config.head_dim), json!(told.head_dim)),
        ("vocab_size", json!(config.vocab_size), json!(told.vocab_size)),
        ("intermediate_size", json!(config.intermediate_size), json!(told.intermediate_size)),
        ("tie_word_embeddings", json!(config.tie_word_embeddings), json!(told.tie_word_embeddings)),
        ("qkv_bias", json!(config.qkv_bias), json!(told.qkv_bias)),
        ("o_bias", json!(config.o_bias), json!(told.o_bias)),
        ("mlp_bias", json!(config.mlp_bias), json!(told.mlp_bias)),
        ("use_moe", json!(moe.is_some()), json!(told.use_moe)),
        ("num_experts", json!(moe.map(|moe| moe.num_experts)), json!(told.num_experts)),
        ("n_shared_experts", json!(moe.map(|moe| moe.n_shared_experts)), json!(told.n_shared_experts)),
        (
            "moe_intermediate_size",
            json!(moe.map(|moe| moe.moe_intermediate_size)),
            json!(told.moe_intermediate_size),
        ),
    ];
    let differ = |(key, config, weights): (&'static str, Json, Json)| {
        // Null: the weights do not tell, or the config has no such part, which `use_moe` says.
        let differ = !config.is_null() && !weights.is_null() && config != weights;
        differ.then_some(Contradiction { key, config, weights })
    };
    let found: Vec<_> = pairs.into_iter().filter_map(differ).collect();
    let why = found.is_empty().then(|| fault.to_string());
    (found, why)
}
