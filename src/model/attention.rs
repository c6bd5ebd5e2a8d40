//! Grouped-query attention (arXiv 2305.13245) with rotary positions; minimind3 norms queries and keys per head.
//!
//! Ports `Attention` of upstream's `model/model_minimind.py`.
//!
//! B batch, T tokens, S tokens seen, D hidden, H query heads, K kv heads, E head dim.

use tch::Tensor;

use super::config::{Era, ModelConfig};
use super::kv_cache::KvCache;
use super::norm::RmsNorm;
use super::params::Params;
use super::rope::Rope;

/// What a token may look at.
#[derive(Debug, Clone, Copy)]
pub enum Mask<'a> {
    /// Itself and everything before it.
    Causal,
    /// The same, and only where the additive mask `[B, 1, T, S]` is zero.
    Additive(&'a Tensor),
}

/// One attention layer.
#[derive(Debug)]
pub struct Attention {
    q_proj: Tensor,
    k_proj: Tensor,
    v_proj: Tensor,
    o_proj: Tensor,
    q_bias: Option<Tensor>,
    k_bias: Option<Tensor>,
    v_bias: Option<Tensor>,
    o_bias: Option<Tensor>,
    qk_norm: Option<(RmsNorm, RmsNorm)>,
    heads: i64,
    kv_heads: i64,
    head_dim: i64,
}

impl Attention {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str, config: &ModelConfig) -> Self {
        let weight = |part: &str| params.get(&format!("{name}.{part}.weight"));
        let bias = |part: &str| params.find(&format!("{name}.{part}.bias"));
        let norm = |part: &str| RmsNorm::new(weight(part), config.rms_norm_eps, config.era);
        Self {
            q_proj: weight("q_proj"),
            k_proj: weight("k_proj"),
            v_proj: weight("v_proj"),
            o_proj: weight("o_proj"),
            q_bias: bias("q_proj"),
            k_bias: bias("k_proj"),
            v_bias: bias("v_proj"),
            o_bias: bias("o_proj"),
            qk_norm: (config.era == Era::MiniMind3).then(|| (norm("q_norm"), norm("k_norm"))),
            heads: config.num_attention_heads,
            kv_heads: config.num_key_value_heads,
            head_dim: config.head_dim,
        }
    }

    /// `[B, T, D] -> [B, T, D]`; `cache` holds this layer's earlier tokens. `dropout` acts on the
    /// attention weights.
    pub fn forward(
        &self,
        x: &Tensor,
        rope: &Rope,
        mask: Mask<'_>,
        cache: Option<(&mut KvCache, usize)>,
        dropout: f64,
    ) -> Tensor {
        let (b, t, _) = x.size3().expect("attention input is [B, T, D]");
        let split = |w: &Tensor, bias: &Option<Tensor>, heads: i64| {
            x.linear(w, bias.as_ref()).view([b, t, heads, self.head_dim])
        };
        let mut q = split(&self.q_proj, &self.q_bias, self.heads); // [B, T, H, E]
        let mut k = split(&self.k_proj, &self.k_bias, self.kv_heads); // [B, T, K, E]
        let v = split(&self.v_proj, &self.v_bias, self.kv_heads); // [B, T, K, E]
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q), k_norm.forward(&k));
        }
        let start = cache.as_ref().map_or(0, |(cache, _)| cache.len());
        let q = rope.apply(&q, start).transpose(1, 2); // [B, H, T, E]
        let (k, v) = (rope.apply(&k, start).transpose(1, 2), v.transpose(1, 2)); // [B, K, T, E]
        let (k, v) = match cache {
            Some((cache, layer)) => cache.extend(layer, &k, &v), // [B, K, S, E]
            None => (k, v),
        };
        let (k, v) = (self.repeat(&k), self.repeat(&v)); // [B, H, S, E]
        let y = match mask {
            // One new token sees everything; no mask is needed, and `is_causal` would align to the top left.
            Mask::Causal if t == 1 => sdpa(&q, &k, &v, None, dropout, false),
            Mask::Causal if start == 0 => sdpa(&q, &k, &v, None, dropout, true),
            Mask::Causal => sdpa(&q, &k, &v, Some(&causal_after(start, t, x)), dropout, false),
            Mask::Additive(mask) => sdpa(&q, &k, &v, Some(&mask.to_kind(q.kind())), dropout, false),
        };
        y.transpose(1, 2).reshape([b, t, -1]).linear(&self.o_proj, self.o_bias.as_ref()) // [B, T, D]
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
