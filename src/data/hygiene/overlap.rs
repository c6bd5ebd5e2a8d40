//! Overlap with held-out rows: runs of 13 words that stand in both, as GPT-3's decontamination looks for (Brown et al. 2020,
//! appendix C).
//!
//! 20 Chinese characters count as much as 13 words, and texts of both are counted together. A held-out text of 8 to 12 words
//! (12 to 19 characters) counts where the row holds it whole; of 3 to 7 words, where one of the row's questions is just that.
//! Shorter ones are not looked for, nor are system prompts and runs that more than ten held-out rows share.

use std::collections::{BTreeSet, HashMap};

use super::passages::Passages;
use super::units::{Units, WORD};

/// Words of a run.
pub const WORDS: u32 = 13;
/// Words of the shortest text that is looked for within others.
pub const LEAST_WITHIN: u32 = 8;
/// Words of the shortest text that is looked for at all.
pub const LEAST_WHOLE: u32 = 3;
/// Held-out rows that may share a run: what more of them hold is their form and not their content.
const MOST_ROWS: u32 = 10;

/// Where a run is held out: the first row that has it, the last one, and how many have it.
#[derive(Debug, Clone, Copy)]
struct Place {
    first: u32,
    last: u32,
    rows: u32,
}

/// What is held out: 40 bytes a word.
#[derive(Debug, Default)]
pub struct HeldOut {
    rows: usize,
    runs: HashMap<u64, Place>,
    /// Texts shorter than a run, with the numbers of units that they have.
    short: HashMap<u64, Place>,
    lengths: BTreeSet<usize>,
    /// Still shorter ones.
    whole: HashMap<u64, Place>,
}

fn enter(table: &mut HashMap<u64, Place>, hash: u64, row: u32) {
    let place = table.entry(hash).or_insert(Place { first: row, last: row, rows: 1 });
    if place.last != row {
        *place = Place { last: row, rows: place.rows + 1, ..*place };
    }
}

fn seen(table: &HashMap<u64, Place>, hash: u64) -> Option<usize> {
    table.get(&hash).filter(|place| place.rows <= MOST_ROWS).map(|place| place.first as usize)
}

impl HeldOut {
    /// Rows that are held out.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether nothing is.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Takes in a held-out row.
    pub fn add(&mut self, passages: &Passages) {
        let row = self.rows as u32;
        self.rows += 1;
        let all = passages.units();
        for run in all.windows(WORDS * WORD) {
            enter(&mut self.runs, run, row);
        }
        let asked = passages.asked.iter().map(|text| Units::of([*text]));
        for text in asked.chain([all]) {
            match text.weight() / WORD {
                WORDS.. | 0..LEAST_WHOLE => {}
                LEAST_WITHIN.. => {
                    self.lengths.insert(text.len());
                    enter(&mut self.short, text.hash(), row);
                }
                _ => enter(&mut self.whole, text.hash(), row),
            }
        }
    }

    /// The first held-out row (from 0) that a row shares a run with, or holds, or asks the same as.
    pub fn overlap(&self, passages: &Passages, units: &Units) -> Option<usize> {
        if self.is_empty() {
            return None;
        }
        let run = units.windows(WORDS * WORD).find_map(|run| seen(&self.runs, run));
        let within = || {
            let mut lengths = self.lengths.iter().filter(|length| **length <= units.len());
            lengths.find_map(|length| units.runs(*length).find_map(|run| seen(&self.short, run)))
        };
        let whole = || {
            let asked = passages.asked.iter().map(|text| Units::of([*text]).hash());
            asked.chain([units.hash()]).find_map(|hash| seen(&self.whole, hash))
        };
        run.or_else(within).or_else(whole)
    }

    /// Like [`Self::overlap`], for the share of a row's runs that are held out, 0..1.
    pub fn containment(&self, units: &Units) -> f64 {
        let (mut all, mut held) = (0usize, 0usize);
        for run in units.windows(WORDS * WORD) {
            all += 1;
            held += usize::from(seen(&self.runs, run).is_some());
        }
        held as f64 / all.max(1) as f64
    }
}
