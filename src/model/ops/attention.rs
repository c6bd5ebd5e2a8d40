//! Causal attention over grouped heads (arXiv 2305.13245), after FlashAttention-2 (arXiv 2307.08691) where a kernel
//! serves.
//!
//! B batch, T tokens, S tokens seen, H query heads, K kv heads, E head dim.

use tch::{Kind, Tensor};

use crate::model::kv_cache::KvCache;
use crate::model::mask::Mask;
use crate::native::{cpu_ops, cuda_ops};

/// `softmax(q k^T / sqrt(E) + mask) v`: queries `[B, T, H, E]`, keys and values `[B, T, K, E]` `-> [B, T, H, E]`.
///
/// With a cache (and the number of its layer) the new keys and values go into it, and queries attend to all it holds.
/// Packed documents come as one row, `[1, B * T, ...]`, and one without the leading dimension may be given back.
/// `dropout` acts on the attention weights.
pub fn attention(
    [q, k, v]: [Tensor; 3],
    mask: Mask<'_>,
    cache: Option<(&mut KvCache, usize)>,
    dropout: f64,
) -> Tensor {
    let (b, t, heads, e) = q.size4().expect("queries are [B, T, H, E]");
    if let Mask::Documents(packing) = mask
        && dropout == 0.0
        && q.kind() == Kind::BFloat16
        && cuda_ops::attends_documents(&q, e)
    {
        let [q, k, v] = [q, k, v].map(|x| x.squeeze_dim(0)); // [B * T, heads, E]
        let (ends, longest) = packing.ends().expect("a packing on a GPU");
        return cuda_ops::attend_documents([&q, &k, &v], ends, longest).expect("documents fill the rows");
    }
    if dropout == 0.0
        && cache.is_none()
        && cpu_ops::fits_head(e)
        && cpu_ops::fits(&[&q, &k, &v])
        && let Some(lengths) = mask.sequences(b, t)
    {
        return cpu_ops::attend(&q, &k, &v, &lengths).expect("sequences fill the rows");
    }
    let start = cache.as_ref().map_or(0, |(cache, _)| cache.len());
    let [q, k, v] = [q, k, v].map(|x| x.transpose(1, 2)); // [B, H, T, E], twice [B, K, T, E]
    let (k, v) = match cache {
        Some((cache, layer)) => cache.extend(layer, &k, &v), // [B, K, S, E]
        None => (k, v),
    };
    let groups = heads / k.size()[1];
    // Without a mask a GPU's half-precision kernels read the keys and values of a group where they lie.
    let maskless = matches!(mask, Mask::Causal) && (t == 1 || start == 0);
    let grouped = maskless && groups != 1 && q.device().is_cuda() && q.kind() != Kind::Float;
    let (k, v) = if grouped { (k, v) } else { (repeat(&k, groups), repeat(&v, groups)) }; // [B, H, S, E]
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
    y.transpose(1, 2)
}

/// `[B, K, S, E] -> [B, K * groups, S, E]`: each kv head serves `groups` query heads that stand side by side.
fn repeat(x: &Tensor, groups: i64) -> Tensor {
    if groups == 1 {
        return x.shallow_clone();
    }
    let (b, k, s, e) = x.size4().expect("keys are [B, K, S, E]");
    x.unsqueeze(2).expand([b, k, groups, s, e], false).reshape([b, k * groups, s, e])
}

/// `[T, S]` additive mask for T new tokens after `start` old ones.
fn causal_after(start: i64, t: i64, like: &Tensor) -> Tensor {
    let blocked = Tensor::full([t, start + t], f64::NEG_INFINITY, (like.kind(), like.device()));
    blocked.triu(start + 1)
}
