//! The architecture as plain values: both eras, dense and MoE, in one struct.
//!
//! Each key stands once, in the list below, with its range and default. The numbers behind each preset are upstream's
//! releases; everything a preset leaves open follows from `hidden_size` by the era's own rule.
//! Next: `declare` (what is made of the list), `hf_config` (other families' files).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::declare::declare_config;
use super::hf_config::Keys;
use super::rope_scaling::RopeScaling;
use crate::error::{Error, Result};

/// Positions that YaRN was fitted from, and its factor and ramp (upstream's constants).
pub const YARN_ORIGINAL_POSITIONS: i64 = 2048;
/// YaRN's stretch.
pub const YARN_FACTOR: f64 = 16.0;
/// Rotations above which a frequency is left alone.
pub const YARN_BETA_FAST: f64 = 32.0;
/// Rotations below which a frequency is divided by the factor.
pub const YARN_BETA_SLOW: f64 = 1.0;

/// Which generation of MiniMind the arithmetic follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Era {
    /// 2025, Llama-like.
    MiniMind2,
    /// 2026, Qwen3-like: RMS norm on queries and keys.
    MiniMind3,
}

impl Era {
    /// The name in recipes and files.
    pub fn name(self) -> &'static str {
        match self {
            Era::MiniMind2 => "minimind2",
            Era::MiniMind3 => "minimind3",
        }
    }
}

declare_config! {
    keys {
        /// Whose arithmetic: minimind2 or minimind3.
        era: Era = Era::MiniMind3;
        /// Width of the residual stream.
        @[schemars(range(min = 1))]
        hidden_size: i64 = 768;
        /// Blocks.
        @[schemars(range(min = 1))]
        num_hidden_layers: i64 = 8;
        /// Query heads.
        @[schemars(range(min = 1))]
        num_attention_heads: i64 = 8;
        /// Key and value heads; divides the query heads.
        @[schemars(range(min = 1))]
        num_key_value_heads: i64 = match era {
            Era::MiniMind2 => 2,
            Era::MiniMind3 => 4,
        };
        /// Width of a head (hidden_size / num_attention_heads).
        @[schemars(range(min = 2))]
        head_dim: i64 = hidden_size / num_attention_heads;
        /// Rows of the embedding (the tokenizer's size).
        @[schemars(range(min = 1))]
        vocab_size: i64 = 6400;
        /// Inner width of the feed-forward (from hidden_size by the era's rule).
        @[schemars(range(min = 1))]
        intermediate_size: i64 = match era {
            Era::MiniMind2 => ((hidden_size * 8 / 3) as f64 / 64.0).ceil() as i64 * 64,
            Era::MiniMind3 => (hidden_size as f64 * std::f64::consts::PI / 64.0).ceil() as i64 * 64,
        };
        /// Longest sequence in tokens (32768).
        @[schemars(range(min = 1))]
        max_position_embeddings: i64 = 32768;
        /// Epsilon of RMS norm.
        @[schemars(extend("exclusiveMinimum" = 0))]
        rms_norm_eps: f64 = match era {
            Era::MiniMind2 => 1e-5,
            Era::MiniMind3 => 1e-6,
        };
        /// Base of the rotary frequencies (1e6).
        @[schemars(extend("exclusiveMinimum" = 0))]
        rope_theta: f64 = 1e6;
        /// Whether the output layer is the embedding (true).
        tie_word_embeddings: bool = true;
        /// Whether the query, key and value projections have a bias (Qwen2; Llama and Qwen3 where stated).
        @[schemars(skip)]
        qkv_bias: bool = false;
        /// Whether the attention's output projection has a bias.
        @[schemars(skip)]
        o_bias: bool = false;
        /// Whether the dense feed-forward's projections have biases (some Llamas).
        @[schemars(skip)]
        mlp_bias: bool = false;
        /// Whether YaRN stretches the rotary frequencies (false).
        inference_rope_scaling: bool = false;
    }
    optional {
        /// The scaling another model's config states; it wins over MiniMind's YaRN.
        @[serde(skip)]
        rope_scaling: RopeScaling;
    }
    keys {
        /// Dropout probability while training (0).
        @[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
        dropout: f64 = 0.0;
    }
    experts {
        /// Routed experts (4); minimind2's `n_routed_experts` means the same.
        @[schemars(range(min = 1))]
        num_experts also ["n_routed_experts"]: i64 = 4;
        /// Experts a token visits.
        @[schemars(range(min = 1))]
        num_experts_per_tok: i64 = match era {
            Era::MiniMind2 => 2,
            Era::MiniMind3 => 1,
        };
        /// Experts every token visits (minimind2).
        @[schemars(range(min = 0))]
        n_shared_experts: i64 = match era {
            Era::MiniMind2 => 1,
            Era::MiniMind3 => 0,
        };
        /// Inner width of an expert.
        @[schemars(range(min = 1))]
        moe_intermediate_size: i64 = intermediate_size;
        /// Weight of the load-balancing loss; upstream's `router_aux_loss_coef` and `aux_loss_alpha` mean the same.
        @[schemars(range(min = 0))]
        aux_loss_coef also ["router_aux_loss_coef", "aux_loss_alpha"]: f64 = match era {
            Era::MiniMind2 => 0.01,
            Era::MiniMind3 => 5e-4,
        };
        /// Whether the chosen experts' weights are made to sum to one.
        norm_topk_prob: bool = true;
        /// Load per sequence rather than over the batch (minimind2).
        seq_aux: bool = era == Era::MiniMind2;
    }
}

impl MoeConfig {
    /// Whether the weights of a token's chosen experts are divided by their sum. minimind2 leaves the weight of a
    /// single chosen expert as it is; minimind3 makes it 1.
    pub fn renormalises(&self, era: Era) -> bool {
        self.norm_topk_prob && (era == Era::MiniMind3 || self.num_experts_per_tok > 1)
    }
}

/// Names that `preset:` takes.
pub const PRESETS: [&str; 5] =
    ["minimind2-small", "minimind2", "minimind2-moe", "minimind3", "minimind3-moe"];

/// What a preset states.
pub fn preset(name: &str) -> Option<ModelOverrides> {
    let sized = |era, hidden, layers, moe| ModelOverrides {
        era: Some(era),
        hidden_size: Some(hidden),
        num_hidden_layers: Some(layers),
        use_moe: Some(moe),
        ..ModelOverrides::default()
    };
    Some(match name {
        "minimind2-small" => sized(Era::MiniMind2, 512, 8, false),
        "minimind2" => sized(Era::MiniMind2, 768, 16, false),
        "minimind2-moe" => sized(Era::MiniMind2, 640, 8, true),
        "minimind3" => sized(Era::MiniMind3, 768, 8, false),
        "minimind3-moe" => sized(Era::MiniMind3, 768, 8, true),
        _ => return None,
    })
}

impl ModelOverrides {
    /// Fills what is open by the era's rules and checks what must hold.
    ///
    /// # Errors
    /// Every combination that no model can have, each with the key to change.
    pub fn resolve(self) -> Result<ModelConfig> {
        self.check_sizes()?;
        let own_head_dim = self.head_dim.is_some();
        let config = self.fill();
        config.check(own_head_dim)?;
        Ok(config)
    }

    /// Sizes that are stated must be possible ones.
    fn check_sizes(&self) -> Result<()> {
        let sizes = [
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("num_key_value_heads", self.num_key_value_heads),
            ("vocab_size", self.vocab_size),
            ("intermediate_size", self.intermediate_size),
            ("head_dim", self.head_dim),
            ("max_position_embeddings", self.max_position_embeddings),
        ];
        // Larger ones overflow when they are multiplied, and no machine has them.
        let wrong = sizes
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.filter(|v| !(1..=1 << 30).contains(v))?)));
        let faults = wrong.map(|(name, value)| {
            Error::input(format!("`{name}` is {value}")).hint("give a whole number of at least 1")
        });
        Error::all(faults).map_or(Ok(()), Err)
    }
}

impl ModelConfig {
    /// Whether both compute the same from the same weights: dropout, which acts while training alone, does not count.
    pub fn same_architecture(&self, other: &Self) -> bool {
        let at_inference = |config: &Self| Self { dropout: 0.0, ..config.clone() };
        at_inference(self) == at_inference(other)
    }

    /// What must hold between keys; `own_head_dim`: whether `head_dim` was stated.
    fn check(&self, own_head_dim: bool) -> Result<()> {
        let (hidden, heads, kv) = (self.hidden_size, self.num_attention_heads, self.num_key_value_heads);
        if heads % kv != 0 {
            return Err(Error::input(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}"
            ))
            .hint(format!("set num_key_value_heads to a divisor of {heads}")));
        }
        if !own_head_dim && hidden % heads != 0 {
            return Err(Error::input(format!(
                "hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
            ))
            .hint(format!("set hidden_size to {}, or give head_dim", (hidden / heads + 1) * heads)));
        }
        let head_dim = self.head_dim;
        if head_dim % 2 != 0 {
            return Err(Error::input(format!("head_dim {head_dim} is odd; rotary positions turn pairs"))
                .hint("set head_dim, or hidden_size and num_attention_heads, so that it is even"));
        }
        if let Some(MoeConfig { num_experts, num_experts_per_tok: top, .. }) = self.moe
            && (num_experts < 1 || top < 1 || top > num_experts)
        {
            return Err(Error::input(format!("num_experts_per_tok {top} of num_experts {num_experts}"))
                .hint("num_experts_per_tok must lie between 1 and num_experts"));
        }
        if let Some(RopeScaling::Factors { factors }) = &self.rope_scaling
            && factors.len() as i64 != head_dim / 2
        {
            return Err(Error::input(format!(
                "`rope_scaling` has {} factors for heads of {head_dim}",
                factors.len()
            ))
            .hint(format!("it needs {}", head_dim / 2)));
        }
        Ok(())
    }

    /// `_moe` in file names, or nothing.
    pub fn suffix(&self) -> &'static str {
        if self.moe.is_some() { "_moe" } else { "" }
    }

    /// Upstream's `config.json`, readable by [`ModelOverrides::from_json`], with keys of our own where it has none.
    pub fn to_json(&self) -> Value {
        let mut all = match json!(self) {
            Value::Object(all) => all,
            other => return other,
        };
        for apart in ["moe", "rope_scaling"] {
            all.shift_remove(apart);
        }
        let biases = ["qkv_bias", "o_bias", "mlp_bias"].map(|key| (key, all.shift_remove(key)));
        let mut object = serde_json::Map::from_iter([("model_type".to_owned(), json!("minimind"))]);
        object.append(&mut all);
        object.insert("hidden_act".into(), "silu".into());
        object.insert("use_moe".into(), self.moe.is_some().into());
        object.extend(
            biases.into_iter().filter_map(|(key, on)| Some((key.to_owned(), on.filter(|on| *on == true)?))),
        );
        if let Some(scaling) = &self.rope_scaling {
            object.insert("rope_scaling".into(), scaling.to_json());
        }
        if let Some(moe) = &self.moe {
            // Each era has its own names for two of them.
            let (experts, coef) = match self.era {
                Era::MiniMind2 => ("n_routed_experts", "aux_loss_alpha"),
                Era::MiniMind3 => ("num_experts", "router_aux_loss_coef"),
            };
            object.insert(experts.into(), moe.num_experts.into());
            object.insert(coef.into(), moe.aux_loss_coef.into());
            let named = ["num_experts", "aux_loss_coef"];
            if let Value::Object(rest) = json!(moe) {
                object.extend(rest.into_iter().filter(|(key, _)| !named.contains(&key.as_str())));
            }
        }
        Value::Object(object)
    }
}
