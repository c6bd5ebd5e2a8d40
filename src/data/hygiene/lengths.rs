//! Lengths of rows: a histogram, and what each way of batching pads.

use serde::Serialize;

use crate::data::{Batching, DataLoader, DataLoaderConfig, Dataset, PaddingStats};

/// Bars of a histogram.
const BARS: usize = 24;

/// Rows with a length from `from` up to but not with `to`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// The shortest.
    pub from: u32,
    /// One more than the longest.
    pub to: u32,
    /// How many.
    pub rows: usize,
}

/// The lengths of rows in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// What is counted: tokens, or characters.
    pub unit: &'static str,
    /// The sum.
    pub total: u64,
    /// The mean.
    pub mean: f64,
    /// The shortest row.
    pub min: u32,
    /// Half of the rows are no longer.
    pub median: u32,
    /// Of ten rows nine are no longer.
    pub p90: u32,
    /// Of a hundred rows 99 are no longer.
    pub p99: u32,
    /// The longest row.
    pub max: u32,
    /// From the shortest on; the last bar holds all that is longer.
    pub histogram: Vec<Bar>,
}

impl Lengths {
    /// Counts `lengths`, in any order.
    pub fn of(unit: &'static str, lengths: &[u32]) -> Self {
        let mut sorted = lengths.to_vec();
        sorted.sort_unstable();
        let (Some(min), Some(max)) = (sorted.first().copied(), sorted.last().copied()) else {
            return Self { unit, ..Self::default() };
        };
        let at =
            |share: f64| sorted[((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len()) - 1];
        let total: u64 = sorted.iter().map(|length| u64::from(*length)).sum();
        let p99 = at(0.99);
        let step = round_step(p99.saturating_sub(min).saturating_add(1).div_ceil(bars(lengths.len())));
        let first = min / step * step;
        let bars = (p99 - first) / step + 1;
        let mut histogram: Vec<Bar> = (0..bars)
            .map(|bar| Bar {
                from: first + bar * step,
                to: first.saturating_add((bar + 1).saturating_mul(step)),
                rows: 0,
            })
            .collect();
        for length in &sorted {
            let bar = ((length - first) / step).min(bars - 1);
            histogram[bar as usize].rows += 1;
        }
        if let Some(last) = histogram.last_mut() {
            last.to = last.to.max(max.saturating_add(1));
        }
        Self {
            unit,
            total,
            mean: total as f64 / sorted.len() as f64,
            min,
            median: at(0.5),
            p90: at(0.9),
            p99,
            max,
            histogram,
        }
    }
}

/// Bars for so many rows: few rows in many bars tell nothing.
fn bars(rows: usize) -> u32 {
    rows.clamp(4, BARS) as u32
}

/// 1, 2 or 5 times a power of ten, no less than `least`.
fn round_step(least: u32) -> u32 {
    let mut size = 1u32;
    loop {
        for factor in [1, 2, 5] {
            let step = size.saturating_mul(factor);
            if step >= least || step == u32::MAX {
                return step;
            }
        }
        size = size.saturating_mul(10);
    }
}

/// What one way of batching computes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Padding {
    /// The way.
    pub batching: Batching,
    /// Tokens computed in an epoch, padding included.
    pub padded_tokens: u64,
    /// The share of them that is padding, 0..1.
    pub waste: f64,
}

/// What each way of batching pads in the first epoch of rows of these lengths, by the loader itself.
pub fn padding(lengths: &[u32], max_seq_len: usize, batch_size: usize) -> Vec<Padding> {
    let cut: Vec<u32> = lengths.iter().map(|length| (*length).min(max_seq_len as u32)).collect();
    let rows = Dataset::of_lengths(cut);
    let stats = |batching| {
        let config =
            DataLoaderConfig { batch_size, max_seq_len, batching, shuffle: true, seed: 42, pad_id: 0 };
        let PaddingStats { real_tokens, padded_tokens } =
            DataLoader::new(rows.clone(), config).padding_stats();
        let waste = 1.0 - real_tokens as f64 / padded_tokens.max(1) as f64;
        Padding { batching, padded_tokens, waste: if padded_tokens == 0 { 0.0 } else { waste } }
    };
    [Batching::Bucket, Batching::Pad, Batching::Pack].map(stats).to_vec()
}
