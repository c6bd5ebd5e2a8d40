//! Fused ops for a GPU, with hand-written backward passes (`cuda_ops/*.cpp`): products in bf16 or fp32, what lies between
//! them in one pass over memory by kernels that are compiled for the device at hand; [`compute_dtype`] says where they serve.
//!
//! Weights keep their own type (fp32 while training) and so do their gradients. The kernels' text is also compiled into
//! this program, so that the same arithmetic is tested on the CPU.
//!
//! B batch, T tokens, N rows, D hidden, O outputs, I inner width, H query heads, K kv heads, E head dim, V vocab,
//! P positions.

mod decode;

#[cfg(test)]
use std::cell::Cell;
use std::ffi::{CString, c_int, c_void};
use std::path::Path;
use std::sync::OnceLock;

use tch::{Device, Kind, Tensor};

use super::ffi::{self, check, handle, handle_or_null, own};
use crate::error::{Error, Result};

pub use decode::{
    Caches, Norm, NormLinear, attend_cached, fits_few, linear_few, norm_linear, rope_into_cache, silu_mul,
};

/// The kernels' text, for the run-time compiler.
const KERNELS: &str = concat!(
    include_str!("cuda_ops/kernels/common.h"),
    include_str!("cuda_ops/kernels/rows.h"),
    include_str!("cuda_ops/kernels/heads.h"),
    include_str!("cuda_ops/kernels/decode.h"),
);

/// `c10::ScalarType` of the kinds that are taken here, whose numbers tch keeps to itself.
const FLOAT: c_int = 6;
const BFLOAT16: c_int = 15;
/// The widest row that [`rms_norm`] takes.
const MAX_WIDTH: i64 = 4096;
/// The largest head that [`qkv_rope`] takes.
const MAX_HEAD: i64 = 512;

#[cfg(test)]
thread_local! {
    /// The kind that products have where tests let the ops serve on the CPU.
    static ON_CPU: Cell<Option<Kind>> = const { Cell::new(None) };
}

/// Runs `body` with the ops serving on the CPU, products in `kind`: how models that use them are tested without a GPU.
#[cfg(test)]
pub(crate) fn on_cpu<T>(kind: Kind, body: impl FnOnce() -> T) -> T {
    let before = ON_CPU.replace(Some(kind));
    let made = body();
    ON_CPU.set(before);
    made
}

/// Gets the run-time compiler ready; without it a GPU runs the eager form.
pub(super) fn load(lib_dir: &Path) -> Result<()> {
    let bytes = |text: Vec<u8>| {
        CString::new(text).map_err(|e| Error::failed("libtorch's path holds a NUL byte").because(e))
    };
    let path = bytes(lib_dir.join("libcaffe2_nvrtc.so").into_os_string().into_encoded_bytes())?;
    let text = bytes(KERNELS.into())?;
    // SAFETY: two C strings that live through the call, which copies them.
    check(unsafe { ffi::mm_cuda_load(path.as_ptr(), text.as_ptr()) }, "load the GPU's compiler")
}

/// libtorch's number (`c10::ScalarType`) of a kind that is taken here.
fn scalar_type(kind: Kind) -> c_int {
    if kind == Kind::Float { FLOAT } else { BFLOAT16 }
}

/// Whether the device compiles and runs kernels: asked once, by a small norm.
fn works(device: Device) -> bool {
    static WORKS: OnceLock<bool> = OnceLock::new();
    *WORKS.get_or_init(|| {
        let ones = Tensor::ones([1, 128], (Kind::Float, device));
        let tried = tch::no_grad(|| rms_norm(&ones, &ones.view([128]), 0.0, Kind::Float));
        if let Err(fault) = &tried {
            tracing::warn!("the GPU runs without fused kernels: {fault}");
        }
        tried.is_ok()
    })
}

/// The dtype of matrix products of `x` (any shape) where the ops here serve: fp32 or bf16, on a GPU that compiles kernels.
/// Under autocast that is its dtype, else that of `x`.
pub fn compute_dtype(x: &Tensor) -> Option<Kind> {
    let plain = |kind| matches!(kind, Kind::Float | Kind::BFloat16);
    match x.device() {
        #[cfg(test)]
        Device::Cpu => ON_CPU.get(),
        Device::Cuda(_) => {
            // SAFETY: reads two values of this thread.
            let dtype = match unsafe { ffi::mm_autocast_on_cuda() } {
                -1 => x.kind(),
                BFLOAT16 => Kind::BFloat16,
                _ => return None,
            };
            (plain(dtype) && plain(x.kind()) && works(x.device())).then_some(dtype)
        }
        _ => None,
    }
}

/// Whether rows of this width are read four numbers at a time, as [`swiglu`] and [`CrossEntropy`] do.
pub fn is_vec4_aligned(width: i64) -> bool {
    width > 0 && width % 4 == 0
}

/// Whether [`rms_norm`] takes rows of this width.
pub fn fits_row(width: i64) -> bool {
    is_vec4_aligned(width) && width <= MAX_WIDTH
}

/// Whether [`qkv_rope`] takes heads of this width.
pub fn fits_head(width: i64) -> bool {
    width > 0 && width <= MAX_HEAD && width % 8 == 0
}

/// `[..., D] -> [..., D]` in `kind`: `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64, kind: Kind) -> Result<Tensor> {
    let (mut sum, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    let none = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; a null `y` means none; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cuda_rms_norm(handle(x), none, handle(weight), eps, scalar_type(kind), &mut sum, &mut out)
    };
    check(message, "norm")?;
    Ok(own(out))
}

/// `x + y` in x's kind and its norm in `kind`, `[..., D]` each, in one pass; y is of x's kind or bf16.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn add_rms_norm(
    x: &Tensor,
    y: &Tensor,
    weight: &Tensor,
    eps: f64,
    kind: Kind,
) -> Result<(Tensor, Tensor)> {
    let y = if y.kind() == x.kind() || y.kind() == Kind::BFloat16 {
        y.shallow_clone()
    } else {
        y.to_kind(x.kind())
    };
    let (mut sum, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: live tensors for the length of the call; `sum` and `out` receive new tensors.
    let message = unsafe {
        ffi::mm_cuda_rms_norm(
            handle(x),
            handle(&y),
            handle(weight),
            eps,
            scalar_type(kind),
            &mut sum,
            &mut out,
        )
    };
    check(message, "add and norm")?;
    Ok((own(sum), own(out)))
}

/// `x W^T` in x's kind: `[..., D] -> [..., O]`.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    check(unsafe { ffi::mm_cuda_linear(handle(x), handle(weight), &mut out) }, "multiply")?;
    Ok(own(out))
}

/// How heads lie in rows and where their first token stands.
#[derive(Debug, Clone, Copy)]
pub struct Heads {
    /// Tokens of a row.
    pub length: i64,
    /// Place of a row's first token.
    pub start: i64,
    /// H.
    pub heads: i64,
    /// K.
    pub kv_heads: i64,
    /// E.
    pub head_dim: i64,
}

impl Heads {
    fn sizes(self) -> [i64; 5] {
        [self.length, self.start, self.heads, self.kv_heads, self.head_dim]
    }
}

/// A layer's norms of queries and keys, and their epsilon.
pub type HeadNorms<'a> = Option<(&'a Tensor, &'a Tensor, f64)>;

/// `[..., D] -> [B, T, H, E]` and twice `[B, T, K, E]`: queries, keys and values; the first two normed where there are
/// norms, and rotated by their position's row of the tables `[P, E]`.
///
/// # Errors
/// Shapes or dtypes that do not fit, a table that does not reach every position; no memory; a GPU that fails.
pub fn qkv_rope(
    x: &Tensor,
    weights: [&Tensor; 3],
    norms: HeadNorms<'_>,
    tables: (&Tensor, &Tensor),
    sizes: Heads,
) -> Result<[Tensor; 3]> {
    let [q, k, v] = weights.map(handle);
    let (q_norm, k_norm) = (handle_or_null(norms.map(|n| n.0)), handle_or_null(norms.map(|n| n.1)));
    let mut out = [std::ptr::null_mut(); 3];
    // SAFETY: live tensors for the length of the call; null norms mean none; `out` receives three new tensors.
    let message = unsafe {
        ffi::mm_cuda_qkv_rope(
            handle(x),
            q,
            k,
            v,
            q_norm,
            k_norm,
            handle(tables.0),
            handle(tables.1),
            sizes.sizes().as_ptr(),
            norms.map_or(0.0, |n| n.2),
            out.as_mut_ptr(),
        )
    };
    check(message, "make heads")?;
    Ok(out.map(own))
}

/// `(silu(x gate^T) * (x up^T)) down^T`, `[..., D] -> [..., D]` in x's kind.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn swiglu(x: &Tensor, gate: &Tensor, up: &Tensor, down: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    let message = unsafe { ffi::mm_cuda_swiglu(handle(x), handle(gate), handle(up), handle(down), &mut out) };
    check(message, "run a feed-forward")?;
    Ok(own(out))
}

/// Cross-entropy of rows `[N, D]` whose logits an output layer `[V, D]` makes, in `kind`.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropy<'a> {
    /// `[N, D]`.
    pub hidden: &'a Tensor,
    /// `[V, D]`.
    pub lm_head: &'a Tensor,
    /// `[N]`; a negative one counts nothing.
    pub tokens: &'a Tensor,
    /// `[N]` in fp32, where rows weigh differently.
    pub weights: Option<&'a Tensor>,
    /// Of the products.
    pub dtype: Kind,
}

impl CrossEntropy<'_> {
    fn run(&self, scale: Option<&Tensor>, scaled: *mut *mut c_void) -> Result<(Tensor, Tensor)> {
        let (mut loss, mut each) = (std::ptr::null_mut(), std::ptr::null_mut());
        let weights = handle_or_null(self.weights);
        // SAFETY: live tensors for the length of the call; null weights mean none; `loss`, `each`, and `scaled` where it
        // is not null, receive new tensors.
        let message = unsafe {
            ffi::mm_cuda_cross_entropy(
                handle(self.hidden),
                handle(self.lm_head),
                handle(self.tokens),
                weights,
                handle_or_null(scale),
                scalar_type(self.dtype),
                scaled,
                &mut loss,
                &mut each,
            )
        };
        check(message, "take a cross-entropy")?;
        Ok((own(loss), own(each)))
    }

    /// The loss summed over the rows, a scalar, and that of each row, `[N]`, 0 where nothing counts; without a graph.
    ///
    /// # Errors
    /// Shapes or dtypes that do not fit; no memory; a GPU that fails.
    pub fn sum(&self) -> Result<(Tensor, Tensor)> {
        self.run(None, std::ptr::null_mut())
    }

    /// The sum, and `scale` (an fp32 scalar on the device) times it, a scalar whose gradients are known already; the loss of
    /// each row.
    ///
    /// # Errors
    /// Shapes or dtypes that do not fit; no memory; a GPU that fails.
    pub fn sum_with_grad(&self, scale: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let mut scaled = std::ptr::null_mut();
        let (loss, each) = self.run(Some(scale), &mut scaled)?;
        Ok((loss, own(scaled), each))
    }
}

/// Whether [`attend_documents`] takes heads of this width on the device of `on`: FlashAttention-2 wants an Ampere or newer.
pub fn attends_documents(on: &Tensor, head_dim: i64) -> bool {
    let mut major = 0;
    // SAFETY: a live tensor for the length of the call; `major` is written once, on success.
    let asked = check(unsafe { ffi::mm_cuda_capability(handle(on), &mut major) }, "ask the GPU what it can");
    asked.is_ok() && major >= 8 && head_dim % 8 == 0 && head_dim <= 256
}

/// Causal attention of each document to itself, in bf16 on a GPU: queries `[N, H, E]`, keys and values `[N, K, E]` ->
/// `[N, H, E]`. Document i reaches from `ends[i]` to `ends[i + 1]` (int32) and the longest has `longest` tokens.
///
/// # Errors
/// Shapes that do not fit; a GPU that fails.
pub fn attend_documents([q, k, v]: [&Tensor; 3], ends: &Tensor, longest: i64) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cuda_attend_documents(handle(q), handle(k), handle(v), handle(ends), longest, &mut out)
    };
    check(message, "attend within documents")?;
    Ok(own(out))
}

#[cfg(test)]
mod tests;
