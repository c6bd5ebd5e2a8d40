//! The ops of a step of decoding, without a graph (`decode.cpp`; two of them are parts of training's).
//!
//! R rows, B rows of T tokens, D hidden, O outputs, I inner width, H query heads, K kv heads, S capacity, E head dim.

use std::ffi::c_int;

use tch::{Kind, Tensor};

use super::{HeadNorms, Heads, scalar_type};
use crate::error::Result;
use crate::native::ffi::{self, check, handle, handle_or_null, own};

/// Where keys and values of tokens go one after another, and the place of the next.
#[derive(Debug, Clone, Copy)]
pub struct Caches<'a> {
    /// `[B, K, S, E]`.
    pub keys: &'a Tensor,
    /// `[B, K, S, E]`.
    pub values: &'a Tensor,
    /// `[1]`, or one for each row, on the device.
    pub place: &'a Tensor,
}

/// The part of [`super::qkv_rope`] after the product, without a graph: `[B * T, (H + 2K) E]` -> the queries
/// `[B, T, H, E]`, while keys and values go to the caches.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn rope_into_cache(
    x: &Tensor,
    norms: HeadNorms<'_>,
    tables: (&Tensor, &Tensor),
    into: Caches<'_>,
    sizes: Heads,
) -> Result<Tensor> {
    let (q_norm, k_norm) = (handle_or_null(norms.map(|n| n.0)), handle_or_null(norms.map(|n| n.1)));
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; null norms mean none; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cuda_rope_into_cache(
            handle(x),
            q_norm,
            k_norm,
            handle(tables.0),
            handle(tables.1),
            handle(into.keys),
            handle(into.values),
            handle(into.place),
            sizes.sizes().as_ptr(),
            norms.map_or(0.0, |n| n.2),
            &mut out,
        )
    };
    check(message, "rotate heads")?;
    Ok(own(out))
}

/// Attention of one new token a row, without a graph: `[B, 1, H, E]` over what the caches hold up to `place` ->
/// `[B, H * E]`.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn attend_cached(q: &Tensor, over: Caches<'_>) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cuda_attend_cached(
            handle(q),
            handle(over.keys),
            handle(over.values),
            handle(over.place),
            &mut out,
        )
    };
    check(message, "attend")?;
    Ok(own(out))
}

/// Gate and up side by side, `[N, 2I]` -> `silu(gate) * up`, `[N, I]`, without a graph.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn silu_mul(x: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: a live tensor for the length of the call; `out` receives a new tensor.
    check(unsafe { ffi::mm_cuda_silu_mul(handle(x), &mut out) }, "gate")?;
    Ok(own(out))
}

/// Rows that [`linear_few`] and [`norm_linear`] take.
const FEW: i64 = 4;
/// Numbers of all rows that [`norm_linear`] takes.
const FEW_NUMBERS: i64 = 8192;

/// Whether products for few rows take `rows` rows of this width.
pub fn fits_few(rows: i64, width: i64) -> bool {
    rows <= FEW && rows * width <= FEW_NUMBERS
}

/// A norm's weight and epsilon.
pub type Norm = (Tensor, f64);

/// A norm and the product of its output.
#[derive(Debug, Clone, Copy)]
pub struct NormLinear<'a> {
    /// `[D]`.
    pub norm: &'a Norm,
    /// `[O, D]`, or gate and up joined, `[2O, D]`.
    pub weight: &'a Tensor,
    /// Whether the weight is gate and up, so that `silu(gate) * up` comes out.
    pub gated: bool,
    /// Of the output.
    pub kind: Kind,
}

impl<'a> NormLinear<'a> {
    /// A norm `[D]` and a weight `[O, D]`.
    pub fn new(norm: &'a Norm, weight: &'a Tensor, kind: Kind) -> Self {
        Self { norm, weight, gated: false, kind }
    }

    /// The same where the weight is gate and up joined, `[2O, D]`.
    pub fn gated(self) -> Self {
        Self { gated: true, ..self }
    }
}

/// `norm(x + y) W^T`, `[R, D] -> [R, O]`, beside `x + y` `[R, D]`, for rows that [`fits_few`] allows, without a graph; x, y
/// and W of one kind.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails.
pub fn norm_linear(x: Tensor, y: Option<&Tensor>, into: NormLinear<'_>) -> Result<(Tensor, Tensor)> {
    let (mut sum, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: live tensors for the length of the call; a null `y` means none; `out`, and `sum` where there is a `y`, receive
    // new tensors.
    let message = unsafe {
        ffi::mm_cuda_norm_linear(
            handle(&x),
            handle_or_null(y),
            handle(&into.norm.0),
            handle(into.weight),
            into.norm.1,
            c_int::from(into.gated),
            scalar_type(into.kind),
            &mut sum,
            &mut out,
        )
    };
    check(message, "norm and multiply")?;
    Ok((if y.is_some() { own(sum) } else { x }, own(out)))
}

/// `x W^T`, `[R, D] -> [R, O]` in `kind`, for up to 4 rows, without a graph; x and W of one kind.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory; a GPU that fails. More than 4 rows.
pub fn linear_few(x: &Tensor, weight: &Tensor, kind: Kind) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    check(
        unsafe { ffi::mm_cuda_linear_few(handle(x), handle(weight), scalar_type(kind), &mut out) },
        "multiply",
    )?;
    Ok(own(out))
}
