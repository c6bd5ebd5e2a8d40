//! Root-mean-square norm (arXiv 1910.07467), with each era's order of casts.
//!
//! D width of the last dimension.

use tch::{Kind, Tensor};

use super::config::Era;
use crate::native::fused;

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension.
#[derive(Debug)]
pub struct RmsNorm {
    /// `[D]`.
    weight: Tensor,
    eps: f64,
    era: Era,
}

impl RmsNorm {
    /// A norm with a given weight.
    pub fn new(weight: Tensor, eps: f64, era: Era) -> Self {
        Self { weight, eps, era }
    }

    /// `[..., D] -> [..., D]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        if fused::fits(&[x, &self.weight]) {
            return fused::rms_norm(x, &self.weight, self.eps).expect("x is [..., D]");
        }
        let kind = x.kind();
        let x = x.to_kind(Kind::Float);
        let scale = (x.square().mean_dim([-1i64].as_slice(), true, Kind::Float) + self.eps).rsqrt();
        match self.era {
            // minimind2 casts back before it multiplies, minimind3 after: one rounding apart in half precision.
            Era::MiniMind2 => (x * scale).to_kind(kind) * &self.weight,
            Era::MiniMind3 => (x * scale * &self.weight).to_kind(kind),
        }
    }

    /// `x + y` and its norm.
    pub fn after_adding(&self, x: &Tensor, y: &Tensor) -> (Tensor, Tensor) {
        if fused::fits(&[x, y, &self.weight]) {
            return fused::add_rms_norm(x, y, &self.weight, self.eps).expect("x and y are [..., D]");
        }
        let sum = x + y;
        let normed = self.forward(&sum);
        (sum, normed)
    }

    /// The weight `[D]` and the epsilon.
    pub fn parts(&self) -> (&Tensor, f64) {
        (&self.weight, self.eps)
    }
}
