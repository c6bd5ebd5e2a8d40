//! Grouped-query attention (arXiv 2305.13245) with rotary positions; minimind3 norms queries and keys per head.
//!
//! Ports `Attention` of upstream's `model/model_minimind.py`.
//!
//! B batch, T tokens, D hidden, H query heads, K kv heads, E head dim.

use tch::Tensor;

use super::config::{Era, ModelConfig};
use super::kv_cache::KvCache;
use super::linear::Linear;
use super::mask::Mask;
use super::norm::RmsNorm;
use super::ops::{self, Layout, QkvProjection};
use super::params::Params;
use super::rope::Rope;

/// One attention layer.
#[derive(Debug)]
pub struct Attention {
    qkv: QkvProjection,
    o_proj: Linear,
    dropout: f64,
}

impl Attention {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str, config: &ModelConfig) -> Self {
        let linear = |part: &str| Linear::new(params, &format!("{name}.{part}"));
        let weight = |part: &str| params.get(&format!("{name}.{part}.weight"));
        let norm = |part: &str| RmsNorm::new(weight(part), config.rms_norm_eps, config.era);
        Self {
            qkv: QkvProjection {
                q_proj: linear("q_proj"),
                k_proj: linear("k_proj"),
                v_proj: linear("v_proj"),
                qk_norm: (config.era == Era::MiniMind3).then(|| (norm("q_norm"), norm("k_norm"))),
                heads: config.num_attention_heads,
                kv_heads: config.num_key_value_heads,
                head_dim: config.head_dim,
            },
            o_proj: linear("o_proj"),
            dropout: config.dropout,
        }
    }

    /// `[B, T, D] -> [B, T, D]`; `cache` holds this layer's earlier tokens. While training,
    /// dropout acts on the attention weights.
    pub fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        mask: Mask<'_>,
        cache: Option<(&mut KvCache, usize)>,
        train: bool,
    ) -> Tensor {
        let (b, t, _) = x.size3().expect("attention input is [B, T, D]");
        // Packed rows are one long row, whose rotary table is in the order of its tokens.
        let (rows, length) = if matches!(mask, Mask::Documents(_)) { (1, b * t) } else { (b, t) };
        let start = cache.as_ref().map_or(0, |(cache, _)| cache.len());
        let qkv = ops::qkv_rope(x, &self.qkv, rope, Layout { rows, length, start }, train);
        let dropout = if train { self.dropout } else { 0.0 };
        let y = ops::attention(qkv, mask, cache, dropout); // [rows, length, H, E]
        ops::linear(&y.reshape([b, t, -1]), &self.o_proj, train)
    }
}
