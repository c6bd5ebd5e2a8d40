//! A linear layer: its weight, a bias where the architecture has one, and a low-rank adapter where one is attached.
//!
//! Next: `lora`. I inputs, O outputs.

use tch::Tensor;

use super::lora::Pair;
use super::params::Params;

/// `x W^T + b`, and `s (x A^T) B^T` beside it with an adapter.
#[derive(Debug)]
pub struct Linear {
    /// `[O, I]`.
    weight: Tensor,
    /// `[O]`.
    bias: Option<Tensor>,
    adapter: Option<Pair>,
}

impl Linear {
    /// The layer whose weights stand under `name`.
    pub fn new(params: &Params, name: &str) -> Self {
        Self {
            weight: params.get(&format!("{name}.weight")),
            bias: params.find(&format!("{name}.bias")),
            adapter: params.adapter().and_then(|adapter| adapter.pair(name)),
        }
    }

    /// `[..., I] -> [..., O]`; the adapter's dropout acts while training.
    pub fn forward(&self, x: &Tensor, train: bool) -> Tensor {
        let y = x.linear(&self.weight, self.bias.as_ref());
        match &self.adapter {
            Some(pair) => y + pair.forward(x, train),
            None => y,
        }
    }

    /// The weight `[O, I]`, where it is all there is to the layer: no bias, no adapter.
    pub fn plain(&self) -> Option<&Tensor> {
        (self.bias.is_none() && self.adapter.is_none()).then_some(&self.weight)
    }
}
