//! The architecture as plain values: both eras, dense and MoE, in one struct.
//!
//! Field names are those of upstream's `config.json`. The numbers behind each preset are upstream's
//! releases; everything a preset leaves open follows from `hidden_size` by the era's own rule.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// Mixture of experts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MoeConfig {
    /// Routed experts.
    pub num_experts: i64,
    /// Experts a token visits.
    pub num_experts_per_tok: i64,
    /// Experts every token visits (minimind2).
    pub n_shared_experts: i64,
    /// Inner width of an expert.
    pub moe_intermediate_size: i64,
    /// Weight of the load-balancing loss.
    pub aux_loss_coef: f64,
    /// Whether the chosen experts' weights are made to sum to one.
    pub norm_topk_prob: bool,
    /// Load per sequence rather than over the batch (minimind2).
    pub seq_aux: bool,
}

/// The architecture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelConfig {
    /// Whose arithmetic.
    pub era: Era,
    /// Width of the residual stream.
    pub hidden_size: i64,
    /// Blocks.
    pub num_hidden_layers: i64,
    /// Query heads.
    pub num_attention_heads: i64,
    /// Key and value heads.
    pub num_key_value_heads: i64,
    /// Width of a head.
    pub head_dim: i64,
    /// Rows of the embedding.
    pub vocab_size: i64,
    /// Inner width of the feed-forward.
    pub intermediate_size: i64,
    /// Longest sequence.
    pub max_position_embeddings: i64,
    /// Epsilon of RMS norm.
    pub rms_norm_eps: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Whether the output layer is the embedding.
    pub tie_word_embeddings: bool,
    /// Whether the query, key and value projections have a bias (Qwen2; Llama and Qwen3 where stated).
    pub qkv_bias: bool,
    /// Whether the attention's output projection has a bias.
    pub o_bias: bool,
    /// Whether the dense feed-forward's projections have biases (some Llamas).
    pub mlp_bias: bool,
    /// Whether MiniMind's YaRN stretches the rotary frequencies.
    pub inference_rope_scaling: bool,
    /// The scaling another model's config states; it wins over MiniMind's YaRN.
    pub rope_scaling: Option<RopeScaling>,
    /// Dropout probability while training.
    pub dropout: f64,
    /// Experts; `None` for a dense model.
    pub moe: Option<MoeConfig>,
}

/// What a recipe or a `config.json` may state; everything else follows.
/// Keys are upstream's; minimind2's MoE names are accepted beside minimind3's.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs)]
pub struct ModelOverrides {
    pub era: Option<Era>,
    pub hidden_size: Option<i64>,
    pub num_hidden_layers: Option<i64>,
    pub num_attention_heads: Option<i64>,
    pub num_key_value_heads: Option<i64>,
    pub head_dim: Option<i64>,
    pub vocab_size: Option<i64>,
    pub intermediate_size: Option<i64>,
    pub max_position_embeddings: Option<i64>,
    pub rms_norm_eps: Option<f64>,
    pub rope_theta: Option<f64>,
    pub tie_word_embeddings: Option<bool>,
    pub qkv_bias: Option<bool>,
    pub o_bias: Option<bool>,
    pub mlp_bias: Option<bool>,
    pub inference_rope_scaling: Option<bool>,
    pub rope_scaling: Option<RopeScaling>,
    pub dropout: Option<f64>,
    pub use_moe: Option<bool>,
    pub num_experts: Option<i64>,
    pub num_experts_per_tok: Option<i64>,
    pub n_shared_experts: Option<i64>,
    pub moe_intermediate_size: Option<i64>,
    pub aux_loss_coef: Option<f64>,
    pub norm_topk_prob: Option<bool>,
    pub seq_aux: Option<bool>,
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
    /// `self` where it states something, else `base`.
    pub fn over(self, base: Self) -> Self {
        Self {
            era: self.era.or(base.era),
            hidden_size: self.hidden_size.or(base.hidden_size),
            num_hidden_layers: self.num_hidden_layers.or(base.num_hidden_layers),
            num_attention_heads: self.num_attention_heads.or(base.num_attention_heads),
            num_key_value_heads: self.num_key_value_heads.or(base.num_key_value_heads),
            head_dim: self.head_dim.or(base.head_dim),
            vocab_size: self.vocab_size.or(base.vocab_size),
            intermediate_size: self.intermediate_size.or(base.intermediate_size),
            max_position_embeddings: self.max_position_embeddings.or(base.max_position_embeddings),
            rms_norm_eps: self.rms_norm_eps.or(base.rms_norm_eps),
            rope_theta: self.rope_theta.or(base.rope_theta),
            tie_word_embeddings: self.tie_word_embeddings.or(base.tie_word_embeddings),
            qkv_bias: self.qkv_bias.or(base.qkv_bias),
            o_bias: self.o_bias.or(base.o_bias),
            mlp_bias: self.mlp_bias.or(base.mlp_bias),
            inference_rope_scaling: self.inference_rope_scaling.or(base.inference_rope_scaling),
            rope_scaling: self.rope_scaling.or(base.rope_scaling),
            dropout: self.dropout.or(base.dropout),
            use_moe: self.use_moe.or(base.use_moe),
            num_experts: self.num_experts.or(base.num_experts),
            num_experts_per_tok: self.num_experts_per_tok.or(base.num_experts_per_tok),
            n_shared_experts: self.n_shared_experts.or(base.n_shared_experts),
            moe_intermediate_size: self.moe_intermediate_size.or(base.moe_intermediate_size),
            aux_loss_coef: self.aux_loss_coef.or(base.aux_loss_coef),
            norm_topk_prob: self.norm_topk_prob.or(base.norm_topk_prob),
            seq_aux: self.seq_aux.or(base.seq_aux),
        }
    }

    /// Fills what is open by the era's rules and checks what must hold.
    ///
    /// # Errors
    /// Every combination that no model can have, each with the key to change.
    pub fn resolve(self) -> Result<ModelConfig> {
        let era = self.era.unwrap_or(Era::MiniMind3);
        let hidden = self.hidden_size.unwrap_or(768);
        let layers = self.num_hidden_layers.unwrap_or(8);
        let heads = self.num_attention_heads.unwrap_or(8);
        let kv = self.num_key_value_heads.unwrap_or(match era {
            Era::MiniMind2 => 2,
            Era::MiniMind3 => 4,
        });
        let mut faults = Vec::new();
        for (name, value) in [
            ("hidden_size", hidden),
            ("num_hidden_layers", layers),
            ("num_attention_heads", heads),
            ("num_key_value_heads", kv),
            ("vocab_size", self.vocab_size.unwrap_or(6400)),
            ("intermediate_size", self.intermediate_size.unwrap_or(1)),
            ("head_dim", self.head_dim.unwrap_or(2)),
            ("max_position_embeddings", self.max_position_embeddings.unwrap_or(32768)),
        ] {
            // Sizes beyond this overflow when they are multiplied, and no machine has them.
            if !(1..=1 << 30).contains(&value) {
                faults.push(
                    Error::input(format!("`{name}` is {value}")).hint("give a whole number of at least 1"),
                );
            }
        }
        if let Some(error) = Error::all(faults) {
            return Err(error);
        }
        if heads % kv != 0 {
            return Err(Error::input(format!(
                "num_attention_heads {heads} is not a multiple of num_key_value_heads {kv}"
            ))
            .hint(format!("set num_key_value_heads to a divisor of {heads}")));
        }
        if self.head_dim.is_none() && hidden % heads != 0 {
            return Err(Error::input(format!(
                "hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
            ))
            .hint(format!("set hidden_size to {}, or give head_dim", (hidden / heads + 1) * heads)));
        }
        let head_dim = self.head_dim.unwrap_or(hidden / heads);
        if head_dim % 2 != 0 {
            return Err(Error::input(format!("head_dim {head_dim} is odd; rotary positions turn pairs"))
                .hint("set head_dim, or hidden_size and num_attention_heads, so that it is even"));
        }
        let inner = match era {
            Era::MiniMind2 => ((hidden * 8 / 3) as f64 / 64.0).ceil() as i64 * 64,
            Era::MiniMind3 => (hidden as f64 * std::f64::consts::PI / 64.0).ceil() as i64 * 64,
        };
        let intermediate_size = self.intermediate_size.unwrap_or(inner);
        let moe = if self.use_moe.unwrap_or(false) {
            let experts = self.num_experts.unwrap_or(4);
            let (top, shared, coef, seq) = match era {
                Era::MiniMind2 => (2, 1, 0.01, true),
                Era::MiniMind3 => (1, 0, 5e-4, false),
            };
            let top = self.num_experts_per_tok.unwrap_or(top);
            if experts < 1 || top < 1 || top > experts {
                return Err(Error::input(format!("num_experts_per_tok {top} of num_experts {experts}"))
                    .hint("num_experts_per_tok must lie between 1 and num_experts"));
            }
            Some(MoeConfig {
                num_experts: experts,
                num_experts_per_tok: top,
                n_shared_experts: self.n_shared_experts.unwrap_or(shared),
                moe_intermediate_size: self.moe_intermediate_size.unwrap_or(intermediate_size),
                aux_loss_coef: self.aux_loss_coef.unwrap_or(coef),
                norm_topk_prob: self.norm_topk_prob.unwrap_or(true),
                seq_aux: self.seq_aux.unwrap_or(seq),
            })
        } else {
            None
        };
        if let Some(RopeScaling::Factors { factors }) = &self.rope_scaling
            && factors.len() as i64 != head_dim / 2
        {
            return Err(Error::input(format!(
                "`rope_scaling` has {} factors for heads of {head_dim}",
                factors.len()
            ))
            .hint(format!("it needs {}", head_dim / 2)));
        }
        Ok(ModelConfig {
            era,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            num_key_value_heads: kv,
            head_dim,
            vocab_size: self.vocab_size.unwrap_or(6400),
            intermediate_size,
            max_position_embeddings: self.max_position_embeddings.unwrap_or(32768),
            rms_norm_eps: self.rms_norm_eps.unwrap_or(match era {
                Era::MiniMind2 => 1e-5,
                Era::MiniMind3 => 1e-6,
            }),
            rope_theta: self.rope_theta.unwrap_or(1e6),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(true),
            qkv_bias: self.qkv_bias.unwrap_or(false),
            o_bias: self.o_bias.unwrap_or(false),
            mlp_bias: self.mlp_bias.unwrap_or(false),
            inference_rope_scaling: self.inference_rope_scaling.unwrap_or(false),
            rope_scaling: self.rope_scaling,
            dropout: self.dropout.unwrap_or(0.0),
            moe,
        })
    }
}

impl ModelConfig {
    /// `_moe` in file names, or nothing.
    pub fn suffix(&self) -> &'static str {
        if self.moe.is_some() { "_moe" } else { "" }
    }

    /// Upstream's `config.json`, readable by [`ModelOverrides::from_json`], with keys of our own where it has none.
    pub fn to_json(&self) -> Value {
        let mut value = json!({
            "model_type": "minimind",
            "era": self.era.name(),
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.num_key_value_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab_size,
            "intermediate_size": self.intermediate_size,
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "inference_rope_scaling": self.inference_rope_scaling,
            "dropout": self.dropout,
            "hidden_act": "silu",
            "use_moe": self.moe.is_some(),
        });
        let Some(object) = value.as_object_mut() else { return value };
        for (key, on) in [("qkv_bias", self.qkv_bias), ("o_bias", self.o_bias), ("mlp_bias", self.mlp_bias)] {
            if on {
                object.insert(key.into(), true.into());
            }
        }
        if let Some(scaling) = &self.rope_scaling {
            object.insert("rope_scaling".into(), scaling.to_json());
        }
        if let Some(moe) = &self.moe {
            let (experts, coef) = match self.era {
                Era::MiniMind2 => ("n_routed_experts", "aux_loss_alpha"),
                Era::MiniMind3 => ("num_experts", "router_aux_loss_coef"),
            };
            object.insert(experts.into(), moe.num_experts.into());
            object.insert(coef.into(), moe.aux_loss_coef.into());
            object.insert("num_experts_per_tok".into(), moe.num_experts_per_tok.into());
            object.insert("n_shared_experts".into(), moe.n_shared_experts.into());
            object.insert("moe_intermediate_size".into(), moe.moe_intermediate_size.into());
            object.insert("norm_topk_prob".into(), moe.norm_topk_prob.into());
            object.insert("seq_aux".into(), moe.seq_aux.into());
        }
        value
    }
}
