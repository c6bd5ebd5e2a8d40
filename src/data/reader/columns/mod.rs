//! Files of columns (Parquet, Arrow) as rows: a batch of columns at a time, a row of it as the text of a JSON object.
//!
//! Next: `json` (a value's text), `parquet` and `arrow` (where batches come from).

use std::cell::Cell;
use std::io::Read;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

use arrow_array::{Array, RecordBatch};
use arrow_schema::DataType;

use super::super::jsonl::Line;
use super::RowReader;
use crate::error::{Error, Place, Result};

mod arrow;
mod footer;
mod json;
mod parquet;

/// What the readers of batches say of a file that they cannot read.
type Wrong = String;
/// Batches of rows.
type Batches = Box<dyn Iterator<Item = Result<RecordBatch, Wrong>> + Send>;

/// The most rows of one batch: more than this is a number that lies.
const MOST_ROWS: usize = 1 << 28;

/// The rows of a Parquet file, which is read from several places.
///
/// # Errors
/// It is no Parquet file, or damaged.
pub fn parquet(path: &Path, file: std::fs::File) -> Result<RowReader> {
    rows(path, "Parquet", || parquet::batches(file))
}

/// The rows of an Arrow file or stream, which is read from its beginning to its end.
///
/// # Errors
/// It is neither, or damaged.
pub fn arrow(path: &Path, reader: impl Read + Send + 'static) -> Result<RowReader> {
    rows(path, "Arrow", || arrow::batches(reader))
}

fn rows(path: &Path, form: &'static str, open: impl FnOnce() -> Result<Batches, Wrong>) -> Result<RowReader> {
    let batches = guarded(open).map_err(|why| damaged(path, form, &why))?;
    Ok(Box::new(Rows { path: path.to_owned(), form, batches, batch: None, next: 0, number: 0, over: false }))
}

fn damaged(path: &Path, form: &str, why: &str) -> Error {
    let why = why.split("\n\nThis issue was likely").next().unwrap_or(why);
    Error::input(format!("not a file in {form}'s form, or a damaged one"))
        .at(Place::file(path))
        .because(why)
        .hint("fetch or write the file again")
}

/// Runs what reads foreign bytes. The crates of Parquet and Arrow check what they read, but index, slice and convert numbers
/// in places where a file that was made to harm can make them panic; such a file is damaged like any other.
fn guarded<T>(work: impl FnOnce() -> Result<T, Wrong>) -> Result<T, Wrong> {
    static HOOK: Once = Once::new();
    // What panics here is a fault of the file: the fault says so, and nothing else does.
    HOOK.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                usual(info);
            }
        }));
    });
    GUARDED.set(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(false);
    done.unwrap_or_else(|_| Err("its numbers contradict each other".to_owned()))
}

thread_local! {
    /// Whether this thread is within [`guarded`].
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Rows of batches, one after another.
struct Rows {
    path: PathBuf,
    form: &'static str,
    batches: Batches,
    batch: Option<RecordBatch>,
    /// The next row of the batch.
    next: usize,
    /// Rows so far.
    number: usize,
    /// Nothing more comes, after the last row or a fault.
    over: bool,
}

impl Rows {
    fn read(&mut self) -> Result<Option<Line>> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.next < batch.num_rows()) {
                self.number += 1;
                let bytes = guarded(|| json::row(batch, self.next)).map_err(|why| {
                    Error::input("the row cannot be read")
                        .at(Place::line(&self.path, self.number))
                        .because(why)
                        .hint("leave the column out, or write it in another type")
                })?;
                self.next += 1;
                return Ok(Some(Line { number: self.number, bytes }));
            }
            // The batch before goes before the next comes: one is held at a time.
            self.batch = None;
            let found = guarded(|| match self.batches.next().transpose()? {
                Some(batch) => check(&batch).map(|()| Some(batch)),
                None => Ok(None),
            });
            match found.map_err(|why| damaged(&self.path, self.form, &why))? {
                Some(batch) => (self.batch, self.next) = (Some(batch), 0),
                None => return Ok(None),
            }
        }
    }
}

/// Numbers of rows that no bytes stand behind.
fn check(batch: &RecordBatch) -> Result<(), Wrong> {
    let empty = batch.columns().iter().all(|column| *column.data_type() == DataType::Null);
    match batch.num_rows() {
        0 => Ok(()),
        _ if empty => Err("no column holds a value".to_owned()),
        rows if rows > MOST_ROWS => Err(format!("it claims {rows} rows in one batch")),
        _ => Ok(()),
    }
}

impl Iterator for Rows {
    type Item = Result<Line>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let row = self.read().transpose();
        self.over = !matches!(row, Some(Ok(_)));
        row
    }
}

#[cfg(test)]
mod tests;
