//! Where a recipe, a config and the weights state different architectures.
//!
//! [`shape_conflicts`] and [`shadowed_keys`] word what a run passes over; [`config_conflicts`] is for looking at files.
//! Loading a model demands that all fits (`strict_check`).

use std::collections::HashMap;

use serde_json::{Value as Json, json};

use super::host_tensor::HostTensor;
use super::infer_shapes::infer_shapes;
use super::strict_check::check_fit;
use crate::model::{ModelConfig, ModelOverrides};

/// The keys of a recipe's model that the shapes of the weights contradict, each with a sentence for the user. The
/// weights win.
pub fn shape_conflicts(overrides: &ModelOverrides, inferred: &ModelOverrides) -> Vec<(&'static str, String)> {
    let keys = [
        ("hidden_size", overrides.hidden_size, inferred.hidden_size),
        ("num_hidden_layers", overrides.num_hidden_layers, inferred.num_hidden_layers),
        ("num_attention_heads", overrides.num_attention_heads, inferred.num_attention_heads),
        ("num_key_value_heads", overrides.num_key_value_heads, inferred.num_key_value_heads),
        ("head_dim", overrides.head_dim, inferred.head_dim),
        ("vocab_size", overrides.vocab_size, inferred.vocab_size),
        ("intermediate_size", overrides.intermediate_size, inferred.intermediate_size),
        ("num_experts", overrides.num_experts, inferred.num_experts),
        ("n_shared_experts", overrides.n_shared_experts, inferred.n_shared_experts),
        ("moe_intermediate_size", overrides.moe_intermediate_size, inferred.moe_intermediate_size),
    ];
    let conflicts = keys.into_iter().filter_map(|(key, stated, inferred)| {
        let (stated, inferred) = (stated?, inferred?);
        let note = format!(
            "`{key}` of the recipe's model is {stated}, that of these weights {inferred}, which is taken"
        );
        (stated != inferred).then_some((key, note))
    });
    conflicts.collect()
}

/// The keys of a `config.json` beside the weights that the recipe's model states otherwise, as sentences for the user.
/// The recipe wins.
pub fn shadowed_keys(overrides: &ModelOverrides, config: &ModelOverrides) -> Vec<String> {
    let number = |n: Option<i64>| n.map(|n| n as f64);
    let keys = [
        ("num_attention_heads", number(overrides.num_attention_heads), number(config.num_attention_heads)),
        ("num_experts_per_tok", number(overrides.num_experts_per_tok), number(config.num_experts_per_tok)),
        (
            "max_position_embeddings",
            number(overrides.max_position_embeddings),
            number(config.max_position_embeddings),
        ),
        ("rope_theta", overrides.rope_theta, config.rope_theta),
        ("rms_norm_eps", overrides.rms_norm_eps, config.rms_norm_eps),
        ("aux_loss_coef", overrides.aux_loss_coef, config.aux_loss_coef),
    ];
    let shadowed = keys.into_iter().filter_map(|(key, recipe, config)| {
        let (recipe, config) = (recipe?, config?);
        (recipe != config).then(|| format!("`{key}` is {recipe} by the recipe and {config} by the config.json beside it: the recipe's is taken"))
    });
    shadowed.collect()
}

/// A key of a config that the weights contradict.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigConflict {
    /// Its name in a config.
    pub key: &'static str,
    /// What the config states.
    pub config: Json,
    /// What the weights have.
    pub weights: Json,
}

/// What keeps the weights from being a model of this architecture: the keys that differ, else the text of the strict
/// check. Nothing where they fit.
pub fn config_conflicts(
    config: &ModelConfig,
    tensors: &HashMap<String, HostTensor>,
) -> (Vec<ConfigConflict>, Option<String>) {
    let Err(fault) = check_fit(config, &mut tensors.clone()) else { return (Vec::new(), None) };
    let (inferred, _) = infer_shapes(tensors, Some(config.num_attention_heads));
    let moe = config.moe.as_ref();
    let pairs = [
        ("era", json!(config.era.name()), json!(inferred.era.map(|era| era.name()))),
        ("hidden_size", json!(config.hidden_size), json!(inferred.hidden_size)),
        ("num_hidden_layers", json!(config.num_hidden_layers), json!(inferred.num_hidden_layers)),
        ("num_attention_heads", json!(config.num_attention_heads), json!(inferred.num_attention_heads)),
        ("num_key_value_heads", json!(config.num_key_value_heads), json!(inferred.num_key_value_heads)),
        ("head_dim", json!(config.head_dim), json!(inferred.head_dim)),
        ("vocab_size", json!(config.vocab_size), json!(inferred.vocab_size)),
        ("intermediate_size", json!(config.intermediate_size), json!(inferred.intermediate_size)),
        ("tie_word_embeddings", json!(config.tie_word_embeddings), json!(inferred.tie_word_embeddings)),
        ("qkv_bias", json!(config.qkv_bias), json!(inferred.qkv_bias)),
        ("o_bias", json!(config.o_bias), json!(inferred.o_bias)),
        ("mlp_bias", json!(config.mlp_bias), json!(inferred.mlp_bias)),
        ("use_moe", json!(moe.is_some()), json!(inferred.use_moe)),
        ("num_experts", json!(moe.map(|moe| moe.num_experts)), json!(inferred.num_experts)),
        ("n_shared_experts", json!(moe.map(|moe| moe.n_shared_experts)), json!(inferred.n_shared_experts)),
        (
            "moe_intermediate_size",
            json!(moe.map(|moe| moe.moe_intermediate_size)),
            json!(inferred.moe_intermediate_size),
        ),
    ];
    let differ = |(key, config, weights): (&'static str, Json, Json)| {
        // Null: the shapes leave it open, or the config has no such part, which `use_moe` shows.
        let differ = !config.is_null() && !weights.is_null() && config != weights;
        differ.then_some(ConfigConflict { key, config, weights })
    };
    let found: Vec<_> = pairs.into_iter().filter_map(differ).collect();
    let why = found.is_empty().then(|| fault.to_string());
    (found, why)
}
