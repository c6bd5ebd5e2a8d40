//! Rows tokenised once: a file of ids that later runs map into memory.
//!
//! Layout, little endian: header (64 bytes; the last 16 count what a filter left out, u32 by reason), ids (u32, the top bit marks a label with loss), index
//! (per row: end of the row in ids u64, loss bytes u32, loss tokens u32). Written beside and renamed, so that a killed run
//! leaves no half file. A file that is short or whose checksum differs is made anew. Next: `write`, which streams.

use std::fs::{self, File};
use std::path::Path;

use memmap2::Mmap;

mod write;

use super::jsonl::Line;
use super::selection::{Filtered, Reason};
use crate::error::{Error, Result};
use crate::native::map_file;

const MAGIC: &[u8; 8] = b"MMROWS01";
const HEADER_BYTES: usize = 64;
const INDEX_BYTES: usize = 16;
const LOSS_BIT: u32 = 1 << 31;

/// One tokenised row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenizedRow {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the label at a place (the id itself) carries loss.
    pub loss_mask: Vec<bool>,
    /// UTF-8 bytes of the text with loss.
    pub loss_bytes: usize,
}

/// What became of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Encoded {
    /// Its tokens.
    Row(TokenizedRow),
    /// The tokens of its pieces.
    Pieces(Vec<TokenizedRow>),
    /// It is bad, and such rows are skipped.
    Skipped,
    /// A filter leaves it out.
    Filtered(Reason),
}

/// A cache file in memory.
#[derive(Debug)]
pub struct TokenCache {
    map: Mmap,
    rows: usize,
    tokens: usize,
    /// Rows left out as unusable.
    pub skipped: usize,
    /// Rows that a filter left out.
    pub filtered: Filtered,
    /// Bytes of the rows read.
    pub source_bytes: u64,
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl TokenCache {
    /// Maps a whole and sound file; `None` otherwise.
    pub fn open(path: &Path) -> Option<Self> {
        let map = map_file(&File::open(path).ok()?).ok()?;
        if map.len() < HEADER_BYTES || &map[..8] != MAGIC {
            return None;
        }
        let number = |i: usize| usize::try_from(u64_at(&map, 8 * i)).ok();
        let (rows, tokens, skipped) = (number(1)?, number(2)?, number(3)?);
        let (source_bytes, sum) = (u64_at(&map, 32), u64_at(&map, 40));
        let size =
            tokens.checked_mul(4)?.checked_add(rows.checked_mul(INDEX_BYTES)?)?.checked_add(HEADER_BYTES)?;
        if size != map.len() || u64::from(crc32fast::hash(&map[HEADER_BYTES..])) != sum {
            return None;
        }
        let filtered = [48, 52, 56, 60].map(|at| u32_at(&map, at));
        Some(Self { map, rows, tokens, skipped, filtered, source_bytes })
    }

    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    fn index_at(&self, row: usize) -> usize {
        HEADER_BYTES + 4 * self.tokens + INDEX_BYTES * row
    }

    fn span(&self, row: usize) -> (usize, usize) {
        let end = |row: usize| u64_at(&self.map, self.index_at(row)) as usize;
        (if row == 0 { 0 } else { end(row - 1) }, end(row))
    }

    /// Tokens of a row.
    pub fn row_len(&self, row: usize) -> usize {
        let (start, end) = self.span(row);
        end - start
    }

    /// (Loss bytes, labels with loss after the shift) of a row.
    pub fn row_loss(&self, row: usize) -> (usize, usize) {
        let at = self.index_at(row);
        (u32_at(&self.map, at + 8) as usize, u32_at(&self.map, at + 12) as usize)
    }

    /// Ids and whether each carries loss.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (u32, bool)> + '_ {
        let (start, end) = self.span(row);
        self.map[HEADER_BYTES + 4 * start..HEADER_BYTES + 4 * end].chunks_exact(4).map(|b| {
            let x = u32_at(b, 0);
            (x & !LOSS_BIT, x & LOSS_BIT != 0)
        })
    }
}

/// Encodes `lines` into the file `path` on all cores and maps it.
///
/// # Errors
/// The first error of `lines` or `encode` in the order of the lines; or the file cannot be written.
pub fn build(
    path: &Path,
    lines: impl Iterator<Item = Result<Line>> + Send,
    encode: impl Fn(&Line) -> Result<Encoded> + Sync,
) -> Result<TokenCache> {
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|e| Error::io("make the cache folder", dir, e))?;
    }
    let beside = path.with_extension(format!("tmp{}", std::process::id()));
    let made = write::write(&beside, lines, encode)
        .and_then(|()| fs::rename(&beside, path).map_err(|e| Error::io("rename the cache", path, e)));
    if made.is_err() {
        // The fault at hand matters more than a file that could not be removed.
        let _ = fs::remove_file(&beside);
    }
    made?;
    TokenCache::open(path).ok_or_else(|| {
        Error::failed("the token cache just written does not read back").hint("check the disk")
    })
}
