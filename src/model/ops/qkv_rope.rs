//! Queries, keys and values of a layer: projected, normed per head where the architecture does, and rotated (arXiv
//! 2104.09864).
//!
//! B batch, T tokens, D hidden, H query heads, K kv heads, E head dim.

use tch::Tensor;

use crate::model::linear::Linear;
use crate::model::norm::RmsNorm;
use crate::model::rope::Rope;
use crate::native::{cpu_ops, cuda_ops};

/// The weights that make a layer's queries, keys and values.
#[derive(Debug)]
pub struct QkvProjection {
    /// `[H * E, D]`.
    pub q_proj: Linear,
    /// `[K * E, D]`.
    pub k_proj: Linear,
    /// `[K * E, D]`.
    pub v_proj: Linear,
    /// Norms of each query head and each key head, `[E]`; minimind3 has them.
    pub qk_norm: Option<(RmsNorm, RmsNorm)>,
    /// H, the number of query heads.
    pub heads: i64,
    /// K, the number of key and value heads.
    pub kv_heads: i64,
    /// E, the size of a head.
    pub head_dim: i64,
}

/// How the tokens lie: rows of `length` tokens, the first of which has position `start`.
#[derive(Debug, Clone, Copy)]
pub struct Layout {
    /// B, the number of rows.
    pub rows: i64,
    /// Tokens of a row.
    pub length: i64,
    /// Position of a row's first token.
    pub start: i64,
}

/// `[B, T, D] ->` queries `[rows, length, H, E]`, keys and values `[rows, length, K, E]`; queries and keys are normed and
/// rotated.
pub fn qkv_rope(x: &Tensor, qkv: &QkvProjection, rope: &Rope, layout: Layout, train: bool) -> [Tensor; 3] {
    let Layout { rows, length, start } = layout;
    let QkvProjection { heads, kv_heads, head_dim, .. } = *qkv;
    let norms = qkv.qk_norm.as_ref();
    let projections = [&qkv.q_proj, &qkv.k_proj, &qkv.v_proj];
    let plain = projections.map(Linear::plain);
    if let [Some(q), Some(k), Some(v)] = plain
        && let Some(dtype) = cuda_ops::compute_dtype(x)
        && cuda_ops::fits_head(head_dim)
    {
        let norms = norms.map(|(q, k)| (q.parts().0, k.parts().0, q.parts().1));
        let sizes = cuda_ops::Heads { length, start, heads, kv_heads, head_dim };
        return cuda_ops::qkv_rope(&x.to_kind(dtype), [q, k, v], norms, rope.tables(), sizes)
            .expect("the table reaches every position");
    }
    let [q, k, v] = match plain {
        [Some(q), Some(k), Some(v)] if cpu_ops::fits(&[x, q, k, v]) => {
            cpu_ops::linears(x, [q, k, v]).expect("x is [B, T, D]")
        }
        _ => projections.map(|linear| linear.forward(x, train)),
    };
    let split = |y: Tensor, heads: i64| y.view([rows, length, heads, head_dim]);
    let (q_norm, k_norm) = norms.map(|(q, k)| (q, k)).unzip();
    let q = norm_rope(&split(q, heads), q_norm, rope, start);
    let k = norm_rope(&split(k, kv_heads), k_norm, rope, start);
    [q, k, split(v, kv_heads)]
}

/// `[B, T, H, E] -> [B, T, H, E]`: each head normed where there is a norm, then rotated by its position; the first token
/// of a row has position `start`.
pub fn norm_rope(x: &Tensor, norm: Option<&RmsNorm>, rope: &Rope, start: i64) -> Tensor {
    let (_, t, _, e) = x.size4().expect("rotary input is [B, T, H, E]");
    let (cos, sin) = rope.tables();
    let parts = norm.map(RmsNorm::parts);
    if e % 2 == 0
        && e <= cpu_ops::MAX_HEAD
        && cpu_ops::fits(&[x, cos, sin])
        && parts.is_none_or(|(weight, _)| cpu_ops::fits(&[weight]))
    {
        return cpu_ops::norm_rope(x, parts, (cos, sin), start).expect("the table reaches every position");
    }
    let x = &norm.map_or_else(|| x.shallow_clone(), |norm| super::rms_norm(x, norm));
    let slice = |table: &Tensor| table.narrow(0, start, t).unsqueeze(1).to_kind(x.kind()); // [T, 1, E]
    let (first, second) = (x.narrow(-1, 0, e / 2), x.narrow(-1, e / 2, e - e / 2));
    let rotated = Tensor::cat(&[&second.neg(), &first], -1);
    x * slice(cos) + rotated * slice(sin)
}
