//! A text as units that repeats are counted in: a word, or a character of a script that is written without blanks.
//!
//! Case, punctuation, blanks, zero-width characters and full width make no difference. A unit is kept as its hash.

use crate::data::language::is_chinese;

/// What a word counts.
pub const WORD: u32 = 20;
/// What a character without blanks counts: 20 Chinese characters say about what 13 English words do.
pub const CHARACTER: u32 = 13;

/// The odd base of the hashes of runs.
const BASE: u64 = 0x9e37_79b9_7f4a_7c15;

/// The units of a text, with the hash of every run of them at hand.
#[derive(Debug, Clone)]
pub struct Units {
    /// What each counts.
    weights: Vec<u32>,
    /// The hash of the first n units.
    prefix: Vec<u64>,
    /// The base to the power of n.
    powers: Vec<u64>,
}

/// Spreads the bits of a number over all of its hash.
pub fn mix(mut x: u64) -> u64 {
    x = (x ^ x >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ x >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ x >> 33
}

/// A character as it is compared: full width as half.
pub fn fold(letter: char) -> char {
    match letter {
        '\u{ff01}'..='\u{ff5e}' => char::from_u32(letter as u32 - 0xfee0).unwrap_or(letter),
        '\u{3000}' => ' ',
        _ => letter,
    }
}

/// Characters without width, which no reader sees.
pub fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{200b}'..='\u{200d}' | '\u{2060}' | '\u{feff}' | '\u{ad}')
}

/// Whether a script puts no blanks between words.
fn has_no_blanks(letter: char) -> bool {
    is_chinese(letter)
        || matches!(letter, '\u{3041}'..='\u{30ff}' | '\u{e01}'..='\u{edf}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17d3}')
}

impl Units {
    /// The units of texts, one after another.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut units = Self { weights: Vec::new(), prefix: vec![0], powers: vec![1] };
        for text in texts {
            units.add(text);
        }
        units
    }

    fn add(&mut self, text: &str) {
        const START: u64 = 0xcbf2_9ce4_8422_2325;
        let (mut word, mut open) = (START, false);
        let step = |hash: u64, letter: char| (hash ^ u64::from(letter)).wrapping_mul(0x0100_0000_01b3);
        for letter in text.chars().map(fold) {
            if letter.is_ascii_alphanumeric() {
                (word, open) = (step(word, letter.to_ascii_lowercase()), true);
            } else if !letter.is_ascii() && is_invisible(letter) {
                continue;
            } else if !letter.is_ascii() && !has_no_blanks(letter) && letter.is_alphanumeric() {
                (word, open) = (letter.to_lowercase().fold(word, step), true);
            } else {
                if open {
                    self.push(word, WORD);
                    (word, open) = (START, false);
                }
                if has_no_blanks(letter) {
                    self.push(step(START, letter), CHARACTER);
                }
            }
        }
        if open {
            self.push(word, WORD);
        }
    }

    fn push(&mut self, hash: u64, weight: u32) {
        let last = |values: &[u64]| values.last().copied().unwrap_or_default();
        self.weights.push(weight);
        self.prefix.push(last(&self.prefix).wrapping_mul(BASE).wrapping_add(mix(hash)));
        self.powers.push(last(&self.powers).wrapping_mul(BASE));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.weights.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.weights.is_empty()
    }

    /// What all of them count.
    pub fn weight(&self) -> u32 {
        self.weights.iter().fold(0, |sum, weight| sum.saturating_add(*weight))
    }

    /// The hash of the units from `start` up to `end`.
    fn run(&self, start: usize, end: usize) -> u64 {
        let before = self.prefix[start].wrapping_mul(self.powers[end - start]);
        mix(self.prefix[end].wrapping_sub(before))
    }

    /// The hash of all units.
    pub fn hash(&self) -> u64 {
        self.run(0, self.len())
    }

    /// The hashes of all runs of `length` units; of fewer units, one of all.
    pub fn runs(&self, length: usize) -> impl Iterator<Item = u64> + '_ {
        let length = length.min(self.len());
        let count = if length == 0 { 0 } else { self.len() - length + 1 };
        (0..count).map(move |start| self.run(start, start + length))
    }

    /// The hashes of the shortest runs from each unit on that count `weight` or more: the same words and characters give the
    /// same runs wherever they stand.
    pub fn windows(&self, weight: u32) -> impl Iterator<Item = u64> + '_ {
        let (mut end, mut sum) = (0, 0);
        (0..self.len()).map_while(move |start| {
            if start > 0 {
                sum -= self.weights[start - 1];
            }
            while sum < weight {
                sum += self.weights.get(end)?;
                end += 1;
            }
            Some(self.run(start, end))
        })
    }
}
