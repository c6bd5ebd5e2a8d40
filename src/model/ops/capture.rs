//! A micro-step under a CUDA graph: which models' operations can all be captured, and the cross-entropy that takes what
//! changes from batch to batch from tensors on the device.
//!
//! B batch, T tokens, N = B * T, D hidden, V vocab.

use tch::{Kind, Tensor};

use crate::error::Result;
use crate::model::config::ModelConfig;
use crate::native::cuda_ops::{self, CrossEntropy};

/// Whether the GPU's kernels take all operations of a dense model without waiting for the host; `on` is a tensor of any
/// shape on its GPU. Packed documents are told apart by the host where no kernel for them serves.
pub fn can_capture(config: &ModelConfig, on: &Tensor, packed: bool) -> bool {
    cuda_ops::is_vec4_aligned(config.vocab_size)
        && (!packed || cuda_ops::attends_documents(on, config.head_dim))
}

/// The dtype of matrix products of `x` (any shape) by the GPU's kernels; `None` where they do not serve.
pub fn capture_dtype(x: &Tensor) -> Option<Kind> {
    cuda_ops::compute_dtype(x)
}

/// The cross-entropy of hidden states `[B, T, D]` under an output layer `[V, D]` and labels `[N]`, of which negative ones
/// count nothing, summed up, a surrogate scalar whose `backward` gives the gradients of `scale`, a scalar on the
/// device, times that sum, and the loss of each position, `[N]`. `dtype` is that of products ([`capture_dtype`]).
///
/// # Errors
/// Shapes that do not fit; a GPU that fails.
pub fn captured_cross_entropy(
    hidden: &Tensor,
    lm_head: &Tensor,
    labels: &Tensor,
    scale: &Tensor,
    dtype: Kind,
) -> Result<(Tensor, Tensor, Tensor)> {
    let (_, _, d) = hidden.size3()?;
    let hidden = &hidden.f_reshape([-1, d])?;
    CrossEntropy { hidden, lm_head, tokens: labels, weights: None, dtype }.sum_with_grad(scale)
}
