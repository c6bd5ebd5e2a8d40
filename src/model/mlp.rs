//! The gated feed-forward: SwiGLU (arXiv 2002.05202).
//!
//! N tokens (any leading shape), D hidden, I inner width.

use tch::Tensor;

use super::params::Params;

/// `down(silu(gate(x)) * up(x))`; each projection is a weight and, in some Llamas, a bias.
#[derive(Debug)]
pub struct FeedForward {
    gate_proj: (Tensor, Option<Tensor>),
    up_proj: (Tensor, Option<Tensor>),
    down_proj: (Tensor, Option<Tensor>),
}

impl FeedForward {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str) -> Self {
        let linear = |part: &str| {
            (params.get(&format!("{name}.{part}.weight")), params.find(&format!("{name}.{part}.bias")))
        };
        Self { gate_proj: linear("gate_proj"), up_proj: linear("up_proj"), down_proj: linear("down_proj") }
    }

    /// `[..., D] -> [..., D]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let project = |x: &Tensor, (weight, bias): &(Tensor, Option<Tensor>)| x.linear(weight, bias.as_ref());
        let inner = project(x, &self.gate_proj).silu() * project(x, &self.up_proj); // [..., I]
        project(&inner, &self.down_proj)
    }
}
