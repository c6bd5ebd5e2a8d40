//! The ops of a step of decoding, without a graph (`decode.cpp`; two of them are parts of training's).
//!
//! R rows, B rows of T tokens, D hidden, O outputs, I inner width, H query heads, K kv heads, S capacity, E head dim.

use std::ffi::{c_char, c_int, c_void};

use tch::{Kind, Tensor};

use super::{HeadNorms, Heads, handle_or_null, scalar_type};
use crate::error::Result;
use crate::native::libtorch::{check, handle, own};

unsafe extern "C" {
    fn mm_cuda_turn(
        x: *mut c_void,
        q_norm: *mut c_void,
        k_norm: *mut c_void,
        cos: *mut c_void,
        sin: *mut c_void,
        k: *mut c_void,
        v: *mut c_void,
        start: *mut c_void,
        sizes: *const i64,
        eps: f64,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn mm_cuda_attend(
        q: *mut c_void,
        k: *mut c_void,
        v: *mut c_void,
        last: *mut c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
    fn mm_cuda_gate(x: *mut c_void, out: *mut *mut c_void) -> *mut c_char;
    fn mm_cuda_few(x: *mut c_void, w: *mut c_void, kind: c_int, out: *mut *mut c_void) -> *mut c_char;
    fn mm_cuda_normed(
        x: *mut c_void,
        y: *mut c_void,
        w: *mut c_void,
        m: *mut c_void,
        eps: f64,
        gated: c_int,
        kind: c_int,
        sum: *mut *mut c_void,
        out: *mut *mut c_void,
    ) -> *mut c_char;
}

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
        mm_cuda_turn(
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
    check(message, "turn heads")?;
    Ok(own(out))
}

/// Attention of one new token a row, without a graph: `[B, 1, H, E]` over what the caches hold up to `place` ->
/// `[B, H * E]`.
pub fn attend_cached(q: &Tensor, over: Caches<'_>) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    let message = unsafe {
        mm_cuda_attend(handle(q), handle(over.keys), handle(over.values), handle(over.place), &mut out)
    };
    check(message, "attend")?;
    Ok(own(out))
}

/// Gate and up side by side, `[N, 2I]` -> `silu(gate) * up`, `[N, I]`, without a graph.
pub fn silu_mul(x: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: a live tensor for the length of the call; `out` receives a new tensor.
    check(unsafe { mm_cuda_gate(handle(x), &mut out) }, "gate")?;
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

/// `norm(x + y) W^T`, `[R, D] -> [R, O]` in `kind`, beside `x + y`, for [`fits_few`] rows, without a graph; all of one kind.
/// With `gated`, W is gate and up joined, `[2O, D]`, and `silu(gate) * up` comes out.
pub fn norm_linear(
    x: Tensor,
    y: Option<&Tensor>,
    norm: &Norm,
    weight: &Tensor,
    gated: bool,
    kind: Kind,
) -> Result<(Tensor, Tensor)> {
    let (mut sum, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: live tensors for the length of the call; a null `y` means none; `out`, and `sum` where there is a `y`, receive
    // new tensors.
    let message = unsafe {
        mm_cuda_normed(
            handle(&x),
            handle_or_null(y),
            handle(&norm.0),
            handle(weight),
            norm.1,
            c_int::from(gated),
            scalar_type(kind),
            &mut sum,
            &mut out,
        )
    };
    check(message, "norm and multiply")?;
    Ok((if y.is_some() { own(sum) } else { x }, own(out)))
}

/// `x W^T`, `[R, D] -> [R, O]` in `kind`, for up to 4 rows, without a graph; x and W of one kind.
pub fn linear_few(x: &Tensor, weight: &Tensor, kind: Kind) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    check(unsafe { mm_cuda_few(handle(x), handle(weight), scalar_type(kind), &mut out) }, "multiply")?;
    Ok(own(out))
}
