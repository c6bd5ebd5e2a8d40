//! Documents of text files: a file is one, or lines, paragraphs or a marker divide it.
//!
//! Empty documents are left out; Markdown stays as it is. A row's number is the line where its document begins.

use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use super::super::config::TextSplit;
use super::super::jsonl::{Line, MAX_LINE_BYTES};
use super::bytes::{self, Bytes};
use super::row::RowText;
use crate::error::{Error, Place, Result};

/// Documents of a text file.
pub(super) struct Documents {
    path: PathBuf,
    reader: Bytes,
    split: Option<TextSplit>,
    /// The line that comes next, from 1.
    line: usize,
    /// What is read and in no document yet, where a marker divides.
    buffer: Vec<u8>,
    done: bool,
}

impl Documents {
    pub(super) fn new(path: &Path, reader: Bytes, split: Option<TextSplit>) -> Self {
        Self { path: path.to_owned(), reader, split, line: 1, buffer: Vec::new(), done: false }
    }

    fn too_long(&self, line: usize) -> Error {
        let hint = match self.split {
            None => "divide it: `split: paragraph`, `line`, or a marker",
            Some(_) => "divide it by something that comes more often: see `split`",
        };
        let what = format!("a document longer than {} MiB", MAX_LINE_BYTES >> 20);
        Error::input(what).at(Place::line(&self.path, line)).hint(hint)
    }

    fn row(&self, number: usize, text: &[u8]) -> Result<Line> {
        let mut row = RowText::new();
        row.string("text", text);
        let bytes = row.finish();
        // Line ends and quotes take two bytes.
        match bytes.len() as u64 > MAX_LINE_BYTES {
            true => Err(self.too_long(number)),
            false => Ok(Line { number, bytes }),
        }
    }

    /// The next line with its end; empty at the end of the file.
    fn next_line(&mut self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_until(b'\n', &mut bytes);
        let read = read.map_err(|e| bytes::fault(Place::line(&self.path, self.line), e))?;
        if read as u64 > MAX_LINE_BYTES {
            return Err(self.too_long(self.line));
        }
        self.line += usize::from(read > 0);
        Ok(bytes)
    }

    fn whole(&mut self) -> Result<Option<Line>> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let mut text = Vec::new();
        let read = (&mut self.reader).take(MAX_LINE_BYTES + 1).read_to_end(&mut text);
        // What came before a fault tells its line.
        let line = |text: &[u8]| 1 + text.iter().filter(|byte| **byte == b'\n').count();
        read.map_err(|e| bytes::fault(Place::line(&self.path, line(&text)), e))?;
        if text.len() as u64 > MAX_LINE_BYTES {
            return Err(self.too_long(1));
        }
        (!is_blank(&text)).then(|| self.row(1, &text)).transpose()
    }

    fn by_line(&mut self) -> Result<Option<Line>> {
        loop {
            let (number, mut text) = (self.line, self.next_line()?);
            if text.is_empty() {
                return Ok(None);
            }
            cut_line_end(&mut text);
            if !is_blank(&text) {
                return self.row(number, &text).map(Some);
            }
        }
    }

    fn by_paragraph(&mut self) -> Result<Option<Line>> {
        let (mut number, mut text) = (self.line, Vec::new());
        loop {
            let line = self.next_line()?;
            if !is_blank(&line) {
                text.extend_from_slice(&line);
                if text.len() as u64 > MAX_LINE_BYTES {
                    return Err(self.too_long(number));
                }
            } else if !text.is_empty() {
                cut_line_end(&mut text);
                return self.row(number, &text).map(Some);
            } else if line.is_empty() {
                return Ok(None);
            } else {
                number = self.line;
            }
        }
    }

    fn by_marker(&mut self, marker: &[u8]) -> Result<Option<Line>> {
        loop {
            let Some(text) = self.until(marker)? else { return Ok(None) };
            let count = |text: &[u8]| text.iter().filter(|byte| **byte == b'\n').count();
            let start = self.line;
            self.line += count(&text) + count(marker);
            let begin = text.iter().position(|byte| !matches!(byte, b'\n' | b'\r')).unwrap_or(text.len());
            let end = text.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(begin, |at| at + 1);
            if !is_blank(&text) {
                return self.row(start + count(&text[..begin]), &text[begin..end]).map(Some);
            }
        }
    }

    /// What stands before the next marker, which is taken too; the rest of the file where there is none.
    fn until(&mut self, marker: &[u8]) -> Result<Option<Vec<u8>>> {
        let mut looked_at = 0;
        loop {
            if let Some(at) = find(&self.buffer[looked_at..], marker) {
                let rest = self.buffer.split_off(looked_at + at + marker.len());
                let mut text = std::mem::replace(&mut self.buffer, rest);
                text.truncate(looked_at + at);
                return Ok(Some(text));
            }
            if self.done {
                let text = std::mem::take(&mut self.buffer);
                return Ok((!text.is_empty()).then_some(text));
            }
            if self.buffer.len() as u64 > MAX_LINE_BYTES {
                return Err(self.too_long(self.line));
            }
            looked_at = (self.buffer.len() + 1).saturating_sub(marker.len());
            let chunk = self.reader.fill_buf().map_err(|e| {
                let lines = self.buffer.iter().filter(|byte| **byte == b'\n').count();
                bytes::fault(Place::line(&self.path, self.line + lines), e)
            })?;
            self.buffer.extend_from_slice(chunk);
            let read = chunk.len();
            self.done = read == 0;
            self.reader.consume(read);
        }
    }
}

impl Iterator for Documents {
    type Item = Result<Line>;
    fn next(&mut self) -> Option<Self::Item> {
        let found = match self.split.clone() {
            None => self.whole(),
            Some(TextSplit::Line) => self.by_line(),
            Some(TextSplit::Paragraph) => self.by_paragraph(),
            Some(TextSplit::Marker(marker)) => self.by_marker(marker.as_bytes()),
        };
        found.transpose()
    }
}

fn is_blank(text: &[u8]) -> bool {
    text.iter().all(u8::is_ascii_whitespace)
}

fn cut_line_end(text: &mut Vec<u8>) {
    text.pop_if(|last| *last == b'\n');
    text.pop_if(|last| *last == b'\r');
}

/// Where a marker begins.
fn find(text: &[u8], marker: &[u8]) -> Option<usize> {
    let first = *marker.first()?;
    let mut at = 0;
    while let Some(next) = text[at..].iter().position(|byte| *byte == first) {
        at += next;
        if text[at..].starts_with(marker) {
            return Some(at);
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Cursor};

    fn documents(text: &str, split: Option<TextSplit>) -> Vec<(usize, String)> {
        let read = |capacity: usize| {
            let reader = BufReader::with_capacity(capacity, Cursor::new(text.as_bytes().to_vec()));
            let all = Documents::new(Path::new("a.txt"), Box::new(reader), split.clone()).map(|line| {
                let line = line.unwrap();
                let row: serde_json::Value = serde_json::from_slice(&line.bytes).unwrap();
                (line.number, row["text"].as_str().unwrap().to_owned())
            });
            all.collect::<Vec<_>>()
        };
        let whole = read(1 << 16);
        assert_eq!(read(1), whole);
        assert_eq!(read(2), whole);
        whole
    }

    fn is(found: &[(usize, String)], wanted: &[(usize, &str)]) {
        let found: Vec<(usize, &str)> = found.iter().map(|(at, text)| (*at, text.as_str())).collect();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_text_is_divided_as_asked() {
        let text = "\none \"1\"\r\nmore\u{1}\n\n \n\ttwo é\n\nend";
        is(&documents(text, None), &[(1, text)]);
        is(
            &documents(text, Some(TextSplit::Line)),
            &[(2, "one \"1\""), (3, "more\u{1}"), (6, "\ttwo é"), (8, "end")],
        );
        is(
            &documents(text, Some(TextSplit::Paragraph)),
            &[(2, "one \"1\"\r\nmore\u{1}"), (6, "\ttwo é"), (8, "end")],
        );
        let marked = "a\nb\n<|end|>\n\nc <|e <|end|><|end|>\nd\n";
        let end = || Some(TextSplit::Marker("<|end|>".into()));
        is(&documents(marked, end()), &[(1, "a\nb"), (5, "c <|e "), (6, "d")]);
        let rule = Some(TextSplit::Marker("\n---\n".into()));
        is(&documents("a\n---\nb\n---\n", rule), &[(1, "a"), (3, "b")]);
        for split in [None, Some(TextSplit::Line), Some(TextSplit::Paragraph), end()] {
            assert!(documents(" \n\n", split.clone()).is_empty(), "{split:?}");
        }
    }
}
