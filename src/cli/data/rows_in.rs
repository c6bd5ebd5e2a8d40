//! The files that a command reads rows from, and how: what a recipe says in `data`.

use std::path::{Path, PathBuf};

use crate::data::reader::{FileKind, KNOWN_ENDINGS};
use crate::data::source::{self, SourceLines};
use crate::data::{DataFormat, DataSource, ReadOptions};
use crate::error::{Error, Place, Result};

/// The data files behind names: files, folders, patterns, data sets on this disk, `-` for standard input.
///
/// # Errors
/// There is none, or one holds token ids and no rows.
pub fn files(names: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let files = super::all_files(names)?;
    match files.iter().find(|file| super::is_tokens(file)) {
        Some(file) => Err(Error::input("a file of token ids holds no rows that could be written anew")
            .at(Place::file(file))
            .hint(format!("known endings: {KNOWN_ENDINGS}"))),
        None => Ok(files),
    }
}

/// The rows of files as they stand. Files are opened as they are reached.
pub fn lines(files: &[PathBuf], options: &ReadOptions) -> SourceLines {
    source::lines(&DataSource::Paths(files.to_vec()), DataFormat::Text, options)
}

/// The ending that names a file's kind and compression; `.jsonl` where the kind was found out by its content.
pub fn ending(file: &Path) -> String {
    match FileKind::by_name(file) {
        Some(_) => {
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            name[FileKind::stem(file).len()..].to_owned()
        }
        None => ".jsonl".to_owned(),
    }
}
