//! Root-mean-square norm (arXiv 1910.07467), and the residual that the norms of a block take up in the same pass.
//!
//! B batch, T tokens, D width of the last dimension.

use tch::{Kind, Tensor};

use crate::model::config::Era;
use crate::model::norm::RmsNorm;
use crate::native::{cpu_ops, cuda_ops};

/// The residual stream between blocks: `hidden + pending`. On a GPU the next norm adds what is pending in its own pass.
#[derive(Debug)]
pub struct Residual {
    /// `[B, T, D]`.
    hidden: Tensor,
    /// `[B, T, D]`, not added yet.
    pending: Option<Tensor>,
}

impl Residual {
    /// A stream that starts with the embeddings `[B, T, D]`.
    pub fn new(hidden: Tensor) -> Self {
        Self { hidden, pending: None }
    }
}

/// The dtype of a norm's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormDtype {
    /// That of the input.
    Input,
    /// That of the matrix products which take the output: narrower under mixed precision on a GPU.
    Compute,
}

/// `x + y`, both `[B, T, D]`; on a GPU `y` stays pending until the next norm.
pub fn add(x: Tensor, y: Tensor) -> Residual {
    if cuda_ops::compute_dtype(&x).is_some() {
        return Residual { hidden: x, pending: Some(y) };
    }
    Residual::new(x + y)
}

/// `x / sqrt(mean(x^2) + eps) * weight` over the last dimension: `[..., D] -> [..., D]`.
pub fn rms_norm(x: &Tensor, norm: &RmsNorm) -> Tensor {
    let (weight, eps) = norm.parts();
    if cpu_ops::fits(&[x, weight]) {
        return cpu_ops::rms_norm(x, weight, eps).expect("x is [..., D]");
    }
    if compute_dtype(x, weight).is_some() {
        return cuda_ops::rms_norm(x, weight, eps, x.kind()).expect("x is [..., D]");
    }
    let kind = x.kind();
    let x = x.to_kind(Kind::Float);
    let scale = (x.square().mean_dim([-1i64].as_slice(), true, Kind::Float) + eps).rsqrt();
    match norm.era() {
        // minimind2 casts back before it multiplies, minimind3 after: one rounding apart in half precision.
        Era::MiniMind2 => (x * scale).to_kind(kind) * weight,
        Era::MiniMind3 => (x * scale * weight).to_kind(kind),
    }
}

/// The residual summed up, and its norm: `[B, T, D]` each. `dtype` is that of the norm.
pub fn residual_rms_norm(residual: Residual, norm: &RmsNorm, dtype: NormDtype) -> (Tensor, Tensor) {
    let Residual { hidden: x, pending } = residual;
    let (weight, eps) = norm.parts();
    if let Some(compute) = compute_dtype(&x, weight) {
        let kind = if dtype == NormDtype::Compute { compute } else { x.kind() };
        return match pending {
            Some(y) => cuda_ops::add_rms_norm(&x, &y, weight, eps, kind).expect("x and y are [..., D]"),
            None => {
                let normed = cuda_ops::rms_norm(&x, weight, eps, kind).expect("x is [..., D]");
                (x, normed)
            }
        };
    }
    let x = match pending {
        Some(y) if cpu_ops::fits(&[&x, &y, weight]) => {
            return cpu_ops::add_rms_norm(&x, &y, weight, eps).expect("x and y are [..., D]");
        }
        Some(y) => x + y,
        None => x,
    };
    let normed = rms_norm(&x, norm);
    (x, normed)
}

/// `x + y` and its norm, `[B, T, D]` each: [`residual_rms_norm`] within a block.
pub fn add_rms_norm(x: Tensor, y: Tensor, norm: &RmsNorm, dtype: NormDtype) -> (Tensor, Tensor) {
    residual_rms_norm(Residual { hidden: x, pending: Some(y) }, norm, dtype)
}

/// The dtype of products of `x` where the GPU's fused norm takes `x` and this weight `[D]`.
fn compute_dtype(x: &Tensor, weight: &Tensor) -> Option<Kind> {
    let fits = weight.kind() == x.kind() && cuda_ops::fits_row(weight.size1().unwrap_or(0));
    cuda_ops::compute_dtype(x).filter(|_| fits)
}
