//! Tables of text: a line of names, then a line a row (RFC 4180).
//!
//! The columns are the keys of all rows, in the order they are first met. A string is its own cell; another value is its JSON
//! text; null and an absent key are an empty cell.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use serde_json::Value;

use super::spool::{Spool, Spooled};
use super::{OutRow, Written};
use crate::data::jsonl;
use crate::error::{Error, Result};

/// More columns are not a table.
const MOST_COLUMNS: usize = 1000;

/// Rows whose keys are all known.
pub(super) struct Table {
    names: Vec<String>,
    rows: Spooled,
}

impl Table {
    /// Reads all rows.
    pub(super) fn collect(folder: &Path, rows: impl Iterator<Item = Result<OutRow>>) -> Result<Self> {
        let (mut names, mut known) = (Vec::new(), HashMap::new());
        let mut spool = Spool::new(folder)?;
        for row in rows {
            let OutRow { place, bytes } = row?;
            let value = jsonl::parse(&bytes).map_err(|fault| fault.into_error().at(place.clone()))?;
            for name in value.as_object().into_iter().flat_map(|row| row.keys()) {
                if !known.contains_key(name) {
                    known.insert(name.clone(), names.len());
                    names.push(name.clone());
                }
            }
            if names.len() > MOST_COLUMNS {
                return Err(Error::input(format!(
                    "up to this row the rows have more than {MOST_COLUMNS} keys"
                ))
                .at(place)
                .hint("a table has a column a key: write .jsonl"));
            }
            spool.push(bytes)?;
        }
        if names.is_empty() {
            return Err(Error::input("no row has a key: a table would have no column").hint("write .jsonl"));
        }
        Ok(Self { names, rows: spool.finish()? })
    }

    /// Writes the table.
    pub(super) fn write(mut self, path: &Path, separator: u8, out: &mut dyn Write) -> Result<Written> {
        let fault = |e: csv::Error| Error::io("write", path, e.into());
        let mut table = csv::WriterBuilder::new().delimiter(separator).from_writer(out);
        table.write_record(&self.names).map_err(fault)?;
        for row in self.rows.rows()? {
            let row = jsonl::parse(&row?).map_err(jsonl::RowFault::into_error)?;
            for name in &self.names {
                match &row[name.as_str()] {
                    Value::Null => table.write_field(""),
                    Value::String(text) => table.write_field(text),
                    other => table.write_field(other.to_string()),
                }
                .map_err(fault)?;
            }
            table.write_record(None::<&[u8]>).map_err(fault)?;
        }
        table.flush().map_err(|e| Error::io("write", path, e))?;
        Ok(Written { rows: self.rows.len(), notes: Vec::new() })
    }
}
