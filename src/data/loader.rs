//! Rows to padded or packed micro-batches in a seeded order, with a seek to any batch of any epoch.
//!
//! The order of an epoch is a Fisher-Yates permutation of (seed, epoch), so batch `index` does not depend on the batches
//! read before it: resuming is seeking. Of a mixture `mixture::order` says which rows an epoch has. B rows, T tokens.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use ndarray::Array2;

use super::batch::{Batch, IGNORE_INDEX};
use super::config::Batching;
use super::dataset::Dataset;
use super::mixture::Part;
use super::mixture::order::{MixtureOrder, PartSize, quotas};
use super::packing::Bins;
use super::random::SplitMix64;
use crate::error::{Error, Result};

/// Batches whose rows are sorted by length together.
const WINDOW_BATCHES: usize = 64;
/// Widths are rounded up to this, so that kernels see few shapes.
const WIDTH_MULTIPLE: usize = 8;

/// How rows become micro-batches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataLoaderConfig {
    /// Rows of a micro-batch, or bins of packed rows; a file of fixed micro-batches overrides it.
    pub batch_size: usize,
    /// Longest row in tokens; a token file may have longer ones.
    pub max_seq_len: usize,
    /// How rows come together.
    pub batching: Batching,
    /// Whether each epoch draws a new order.
    pub shuffle: bool,
    /// Seed of the order.
    pub seed: u64,
    /// The token that fills short rows.
    pub pad_id: u32,
}

/// Tokens of one epoch, for `plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PaddingStats {
    /// Tokens of rows.
    pub real_tokens: u64,
    /// Tokens computed, padding included.
    pub padded_tokens: u64,
}

/// The batches of one epoch: rows in order, and where each batch begins and ends.
#[derive(Debug)]
struct Order {
    /// Rows, or bins where rows are packed.
    rows: Vec<u32>,
    batches: Vec<Range<usize>>,
}

/// Micro-batches of a dataset, by epoch and index.
#[derive(Debug)]
pub struct DataLoader {
    rows: Dataset,
    config: DataLoaderConfig,
    /// Which rows share a bin, where they are packed; rows of one part of a mixture alone.
    bins: Option<Bins>,
    /// Which rows or bins each epoch of a mixture has.
    mixture: Option<MixtureOrder>,
    /// The order of the epoch that was asked for last.
    last_order: Mutex<Option<(u64, Arc<Order>)>>,
}

impl DataLoader {
    /// A loader over `rows`.
    pub fn new(rows: Dataset, mut config: DataLoaderConfig) -> Self {
        config.batch_size = rows.micro_batch().unwrap_or(config.batch_size).max(1);
        // A file of fixed micro-batches is taken as it is.
        let packs = config.batching == Batching::Pack && rows.micro_batch().is_none();
        let len = |row: u32| rows.row_len(row as usize);
        let (mut bins, mut units) = (packs.then(Bins::default), Vec::new());
        for part in part_ranges(&rows) {
            let mut order: Vec<u32> = part.collect();
            if let Some(bins) = &mut bins {
                if config.shuffle {
                    SplitMix64::new(config.seed, 1 << 33).shuffle(&mut order);
                }
                let own = Bins::fill(order, len, config.max_seq_len);
                units.push(
                    (0..own.len()).map(|bin| own.bin(bin).iter().map(|row| len(*row) as u32).sum()).collect(),
                );
                bins.append(own);
            } else if rows.parts().is_some() {
                units.push(order.into_iter().map(|row| len(row) as u32).collect());
            }
        }
        let mixture = mixture(&rows, units, &config);
        Self { rows, config, bins, mixture, last_order: Mutex::new(None) }
    }

    /// Rows, or bins where rows are packed.
    fn units(&self) -> usize {
        self.bins.as_ref().map_or(self.rows.len(), Bins::len)
    }

    /// The rows or bins of an epoch, not shuffled yet.
    fn epoch_units(&self, epoch: u64) -> Vec<u32> {
        match &self.mixture {
            Some(mixture) => mixture.epoch(epoch),
            None => (0..self.units() as u32).collect(),
        }
    }

    /// Micro-batches of an epoch, the same for every epoch; a last partial one counts.
    pub fn steps_per_epoch(&self) -> u64 {
        let units = self.mixture.as_ref().map_or(self.units(), MixtureOrder::len);
        units.div_ceil(self.config.batch_size) as u64
    }

    /// The dataset that batches are taken from.
    pub fn rows(&self) -> &Dataset {
        &self.rows
    }

    /// The names of a mixture's parts; none of other rows.
    pub fn part_names(&self) -> Vec<String> {
        self.rows.parts().into_iter().flatten().map(|part| part.name.clone()).collect()
    }

    fn order(&self, epoch: u64) -> Arc<Order> {
        let mut last = self.last_order.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, order)) = &*last
            && *of == epoch
        {
            return order.clone();
        }
        let order = Arc::new(self.make_order(epoch));
        *last = Some((epoch, order.clone()));
        order
    }

    fn make_order(&self, epoch: u64) -> Order {
        let size = self.config.batch_size;
        let mut random = SplitMix64::new(self.config.seed, epoch.wrapping_add(1 << 32));
        if self.rows.micro_batch().is_some() {
            let mut units: Vec<u32> = (0..(self.rows.len() / size) as u32).collect();
            if self.config.shuffle {
                random.shuffle(&mut units);
            }
            let rows: Vec<u32> =
                units.iter().flat_map(|u| (0..size as u32).map(move |i| u * size as u32 + i)).collect();
            return Order { batches: chunk_ranges(rows.len(), size), rows };
        }
        let mut rows = self.epoch_units(epoch);
        if self.bins.is_some() {
            if self.config.shuffle {
                random.shuffle(&mut rows);
            }
            return Order { batches: chunk_ranges(rows.len(), size), rows };
        }
        let mut batches = chunk_ranges(rows.len(), size);
        if self.config.shuffle {
            random.shuffle(&mut rows);
            if self.config.batching == Batching::Bucket {
                for window in rows.chunks_mut(size * WINDOW_BATCHES) {
                    window.sort_by_key(|row| self.rows.row_len(*row as usize)); // stable: ties keep the drawn order
                }
                random.shuffle(&mut batches);
            }
        }
        Order { rows, batches }
    }

    /// The token that fills short rows.
    pub(super) fn pad_id(&self) -> i64 {
        i64::from(self.config.pad_id)
    }

    /// T of a batch whose longest row has `longest` tokens.
    pub(super) fn width(&self, longest: usize) -> usize {
        let max = self.config.max_seq_len;
        match self.config.batching {
            _ if self.rows.micro_batch().is_some() => longest,
            Batching::Pad => max.max(longest),
            // A token file's rows may be longer than max_seq_len: they are not cut, so their width wins.
            Batching::Bucket | Batching::Pack => {
                longest.next_multiple_of(WIDTH_MULTIPLE).min(max).max(longest)
            }
        }
    }

    /// The rows of a batch, as indices into [`DataLoader::rows`]; packed rows bin after bin.
    ///
    /// # Errors
    /// `index` is past the epoch's end.
    pub fn batch_rows(&self, epoch: u64, index: u64) -> Result<Vec<usize>> {
        Ok(self.batch_lines(epoch, index)?.into_iter().flatten().collect())
    }

    /// The rows of each line of the batch `[B, T]`: one, or all of a bin.
    fn batch_lines(&self, epoch: u64, index: u64) -> Result<Vec<Vec<usize>>> {
        let order = self.order(epoch);
        let range = order.batches.get(index as usize).cloned().ok_or_else(|| {
            Error::failed(format!("batch {index} is past the epoch's end ({} batches)", order.batches.len()))
        })?;
        let rows_of = |unit: &u32| match &self.bins {
            Some(bins) => bins.bin(*unit as usize).iter().map(|row| *row as usize).collect(),
            None => vec![*unit as usize],
        };
        Ok(order.rows[range].iter().map(rows_of).collect())
    }

    /// Batch `index` (from 0) of `epoch` (from 0): `[B, T]`, T the longest row of the batch rounded up to 8.
    ///
    /// # Errors
    /// `index` is past the epoch's end.
    pub fn batch(&self, epoch: u64, index: u64) -> Result<Batch> {
        let lines = self.batch_lines(epoch, index)?;
        let lens = |line: &Vec<usize>| line.iter().map(|row| self.rows.row_len(*row)).sum::<usize>();
        let width = self.width(lines.iter().map(lens).max().unwrap_or(0));
        let mut input_ids = Array2::from_elem((lines.len(), width), i64::from(self.config.pad_id)); // [B, T]
        let mut labels = Array2::from_elem((lines.len(), width), IGNORE_INDEX); // [B, T]
        let mut documents = Vec::with_capacity(lines.len());
        let mut rows = Vec::new();
        for (i, line) in lines.iter().enumerate() {
            let mut start = 0;
            let mut lengths = Vec::with_capacity(line.len() + 1);
            for row in line.iter().map(|row| self.rows.row(*row)) {
                for (t, (id, label)) in row.ids.iter().zip(&row.labels).enumerate() {
                    input_ids[[i, start + t]] = *id;
                    // What stands before a document's first token is another's.
                    labels[[i, start + t]] = if t == 0 && start > 0 { IGNORE_INDEX } else { *label };
                }
                start += row.ids.len();
                lengths.push(row.ids.len());
                rows.push(row);
            }
            lengths.extend((start < width).then(|| width - start));
            documents.push(lengths);
        }
        Ok(Batch {
            input_ids,
            labels,
            documents: self.bins.is_some().then_some(documents),
            parts: self.rows.parts().map(|_| lines.iter().map(|line| self.line_part(line)).collect()),
            real_tokens: rows.iter().map(|row| row.ids.len()).sum(),
            loss_tokens: rows.iter().map(|row| row.loss_tokens()).sum(),
            loss_bytes: rows.iter().map(|row| row.loss_bytes).sum(),
        })
    }

    /// The part that a line's rows are of, and their tokens.
    fn line_part(&self, line: &[usize]) -> (usize, usize) {
        let tokens = line.iter().map(|row| self.rows.row_len(*row)).sum();
        (line.first().map_or(0, |row| self.rows.part_of(*row)), tokens)
    }

    /// Real and padded tokens of the first epoch.
    pub fn padding_stats(&self) -> PaddingStats {
        let order = self.order(0);
        let (mut real, mut padded) = (0, 0);
        for index in 0..order.batches.len() {
            let lines = self.batch_lines(0, index as u64).expect("the epoch has it");
            let lens = lines.iter().map(|line| line.iter().map(|row| self.rows.row_len(*row)).sum::<usize>());
            padded += (lines.len() * self.width(lens.clone().max().unwrap_or(0))) as u64;
            real += lens.sum::<usize>() as u64;
        }
        PaddingStats { real_tokens: real, padded_tokens: padded }
    }
}

/// The rows of each part of a mixture; one range for other rows, and for some of a mixture's.
fn part_ranges(rows: &Dataset) -> Vec<Range<u32>> {
    let Some(parts) = rows.parts().filter(|_| !rows.is_selection()) else {
        return std::iter::once(0..rows.len() as u32).collect();
    };
    let mut start = 0;
    let range = |len: usize| {
        let range = start..start + len as u32;
        start = range.end;
        range
    };
    parts.iter().map(|part| part.rows.len()).map(range).collect()
}

/// The order of a mixture whose parts have shares, over the tokens of each part's units.
fn mixture(rows: &Dataset, units: Vec<Vec<u32>>, config: &DataLoaderConfig) -> Option<MixtureOrder> {
    let parts = rows.parts().filter(|parts| parts.len() == units.len())?;
    let size = |(part, lens): (&Part, &Vec<u32>)| {
        let (weight, epochs) = part.share?;
        let tokens = lens.iter().map(|len| u64::from(*len)).sum();
        Some(PartSize { units: lens.len(), tokens, weight, epochs })
    };
    let sizes: Vec<PartSize> = parts.iter().zip(&units).map(size).collect::<Option<_>>()?;
    let parts = units.into_iter().zip(quotas(&sizes)).collect();
    Some(MixtureOrder::new(parts, config.seed, config.shuffle))
}

fn chunk_ranges(rows: usize, size: usize) -> Vec<Range<usize>> {
    (0..rows).step_by(size).map(|start| start..(start + size).min(rows)).collect()
}
