//! Rows into a file of any kind that `reader` reads, by the ending of its name.
//!
//! A row is the text of one JSON object. JSON lines, lists and text are written as rows come; tables (`table`, `columns`)
//! must know every key first, so their rows wait in a temporary file (`spool`). Memory holds one row, or one batch of a few
//! megabytes. A file appears whole or not at all. Next: `packed` (compression), `column_types` (what a column holds).

#[cfg(feature = "parquet")]
mod column_types;
#[cfg(feature = "parquet")]
mod columns;
#[cfg(not(feature = "parquet"))]
#[path = "no_columns.rs"]
mod columns;
mod packed;
pub mod spool;
mod table;
mod text;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use super::config::TextSplit;
use super::reader::{FileKind, KNOWN_ENDINGS};
use crate::atomic;
use crate::error::{Error, Place, Result};
use packed::Packer;

/// How a file is compressed as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// Not.
    None,
    /// `.gz`.
    Gzip,
    /// `.zst`.
    Zstd,
    /// `.xz`.
    Xz,
    /// `.bz2`.
    Bzip2,
}

/// What is written into a file of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// What holds the rows.
    pub kind: FileKind,
    /// The compression around it.
    pub packing: Packing,
}

impl Target {
    /// By the endings of a file's name.
    ///
    /// # Errors
    /// No kind of file has this ending, or it is a compressed parquet file.
    pub fn of(path: &Path) -> Result<Self> {
        let kind = FileKind::by_name(path).ok_or_else(|| {
            Error::input("the name does not tell what kind of file to write")
                .at(Place::file(path))
                .hint(format!("known endings: {KNOWN_ENDINGS}"))
        })?;
        let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
        let packing = match ending.as_deref() {
            Some("gz") => Packing::Gzip,
            Some("zst") => Packing::Zstd,
            Some("xz") => Packing::Xz,
            Some("bz2") => Packing::Bzip2,
            _ => Packing::None,
        };
        if kind == FileKind::Parquet && packing != Packing::None {
            return Err(Error::input("a parquet file is compressed inside, not as a whole")
                .at(Place::file(path))
                .hint("name it .parquet"));
        }
        if cfg!(not(feature = "parquet")) && matches!(kind, FileKind::Parquet | FileKind::Arrow) {
            return Err(Error::input(
                "this program was built without the feature `parquet`, which writes such files",
            )
            .at(Place::file(path))
            .hint("build it with `cargo build --release --features parquet`, or name a .jsonl file"));
        }
        Ok(Self { kind, packing })
    }
}

/// A row on its way into a file.
#[derive(Debug, Clone)]
pub struct OutRow {
    /// Where it comes from, for faults.
    pub place: Place,
    /// The text of one JSON object.
    pub bytes: Vec<u8>,
}

/// How a file is written.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// What stands between the documents of a text file; `None`: it holds one.
    pub split: Option<TextSplit>,
    /// Whether a file that is there already is replaced.
    pub replace: bool,
}

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows.
    pub rows: usize,
    /// What the kind of file could not hold as it was, for people.
    pub notes: Vec<String>,
}

/// Writes rows into a file; folders on the way are made.
///
/// # Errors
/// The first error of `rows`; the file is there and must not be replaced; a row that this kind of file cannot hold (input); the
/// disk fails. No file is left then.
pub fn write(
    path: &Path,
    rows: impl Iterator<Item = Result<OutRow>>,
    options: &WriteOptions,
) -> Result<Written> {
    let target = Target::of(path)?;
    check_free(path, options.replace)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    match target.kind {
        FileKind::JsonLines => replace(path, target, |out| json_lines(path, rows, out)),
        FileKind::Json => replace(path, target, |out| json_list(path, rows, out)),
        FileKind::Text | FileKind::Markdown => {
            replace(path, target, |out| text::write(path, rows, options.split.as_ref(), out))
        }
        FileKind::Csv | FileKind::Tsv => {
            let table = table::Table::collect(folder, rows)?;
            let separator = if target.kind == FileKind::Csv { b',' } else { b'\t' };
            replace(path, target, |out| table.write(path, separator, out))
        }
        FileKind::Parquet | FileKind::Arrow => {
            let columns = columns::Columns::collect(folder, rows)?;
            replace(path, target, |out| columns.write(path, target.kind, out))
        }
    }
}

/// Refuses a file that is there, unless it may be replaced.
///
/// # Errors
/// It is there; or it is a folder.
pub fn check_free(path: &Path, replace: bool) -> Result<()> {
    if path.is_dir() {
        return Err(Error::input("a folder, not a file")
            .at(Place::file(path))
            .hint("name the file to write"));
    }
    if path.exists() && !replace {
        return Err(Error::input("the file is there already")
            .at(Place::file(path))
            .hint("--force replaces it"));
    }
    Ok(())
}

/// A compressed file that is being written.
type Out<'a> = Packer<&'a mut BufWriter<File>>;

fn replace(
    path: &Path,
    target: Target,
    write: impl FnOnce(&mut Out<'_>) -> Result<Written>,
) -> Result<Written> {
    let fault = |e| Error::io("write", path, e);
    let mut written = Written::default();
    atomic::replace(path, None, |file| {
        let mut out = Packer::new(target.packing, file).map_err(fault)?;
        written = write(&mut out)?;
        out.finish().map_err(fault)
    })?;
    Ok(written)
}

/// A row's text in one line: JSON has line ends only where white space is free.
fn in_one_line(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    bytes
}

fn json_lines(
    path: &Path,
    rows: impl Iterator<Item = Result<OutRow>>,
    out: &mut dyn Write,
) -> Result<Written> {
    let mut written = Written::default();
    for row in rows {
        let mut line = in_one_line(row?.bytes);
        line.push(b'\n');
        out.write_all(&line).map_err(|e| Error::io("write", path, e))?;
        written.rows += 1;
    }
    Ok(written)
}

fn json_list(
    path: &Path,
    rows: impl Iterator<Item = Result<OutRow>>,
    out: &mut dyn Write,
) -> Result<Written> {
    let fault = |e| Error::io("write", path, e);
    let mut written = Written::default();
    for row in rows {
        let row = in_one_line(row?.bytes);
        let before: &[u8] = if written.rows == 0 { b"[\n" } else { b",\n" };
        out.write_all(before).and_then(|()| out.write_all(&row)).map_err(fault)?;
        written.rows += 1;
    }
    let end: &[u8] = if written.rows == 0 { b"[]\n" } else { b"\n]\n" };
    out.write_all(end).map_err(fault)?;
    Ok(written)
}
