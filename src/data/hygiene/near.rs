//! Near repeats: MinHash signatures of runs of five units, and bands that find those that agree.
//!
//! Broder 1997, "On the resemblance and containment of documents"; Li and König 2010, "b-Bit minwise hashing": of each of 128
//! minima one byte is kept, so a row takes 128 bytes, and about as many again in the tables. 16 bands of 8 minima find
//! a pair of Jaccard similarity s with the chance 1 - (1 - s^8)^16: 0.95 at 0.8, 0.9999 at 0.9. What they find is kept where the
//! signatures' estimate reaches [`THRESHOLD`]; its standard error at 0.8 is 0.035.

use std::sync::LazyLock;

use super::units::{Units, mix};

/// Units of a run: a word each, or a character of a script without blanks.
pub const RUN: usize = 5;
/// The least estimated Jaccard similarity of two rows' runs that makes the later one a near repeat.
pub const THRESHOLD: f64 = 0.8;

const MINIMA: usize = 128;
const BAND: usize = 8;
const BANDS: usize = MINIMA / BAND;
/// Rows of one key that a table holds: text that everyone has would make a search long.
const MOST_OF_A_KEY: usize = 64;

/// A byte of each minimum over a row's runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Signature([u8; MINIMA]);

static FACTORS: LazyLock<[(u64, u64); MINIMA]> =
    LazyLock::new(|| std::array::from_fn(|i| (mix(2 * i as u64 + 1) | 1, mix(2 * i as u64 + 2))));

impl Signature {
    /// The signature of a text; `None` where it has no words.
    pub fn of(units: &Units) -> Option<Self> {
        if units.is_empty() {
            return None;
        }
        let factors = &*FACTORS;
        let mut minima = [u32::MAX; MINIMA];
        for run in units.runs(RUN) {
            for (minimum, (factor, term)) in minima.iter_mut().zip(factors) {
                let hash = (run.wrapping_mul(*factor).wrapping_add(*term) >> 32) as u32;
                *minimum = (*minimum).min(hash);
            }
        }
        Some(Self(minima.map(|minimum| mix(u64::from(minimum)) as u8)))
    }

    /// The estimated Jaccard similarity of the runs of two texts, 0..1.
    pub fn similarity(&self, other: &Self) -> f64 {
        let equal = self.0.iter().zip(&other.0).filter(|(a, b)| a == b).count() as f64 / MINIMA as f64;
        // Different minima share their byte once in 256.
        ((equal - 1.0 / 256.0) / (1.0 - 1.0 / 256.0)).max(0.0)
    }

    fn key(&self, band: usize) -> u64 {
        self.0[band * BAND..(band + 1) * BAND].iter().fold(0, |key, byte| key << 8 | u64::from(*byte))
    }
}

/// The rows seen so far that are like none before them; about 300 bytes a row.
#[derive(Debug)]
pub struct NearIndex {
    signatures: Vec<Signature>,
    rows: Vec<usize>,
    /// Per band an open-addressing table of places in `signatures`, from 1; 0 is free.
    tables: Vec<Vec<u32>>,
}

impl Default for NearIndex {
    fn default() -> Self {
        Self { signatures: Vec::new(), rows: Vec::new(), tables: vec![vec![0; 64]; BANDS] }
    }
}

impl NearIndex {
    /// Takes a row in; the row most like it and how like it is, if one reaches [`THRESHOLD`]. Such a row is not kept: what
    /// is like it later is compared with the first.
    pub fn add(&mut self, row: usize, signature: &Signature) -> Option<(usize, f64)> {
        let mut found: Option<(usize, f64)> = None;
        for band in 0..BANDS {
            for place in self.of_key(band, signature.key(band)) {
                let similarity = self.signatures[place].similarity(signature);
                if similarity >= THRESHOLD && found.is_none_or(|(_, best)| similarity > best) {
                    found = Some((self.rows[place], similarity));
                }
            }
        }
        if found.is_none() && self.signatures.len() < u32::MAX as usize {
            self.keep(row, *signature);
        }
        found
    }

    fn keep(&mut self, row: usize, signature: Signature) {
        let place = self.signatures.len();
        self.signatures.push(signature);
        self.rows.push(row);
        if self.signatures.len() * 3 > self.tables[0].len() * 2 {
            let size = self.tables[0].len() * 2;
            self.tables = vec![vec![0; size]; BANDS];
            (0..place).for_each(|place| self.enter(place));
        }
        self.enter(place);
    }

    fn enter(&mut self, place: usize) {
        for band in 0..BANDS {
            let key = self.signatures[place].key(band);
            if self.of_key(band, key).count() >= MOST_OF_A_KEY {
                continue;
            }
            let table = &mut self.tables[band];
            let mask = table.len() - 1;
            let mut at = mix(key) as usize & mask;
            while table[at] != 0 {
                at = (at + 1) & mask;
            }
            table[at] = place as u32 + 1;
        }
    }

    /// The kept rows with a key in a band.
    fn of_key(&self, band: usize, key: u64) -> impl Iterator<Item = usize> + '_ {
        let table = &self.tables[band];
        let mask = table.len() - 1;
        let start = mix(key) as usize & mask;
        (0..table.len())
            .map(move |step| table[(start + step) & mask])
            .take_while(|slot| *slot != 0)
            .map(|slot| slot as usize - 1)
            .filter(move |place| self.signatures[*place].key(band) == key)
    }
}
