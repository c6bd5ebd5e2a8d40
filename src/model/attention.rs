//! Grouped-query attention (arXiv 2305.13245) with rotary positions; minimind3 norms queries and keys per head.
//!
//! Ports `Attention` of upstream's `model/model_minimind.py`.
//!
//! B batch, T tokens, S tokens seen, D hidden, H query heads, K kv heads, E head dim.

use tch::Tensor;

use super::config::{Era, ModelConfig};
use super::kv_cache::KvCache;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::packing::Packing;
use super::params::Params;
use super::rope::Rope;
use crate::native::fused;

/// What a token may look at.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// Itself and everything before it.
    Causal,
    /// The same, and only where the additive mask `[B, 1, T, S]` is zero.
    Additive(&'a Tensor),
    /// Itself and what stands before it in its document; no cache goes with it.
    Documents(&'a Packing),
}

/// One attention layer.
#[derive(Debug)]
pub struct Attention {
    q_proj: Linear,
    k_proj: Linear,
    v_proj: Linear,
    o_proj: Linear,
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
    dropout: f64,
}

impl Attention {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str, config: &ModelConfig) -> Self {
        let linear = |part: &str| Linear::new(params, &format!("{name}.{part}"));
        let weight = |part: &str| params.get(&format!("{name}.{part}.weight"));
        let norm = |part: &str| RmsNorm::new(weight(part), config.rms_norm_eps, config.era);
        Self {
            q_proj: linear("q_proj"),
            k_proj: linear("k_proj"),
            v_proj: linear("v_proj"),
            o_proj: linear("o_proj"),
            qk_norm: (config.era == Era::MiniMind3).then(|| (norm("q_norm"), norm("k_norm"))),
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
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
        let dropout = if train { self.dropout } else { 0.0 };
        let [q, k, v] = self.project(x, train);
        // Packed rows are one long row, whose rotary table is in the order of its tokens.
        let (rows, length) = if matches!(mask, Mask::Documents(_)) { (1, b * t) } else { (b, t) };
        let split = |y: Tensor, heads: i64| y.view([rows, length, heads, self.head_dim]);
        let (q, k) = (split(q, self.heads), split(k, self.kv_heads));
        let v = split(v, self.kv_heads); // [B, T, K, E]
        let (q_norm, k_norm) = self.qk_norm.as_ref().map(|(q, k)| (q, k)).unzip();
        let start = cache.as_ref().map_or(0, |(cache, _)| cache.len());
        let q = rope.apply(&q, q_norm, start).transpose(1, 2); // [B, H, T, E]
        let (k, v) = (rope.apply(&k, k_norm, start).transpose(1, 2), v.transpose(1, 2)); // [B, K, T, E]
        let (k, v) = match cache {
            Some((cache, layer)) => cache.extend(layer, &k, &v), // [B, K, S, E]
            None => (k, v),
        };
        let (k, v) = (self.repeat(&k), self.repeat(&v)); // [B, H, S, E]
        let y = match mask {
            Mask::Documents(packing) => {
                packing.apart([&q, &k, &v], |q, k, v| sdpa(q, k, v, None, dropout, true))
            }
            // One new token sees everything; no mask is needed, and `is_causal` would align to the top left.
            Mask::Causal if t == 1 => sdpa(&q, &k, &v, None, dropout, false),
            Mask::Causal if start == 0 => sdpa(&q, &k, &v, None, dropout, true),
            Mask::Causal => sdpa(&q, &k, &v, Some(&causal_after(start, t, x)), dropout, false),
            Mask::Additive(mask) => sdpa(&q, &k, &v, Some(&mask.to_kind(q.kind())), dropout, false),
        };
        self.o_proj.forward(&y.transpose(1, 2).reshape([b, t, -1]), train) // [B, T, D]
    }

    /// Queries `[B, T, H * E]`, keys and values `[B, T, K * E]`.
    fn project(&self, x: &Tensor, train: bool) -> [Tensor; 3] {
        let all = [&self.q_proj, &self.k_proj, &self.v_proj];
        if let [Some(q), Some(k), Some(v)] = all.map(Linear::plain)
            && fused::fits(&[x, q, k, v])
        {
            return fused::joined(x, [q, k, v]).expect("x is [B, T, D]");
        }
        all.map(|linear| linear.forward(x, train))
    }

    /// `[B, K, S, E] -> [B, H, S, E]`: each kv head serves H / K query heads that stand side by side.
    fn repeat(&self, x: &Tensor) -> Tensor {
        let groups = self.heads / self.kv_heads;
        if groups == 1 {
            return x.shallow_clone();
        }
        let (b, k, s, e) = x.size4().expect("keys are [B, K, S, E]");
        x.unsqueeze(2).expand([b, k, groups, s, e], false).reshape([b, k * groups, s, e])
    }
}

fn sdpa(q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, dropout: f64, causal: bool) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, mask, dropout, causal, None, false)
}

/// `[T, S]` additive mask for T new tokens after `start` old ones.
fn causal_after(start: i64, t: i64, like: &Tensor) -> Tensor {
    let blocked = Tensor::full([t, start + t], f64::NEG_INFINITY, (like.kind(), like.device()));
    blocked.triu(start + 1)
}
