//! Sequence packing: which rows share a sequence of `max_seq_len` tokens, a bin.
//!
//! Best-fit decreasing: the longest rows first, each into the bin with the least room that still takes it. Bins of real
//! chats end up more than 99% full. Rows share the same bins in every epoch, so that epochs have equally many; the order of
//! the bins is drawn anew.

use std::collections::BTreeMap;

/// Bins of rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bins {
    /// Rows, bin after bin.
    rows: Vec<u32>,
    /// Where each bin ends in `rows`.
    ends: Vec<usize>,
}

impl Bins {
    /// Packs the rows `order`, of `len(row)` tokens each, into bins of `capacity` tokens; a longer row has a bin of its
    /// own.
    pub fn fill(mut order: Vec<u32>, len: impl Fn(u32) -> usize, capacity: usize) -> Self {
        order.sort_by_key(|row| std::cmp::Reverse(len(*row))); // stable: ties keep the given order
        let mut bins: Vec<Vec<u32>> = Vec::new();
        let mut by_room: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for row in order {
            let need = len(row);
            let (bin, room) = match by_room.range(need..).next().map(|(room, _)| *room) {
                Some(room) => {
                    let open = by_room.get_mut(&room).expect("just seen");
                    let bin = open.pop().expect("empty lists are removed");
                    if open.is_empty() {
                        by_room.remove(&room);
                    }
                    (bin, room)
                }
                None => {
                    bins.push(Vec::new());
                    (bins.len() - 1, capacity.max(need))
                }
            };
            bins[bin].push(row);
            if room > need {
                by_room.entry(room - need).or_default().push(bin);
            }
        }
        let mut packed = Self { rows: Vec::new(), ends: Vec::new() };
        for bin in bins {
            packed.rows.extend(bin);
            packed.ends.push(packed.rows.len());
        }
        packed
    }

    /// These bins and then others.
    pub fn append(&mut self, other: Self) {
        let start = self.rows.len();
        self.rows.extend(other.rows);
        self.ends.extend(other.ends.into_iter().map(|end| start + end));
    }

    /// How many bins there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The rows of bin `index`.
    pub fn bin(&self, index: usize) -> &[u32] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.rows[start..self.ends[index]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batch::{Batch, IGNORE_INDEX};
    use crate::data::config::Batching;
    use crate::data::dataset::Dataset;
    use crate::data::jsonl::Line;
    use crate::data::loader::{DataLoader, DataLoaderConfig};
    use crate::data::token_cache::{self, Encoded, TokenizedRow};

    #[test]
    fn every_row_is_in_one_bin_and_no_bin_overflows() {
        let lens: Vec<usize> = (0..997).map(|i| 1 + i * 7919 % 60).chain([100]).collect();
        let bins = Bins::fill((0..lens.len() as u32).collect(), |row| lens[row as usize], 64);
        let mut seen = vec![0; lens.len()];
        for bin in (0..bins.len()).map(|i| bins.bin(i)) {
            let tokens: usize = bin.iter().map(|row| lens[*row as usize]).sum();
            assert!(tokens <= 64 || bin == [997], "{tokens}");
            bin.iter().for_each(|row| seen[*row as usize] += 1);
        }
        assert!(seen.iter().all(|n| *n == 1));
        let least = lens.iter().sum::<usize>().div_ceil(64);
        assert!(bins.len() <= least + least / 20 + 1, "{} bins, {least} would do", bins.len());
    }

    #[test]
    fn no_rows_are_no_bins() {
        assert!(Bins::fill(Vec::new(), |_| 1, 8).is_empty());
    }

    #[test]
    fn packed_batches_hold_every_row_once_and_learn_nothing_across() {
        let dir = tempfile::tempdir().unwrap();
        let lines = (0..300).map(|i| Ok(Line { number: i + 1, bytes: vec![b'x'; 1 + i * 7919 % 50] }));
        // Row i is i and then fives.
        let rows = token_cache::build(&dir.path().join("a.rows"), lines, |line: &Line| {
            let mut ids = vec![5; line.bytes.len() + 1];
            ids[0] = 1000 + line.number as u32;
            Ok(Encoded::Row(TokenizedRow {
                loss_mask: vec![true; ids.len()],
                loss_bytes: line.bytes.len(),
                ids,
            }))
        });
        let rows = Dataset::cached(rows.unwrap(), false);
        let config = |batching| DataLoaderConfig {
            batch_size: 4,
            max_seq_len: 96,
            batching,
            shuffle: true,
            seed: 7,
            pad_id: 3,
        };
        let (packed, bucket) = (
            DataLoader::new(rows.clone(), config(Batching::Pack)),
            DataLoader::new(rows, config(Batching::Bucket)),
        );
        let all = |loader: &DataLoader| {
            (0..loader.steps_per_epoch()).map(|i| loader.batch(1, i).unwrap()).collect::<Vec<_>>()
        };
        let (packs, buckets) = (all(&packed), all(&bucket));
        let sum = |batches: &[Batch], f: fn(&Batch) -> usize| batches.iter().map(f).sum::<usize>();
        for count in [|b: &Batch| b.real_tokens, |b: &Batch| b.loss_tokens, |b: &Batch| b.loss_bytes] {
            assert_eq!(sum(&packs, count), sum(&buckets, count));
        }
        let mut seen = Vec::new();
        for batch in &packs {
            let (_, width) = batch.input_ids.dim();
            let mut labels = 0;
            for (row, lengths) in batch.documents.as_ref().unwrap().iter().enumerate() {
                assert_eq!(lengths.iter().sum::<usize>(), width);
                let mut start = 0;
                for length in lengths {
                    let first = batch.input_ids[[row, start]];
                    if first > 1000 {
                        seen.push(first);
                        labels += (1..*length).filter(|t| batch.labels[[row, start + t]] == 5).count();
                        assert!(start == 0 || batch.labels[[row, start]] == IGNORE_INDEX);
                    } else {
                        assert!((start..start + length).all(|t| batch.labels[[row, t]] == IGNORE_INDEX));
                    }
                    start += length;
                }
            }
            assert_eq!(labels, batch.loss_tokens);
        }
        seen.sort_unstable();
        assert_eq!(seen, (1001..=1300).collect::<Vec<_>>());
        let stats = packed.padding_stats();
        assert!(stats.padded_tokens < stats.real_tokens * 21 / 20, "{stats:?}");
        assert_ne!(packed.batch(0, 0).unwrap(), packed.batch(1, 0).unwrap());
    }
}
