//! One pre-norm transformer block.
//!
//! B batch, T tokens, D hidden.

use tch::Tensor;

use super::attention::Attention;
use super::config::ModelConfig;
use super::kv_cache::KvCache;
use super::mask::Mask;
use super::moe::Mlp;
use super::norm::RmsNorm;
use super::ops::{self, NormDtype, Residual};
use super::params::Params;
use super::rope::Rope;

/// Attention and feed-forward, each behind a norm and added to the residual.
#[derive(Debug)]
pub struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: Mlp,
    dropout: f64,
}

impl Block {
    /// The block whose weights stand under `name`.
    pub fn new(params: &Params, name: &str, config: &ModelConfig) -> Self {
        let norm = |part: &str| {
            RmsNorm::new(params.get(&format!("{name}.{part}.weight")), config.rms_norm_eps, config.era)
        };
        Self {
            input_layernorm: norm("input_layernorm"),
            self_attn: Attention::new(params, &format!("{name}.self_attn"), config),
            post_attention_layernorm: norm("post_attention_layernorm"),
            mlp: Mlp::new(params, &format!("{name}.mlp"), config),
            dropout: config.dropout,
        }
    }

    /// `[B, T, D] -> ([B, T, D], balance loss)`.
    pub fn forward(
        &self,
        residual: Residual,
        rope: &Rope,
        mask: Mask<'_>,
        cache: Option<(&mut KvCache, usize)>,
        train: bool,
    ) -> (Residual, Option<Tensor>) {
        let p = if train { self.dropout } else { 0.0 };
        let drop = |y: Tensor| if p > 0.0 { y.dropout(p, true) } else { y };
        let (x, normed) = ops::residual_rms_norm(residual, &self.input_layernorm, NormDtype::Compute);
        let attended = self.self_attn.forward(&normed, rope, mask, cache, train);
        // Experts are summed up in the dtype of their input.
        let dtype = if self.mlp.is_dense() { NormDtype::Compute } else { NormDtype::Input };
        let (x, normed) = ops::add_rms_norm(x, drop(attended), &self.post_attention_layernorm, dtype);
        let (y, aux) = self.mlp.forward(&normed, train);
        (ops::add(x, drop(y)), aux)
    }
}
