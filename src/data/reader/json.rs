//! The rows of a JSON file, cut out one by one: a list, an object that holds one, or values behind each other.
//!
//! The file is never held as a whole: brackets and quotes tell where a row ends, and what stands in it is for its parser to
//! say. A row comes without line ends, so that it is one line of JSON lines. A row's number is its place from 1.

use std::collections::BTreeSet;
use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::super::config::ReadOptions;
use super::super::jsonl::{Line, MAX_LINE_BYTES};
use super::bytes::{self, Bytes};
use crate::error::{Error, Place, Result};

/// Keys of rows: an object with one of them is a row, and not what the file's list of rows stands in.
const ROW_KEYS: [&str; 26] = [
    "text",
    "content",
    "raw_content",
    "conversations",
    "conversation",
    "messages",
    "tools",
    "functions",
    "chosen",
    "rejected",
    "prompt",
    "completion",
    "completions",
    "instruction",
    "input",
    "output",
    "history",
    "question",
    "answer",
    "query",
    "response",
    "responses",
    "choices",
    "label",
    "gt",
    "solution",
];

/// Rows of a JSON file.
pub(super) struct JsonRows {
    path: PathBuf,
    reader: Bytes,
    /// The file's own names of columns.
    own_keys: BTreeSet<String>,
    /// Rows so far.
    number: usize,
    state: State,
}

/// Where in the file the next row is looked for.
enum State {
    /// At its beginning.
    Start,
    /// Behind a value.
    Between,
    /// In a list, at its beginning or behind a value; `of` is the key that holds it, where an object does.
    List { first: bool, of: Option<String> },
    /// At the end, or behind an error.
    Done,
}

impl JsonRows {
    pub(super) fn new(path: &Path, reader: Bytes, options: &ReadOptions) -> Self {
        let own_keys = options.columns.values().cloned().collect();
        Self { path: path.to_owned(), reader, own_keys, number: 0, state: State::Start }
    }

    fn place(&self) -> Place {
        Place::line(&self.path, self.number + 1)
    }

    fn fault(&self, what: impl Into<String>) -> Error {
        Error::input(format!("not JSON: {}", what.into())).at(self.place()).hint(
            "a .json file holds a list of rows, an object with such a list, or one row behind the other",
        )
    }

    /// The next byte that is no space, not taken.
    fn peek(&mut self) -> Result<Option<u8>> {
        loop {
            let fault = |e| bytes::fault(Place::line(&self.path, self.number + 1), e);
            let chunk = self.reader.fill_buf().map_err(fault)?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let space = chunk.iter().position(|byte| !byte.is_ascii_whitespace()).unwrap_or(chunk.len());
            let found = chunk.get(space).copied();
            self.reader.consume(space);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    /// Takes the next byte that is no space, if it is this one.
    fn take(&mut self, wanted: u8) -> Result<bool> {
        let found = self.peek()? == Some(wanted);
        if found {
            self.reader.consume(1);
        }
        Ok(found)
    }

    /// Copies a value, or the rest of one whose `depth` brackets are open; says whether it ends before the file does.
    fn copy(&mut self, out: &mut Vec<u8>, depth: usize) -> Result<bool> {
        let mut scan = Scan { depth, in_string: false, escaped: false };
        loop {
            let fault = |e| bytes::fault(Place::line(&self.path, self.number + 1), e);
            let chunk = self.reader.fill_buf().map_err(fault)?;
            if chunk.is_empty() {
                return Ok(false);
            }
            let (used, ended) = scan.copy(chunk, out);
            self.reader.consume(used);
            if out.len() as u64 > MAX_LINE_BYTES {
                let what = format!("a row longer than {} MiB", MAX_LINE_BYTES >> 20);
                return Err(Error::input(what).at(self.place()).hint("divide it into smaller rows"));
            }
            if ended {
                return Ok(true);
            }
        }
    }

    /// A value as a row. One that the file's end cuts off is a row too: its parser says so.
    fn row(&mut self) -> Result<Option<Line>> {
        let mut bytes = Vec::new();
        self.copy(&mut bytes, 0)?;
        Ok(Some(self.line(bytes)))
    }

    fn line(&mut self, bytes: Vec<u8>) -> Line {
        self.number += 1;
        Line { number: self.number, bytes }
    }

    /// The file's first object: a row, or what holds the list of rows (`None`; then the list is open).
    fn object(&mut self) -> Result<Option<Line>> {
        self.take(b'{')?;
        let (mut bytes, mut is_row) = (vec![b'{'], false);
        while !is_row && self.peek()? == Some(b'"') {
            let start = bytes.len();
            self.copy(&mut bytes, 0)?;
            let key = key(&bytes[start..]);
            is_row = self.own_keys.contains(&key) || ROW_KEYS.contains(&key.as_str());
            if !self.take(b':')? {
                break;
            }
            bytes.push(b':');
            if self.take(b'[')? {
                if !is_row && self.peek()? == Some(b'{') {
                    self.state = State::List { first: true, of: Some(key) };
                    return Ok(None);
                }
                bytes.push(b'[');
                self.copy(&mut bytes, 1)?;
            } else if !matches!(self.peek()?, None | Some(b',' | b':' | b']' | b'}')) {
                self.copy(&mut bytes, 0)?;
            }
            if !self.take(b',')? {
                break;
            }
            bytes.push(b',');
        }
        self.copy(&mut bytes, 1)?;
        Ok(Some(self.line(bytes)))
    }

    /// What stands in an object behind its list of rows.
    fn rest(&mut self, list: &str) -> Result<()> {
        let mut scratch = Vec::new();
        while self.take(b',')? {
            scratch.clear();
            if self.peek()? != Some(b'"') || !self.copy(&mut scratch, 0)? || !self.take(b':')? {
                return Err(self.fault("a key is wanted behind a comma of an object"));
            }
            let key = key(&scratch);
            scratch.clear();
            let inside = usize::from(self.take(b'[')?);
            if inside == 1 && self.peek()? == Some(b'{') {
                return Err(Error::input(format!(
                    "the object holds two lists of rows: `{list}` and `{key}`"
                ))
                .at(Place::file(&self.path))
                .hint("make a file of each"));
            }
            self.copy(&mut scratch, inside)?;
        }
        if !self.take(b'}')? {
            return Err(self.fault("an object does not end: is the file cut off?"));
        }
        match self.peek()? {
            None => Ok(()),
            Some(_) => Err(self.fault("something stands behind the object that holds the rows")),
        }
    }

    fn read(&mut self) -> Result<Option<Line>> {
        loop {
            if matches!(self.state, State::Done) {
                return Ok(None);
            }
            let next = self.peek()?;
            match (&mut self.state, next) {
                (State::Done, _) | (State::Start | State::Between, None) => return Ok(None),
                (State::List { .. }, None) => {
                    return Err(self.fault("the list does not end: is the file cut off?"));
                }
                (State::Start, Some(b'{')) => {
                    self.state = State::Between;
                    if let Some(row) = self.object()? {
                        return Ok(Some(row));
                    }
                }
                (State::Start | State::Between, Some(b'[')) => {
                    self.reader.consume(1);
                    self.state = State::List { first: true, of: None };
                }
                (State::List { of, .. }, Some(b']')) => {
                    let of = of.take();
                    self.reader.consume(1);
                    self.state = State::Between;
                    if let Some(key) = of {
                        self.state = State::Done;
                        self.rest(&key)?;
                    }
                }
                (State::List { first, .. }, Some(byte)) if *first || byte == b',' => {
                    if !std::mem::take(first) {
                        self.reader.consume(1);
                    }
                    return match self.peek()? {
                        None | Some(b',' | b':' | b']' | b'}') => Err(self.fault("a value is wanted here")),
                        Some(_) => self.row(),
                    };
                }
                (State::List { .. }, Some(_)) => {
                    return Err(self.fault("a comma is wanted between two rows of a list"));
                }
                (State::Start | State::Between, Some(b',' | b':' | b']' | b'}')) => {
                    return Err(self.fault("a value is wanted here"));
                }
                (State::Start | State::Between, Some(_)) => {
                    self.state = State::Between;
                    return self.row();
                }
            }
        }
    }
}

impl Iterator for JsonRows {
    type Item = Result<Line>;
    fn next(&mut self) -> Option<Self::Item> {
        let read = self.read();
        if read.is_err() {
            self.state = State::Done;
        }
        read.transpose()
    }
}

/// A key as its text, as far as it is one.
fn key(quoted: &[u8]) -> String {
    serde_json::from_slice(quoted).unwrap_or_default()
}

/// How far into a value a copy has come.
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Scan {
    /// Copies what of a chunk belongs to the value: how many bytes were used, and whether it ended.
    fn copy(&mut self, chunk: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                let rest = &chunk[at..];
                let plain = rest.iter().position(|b| matches!(b, b'"' | b'\\')).unwrap_or(rest.len());
                out.extend_from_slice(&rest[..plain]);
                at += plain;
                match chunk.get(at) {
                    None => break,
                    Some(b'\\') => self.escaped = true,
                    Some(_) => self.in_string = false,
                }
                out.push(chunk[at]);
                at += 1;
                if !self.in_string && self.depth == 0 {
                    return (at, true);
                }
                continue;
            } else {
                match byte {
                    b'"' => self.in_string = true,
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' if self.depth > 0 => {
                        self.depth -= 1;
                        if self.depth == 0 {
                            out.push(byte);
                            return (at + 1, true);
                        }
                    }
                    // The end of a number or a word, which is no part of it.
                    b',' | b'}' | b']' if self.depth == 0 => return (at, true),
                    _ if byte.is_ascii_whitespace() => {
                        if self.depth == 0 {
                            return (at, true);
                        }
                        at += 1;
                        if out.last() != Some(&b' ') {
                            out.push(b' ');
                        }
                        continue;
                    }
                    _ => {}
                }
            }
            out.push(byte);
            at += 1;
        }
        (at, false)
    }
}

#[cfg(test)]
mod tests;
