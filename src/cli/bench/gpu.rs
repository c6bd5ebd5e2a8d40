//! What a GPU can do, for `minimind bench`: bytes it reads a second, and operations of its matrix products.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::{Limits, median};
use crate::error::Result;
use crate::native::synchronize;

/// Numbers of a tensor whose sum is timed: 1 GiB in fp32, more than a cache holds.
const NUMBERS: i64 = 1 << 28;
/// Side of the square matrices whose product is timed.
const SIDE: i64 = 8192;

/// Median seconds of a piece of work.
fn seconds(device: Device, work: impl Fn() -> Tensor) -> Result<f64> {
    let mut all = Vec::new();
    for turn in 0..8 {
        let clock = Instant::now();
        let made = work();
        synchronize(device)?;
        drop(made);
        if turn > 1 {
            all.push(clock.elapsed().as_secs_f64());
        }
    }
    Ok(median(all))
}

/// Measures the GPU's memory bandwidth, and the speed of its matrix products in `kind`.
///
/// # Errors
/// The device runs out of memory (both need about 1 GiB), or an operation on it fails.
pub(super) fn limits(device: Device, kind: Kind) -> Result<Limits> {
    let numbers = Tensor::f_ones([NUMBERS], (Kind::Float, device))?;
    let read = (NUMBERS * 4) as f64 / seconds(device, || numbers.sum(Kind::Float))?;
    Ok(Limits { read, flops: product_flops(device, kind)? })
}

/// Floating-point operations a second of a product of two 8192 x 8192 matrices in `kind`.
///
/// # Errors
/// As [`limits`].
pub(super) fn product_flops(device: Device, kind: Kind) -> Result<f64> {
    let square = || Tensor::randn([SIDE, SIDE], (Kind::Float, device)).to_kind(kind);
    let (a, b) = (square(), square());
    Ok(2.0 * (SIDE as f64).powi(3) / seconds(device, || a.matmul(&b))?)
}
