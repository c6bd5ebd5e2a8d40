//! Exact repeats: rows that say the same, but for case, width and blanks.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use sha2::{Digest, Sha256};

use super::passages::Passages;
use super::units::{fold, is_invisible};

/// The first 16 bytes of the SHA-256 of what a row says.
pub type RowHash = [u8; 16];

/// The hash of a row's texts: letters in lower case and half width, one blank for every run of them.
pub fn row_hash(passages: &Passages) -> RowHash {
    let mut hash = Sha256::new();
    let mut text = String::new();
    for passage in passages.whole() {
        text.clear();
        for letter in passage.chars().map(fold).filter(|letter| !is_invisible(*letter)) {
            match letter {
                _ if letter.is_ascii() && !letter.is_ascii_whitespace() => {
                    text.push(letter.to_ascii_lowercase())
                }
                _ if letter.is_whitespace() => {
                    if !text.is_empty() && !text.ends_with(' ') {
                        text.push(' ');
                    }
                }
                _ => text.extend(letter.to_lowercase()),
            }
        }
        hash.update(text.trim_end());
        // No text holds this byte, so that the ends of texts count.
        hash.update([0xff]);
    }
    let mut short = RowHash::default();
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

/// The rows seen so far; about 40 bytes a row.
#[derive(Debug, Default)]
pub struct ExactIndex {
    first: HashMap<RowHash, usize>,
}

impl ExactIndex {
    /// Takes a row in; the first row like it, if there was one.
    pub fn add(&mut self, row: usize, hash: RowHash) -> Option<usize> {
        match self.first.entry(hash) {
            Entry::Occupied(seen) => Some(*seen.get()),
            Entry::Vacant(free) => {
                free.insert(row);
                None
            }
        }
    }
}
