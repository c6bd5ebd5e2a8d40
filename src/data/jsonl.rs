//! Lines of a JSON-lines file, in bounded memory, and faults that name `file:line` and the field.
//!
//! Blank lines are skipped. Not here: what a row means (`text`, `chat`).

use std::borrow::Cow;
use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::reader::bytes::{self, Bytes};
use crate::error::{Error, Place, Result};

/// The longest line read; a longer one is a fault, not memory.
pub const MAX_LINE_BYTES: u64 = 256 << 20;

/// Why a row cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowFault {
    /// What is wrong, with the field's name.
    pub what: String,
    /// The fix.
    pub hint: Cow<'static, str>,
}

impl RowFault {
    /// A fault with the fix that its hint names.
    pub fn new(what: impl Into<String>, hint: impl Into<Cow<'static, str>>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }

    /// The fault as an error at its line.
    pub fn at(self, path: &Path, line: usize) -> Error {
        self.into_error().at(Place::line(path, line))
    }

    /// The fault as an error without a place.
    pub fn into_error(self) -> Error {
        Error::input(self.what).hint(self.hint)
    }
}

/// Why a row gave no tokens: the row is bad, or something failed that has nothing to do with it.
#[derive(Debug)]
pub enum RowError {
    /// The row's own fault; `on_bad_row: skip` leaves such rows out.
    Bad(RowFault),
    /// Anything else, such as a tokenizer without a chat template.
    Failed(Error),
}

impl RowError {
    /// The row's fault, where it is one.
    ///
    /// # Errors
    /// The other error.
    pub fn bad(self) -> Result<RowFault> {
        match self {
            Self::Bad(fault) => Ok(fault),
            Self::Failed(error) => Err(error),
        }
    }

    /// A bad row as an error at its line; another error as it is.
    pub fn at(self, path: &Path, line: usize) -> Error {
        self.bad().map_or_else(|error| error, |fault| fault.at(path, line))
    }

    /// Either as an error, a bad row without its place.
    pub fn into_error(self) -> Error {
        self.bad().map_or_else(|error| error, RowFault::into_error)
    }
}

impl From<RowFault> for RowError {
    fn from(fault: RowFault) -> Self {
        Self::Bad(fault)
    }
}

impl From<Error> for RowError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

/// A line with its number, from 1.
#[derive(Debug, Clone)]
pub struct Line {
    /// From 1.
    pub number: usize,
    /// The bytes without the line's end.
    pub bytes: Vec<u8>,
}

/// Reads a file line by line.
pub struct Lines {
    path: PathBuf,
    reader: Bytes,
    number: usize,
}

impl Lines {
    /// Opens a file at its first line; it may be compressed.
    ///
    /// # Errors
    /// There is no such file, or it is a folder (input); or it cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        Ok(Self::new(path, bytes::open(path, None)?))
    }

    /// The lines of a file that was opened.
    pub fn new(path: &Path, reader: Bytes) -> Self {
        Self { path: path.to_owned(), reader, number: 0 }
    }

    fn read(&mut self) -> Result<Option<Line>> {
        loop {
            let mut bytes = Vec::new();
            let read = (&mut self.reader)
                .take(MAX_LINE_BYTES)
                .read_until(b'\n', &mut bytes)
                .map_err(|e| bytes::fault(Place::line(&self.path, self.number + 1), e))?;
            if read == 0 {
                return Ok(None);
            }
            self.number += 1;
            if read as u64 == MAX_LINE_BYTES && bytes.last() != Some(&b'\n') {
                return Err(RowFault::new(
                    format!("a line longer than {} MiB", MAX_LINE_BYTES >> 20),
                    "one JSON object a line: is this a JSON-lines file?",
                )
                .at(&self.path, self.number));
            }
            while bytes.last().is_some_and(u8::is_ascii_whitespace) {
                bytes.pop();
            }
            if !bytes.iter().all(u8::is_ascii_whitespace) {
                return Ok(Some(Line { number: self.number, bytes }));
            }
        }
    }
}

impl Iterator for Lines {
    type Item = Result<Line>;
    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

/// A missing file is the user's input being wrong; anything else failed.
pub fn missing(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::NotFound {
        return Error::input("no such data file").at(Place::file(path)).hint("check the path");
    }
    Error::io("open", path, error)
}

const NOT_UTF8: &str = "save the file as UTF-8, or name its encoding: `encoding: gbk`";

/// Which byte is no UTF-8, and what stands before it.
fn not_utf8(bytes: &[u8], at: usize) -> String {
    let before = String::from_utf8_lossy(&bytes[..at]);
    let from = before.char_indices().rev().nth(19).map_or(0, |(from, _)| from);
    format!("not UTF-8: byte {:#04x} in column {} after `{}`", bytes[at], at + 1, &before[from..])
}

/// A line as a JSON object.
///
/// # Errors
/// The line is not UTF-8, not JSON, or not an object.
pub fn parse(bytes: &[u8]) -> Result<Value, RowFault> {
    let text =
        std::str::from_utf8(bytes).map_err(|e| RowFault::new(not_utf8(bytes, e.valid_up_to()), NOT_UTF8))?;
    let value: Value = serde_json::from_str(text).map_err(|e| {
        let text = e.to_string();
        let cause = text.split(" at line").next().unwrap_or_default().to_owned();
        RowFault::new(format!("not JSON: {cause}, column {}", e.column()), "one complete JSON object a line")
    })?;
    if value.is_object() {
        Ok(value)
    } else {
        Err(RowFault::new(
            format!("a JSON object is wanted, this is {}", kind(&value)),
            "one JSON object a line",
        ))
    }
}

/// What a value is, in words.
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
