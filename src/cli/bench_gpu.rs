//! What a GPU can do, for `minimind bench`: bytes it reads a second, and operations of its matrix products.

use std::time::Instant;

use tch::{Device, Kind, Tensor};

use super::bench::{Limits, median};
use crate::error::Result;
use crate::native::wait;

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
        wait(device)?;
        drop(made);
        if turn > 1 {
            all.push(clock.elapsed().as_secs_f64());
        }
    }
    Ok(median(all))
}

/// Measures both; products in `kind`.
pub(super) fn limits(device: Device, kind: Kind) -> Result<Limits> {
    let numbers = Tensor::f_ones([NUMBERS], (Kind::Float, device))?;
    let read = (NUMBERS * 4) as f64 / seconds(device, || numbers.sum(Kind::Float))?;
    Ok(Limits { read, flops: product_flops(device, kind)? })
}

/// Operations a second of a product of two large square matrices.
pub(super) fn product_flops(device: Device, kind: Kind) -> Result<f64> {
    let square = || Tensor::randn([SIDE, SIDE], (Kind::Float, device)).to_kind(kind);
    let (a, b) = (square(), square());
    Ok(2.0 * (SIDE as f64).powi(3) / seconds(device, || a.matmul(&b))?)
}
