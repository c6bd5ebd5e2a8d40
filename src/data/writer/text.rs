//! Text files: the `text` of rows, with something between them that no text holds.

use std::io::Write;
use std::path::Path;

use super::{OutRow, Written};
use crate::data::config::TextSplit;
use crate::data::jsonl::{self, RowFault};
use crate::error::{Error, Result};

/// Names that a note lists at most.
const MOST_NAMES: usize = 20;

/// Writes the texts of rows.
pub(super) fn write(
    path: &Path,
    rows: impl Iterator<Item = Result<OutRow>>,
    split: Option<&TextSplit>,
    out: &mut dyn Write,
) -> Result<Written> {
    let (mut written, mut others, mut cut) = (Written::default(), Vec::new(), 0usize);
    for row in rows {
        let OutRow { place, bytes } = row?;
        let text = text_of(&bytes, &mut others).map_err(|fault| fault.into_error().at(place.clone()))?;
        let whole = text.len();
        let text = match split {
            Some(_) => text.trim_matches(['\n', '\r']),
            None => &text,
        };
        cut += usize::from(text.len() < whole);
        check(text, split, written.rows).map_err(|fault| fault.into_error().at(place))?;
        let between = match split {
            _ if written.rows == 0 => "",
            Some(TextSplit::Line) | None => "\n",
            Some(TextSplit::Paragraph) => "\n\n",
            Some(TextSplit::Marker(marker)) => &format!("\n{marker}\n"),
        };
        out.write_all(between.as_bytes())
            .and_then(|()| out.write_all(text.as_bytes()))
            .map_err(|e| Error::io("write", path, e))?;
        written.rows += 1;
    }
    if written.rows > 0 && split.is_some() {
        out.write_all(b"\n").map_err(|e| Error::io("write", path, e))?;
    }
    if cut > 0 {
        written.notes.push(format!("line ends around {cut} texts are left out"));
    }
    if !others.is_empty() {
        written.notes.push(format!("a text file holds text alone; left out: {}", others.join(", ")));
    }
    Ok(written)
}

/// A row's `text`; the names of its other keys go into `others`.
fn text_of(bytes: &[u8], others: &mut Vec<String>) -> Result<String, RowFault> {
    let row = jsonl::parse(bytes)?;
    let keys = || row.as_object().into_iter().flat_map(|row| row.keys());
    let Some(text) = row["text"].as_str() else {
        let keys: Vec<_> = keys().map(String::as_str).collect();
        return Err(RowFault::new(
            format!("a text file holds texts; the row has the keys {}", keys.join(", ")),
            "`--to text` writes what its turns say; .jsonl holds any row",
        ));
    };
    for key in keys().filter(|key| *key != "text") {
        let name = format!("`{key}`");
        if others.len() < MOST_NAMES && !others.contains(&name) {
            others.push(name);
        }
    }
    Ok(text.to_owned())
}

/// Whether the text comes back as one document.
fn check(text: &str, split: Option<&TextSplit>, before: usize) -> Result<(), RowFault> {
    let fault = |what: &str, hint| Err(RowFault::new(what, hint));
    match split {
        None if before > 0 => fault(
            "a second text: a text file holds one unless something stands between them",
            "say what: --split line, --split paragraph or --split marker",
        ),
        _ if text.trim_ascii().is_empty() => {
            fault("an empty text, which a text file cannot hold", "leave the row out, or write .jsonl")
        }
        Some(TextSplit::Line) if text.contains('\n') => fault(
            "the text has several lines, and each line of the file is a document",
            "--split paragraph or --split marker puts something else between texts",
        ),
        Some(TextSplit::Paragraph) if text.split('\n').any(|line| line.trim_ascii().is_empty()) => fault(
            "the text has an empty line, and those stand between the documents of the file",
            "--split marker puts that between texts",
        ),
        Some(TextSplit::Marker(marker)) if text.contains(marker.as_str()) => fault(
            "the text holds the marker that stands between the documents of the file",
            "choose another with --split",
        ),
        _ => Ok(()),
    }
}
