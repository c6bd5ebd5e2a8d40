//! The gated feed-forward: SwiGLU (arXiv 2002.05202).
//!
//! N tokens (any leading shape), D hidden, I inner width.

use tch::Tensor;

use super::linear::Linear;
use super::ops;
use super::params::Params;

/// `down(silu(gate(x)) * up(x))`; each projection is a weight and, in some Llamas, a bias.
#[derive(Debug)]
pub struct FeedForward {
    gate_proj: Linear,
    up_proj: Linear,
    down_proj: Linear,
}

impl FeedForward {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str) -> Self {
        let linear = |part: &str| Linear::new(params, &format!("{name}.{part}"));
        Self { gate_proj: linear("gate_proj"), up_proj: linear("up_proj"), down_proj: linear("down_proj") }
    }

    /// `[..., D] -> [..., D]`.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        ops::swiglu(x, self.projections(), train)
    }

    /// Gate, up and down.
    pub fn projections(&self) -> [&Linear; 3] {
        [&self.gate_proj, &self.up_proj, &self.down_proj]
    }
}
