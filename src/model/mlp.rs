//! The gated feed-forward: SwiGLU (arXiv 2002.05202).
//!
//! N tokens (any leading shape), D hidden, I inner width.

use tch::Tensor;

use super::params::Params;

/// `down(silu(gate(x)) * up(x))`.
#[derive(Debug)]
pub struct FeedForward {
    gate_proj: Tensor,
    up_proj: Tensor,
    down_proj: Tensor,
}

impl FeedForward {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str) -> Self {
        let weight = |part: &str| params.get(&format!("{name}.{part}.weight"));
        Self { gate_proj: weight("gate_proj"), up_proj: weight("up_proj"), down_proj: weight("down_proj") }
    }

    /// `[..., D] -> [..., D]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let gate = x.linear(&self.gate_proj, None::<&Tensor>).silu(); // [..., I]
        (gate * x.linear(&self.up_proj, None::<&Tensor>)).linear(&self.down_proj, None::<&Tensor>)
    }
}
