//! One pre-norm transformer block.
//!
//! B batch, T tokens, D hidden.

use tch::Tensor;

use super::attention::{Attention, Mask};
use super::config::ModelConfig;
use super::kv_cache::KvCache;
use super::moe::Mlp;
use super::norm::{RmsNorm, Stream};
use super::params::Params;
use super::rope::Rope;

/// Attention and feed-forward, each behind a norm and added to the stream.
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
        stream: Stream,
        rope: &Rope,
        mask: Mask<'_>,
        cache: Option<(&mut KvCache, usize)>,
        train: bool,
    ) -> (Stream, Option<Tensor>) {
        let p = if train { self.dropout } else { 0.0 };
        let drop = |y: Tensor| if p > 0.0 { y.dropout(p, true) } else { y };
        let (x, normed) = self.input_layernorm.of(stream, true);
        let attended = self.self_attn.forward(&normed, rope, mask, cache, train);
        let (x, normed) = self.post_attention_layernorm.after_adding(x, drop(attended), self.mlp.is_dense());
        let (y, aux) = self.mlp.forward(&normed, train);
        (Stream::plus(x, drop(y)), aux)
    }
}
