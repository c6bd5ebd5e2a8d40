//! Root-mean-square norm (arXiv 1910.07467), with each era's order of casts: its weight; `ops` applies it.
//!
//! D width of the last dimension.

use tch::Tensor;

use super::config::Era;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[D]`.
    weight: Tensor,
    eps: f64,
    era: Era,
}

impl RmsNorm {
    /// A norm with a weight `[D]`.
    pub fn new(weight: Tensor, eps: f64, era: Era) -> Self {
        Self { weight, eps, era }
    }

    /// The weight `[D]` and the epsilon.
    pub fn parts(&self) -> (&Tensor, f64) {
        (&self.weight, self.eps)
    }

    /// Whose order of casts it follows.
    pub fn era(&self) -> Era {
        self.era
    }
}
