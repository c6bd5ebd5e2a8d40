//! The rows of a csv or tsv file: the first record names the columns.
//!
//! A cell is a string. One that holds a JSON list or object is that, unless its column holds plain text: an answer may be
//! `[1, 2]`. A row's number is the line where its record begins.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use csv_core::ReadRecordResult;
use serde_json::Value;

use super::super::config::ReadOptions;
use super::super::jsonl::{Line, MAX_LINE_BYTES};
use super::bytes::{self, Bytes};
use super::row::RowText;
use crate::error::{Error, Place, Result};

/// More are no table of ours.
const MOST_CELLS: usize = 1 << 14;

/// Columns whose cells are text whatever they look like.
const TEXTS: [&str; 20] = [
    "text",
    "content",
    "raw_content",
    "instruction",
    "input",
    "output",
    "system",
    "question",
    "answer",
    "response",
    "query",
    "solution",
    "goal",
    "sol1",
    "sol2",
    "ctx",
    "ctx_a",
    "ctx_b",
    "activity_label",
    "explanation",
];
/// Columns whose cells are texts or lists of messages.
const MESSAGES: [&str; 4] = ["prompt", "completion", "chosen", "rejected"];

/// What a column's cells may be beside strings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cells {
    Text,
    Messages,
    Any,
}

impl Cells {
    fn of(name: &str, options: &ReadOptions) -> Self {
        let standard = options.columns.iter().find(|(_, own)| *own == name).map_or(name, |(known, _)| known);
        let standard = standard.to_ascii_lowercase();
        // Choices of exams stand below single letters.
        if standard.len() == 1 || TEXTS.contains(&standard.as_str()) {
            Self::Text
        } else if MESSAGES.contains(&standard.as_str()) {
            Self::Messages
        } else {
            Self::Any
        }
    }

    /// The JSON of a cell that is no string.
    fn value(self, cell: &[u8]) -> Option<Value> {
        let cell = cell.trim_ascii();
        let ends = (cell.first(), cell.last());
        if self == Self::Text || !matches!(ends, (Some(b'['), Some(b']')) | (Some(b'{'), Some(b'}'))) {
            return None;
        }
        let value: Value = serde_json::from_slice(cell).ok()?;
        let is_message = |value: &Value| value.get("role").or_else(|| value.get("from")).is_some();
        let messages = || value.as_array().and_then(|list| list.first()).is_some_and(is_message);
        // LLaMA-Factory's preferences hold one message in a cell.
        let message = ["content", "value"].iter().any(|key| value.get(*key).is_some()) && is_message(&value);
        (self == Self::Any || message || messages()).then_some(value)
    }
}

/// Rows of a table.
pub(super) struct TableRows {
    path: PathBuf,
    bytes: Bytes,
    parser: csv_core::Reader,
    /// The cells of the record at hand, one behind the other, and where each ends.
    cells: Vec<u8>,
    ends: Vec<usize>,
    /// Line ends between records, which the parser does not see.
    between: u64,
    heads: Option<Vec<(String, Cells)>>,
    options: ReadOptions,
    done: bool,
}

impl TableRows {
    pub(super) fn new(path: &Path, bytes: Bytes, options: &ReadOptions, delimiter: u8) -> Self {
        Self {
            path: path.to_owned(),
            bytes,
            parser: csv_core::ReaderBuilder::new().delimiter(delimiter).build(),
            cells: vec![0; 1 << 12],
            ends: vec![0; 32],
            between: 0,
            heads: None,
            options: options.clone(),
            done: false,
        }
    }

    fn line(&self) -> usize {
        (self.parser.line() + self.between) as usize
    }

    fn fault(&self, line: usize, what: impl Into<String>, hint: &str) -> Error {
        Error::input(what).at(Place::line(&self.path, line)).hint(hint)
    }

    /// Takes line ends before a record; says whether one follows.
    fn skip_line_ends(&mut self) -> Result<bool> {
        loop {
            let line = self.parser.line() + self.between;
            let fault = |e| bytes::fault(Place::line(&self.path, line as usize), e);
            let chunk = self.bytes.fill_buf().map_err(fault)?;
            let ends = chunk.iter().position(|b| !matches!(b, b'\r' | b'\n')).unwrap_or(chunk.len());
            let (empty, more) = (chunk.is_empty(), ends < chunk.len());
            self.between += chunk[..ends].iter().filter(|byte| **byte == b'\n').count() as u64;
            self.bytes.consume(ends);
            if more || empty {
                return Ok(more);
            }
        }
    }

    /// Reads the next record: its line and how many cells it has.
    fn record(&mut self) -> Result<Option<(usize, usize)>> {
        if !self.skip_line_ends()? {
            return Ok(None);
        }
        let line = self.line();
        let (mut made, mut count) = (0, 0);
        loop {
            let fault = |e| bytes::fault(Place::line(&self.path, line), e);
            let chunk = self.bytes.fill_buf().map_err(fault)?;
            let (cells, ends) = (&mut self.cells[made..], &mut self.ends[count..]);
            let (result, used, more, ended) = self.parser.read_record(chunk, cells, ends);
            self.bytes.consume(used);
            (made, count) = (made + more, count + ended);
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull if made as u64 >= MAX_LINE_BYTES => {
                    let what = format!("a record longer than {} MiB", MAX_LINE_BYTES >> 20);
                    return Err(self.fault(line, what, "is a quote never closed?"));
                }
                ReadRecordResult::OutputFull => self.cells.resize(self.cells.len() * 2, 0),
                ReadRecordResult::OutputEndsFull if count >= MOST_CELLS => {
                    let what = format!("a record of more than {MOST_CELLS} cells");
                    return Err(self.fault(line, what, "is this a table?"));
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
                ReadRecordResult::Record => return Ok(Some((line, count))),
                ReadRecordResult::End => return Ok(None),
            }
        }
    }

    /// The cells of the record that was read last.
    fn cells(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        (0..count).map(|i| &self.cells[if i == 0 { 0 } else { self.ends[i - 1] }..self.ends[i]])
    }

    fn heads(&mut self) -> Result<Vec<(String, Cells)>> {
        let mut heads: Vec<(String, Cells)> = Vec::new();
        let Some((line, count)) = self.record()? else { return Ok(heads) };
        for head in self.cells(count) {
            let head = std::str::from_utf8(head.trim_ascii()).map_err(|e| {
                let hint = "save the file as UTF-8, or name its encoding: `encoding: gbk`";
                self.fault(line, format!("not UTF-8: {e}"), hint)
            })?;
            if heads.iter().any(|(known, _)| known == head) {
                let hint = "the first line of a table names its columns, each once";
                return Err(self.fault(line, format!("two columns are named `{head}`"), hint));
            }
            heads.push((head.to_owned(), Cells::of(head, &self.options)));
        }
        Ok(heads)
    }

    fn read(&mut self) -> Result<Option<Line>> {
        let heads = match self.heads.take() {
            Some(heads) => heads,
            None => self.heads()?,
        };
        let row = self.row(&heads);
        self.heads = Some(heads);
        row
    }

    fn row(&mut self, heads: &[(String, Cells)]) -> Result<Option<Line>> {
        let Some((number, count)) = self.record()? else { return Ok(None) };
        if count != heads.len() {
            let named = heads.len();
            let what = format!(
                "the file is not csv: the record has {count} cells, the first line names {named} columns"
            );
            let hint = "put cells that hold commas, quotes or line ends in \"quotes\"";
            return Err(self.fault(number, what, hint));
        }
        let mut row = RowText::new();
        for ((name, cells), cell) in heads.iter().zip(self.cells(count)) {
            match cells.value(cell) {
                Some(value) => row.json(name, &value.to_string()),
                None => row.string(name, cell),
            }
        }
        Ok(Some(Line { number, bytes: row.finish() }))
    }
}

impl Iterator for TableRows {
    type Item = Result<Line>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let read = self.read();
        self.done = !matches!(read, Ok(Some(_)));
        read.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn rows(text: &str, delimiter: u8) -> Vec<String> {
        let options = ReadOptions {
            columns: [("answer".to_owned(), "Antwort".to_owned())].into(),
            ..Default::default()
        };
        let reader = Box::new(Cursor::new(text.as_bytes().to_vec()));
        let rows = TableRows::new(Path::new("a.csv"), reader, &options, delimiter);
        let text = |row: Result<Line>| match row {
            Ok(line) => format!("{} {}", line.number, String::from_utf8_lossy(&line.bytes)),
            Err(error) => error.to_string().lines().next().unwrap_or_default().to_owned(),
        };
        rows.map(text).collect()
    }

    #[test]
    fn records_become_rows_at_their_lines() {
        for end in ["\n", "\r\n"] {
            let text = "id, question\n\n1,\"a \"\"b\"\",\n\nc\"\n\n2,\n3,x".replace('\n', end);
            let wanted = [
                r#"3 {"id": "1", "question": "a \"b\",\n\nc"}"#,
                r#"7 {"id": "2", "question": ""}"#,
                r#"8 {"id": "3", "question": "x"}"#,
            ];
            let wanted = wanted.map(|row| row.replace("\\n", &end.replace('\r', "\\r").replace('\n', "\\n")));
            assert_eq!(rows(&text, b','), wanted, "{end:?}");
        }
        assert_eq!(rows("a\tb\n1,2\t\"3\"\n", b'\t'), [r#"2 {"a": "1,2", "b": "3"}"#]);
        assert!(rows("", b',').is_empty() && rows("a,b\n", b',').is_empty());
    }

    #[test]
    fn cells_that_hold_json_are_parsed_but_for_texts() {
        let messages = r#""[{""role"": ""user"", ""content"": ""1.50""}]""#;
        for (head, cell, value) in [
            ("messages", messages, r#"[{"role":"user","content":"1.50"}]"#),
            ("prompt", messages, r#"[{"role":"user","content":"1.50"}]"#),
            ("prompt", "\"[1, 2]\"", r#""[1, 2]""#),
            ("Antwort", messages, r#""[{\"role\": \"user\", \"content\": \"1.50\"}]""#),
            ("answer", "\"[1, 2]\"", r#""[1, 2]""#),
            ("A", "{}", r#""{}""#),
            ("gt", "\"[1, 2]\"", "[1,2]"),
            ("gt", "\"[1, 2\"", r#""[1, 2""#),
        ] {
            assert_eq!(rows(&format!("{head}\n{cell}\n"), b','), [format!(r#"2 {{"{head}": {value}}}"#)]);
        }
    }

    #[test]
    fn what_is_wrong_is_said_at_its_line() {
        assert_eq!(
            rows("a,b,c\n1,2,3\n\n1,2\n1,2,3\n", b',').last().map(String::as_str),
            Some(
                "error: a.csv:4: the file is not csv: the record has 2 cells, the first line names 3 columns"
            )
        );
        assert!(rows("a,a\n1,2\n", b',')[0].contains("a.csv:1: two columns are named `a`"));
    }
}
