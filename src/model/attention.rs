//! Grouped-query attention (arXiv 2305.13245) with rotary positions; minimind3 norms queries and keys per head.
//!
//! Ports `Attention` of upstream's `model/model_minimind.py`.
//!
//! B batch, T tokens, S tokens seen, D hidden, H query heads, K kv heads, E head dim.

use std::borrow::Cow;

use tch::{Kind, Tensor};

use super::config::{Era, ModelConfig};
use super::kv_cache::KvCache;
use super::linear::Linear;
use super::norm::RmsNorm;
use super::packing::Packing;
use super::params::Params;
use super::rope::Rope;
use crate::native::{cpu_ops, cuda_ops};

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

impl Mask<'_> {
    /// Lengths of the sequences of `b` rows of `t` tokens, where each sees itself alone and all of it.
    fn sequences(&self, b: i64, t: i64) -> Option<Cow<'_, [i64]>> {
        match self {
            Self::Causal => Some(vec![t; b as usize].into()),
            Self::Documents(packing) => Some(packing.lengths().into()),
            Self::Additive(_) => None,
        }
    }
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
        // Packed rows are one long row, whose rotary table is in the order of its tokens.
        let (rows, length) = if matches!(mask, Mask::Documents(_)) { (1, b * t) } else { (b, t) };
        let start = cache.as_ref().map_or(0, |(cache, _)| cache.len());
        let [q, k, v] = self.split(x, rope, (rows, length, start), train);
        if let Mask::Documents(packing) = mask
            && dropout == 0.0
            && q.kind() == Kind::BFloat16
            && cuda_ops::attends_documents(&q, self.head_dim)
        {
            let [q, k, v] = [q, k, v].map(|x| x.squeeze_dim(0)); // [B * T, heads, E]
            let y = packing.attend(&q, &k, &v).expect("documents fill the rows");
            return self.output(&y.reshape([b, t, -1]), train);
        }
        if dropout == 0.0
            && cache.is_none()
            && cpu_ops::fits_head(self.head_dim)
            && cpu_ops::fits(&[&q, &k, &v])
            && let Some(lengths) = mask.sequences(b, t)
        {
            let y = cpu_ops::attend(&q, &k, &v, &lengths).expect("sequences fill the rows");
            return self.output(&y.view([b, t, -1]), train);
        }
        let [q, k, v] = [q, k, v].map(|x| x.transpose(1, 2)); // [B, H, T, E], twice [B, K, T, E]
        let (k, v) = match cache {
            Some((cache, layer)) => cache.extend(layer, &k, &v), // [B, K, S, E]
            None => (k, v),
        };
        // Without a mask a GPU's half-precision kernels look keys and values of a group up in their place.
        let maskless = matches!(mask, Mask::Causal) && (t == 1 || start == 0);
        let grouped =
            maskless && self.heads != self.kv_heads && x.device().is_cuda() && q.kind() != Kind::Float;
        let (k, v) = if grouped { (k, v) } else { (self.repeat(&k), self.repeat(&v)) }; // [B, H, S, E]
        let sdpa = |q: &Tensor, k: &Tensor, v: &Tensor, mask: Option<&Tensor>, causal: bool| {
            Tensor::scaled_dot_product_attention(q, k, v, mask, dropout, causal, None, grouped)
        };
        let y = match mask {
            Mask::Documents(packing) => packing.apart([&q, &k, &v], |q, k, v| sdpa(q, k, v, None, true)),
            // One new token sees everything; no mask is needed, and `is_causal` would align to the top left.
            Mask::Causal if t == 1 => sdpa(&q, &k, &v, None, false),
            Mask::Causal if start == 0 => sdpa(&q, &k, &v, None, true),
            Mask::Causal => sdpa(&q, &k, &v, Some(&causal_after(start, t, &q)), false),
            Mask::Additive(mask) => sdpa(&q, &k, &v, Some(&mask.to_kind(q.kind())), false),
        };
        self.output(&y.transpose(1, 2).reshape([b, t, -1]), train)
    }

    /// `[B, T, H * E] -> [B, T, D]`.
    fn output(&self, y: &Tensor, train: bool) -> Tensor {
        match self.o_proj.plain() {
            Some(weight) if cuda_ops::kind(y) == Some(y.kind()) => {
                cuda_ops::linear(y, weight).expect("y is [B, T, H * E]")
            }
            _ => self.o_proj.forward(y, train),
        }
    }

    /// Queries `[rows, length, H, E]`, keys and values `[rows, length, K, E]`; queries and keys normed and turned.
    fn split(
        &self,
        x: &Tensor,
        rope: &Rope,
        (rows, length, start): (i64, i64, i64),
        train: bool,
    ) -> [Tensor; 3] {
        if let [Some(q), Some(k), Some(v)] = [&self.q_proj, &self.k_proj, &self.v_proj].map(Linear::plain)
            && let Some(kind) = cuda_ops::kind(x)
            && cuda_ops::fits_head(self.head_dim)
        {
            let (heads, kv_heads, head_dim) = (self.heads, self.kv_heads, self.head_dim);
            let norms = self.qk_norm.as_ref().map(|(q, k)| (q.parts().0, k.parts().0, q.parts().1));
            let sizes = cuda_ops::Heads { length, start, heads, kv_heads, head_dim };
            return cuda_ops::heads(&x.to_kind(kind), [q, k, v], norms, rope.tables(), sizes)
                .expect("the table reaches every position");
        }
        let [q, k, v] = self.project(x, train);
        let heads = |y: Tensor, heads: i64| y.view([rows, length, heads, self.head_dim]);
        let (q_norm, k_norm) = self.qk_norm.as_ref().map(|(q, k)| (q, k)).unzip();
        let q = rope.apply(&heads(q, self.heads), q_norm, start);
        let k = rope.apply(&heads(k, self.kv_heads), k_norm, start);
        [q, k, heads(v, self.kv_heads)]
    }

    /// Queries `[B, T, H * E]`, keys and values `[B, T, K * E]`.
    fn project(&self, x: &Tensor, train: bool) -> [Tensor; 3] {
        let all = [&self.q_proj, &self.k_proj, &self.v_proj];
        if let [Some(q), Some(k), Some(v)] = all.map(Linear::plain)
            && cpu_ops::fits(&[x, q, k, v])
        {
            return cpu_ops::joined(x, [q, k, v]).expect("x is [B, T, D]");
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

/// `[T, S]` additive mask for T new tokens after `start` old ones.
fn causal_after(start: i64, t: i64, like: &Tensor) -> Tensor {
    let blocked = Tensor::full([t, start + t], f64::NEG_INFINITY, (like.kind(), like.device()));
    blocked.triu(start + 1)
}
