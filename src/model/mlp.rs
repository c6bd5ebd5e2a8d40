//! The gated feed-forward: SwiGLU (arXiv 2002.05202).
//!
//! N tokens (any leading shape), D hidden, I inner width.

use tch::Tensor;

use super::linear::Linear;
use super::params::Params;
use crate::native::{cpu_ops, cuda_ops};

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
        if let Some((gate, up, down)) = self.plain()
            && cpu_ops::fits(&[x, gate, up, down])
        {
            return cpu_ops::gated_mlp(x, gate, up, down).expect("x is [..., D]");
        }
        if let Some((gate, up, down)) = self.plain()
            && let Some(kind) = cuda_ops::kind(x)
            && cuda_ops::fits_stretches(down.size2().expect("weights are matrices").1)
        {
            return cuda_ops::gated_mlp(&x.to_kind(kind), gate, up, down).expect("x is [..., D]");
        }
        let inner = self.gate_proj.forward(x, train).silu() * self.up_proj.forward(x, train); // [..., I]
        self.down_proj.forward(&inner, train)
    }

    /// The three weights, gate, up and down, where no projection has more.
    pub fn plain(&self) -> Option<(&Tensor, &Tensor, &Tensor)> {
        Some((self.gate_proj.plain()?, self.up_proj.plain()?, self.down_proj.plain()?))
    }
}
