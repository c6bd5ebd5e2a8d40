//! Tokenised rows, in a token cache, a token file or several of these; cheap to clone.
//!
//! Next: `prepare`, which makes them, and `loader`, which batches them.

use std::sync::Arc;

use super::batch::IGNORE_INDEX;
use super::mixture::Part;
use super::preference::Pair;
use super::token_cache::TokenCache;
use super::token_file::TokenFiles;

/// One tokenised row with its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Token ids.
    pub ids: Vec<i64>,
    /// Labels, not shifted; [`IGNORE_INDEX`] without loss.
    pub labels: Vec<i64>,
    /// UTF-8 bytes of the text with loss; 0 if unknown.
    pub loss_bytes: usize,
}

impl Row {
    /// Labels with loss after the shift: column 0 never has.
    pub fn loss_tokens(&self) -> usize {
        self.labels.iter().skip(1).filter(|l| **l != IGNORE_INDEX).count()
    }
}

#[derive(Debug)]
enum Store {
    Cache(TokenCache),
    Tokens(TokenFiles),
    Parts(Parts),
    /// No tokens, but how many each row has.
    Lengths(Vec<u32>),
}

/// The parts of a mixture, one after another.
#[derive(Debug)]
struct Parts {
    parts: Vec<Part>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl Parts {
    /// The part that holds a row, and the row's place in it.
    fn of(&self, row: usize) -> (usize, usize) {
        let part = self.ends.partition_point(|end| *end <= row);
        (part, row - part.checked_sub(1).map_or(0, |before| self.ends[before]))
    }

    fn at(&self, row: usize) -> (&Dataset, usize) {
        let (part, at) = self.of(row);
        (&self.parts[part].rows, at)
    }
}

/// Tokenised rows, or a selection of them.
#[derive(Debug, Clone)]
pub struct Dataset {
    store: Arc<Store>,
    /// Indices of units (rows, or fixed micro-batches).
    selection: Option<Arc<Vec<u32>>>,
    /// Whether a cached row is two conversations.
    pairs: bool,
}

impl Dataset {
    /// All rows of a token cache; `pairs` where each row holds two conversations.
    pub(super) fn cached(cache: TokenCache, pairs: bool) -> Self {
        Self { store: Arc::new(Store::Cache(cache)), selection: None, pairs }
    }

    /// All rows of token files.
    pub(super) fn tokens(tokens: TokenFiles) -> Self {
        Self { store: Arc::new(Store::Tokens(tokens)), selection: None, pairs: false }
    }

    /// All rows of several datasets; all of them pairs, or none.
    pub(super) fn of_parts(parts: Vec<Part>) -> Self {
        let pairs = parts.iter().any(|part| part.rows.is_preference());
        let mut total = 0;
        let ends = parts.iter().map(|part| {
            total += part.rows.len();
            total
        });
        let ends = ends.collect();
        Self { store: Arc::new(Store::Parts(Parts { parts, ends })), selection: None, pairs }
    }

    /// The parts of a mixture; `None` for other rows.
    pub fn parts(&self) -> Option<&[Part]> {
        match &*self.store {
            Store::Parts(parts) => Some(&parts.parts),
            _ => None,
        }
    }

    /// The part of a mixture that a row is of; 0 for other rows.
    pub fn part_of(&self, row: usize) -> usize {
        match &*self.store {
            Store::Parts(parts) => parts.of(self.source_index(row)).0,
            _ => 0,
        }
    }

    /// Whether these are some of the rows.
    pub(super) fn is_selection(&self) -> bool {
        self.selection.is_some()
    }

    /// Rows of these lengths, for counting what batches are padded: their tokens are all 0, without loss.
    pub(super) fn of_lengths(lengths: Vec<u32>) -> Self {
        Self { store: Arc::new(Store::Lengths(lengths)), selection: None, pairs: false }
    }

    /// The rows `units` of this dataset: rows, or fixed micro-batches.
    pub(super) fn select(&self, units: Vec<u32>) -> Self {
        Self { store: self.store.clone(), selection: Some(Arc::new(units)), pairs: self.pairs }
    }

    /// The first `count` rows; of a file that fixes micro-batches, the first ones that hold so many.
    pub fn take(&self, count: usize) -> Self {
        let unit = self.micro_batch().unwrap_or(1);
        let units = self.len() / unit;
        let all = (0..units as u32)
            .map(|at| self.selection.as_ref().map_or(at, |selection| selection[at as usize]));
        self.select(all.take(count.div_ceil(unit)).collect())
    }

    /// Of a token file: the first row (from 0) with an id or label outside a vocabulary of `vocab` entries, and that id. Rows
    /// that were tokenised here need no check.
    pub fn out_of_vocab(&self, vocab: i64) -> Option<(usize, i64)> {
        let Store::Tokens(tokens) = &*self.store else { return None };
        (0..tokens.rows).find_map(|row| {
            let (file, at) = tokens.of(row);
            file.out_of_vocab(at, vocab).map(|id| (row, id))
        })
    }

    /// T of a token file, whose rows all have it; `None` for rows that were tokenised here.
    pub fn fixed_len(&self) -> Option<usize> {
        match &*self.store {
            Store::Tokens(tokens) => Some(tokens.max_row_len()),
            Store::Cache(_) | Store::Parts(_) | Store::Lengths(_) => None,
        }
    }

    /// Rows of a micro-batch, where the file fixes them ([N, B, T]).
    pub fn micro_batch(&self) -> Option<usize> {
        match &*self.store {
            Store::Tokens(tokens) => tokens.micro_batch(),
            Store::Cache(_) | Store::Parts(_) | Store::Lengths(_) => None,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        let unit = self.micro_batch().unwrap_or(1);
        match (&self.selection, &*self.store) {
            (Some(selection), _) => selection.len() * unit,
            (None, Store::Cache(cache)) => cache.rows(),
            (None, Store::Tokens(tokens)) => tokens.rows,
            (None, Store::Lengths(lengths)) => lengths.len(),
            (None, Store::Parts(parts)) => parts.ends.last().copied().unwrap_or(0),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row's place in what was read, before validation rows were taken out.
    pub fn source_index(&self, row: usize) -> usize {
        match &self.selection {
            None => row,
            Some(selection) => {
                let unit = self.micro_batch().unwrap_or(1);
                selection[row / unit] as usize * unit + row % unit
            }
        }
    }

    /// Tokens of a row.
    pub fn row_len(&self, row: usize) -> usize {
        match &*self.store {
            Store::Cache(cache) => cache.row_len(self.source_index(row)),
            Store::Tokens(tokens) => tokens.of(self.source_index(row)).0.row_len,
            Store::Lengths(lengths) => lengths[self.source_index(row)] as usize,
            Store::Parts(parts) => {
                let (rows, at) = parts.at(self.source_index(row));
                rows.row_len(at)
            }
        }
    }

    /// UTF-8 bytes of a row's text with loss; 0 if unknown.
    pub fn loss_bytes(&self, row: usize) -> usize {
        match &*self.store {
            Store::Cache(cache) => cache.row_loss(self.source_index(row)).0,
            Store::Tokens(_) | Store::Lengths(_) => 0,
            Store::Parts(parts) => {
                let (rows, at) = parts.at(self.source_index(row));
                rows.loss_bytes(at)
            }
        }
    }

    /// Labels with loss of a row, after the shift.
    pub fn loss_tokens(&self, row: usize) -> usize {
        match &*self.store {
            Store::Cache(cache) => cache.row_loss(self.source_index(row)).1,
            Store::Tokens(tokens) if tokens.is_preference() => {
                let pair = self.pair(row);
                pair.chosen.loss_tokens() + pair.rejected.loss_tokens()
            }
            Store::Tokens(_) => self.row(row).loss_tokens(),
            Store::Lengths(_) => 0,
            Store::Parts(parts) => {
                let (rows, at) = parts.at(self.source_index(row));
                rows.loss_tokens(at)
            }
        }
    }

    /// Whether the rows are pairs of conversations.
    pub fn is_preference(&self) -> bool {
        match &*self.store {
            Store::Cache(_) | Store::Parts(_) | Store::Lengths(_) => self.pairs,
            Store::Tokens(tokens) => tokens.is_preference(),
        }
    }

    /// A pair; only where the rows [are pairs](Dataset::is_preference).
    pub fn pair(&self, row: usize) -> Pair {
        let index = self.source_index(row);
        match &*self.store {
            Store::Tokens(tokens) => {
                let (file, at) = tokens.of(index);
                file.pair(at)
            }
            Store::Parts(parts) => {
                let (rows, at) = parts.at(index);
                rows.pair(at)
            }
            Store::Lengths(_) => Pair { chosen: self.row(row), rejected: self.row(row) },
            Store::Cache(cache) => {
                let Row { mut ids, mut labels, loss_bytes: start } = self.row(row);
                let (rest, rest_labels) = (ids.split_off(start), labels.split_off(start));
                debug_assert!(self.pairs && cache.row_len(index) > start);
                Pair {
                    chosen: Row { ids, labels, loss_bytes: 0 },
                    rejected: Row { ids: rest, labels: rest_labels, loss_bytes: 0 },
                }
            }
        }
    }

    /// Row `row` (from 0) with its labels.
    pub fn row(&self, row: usize) -> Row {
        let index = self.source_index(row);
        match &*self.store {
            Store::Tokens(tokens) => {
                let (file, at) = tokens.of(index);
                let (ids, labels) = file.row(at);
                Row { ids, labels, loss_bytes: 0 }
            }
            Store::Parts(parts) => {
                let (rows, at) = parts.at(index);
                rows.row(at)
            }
            Store::Lengths(lengths) => {
                let length = lengths[index] as usize;
                Row { ids: vec![0; length], labels: vec![IGNORE_INDEX; length], loss_bytes: 0 }
            }
            Store::Cache(cache) => {
                let pairs = cache
                    .row(index)
                    .map(|(id, loss)| (i64::from(id), if loss { i64::from(id) } else { IGNORE_INDEX }));
                let (ids, labels) = pairs.unzip();
                Row { ids, labels, loss_bytes: cache.row_loss(index).0 }
            }
        }
    }
}
