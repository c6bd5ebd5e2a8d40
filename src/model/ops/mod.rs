//! The tensor operations of the network, one function each. What computes them is decided here and nowhere else in
//! the model:
//!
//! | where | when |
//! | --- | --- |
//! | `native::cpu_ops` | fp32 on the CPU, outside autocast, plain weights |
//! | `native::cuda_ops` | fp32 or bf16 on a GPU that compiles kernels, plain weights |
//! | eager, libtorch's own operators | everything else: other types and devices, biases, adapters, dropout |
//!
//! Plain weights have neither bias nor adapter. A new kernel is one more branch in its function here; the layers
//! (`attention`, `mlp`, `moe`, `block`) do not change. All branches give the same values up to rounding, which
//! `a_model_by_the_gpu_s_ops_is_the_same_model` (`loss::cross_entropy`) holds for whole models.
//!
//! B batch, T tokens, D hidden, I inner width, O outputs.

mod attention;
mod capture;
mod cross_entropy;
mod experts;
mod norm;
mod qkv_rope;

pub use attention::attention;
pub use capture::{can_capture, capture_dtype, captured_cross_entropy};
pub use cross_entropy::{
    CHUNK_LOGITS, Entropy, Targets, chunks, cross_entropy, cross_entropy_with_grad, labelled_rows,
};
pub use experts::{Routing, experts};
pub use norm::{NormDtype, Residual, add, add_rms_norm, residual_rms_norm, rms_norm};
pub use qkv_rope::{Layout, QkvProjection, norm_rope, qkv_rope};

use tch::Tensor;

use super::linear::Linear;
use crate::native::{cpu_ops, cuda_ops};

/// `x W^T`, with the layer's bias and adapter where it has them: `[..., I] -> [..., O]`.
pub fn linear(x: &Tensor, linear: &Linear, train: bool) -> Tensor {
    match linear.plain() {
        Some(weight) if cuda_ops::compute_dtype(x) == Some(x.kind()) => {
            cuda_ops::linear(x, weight).expect("x is [..., I]")
        }
        _ => linear.forward(x, train),
    }
}

/// SwiGLU (arXiv 2002.05202), `down(silu(gate(x)) * up(x))`: `[..., D] -> [..., D]`.
pub fn swiglu(x: &Tensor, [gate, up, down]: [&Linear; 3], train: bool) -> Tensor {
    if let [Some(gate), Some(up), Some(down)] = [gate, up, down].map(Linear::plain) {
        if cpu_ops::fits(&[x, gate, up, down]) {
            return cpu_ops::swiglu(x, gate, up, down).expect("x is [..., D]");
        }
        if let Some(dtype) = cuda_ops::compute_dtype(x)
            && cuda_ops::is_vec4_aligned(down.size2().expect("weights are matrices").1)
        {
            return cuda_ops::swiglu(&x.to_kind(dtype), gate, up, down).expect("x is [..., D]");
        }
    }
    let inner = gate.forward(x, train).silu() * up.forward(x, train); // [..., I]
    down.forward(&inner, train)
}
