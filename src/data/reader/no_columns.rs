//! What stands in for `columns` where the program is built without the feature `parquet`: a fault that says so.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::RowReader;
use crate::error::{Error, Place, Result};

/// Parquet files are not read.
///
/// # Errors
/// Always.
pub fn parquet(path: &Path, _file: File) -> Result<RowReader> {
    Err(left_out(path))
}

/// Arrow files are not read.
///
/// # Errors
/// Always.
pub fn arrow(path: &Path, _reader: impl Read) -> Result<RowReader> {
    Err(left_out(path))
}

fn left_out(path: &Path) -> Error {
    Error::input("this program was built without its feature `parquet`, which reads Parquet and Arrow files")
        .at(Place::file(path))
        .hint("build it with default features, or write the rows as .jsonl")
}
