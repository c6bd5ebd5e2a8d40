//! Changes by chance that readers of files trip over.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// Chance with a seed.
pub struct Dice(ChaCha8Rng);

impl Dice {
    /// By a seed.
    pub fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// Below `n`, which counts for at least one.
    pub fn below(&mut self, n: usize) -> usize {
        (self.0.next_u64() % n.max(1) as u64) as usize
    }

    /// One of them.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    /// A number that readers trip over.
    pub fn nasty(&mut self, len: usize) -> u64 {
        match self.below(8) {
            0 => 0,
            1 => u64::MAX >> self.below(64),
            2 => 1 << self.below(64),
            3 => len as u64,
            4 => (len as u64).wrapping_sub(self.below(3) as u64),
            5 => self.below(16) as u64,
            6 => (self.below(len.max(1)) as u64).wrapping_add(1),
            _ => self.0.next_u64(),
        }
    }

    /// One change.
    pub fn change(&mut self, bytes: &mut Vec<u8>, words: &[&[u8]]) {
        let len = bytes.len();
        if len == 0 {
            return bytes.push(self.below(256) as u8);
        }
        // Heads are where the lengths are.
        let at = if self.below(3) == 0 { self.below(len.min(512)) } else { self.below(len) };
        match self.below(9) {
            0 => bytes[at] ^= 1 << self.below(8),
            1 => bytes[at] = self.below(256) as u8,
            2 | 3 => {
                let (n, width) = (self.nasty(len).to_le_bytes(), *self.pick(&[1, 2, 4, 8]));
                let end = (at + width).min(len);
                bytes[at..end].copy_from_slice(&n[..end - at]);
            }
            4 => {
                let (from, n) = (self.below(len), self.below(64));
                let part = bytes[from..(from + n).min(len)].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let end = (at + 1 + self.below(32)).min(len);
                bytes.drain(at..end);
            }
            6 => {
                let word = self.pick(words).to_vec();
                bytes.splice(at..at, word);
            }
            7 => {
                let word = self.pick(words);
                let end = (at + word.len()).min(len);
                bytes[at..end].copy_from_slice(&word[..end - at]);
            }
            _ if self.below(8) == 0 => bytes.truncate(at),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
}
