//! Rows into a part for training, one for validation and one for testing.
//!
//! A row's part follows from the seed and its text: the order of rows does not matter, and rows with the same text are always
//! in the same part. Next: `convert` (what a row says).

use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::random::mix;
use crate::error::{Error, Result};

/// How much of the rows a part takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PartSize {
    /// A share, 0..1.
    Share(f64),
    /// Rows.
    Rows(usize),
}

impl FromStr for PartSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share = || text.parse().ok().filter(|share| (0.0..1.0).contains(share)).map(Self::Share);
        let size = text.parse().ok().map(Self::Rows).or_else(share);
        size.ok_or_else(|| "a share such as 0.05, or a number of rows".to_owned())
    }
}

impl PartSize {
    fn rows(self, all: usize) -> usize {
        match self {
            Self::Share(share) => (all as f64 * share).round() as usize,
            Self::Rows(rows) => rows,
        }
    }
}

/// A part of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// To learn from.
    Train,
    /// To watch.
    Valid,
    /// To measure at the end.
    Test,
}

impl Part {
    /// The name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

/// The part of every row, once all are known. Holds eight bytes a row.
#[derive(Debug, Default)]
pub struct Splitter {
    seed: u64,
    keys: Vec<u64>,
}

/// Which rows are in which part.
#[derive(Debug)]
pub struct Split {
    keys: Vec<u64>,
    /// The largest key of the validation part, and of the test part behind it.
    limits: [Option<u64>; 2],
    /// Rows whose text an earlier row has.
    pub repeated: usize,
}

impl Splitter {
    /// No rows yet.
    pub fn new(seed: u64) -> Self {
        Self { seed, keys: Vec::new() }
    }

    /// The next row, by its text.
    pub fn add(&mut self, text: &str) {
        let hash = Sha256::digest(text.as_bytes());
        let first = hash.iter().take(8).fold(0, |all, byte| all << 8 | u64::from(*byte));
        self.keys.push(mix(first ^ mix(self.seed)));
    }

    /// Chooses rows. A part may have more than its size where rows with the same text stay together.
    ///
    /// # Errors
    /// The parts leave nothing to train on.
    pub fn choose(self, valid: PartSize, test: PartSize) -> Result<Split> {
        let mut sorted = self.keys.clone();
        sorted.sort_unstable();
        let all = sorted.len();
        let (mut taken, mut limits) = (0usize, [None; 2]);
        for (limit, size) in limits.iter_mut().zip([valid, test]) {
            let rows = size.rows(all);
            if rows == 0 {
                continue;
            }
            *limit = sorted.get(taken.saturating_add(rows - 1)).copied();
            taken = limit.map_or(all, |last| sorted.partition_point(|key| *key <= last));
        }
        if taken >= all {
            let asked = valid.rows(all).saturating_add(test.rows(all));
            return Err(Error::input(format!(
                "{asked} of {all} rows to validate and test leave none to train on"
            ))
            .hint("lower --valid or --test"));
        }
        sorted.dedup();
        Ok(Split { repeated: all - sorted.len(), keys: self.keys, limits })
    }
}

impl Split {
    /// The part of a row, by its place from 0.
    pub fn part(&self, row: usize) -> Part {
        let below = |limit: Option<u64>| limit.is_some_and(|last| self.keys[row] <= last);
        match self.limits {
            [valid, _] if below(valid) => Part::Valid,
            [_, test] if below(test) => Part::Test,
            _ => Part::Train,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(texts: &[String], seed: u64, valid: PartSize, test: PartSize) -> Vec<Part> {
        let mut splitter = Splitter::new(seed);
        texts.iter().for_each(|text| splitter.add(text));
        let split = splitter.choose(valid, test).unwrap();
        (0..texts.len()).map(|i| split.part(i)).collect()
    }

    #[test]
    fn the_same_text_is_in_the_same_part_in_any_order() {
        let texts: Vec<_> = (0..1000).map(|i| format!("row {}", i % 800)).collect();
        let sizes = (PartSize::Share(0.1), PartSize::Rows(50));
        let found = parts(&texts, 1, sizes.0, sizes.1);
        let count = |part| found.iter().filter(|p| **p == part).count();
        assert!((100..=101).contains(&count(Part::Valid)), "{}", count(Part::Valid));
        assert!((50..=51).contains(&count(Part::Test)), "{}", count(Part::Test));
        assert!((0..200).all(|i| found[i] == found[i + 800]));
        let backwards: Vec<_> = texts.iter().rev().cloned().collect();
        let mut turned = parts(&backwards, 1, sizes.0, sizes.1);
        turned.reverse();
        assert_eq!(turned, found);
        assert_ne!(parts(&texts, 2, sizes.0, sizes.1), found);
        assert_eq!(parts(&texts, 1, PartSize::Rows(0), PartSize::Rows(0)), vec![Part::Train; 1000]);
    }

    #[test]
    fn something_is_left_to_train_on() {
        for sizes in [(PartSize::Rows(2), PartSize::Rows(0)), (PartSize::Rows(1), PartSize::Rows(usize::MAX))]
        {
            let mut splitter = Splitter::new(1);
            ["a", "b"].iter().for_each(|text| splitter.add(text));
            let error = splitter.choose(sizes.0, sizes.1).unwrap_err();
            assert!(
                error.what().ends_with("of 2 rows to validate and test leave none to train on"),
                "{error}"
            );
        }
        assert!(Splitter::new(1).choose(PartSize::Rows(0), PartSize::Rows(0)).is_err());
        assert_eq!("0.05".parse(), Ok(PartSize::Share(0.05)));
        assert_eq!("200".parse(), Ok(PartSize::Rows(200)));
        assert!(["1.5", "-1", "x", "NaN", ""].iter().all(|text| text.parse::<PartSize>().is_err()));
    }
}
