//! Rows as they stand in a source, before any tokenizer: for the tokenizer stage, questions, and looking.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::{DataConfig, DataFormat, DataSource, OnBadRow};
use super::jsonl::{self, Lines, RowFault};
use super::synthetic::{self, SyntheticKind};
use crate::error::Result;

/// Rows, or the fault of one.
pub type RowIter = Box<dyn Iterator<Item = Result<Value>>>;

/// The rows of a file, each with its line as place where it is bad.
fn file_rows(path: PathBuf, skip: bool) -> Result<impl Iterator<Item = Result<Value>>> {
    Ok(Lines::open(&path)?.filter_map(move |line| match line {
        Err(error) => Some(Err(error)),
        Ok(line) => match jsonl::parse(&line.bytes) {
            Ok(row) => Some(Ok(row)),
            Err(_) if skip => None,
            Err(fault) => Some(Err(fault.at(&path, line.number))),
        },
    }))
}

/// Every row of a source in order.
pub fn rows(config: &DataConfig) -> Result<RowIter> {
    let paths = match &config.source {
        DataSource::Synthetic(world) => {
            let kind = SyntheticKind::of(config.format != DataFormat::Text);
            return Ok(Box::new(synthetic::rows(world, kind).map(Ok)));
        }
        DataSource::Paths(paths) => paths,
    };
    let skip = config.on_bad_row == OnBadRow::Skip;
    let files = paths.iter().map(|path| file_rows(path.clone(), skip)).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(files.into_iter().flatten()))
}

/// The text of every row: its `text`, or what its turns say.
pub fn texts(config: &DataConfig) -> Result<impl Iterator<Item = Result<String>> + use<>> {
    let place = match &config.source {
        DataSource::Paths(paths) if paths.len() == 1 => Some(paths[0].clone()),
        _ => None,
    };
    let skip = config.on_bad_row == OnBadRow::Skip;
    Ok(rows(config)?.enumerate().filter_map(move |(i, row)| match row.map(|row| row_text(&row)) {
        Err(error) => Some(Err(error)),
        Ok(Ok(text)) => Some(Ok(text)),
        Ok(Err(_)) if skip => None,
        Ok(Err(fault)) => Some(Err(fault.at(place.as_deref().unwrap_or(Path::new("data")), i + 1))),
    }))
}

fn row_text(row: &Value) -> Result<String, RowFault> {
    if let Some(text) = row["text"].as_str() {
        return Ok(text.to_owned());
    }
    let turns = row["conversations"].as_array().ok_or_else(|| {
        RowFault::new(
            "the row has neither `text` nor `conversations`",
            r#"a row is {"text": "..."} or {"conversations": [{"role": "user", "content": "..."}]}"#,
        )
    })?;
    Ok(turns.iter().filter_map(|turn| turn["content"].as_str()).collect::<Vec<_>>().join("\n"))
}

/// A file's format, and whether its first row holds an `answer` to check against.
pub fn sniff(path: &Path) -> Result<(DataFormat, bool)> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Ok((DataFormat::Tokens, false));
    }
    let Some(row) = file_rows(path.to_owned(), false)?.next().transpose()? else {
        return Err(crate::error::Error::input("the file holds no row")
            .at(crate::error::Place::file(path))
            .hint("one JSON object a line"));
    };
    let format = if row.get("conversations").is_some() { DataFormat::Chat } else { DataFormat::Text };
    Ok((format, row.get("answer").is_some()))
}
