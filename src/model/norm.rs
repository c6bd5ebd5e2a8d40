//! Root-mean-square norm (arXiv 1910.07467), with each era's order of casts.
//!
//! D width of the last dimension.

use tch::{Kind, Tensor};

use super::config::Era;
use crate::native::{cpu_ops, cuda_ops};

/// What flows past the blocks, and what is still to be added to it: on a GPU the next norm does that in the same pass.
#[derive(Debug)]
pub struct Stream {
    /// `[B, T, D]`.
    x: Tensor,
    /// `[B, T, D]`.
    due: Option<Tensor>,
}

impl Stream {
    /// A stream that begins.
    pub fn new(x: Tensor) -> Self {
        Self { x, due: None }
    }

    /// `x + y`.
    pub fn plus(x: Tensor, y: Tensor) -> Self {
        if cuda_ops::kind(&x).is_some() {
            return Self { x, due: Some(y) };
        }
        Self::new(x + y)
    }
}

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
        if cpu_ops::fits(&[x, &self.weight]) {
            return cpu_ops::rms_norm(x, &self.weight, self.eps).expect("x is [..., D]");
        }
        if self.products_of(x).is_some() {
            return cuda_ops::norm(x, &self.weight, self.eps, x.kind()).expect("x is [..., D]");
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

    /// What products of `x` are made in, where the GPU's fused norm takes it.
    fn products_of(&self, x: &Tensor) -> Option<Kind> {
        let fits = self.weight.kind() == x.kind() && cuda_ops::fits_row(self.weight.size1().unwrap_or(0));
        cuda_ops::kind(x).filter(|_| fits)
    }

    /// The stream with what was due, and its norm: in the kind of the stream, or where it goes into products
    /// (`narrow`) in theirs.
    pub fn of(&self, stream: Stream, narrow: bool) -> (Tensor, Tensor) {
        let Stream { x, due } = stream;
        if let Some(kind) = self.products_of(&x) {
            let kind = if narrow { kind } else { x.kind() };
            return match due {
                Some(y) => {
                    cuda_ops::add_norm(&x, &y, &self.weight, self.eps, kind).expect("x and y are [..., D]")
                }
                None => {
                    let normed = cuda_ops::norm(&x, &self.weight, self.eps, kind).expect("x is [..., D]");
                    (x, normed)
                }
            };
        }
        let x = match due {
            Some(y) if cpu_ops::fits(&[&x, &y, &self.weight]) => {
                return cpu_ops::add_rms_norm(&x, &y, &self.weight, self.eps).expect("x and y are [..., D]");
            }
            Some(y) => x + y,
            None => x,
        };
        let normed = self.forward(&x);
        (x, normed)
    }

    /// `x + y` and its norm, for what follows in the block; `narrow` as in [`Self::of`].
    pub fn after_adding(&self, x: Tensor, y: Tensor, narrow: bool) -> (Tensor, Tensor) {
        self.of(Stream { x, due: Some(y) }, narrow)
    }

    /// The weight `[D]` and the epsilon.
    pub fn parts(&self) -> (&Tensor, f64) {
        (&self.weight, self.eps)
    }
}
