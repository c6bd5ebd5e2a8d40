//! Fused training ops with hand-written backward passes (`cpu_ops/*.cpp`): fp32 on the CPU alone; [`fits`] decides.
//!
//! One pass over memory where the eager form makes five to ten. They can be differentiated once.
//!
//! B batch, T tokens, D hidden, O outputs, I inner width, H heads, E head dim, P positions.

use tch::{Device, Kind, Tensor};

use super::ffi::{self, check, handle, own};
use crate::error::Result;

/// The largest head that [`norm_rope`] and [`attend`] take.
pub const MAX_HEAD: i64 = 512;

/// Whether the ops here can take these tensors of any shape: fp32 on the CPU, and no autocast that would make it something
/// else.
pub fn fits(tensors: &[&Tensor]) -> bool {
    tensors.iter().all(|t| t.kind() == Kind::Float && t.device() == Device::Cpu && t.numel() > 0)
        // SAFETY: reads a flag of this thread.
        && unsafe { ffi::mm_autocast_on_cpu() } == 0
}

/// Whether [`attend`] takes heads of this width.
pub fn fits_head(head_dim: i64) -> bool {
    head_dim > 0 && head_dim % 16 == 0 && head_dim <= MAX_HEAD
}

/// Causal attention of sequences that lie one after the other in B * T: queries `[B, T, H, E]`, keys and values
/// `[B, T, K, E]`, as they are after rotation; the scores' factor is `1 / sqrt(E)`. Gives `[B, T, H, E]`.
///
/// # Errors
/// Shapes or dtypes that do not fit, lengths that do not add up to B * T; no memory.
pub fn attend(q: &Tensor, k: &Tensor, v: &Tensor, lengths: &[i64]) -> Result<Tensor> {
    let mut made = std::ptr::null_mut();
    // SAFETY: live tensors and `lengths` for the length of the call; `made` receives a new tensor.
    let message = unsafe {
        ffi::mm_cpu_attend(handle(q), handle(k), handle(v), lengths.as_ptr(), lengths.len(), &mut made)
    };
    check(message, "attend")?;
    Ok(own(made))
}

/// `[..., D] -> [..., D]`: `x / sqrt(mean(x^2) + eps) * weight`.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    let (mut sum, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: live tensors for the length of the call; a null `y` means none; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cpu_add_rms_norm(handle(x), std::ptr::null_mut(), handle(weight), eps, &mut sum, &mut out)
    };
    check(message, "norm")?;
    Ok(own(out))
}

/// `x + y` and its norm, in one pass: `[..., D]` each.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory.
pub fn add_rms_norm(x: &Tensor, y: &Tensor, weight: &Tensor, eps: f64) -> Result<(Tensor, Tensor)> {
    let (mut sum, mut out) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: live tensors for the length of the call; `sum` and `out` receive new tensors.
    let message =
        unsafe { ffi::mm_cpu_add_rms_norm(handle(x), handle(y), handle(weight), eps, &mut sum, &mut out) };
    check(message, "add and norm")?;
    Ok((own(sum), own(out)))
}

/// `[B, T, H, E] -> [B, T, H, E]`: each head normed where there is a norm (its weight and epsilon), then rotated
/// by its position's row of the tables `[P, E]`; the first token stands at `start`.
///
/// # Errors
/// Shapes or dtypes that do not fit, a table that does not reach every position; no memory.
pub fn norm_rope(
    x: &Tensor,
    norm: Option<(&Tensor, f64)>,
    tables: (&Tensor, &Tensor),
    start: i64,
) -> Result<Tensor> {
    let (weight, eps) = norm.map_or((std::ptr::null_mut(), 0.0), |(weight, eps)| (handle(weight), eps));
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; a null weight means none; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cpu_norm_rope(handle(x), weight, handle(tables.0), handle(tables.1), start, eps, &mut out)
    };
    check(message, "rotate heads")?;
    Ok(own(out))
}

/// `x W^T` for each of `weights` `[O, D]`: `[..., D] -> [..., O]` each.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory.
pub fn linears<const N: usize>(x: &Tensor, weights: [&Tensor; N]) -> Result<[Tensor; N]> {
    let mut handles = weights.map(handle);
    let mut out = [std::ptr::null_mut(); N];
    // SAFETY: live tensors for the length of the call; both arrays are N long; `out` receives new tensors.
    let message = unsafe { ffi::mm_cpu_linears(handle(x), handles.as_mut_ptr(), N, out.as_mut_ptr()) };
    check(message, "multiply")?;
    Ok(out.map(own))
}

/// `(silu(x gate^T) * (x up^T)) down^T`, `[..., D] -> [..., D]`, with `gate` and `up` `[I, D]`, `down` `[D, I]`.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory.
pub fn swiglu(x: &Tensor, gate: &Tensor, up: &Tensor, down: &Tensor) -> Result<Tensor> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `out` receives a new tensor.
    let message = unsafe { ffi::mm_cpu_swiglu(handle(x), handle(gate), handle(up), handle(down), &mut out) };
    check(message, "run a feed-forward")?;
    Ok(own(out))
}

/// Each token through its experts, `[N, D] -> [N, D]`: `sum_j share[n, j] * expert(chosen[n, j])(x[n])`, with `share` and
/// `chosen` `[N, k]` and gate, up and down of each expert. An expert without a token gets a gradient of zeros.
///
/// # Errors
/// Shapes or dtypes that do not fit; no memory.
pub fn experts(
    x: &Tensor,
    share: &Tensor,
    chosen: &Tensor,
    weights: &[(&Tensor, &Tensor, &Tensor)],
) -> Result<Tensor> {
    let mut handles: Vec<_> =
        weights.iter().flat_map(|(g, u, d)| [handle(g), handle(u), handle(d)]).collect();
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors for the length of the call; `handles` has the length given; `out` receives a new tensor.
    let message = unsafe {
        ffi::mm_cpu_experts(
            handle(x),
            handle(share),
            handle(chosen),
            handles.as_mut_ptr(),
            handles.len(),
            &mut out,
        )
    };
    check(message, "run experts")?;
    Ok(own(out))
}

#[cfg(test)]
mod tests;
