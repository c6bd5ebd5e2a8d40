//! A model with one number a position instead of logits: PPO's critic.
//!
//! Upstream norms twice: `value_head(norm(trunk's output))`, the output being normed already; so do we.
//!
//! B batch, T tokens, D hidden.

use tch::{Kind, Tensor};

use super::causal_lm::CausalLm;
use super::mask::Mask;
use crate::error::Result;

/// Name of the head's weight in checkpoints.
pub const VALUE_WEIGHT: &str = "value_head.weight";
/// Name of the head's bias.
pub const VALUE_BIAS: &str = "value_head.bias";

/// Trunk and head.
#[derive(Debug)]
pub struct ValueModel {
    trunk: CausalLm,
    weight: Tensor,
    bias: Tensor,
}

impl ValueModel {
    /// A head, `[1, D]` and `[1]`, on a trunk.
    pub fn new(trunk: CausalLm, weight: Tensor, bias: Tensor) -> Self {
        Self { trunk, weight, bias }
    }

    /// A fresh head, drawn as PyTorch draws a Linear's.
    ///
    /// # Errors
    /// libtorch runs out of memory.
    pub fn fresh(trunk: CausalLm) -> Result<Self> {
        let d = trunk.config().hidden_size;
        let bound = 1.0 / (d as f64).sqrt();
        let draw = |shape: &[i64]| -> Result<Tensor> {
            let mut t = Tensor::f_zeros(shape, (Kind::Float, tch::Device::Cpu))?;
            Ok(t.f_uniform_(-bound, bound)?.f_to_device(trunk.device())?)
        };
        let (weight, bias) = (draw(&[1, d])?, draw(&[1])?);
        Ok(Self::new(trunk, weight, bias))
    }

    /// The language model whose hidden states the head reads.
    pub fn trunk(&self) -> &CausalLm {
        &self.trunk
    }

    /// Parameters by upstream's names, in upstream's order: the trunk's, then the head's `[1, D]` and `[1]`.
    pub fn named(&self) -> Vec<(String, Tensor)> {
        let params = self.trunk.params();
        let own = [(VALUE_WEIGHT, &self.weight), (VALUE_BIAS, &self.bias)];
        let trunk = params.names().iter().cloned().zip(params.tensors().iter().map(Tensor::shallow_clone));
        trunk.chain(own.map(|(name, t)| (name.to_owned(), t.shallow_clone()))).collect()
    }

    /// `[B, T] -> [B, T]` in fp32.
    pub fn values(&self, input_ids: &Tensor, mask: Mask<'_>, train: bool) -> Tensor {
        let (hidden, _) = self.trunk.hidden(input_ids, mask, train);
        let normed = self.trunk.normed(&hidden); // [B, T, D]
        normed.linear(&self.weight, Some(&self.bias)).squeeze_dim(-1).to_kind(Kind::Float)
    }
}
