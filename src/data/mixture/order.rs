//! Which rows of each part an epoch of a mixture has: a function of seed and epoch alone.
//!
//! A part gives equally many rows to every epoch, its quota. They are taken from a stream of passes over the part, each pass a
//! permutation of its own, that goes on from epoch to epoch: no row comes again before all others have come. A permutation is
//! stratified by length, so that any stretch of it has about the part's mean length and shares of rows are shares of tokens.

use crate::data::random::{SplitMix64, mix};

/// Strata of a permutation, a power of 2: rows of like length.
const STRATA: usize = 64;

/// What decides how many rows of a part an epoch has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PartSize {
    /// Its rows, or bins of packed rows; at least one.
    pub units: usize,
    /// Their tokens.
    pub tokens: u64,
    /// Its share of the tokens; `None`: by its own tokens times `epochs`.
    pub weight: Option<f64>,
    /// The most times an epoch of the mixture passes it.
    pub epochs: f64,
}

/// Units of each part that an epoch has: as many as keep the shares and pass no part more often than it allows; at least one.
pub fn quotas(parts: &[PartSize]) -> Vec<usize> {
    let own = |part: &PartSize| part.tokens.max(1) as f64;
    let weight = |part: &PartSize| part.weight.unwrap_or(own(part) * part.epochs);
    // Tokens of an epoch for each unit of weight.
    let scale = parts.iter().map(|p| p.epochs * own(p) / weight(p)).fold(f64::INFINITY, f64::min);
    let quota = |p: &PartSize| {
        let passes = scale * weight(p) / own(p);
        ((passes * p.units as f64).round() as usize).max(1)
    };
    parts.iter().map(quota).collect()
}

#[derive(Debug)]
struct Part {
    /// Its first unit among those of all parts.
    start: usize,
    /// Tokens of each unit.
    lens: Vec<u32>,
    quota: usize,
}

/// The units of every epoch.
#[derive(Debug)]
pub struct MixtureOrder {
    parts: Vec<Part>,
    seed: u64,
    shuffle: bool,
}

impl MixtureOrder {
    /// An order over the tokens of each part's units; the parts' units stand one after another.
    pub fn new(parts: Vec<(Vec<u32>, usize)>, seed: u64, shuffle: bool) -> Self {
        let mut start = 0;
        let place = |(lens, quota): (Vec<u32>, usize)| {
            let part = Part { start, lens, quota };
            start += part.lens.len();
            part
        };
        Self { parts: parts.into_iter().map(place).collect(), seed, shuffle }
    }

    /// Units of an epoch, the same for every epoch.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.quota).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The units of an epoch: part after part where they are shuffled afterwards, else the parts taking turns.
    pub fn epoch(&self, epoch: u64) -> Vec<u32> {
        let taken: Vec<Vec<u32>> =
            self.parts.iter().enumerate().map(|(i, part)| self.stream(i as u64, part, epoch)).collect();
        if self.shuffle { taken.concat() } else { interleaved(&taken) }
    }

    /// The part's units of an epoch: its quota from where the epoch before ended.
    fn stream(&self, index: u64, part: &Part, epoch: u64) -> Vec<u32> {
        let (units, quota) = (part.lens.len() as u64, part.quota as u64);
        let (from, to) = (epoch * quota, (epoch + 1) * quota);
        let mut taken = Vec::with_capacity(part.quota);
        for pass in from / units..to.div_ceil(units) {
            let order = self.pass(index, part, pass);
            let start = from.saturating_sub(pass * units) as usize;
            let end = (to - pass * units).min(units) as usize;
            taken.extend(order[start..end].iter().map(|unit| part.start as u32 + unit));
        }
        taken
    }

    /// The part's units in the order of a pass.
    fn pass(&self, index: u64, part: &Part, pass: u64) -> Vec<u32> {
        let units = part.lens.len();
        let mut order: Vec<u32> = (0..units as u32).collect();
        if !self.shuffle {
            return order;
        }
        let mut random = SplitMix64::new(self.seed ^ mix(index + 1), (1 << 34) + pass);
        random.shuffle(&mut order);
        order.sort_by_key(|unit| part.lens[*unit as usize]); // stable: ties keep the drawn order
        let strata: Vec<&mut [u32]> = {
            let (mut rest, mut found) = (&mut order[..], Vec::new());
            for i in 0..STRATA {
                let (head, tail) = rest.split_at_mut((i + 1) * units / STRATA - i * units / STRATA);
                random.shuffle(head);
                found.push(head);
                rest = tail;
            }
            found
        };
        let rounds = strata.iter().map(|s| s.len()).max().unwrap_or(0);
        let mut drawn = Vec::with_capacity(units);
        for round in 0..rounds {
            // Strata far from each other by turns (van der Corput's sequence), so that a part of a round is balanced too.
            let turn = random.below(STRATA);
            let spread = (0..STRATA).map(|i| (i.reverse_bits() >> (usize::BITS - STRATA.ilog2())) ^ turn);
            drawn.extend(spread.filter_map(|stratum| strata[stratum].get(round)));
        }
        drawn
    }
}

/// Lists in turns: the next comes from the list that is furthest behind its share.
fn interleaved(lists: &[Vec<u32>]) -> Vec<u32> {
    let total: usize = lists.iter().map(Vec::len).sum();
    let mut taken = vec![0; lists.len()];
    let mut all = Vec::with_capacity(total);
    for turn in 1..=total {
        let behind = |i: &usize| (lists[*i].len() * turn) as i128 - (taken[*i] * total) as i128;
        let open = (0..lists.len()).filter(|i| taken[*i] < lists[*i].len());
        // The first of equals.
        let Some(next) = open.rev().max_by_key(behind) else { break };
        all.push(lists[next][taken[next]]);
        taken[next] += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(units: usize, tokens: u64, weight: Option<f64>, epochs: f64) -> PartSize {
        PartSize { units, tokens, weight, epochs }
    }

    #[test]
    fn quotas_keep_the_shares_and_the_most_passes() {
        // 0.7 of 1000 tokens a pass and 0.3 of 600: the first part ends the epoch after 1000 / 0.7 = 1428.6 tokens.
        let parts = [size(100, 1000, Some(0.7), 1.0), size(60, 600, Some(0.3), 2.0)];
        assert_eq!(quotas(&parts), [100, 43]);
        // Twice as many passes of the first: now the second ends it, after 1200 / 0.3 = 4000 tokens.
        let parts = [size(100, 1000, Some(0.7), 4.0), size(60, 600, Some(0.3), 2.0)];
        assert_eq!(quotas(&parts), [280, 120]);
        // Without weights each part is passed as often as it may be.
        assert_eq!(quotas(&[size(100, 1000, None, 1.0), size(60, 900, None, 2.0)]), [100, 120]);
        // Nothing is starved.
        assert_eq!(quotas(&[size(10, 100, Some(0.999), 1.0), size(5, 5000, Some(0.001), 1.0)]), [10, 1]);
    }

    #[test]
    fn no_row_comes_again_before_all_have_come() {
        let lens: Vec<u32> = (0..150).map(|i| 1 + i * 7919 % 50).collect();
        let order = MixtureOrder::new(vec![(lens.clone(), 40), (vec![3; 7], 20)], 5, true);
        let all: Vec<u32> = (0..15).flat_map(|epoch| order.epoch(epoch)).collect();
        assert_eq!(order.len(), 60);
        assert_eq!(all.len(), 900);
        let of = |part: std::ops::Range<u32>| all.iter().copied().filter(move |u| part.contains(u));
        for (part, size) in [(0..150, 150), (150..157, 7)] {
            let stream: Vec<u32> = of(part.clone()).collect();
            for pass in stream.chunks_exact(size) {
                let mut pass = pass.to_vec();
                pass.sort_unstable();
                assert!(pass.iter().copied().eq(part.clone()));
            }
        }
        assert_ne!(order.epoch(0), MixtureOrder::new(vec![(lens, 40), (vec![3; 7], 20)], 6, true).epoch(0));
    }

    #[test]
    fn a_stretch_of_a_pass_has_the_mean_length() {
        let lens: Vec<u32> = (0..20_000u32).map(|i| 1 + mix(u64::from(i)) as u32 % 500).collect();
        let mean = lens.iter().map(|l| f64::from(*l)).sum::<f64>() / lens.len() as f64;
        let order = MixtureOrder::new(vec![(lens.clone(), 700)], 1, true);
        for epoch in 0..28 {
            let own = order.epoch(epoch).iter().map(|u| f64::from(lens[*u as usize])).sum::<f64>() / 700.0;
            assert!((own / mean - 1.0).abs() < 0.004, "{epoch}: {own} of {mean}");
        }
    }

    #[test]
    fn unshuffled_parts_take_turns() {
        let order = MixtureOrder::new(vec![(vec![1; 4], 4), (vec![1; 3], 2)], 0, false);
        assert_eq!(order.epoch(0), [0, 4, 1, 2, 5, 3]);
        assert_eq!(order.epoch(1), [0, 6, 1, 2, 4, 3]);
    }
}
