//! Which tokens a token attends to.
//!
//! B batch, T tokens, S tokens seen.

use std::borrow::Cow;

use tch::{Kind, Tensor};

use super::packing::Packing;

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
    /// Lengths of the sequences in `b` rows of `t` tokens, each of which attends to itself alone and causally; `None` for
    /// an additive mask.
    pub(super) fn sequences(&self, b: i64, t: i64) -> Option<Cow<'_, [i64]>> {
        match self {
            Self::Causal => Some(vec![t; b as usize].into()),
            Self::Documents(packing) => Some(packing.lengths().into()),
            Self::Additive(_) => None,
        }
    }
}

/// Additive mask `[B, 1, T, T]` of a causal model whose `attention_mask` `[B, T]` is 0 on padding.
///
/// A position that may look at nothing (padding before the first token) looks at itself, so that its softmax
/// is defined. The reference lets it look at all padding before it, which is the same vector.
pub fn padded_causal_mask(attention_mask: &Tensor) -> Tensor {
    let (b, t) = attention_mask.size2().expect("attention mask is [B, T]");
    let device = attention_mask.device();
    let causal = Tensor::ones([t, t], (Kind::Bool, device)).tril(0); // [T, T]
    let keys = attention_mask.to_kind(Kind::Bool).view([b, 1, 1, t]);
    let own = Tensor::eye(t, (Kind::Bool, device));
    let seen = keys.logical_and(&causal); // [B, 1, T, T]
    let blind = seen.any_dim(-1, true).logical_not(); // [B, 1, T, 1]
    let seen = seen.logical_or(&own.logical_and(&blind));
    Tensor::zeros([b, 1, t, t], (Kind::Float, device)).masked_fill(&seen.logical_not(), f64::NEG_INFINITY)
}
