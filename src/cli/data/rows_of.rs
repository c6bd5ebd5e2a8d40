//! Rows of several files in chunks, so that all cores look at them while memory stays bounded.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde_json::Value;

use crate::data::hygiene::{HeldOut, Passages};
use crate::data::jsonl::{self, Line, RowError};
use crate::data::{DataFormat, ReadOptions, reader, shapes};
use crate::error::{Error, Place, Result};

/// The most rows of a chunk, and the most bytes but for its last row.
const CHUNK: (usize, usize) = (2048, 16 << 20);

/// A row that was read: its text, what it is in MiniMind's keys, and the name of its shape.
#[derive(Debug)]
pub struct ReadRow {
    /// As it stands.
    pub raw: Value,
    /// In MiniMind's keys.
    pub row: Value,
    /// What the file's rows are.
    pub format: DataFormat,
}

impl ReadRow {
    /// The name of the row's shape.
    pub fn shape(&self, options: &ReadOptions) -> &'static str {
        shapes::shape_of(&self.raw, self.format, options)
            .map_or_else(|| super::kind_of(Some(self.format)), |shape| shape.name())
    }
}

/// Calls `look` with every row of `path` on all cores, and `take` with what it says in the file's order; the format that
/// the file's first row that tells decides, if one does.
///
/// # Errors
/// The file cannot be read; what `take` returns.
pub fn each<T: Send>(
    path: &Path,
    options: &ReadOptions,
    look: impl Fn(&ReadRow) -> Result<T, RowError> + Sync,
    mut take: impl FnMut(Line, Result<T, RowError>) -> Result<()>,
) -> Result<Option<DataFormat>> {
    let mut lines = reader::open(path, options)?;
    let mut format = None;
    loop {
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while chunk.len() < CHUNK.0 && bytes < CHUNK.1 {
            let Some(line) = lines.next().transpose()? else { break };
            bytes += line.bytes.len();
            chunk.push(line);
        }
        if chunk.is_empty() {
            return Ok(format);
        }
        if format.is_none() {
            format =
                chunk.iter().find_map(|line| shapes::format_of(&jsonl::parse(&line.bytes).ok()?, options));
        }
        let known = format.unwrap_or(DataFormat::Text);
        let seen: Vec<Result<T, RowError>> = chunk
            .par_iter()
            .map(|line| {
                let raw = jsonl::parse(&line.bytes)?;
                let row = shapes::convert(raw.clone(), known, options)?;
                look(&ReadRow { raw, row, format: known })
            })
            .collect();
        for (line, seen) in chunk.into_iter().zip(seen) {
            take(line, seen)?;
        }
    }
}

/// Rows that are held out, with the place of each.
#[derive(Debug, Default)]
pub struct HeldOutFiles {
    /// What is looked for.
    pub rows: HeldOut,
    /// File and line of each row: the file's place in the list, and the line.
    places: Vec<(u32, usize)>,
    files: Vec<PathBuf>,
}

impl HeldOutFiles {
    /// Reads files of any shape: what rows of no known shape ask, under names that benchmarks use, is taken too.
    ///
    /// # Errors
    /// A file cannot be read, has a line that is no JSON object, or says nothing.
    pub fn read(files: &[PathBuf], options: &ReadOptions) -> Result<Self> {
        let mut held = Self { files: files.to_vec(), ..Self::default() };
        for (at, path) in files.iter().enumerate() {
            let mut said = false;
            for line in reader::open(path, options)? {
                let line = line?;
                let row = jsonl::parse(&line.bytes).map_err(|fault| fault.at(path, line.number))?;
                let row = match shapes::format_of(&row, options) {
                    Some(format) => shapes::convert(row.clone(), format, options).unwrap_or(row),
                    None => row,
                };
                let passages = Passages::of(&row);
                said |= passages.all().next().is_some();
                held.rows.add(&passages);
                held.places.push((at as u32, line.number));
            }
            if !said {
                return Err(Error::input("its rows hold no text to look for")
                    .at(Place::file(path))
                    .hint("rows are text, conversations, or have a `question`, `prompt` or the like"));
            }
        }
        Ok(held)
    }

    /// File and line of a held-out row.
    pub fn place(&self, row: usize) -> String {
        self.places.get(row).map_or_else(String::new, |(file, line)| {
            format!("{}:{line}", self.files[*file as usize].display())
        })
    }
}
