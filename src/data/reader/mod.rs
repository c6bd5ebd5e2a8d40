//! The rows of a file, each as the text of one JSON object, whatever kind of file it is.
//!
//! A reader holds one row (or one batch of columns) at a time, so that a file larger than memory can be read. A row's number is
//! its line in text files and its place from 1 in files without lines (JSON lists, parquet, arrow). What a row means is
//! `shapes`' to say. In reading order: `kind` (what a file is), `bytes` (opened, unpacked, decoded), and a file a kind.

use std::path::Path;

use super::config::ReadOptions;
use super::jsonl::{Line, Lines};
use crate::error::Result;

pub mod bytes;
#[cfg(feature = "parquet")]
mod columns;
#[cfg(not(feature = "parquet"))]
#[path = "no_columns.rs"]
mod columns;
mod find;
mod json;
pub mod kind;
mod row;
mod saved;
mod stdin;
mod table;
mod text;

pub use find::{Found, find, is_pattern};
pub use kind::{FileKind, KNOWN_ENDINGS, kind_of};
pub use saved::{is_saved, saved};
pub use stdin::{STANDARD_INPUT, keep_standard_input};

/// Rows as they are read: the text of one JSON object each.
pub type RowReader = Box<dyn Iterator<Item = Result<Line>> + Send>;

/// Opens a file at its first row.
///
/// # Errors
/// There is no such file, it is a folder, or of no known kind (input); or it cannot be opened.
pub fn open(path: &Path, options: &ReadOptions) -> Result<RowReader> {
    let unpacked = || bytes::open(path, options.encoding.as_deref());
    let kind = kind_of(path, options)?;
    Ok(match kind {
        FileKind::JsonLines => Box::new(Lines::new(path, unpacked()?)),
        FileKind::Json => Box::new(json::JsonRows::new(path, unpacked()?, options)),
        FileKind::Text | FileKind::Markdown => {
            Box::new(text::Documents::new(path, unpacked()?, options.split.clone()))
        }
        FileKind::Csv => Box::new(table::TableRows::new(path, unpacked()?, options, b',')),
        FileKind::Tsv => Box::new(table::TableRows::new(path, unpacked()?, options, b'\t')),
        FileKind::Parquet => columns::parquet(path, bytes::open_seekable(path)?)?,
        FileKind::Arrow => columns::arrow(path, bytes::open(path, None)?)?,
    })
}

#[cfg(test)]
mod tests;
