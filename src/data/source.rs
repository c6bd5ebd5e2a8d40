//! Rows as they stand in a source, before any tokenizer: for the tokenizer stage, questions, and looking.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::config::{DataConfig, DataFormat, DataSource, OnBadRow};
use super::jsonl::{self, Lines, RowError, RowFault};
use super::synthetic::{self, SyntheticKind};
use super::tokenizer::{ChatTemplate, RenderOptions, chat_row, train};
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

/// Every row of a source in order, not tokenised.
///
/// # Errors
/// A file cannot be opened. Bad rows come as errors of the iterator, unless they are skipped.
pub fn rows(config: &DataConfig) -> Result<RowIter> {
    let paths = match &config.source {
        DataSource::Synthetic(world) => {
            let kind = SyntheticKind::of(config.format);
            return Ok(Box::new(synthetic::rows(world, kind).map(Ok)));
        }
        DataSource::Paths(paths) => paths,
    };
    let skip = config.on_bad_row == OnBadRow::Skip;
    let files = paths.iter().map(|path| file_rows(path.clone(), skip)).collect::<Result<Vec<_>>>()?;
    Ok(Box::new(files.into_iter().flatten()))
}

/// The text of every row: its `text`, or what its messages say. For a row with tools, all that our chat template makes of
/// it: definitions and calls are most of what a model reads there.
///
/// # Errors
/// As [`rows`].
pub fn texts(config: &DataConfig) -> Result<impl Iterator<Item = Result<String>> + use<>> {
    let place = match &config.source {
        DataSource::Paths(paths) if paths.len() == 1 => Some(paths[0].clone()),
        _ => None,
    };
    let skip = config.on_bad_row == OnBadRow::Skip;
    let template = train::template()?;
    Ok(rows(config)?.enumerate().filter_map(move |(i, row)| {
        let text = row.map_err(RowError::Failed).and_then(|row| Ok(row_text(&row, &template)?));
        match text {
            Err(RowError::Bad(_)) if skip => None,
            text => {
                Some(text.map_err(|error| error.at(place.as_deref().unwrap_or(Path::new("data")), i + 1)))
            }
        }
    }))
}

fn row_text(row: &Value, template: &ChatTemplate) -> Result<String, RowFault> {
    if let Some(text) = row["text"].as_str() {
        return Ok(text.to_owned());
    }
    let turns = row["conversations"].as_array().ok_or_else(|| {
        RowFault::new(
            "the row has neither `text` nor `conversations`",
            r#"a row is {"text": "..."} or {"conversations": [{"role": "user", "content": "..."}]}"#,
        )
    })?;
    let has_tools = |turn: &Value| {
        let keys: &[&str] = if turn["role"] == "system" { &["tools", "functions"] } else { &["tool_calls"] };
        keys.iter().any(|key| turn.get(key).is_some_and(chat_row::is_truthy))
    };
    let beside =
        |key: &&str| row.get(key).is_some_and(|t| chat_row::is_truthy(t) && !chat_row::lists_tool_names(t));
    if turns.iter().any(has_tools) || chat_row::TOOL_KEYS.iter().any(beside) {
        let rendered = chat_row::messages_and_tools(row).and_then(|(messages, tools)| {
            template.render(&messages, tools.as_ref(), RenderOptions::default(), &BTreeMap::new())
        });
        return Ok(train::without_reserved(rendered.map_err(|e| chat_row::row_fault(&e))?));
    }
    Ok(turns.iter().filter_map(|turn| turn["content"].as_str()).collect::<Vec<_>>().join("\n"))
}

/// A file's format by its first row, and whether that row holds an `answer` to check against.
///
/// # Errors
/// The file cannot be read or holds no row.
pub fn detect_format(path: &Path) -> Result<(DataFormat, bool)> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Ok((DataFormat::Tokens, false));
    }
    let Some(row) = file_rows(path.to_owned(), false)?.next().transpose()? else {
        return Err(crate::error::Error::input("the file holds no row")
            .at(crate::error::Place::file(path))
            .hint("one JSON object a line"));
    };
    Ok((format_of_row(&row).unwrap_or(DataFormat::Text), row.get("answer").is_some()))
}

/// Whether a file's first row is a sum in words with its answer: `gt`, or `question` and `answer` without choices.
pub fn is_math(path: &Path) -> bool {
    if !path.is_file() || path.extension().is_some_and(|e| e == "safetensors") {
        return false;
    }
    let first = file_rows(path.to_owned(), false).ok().and_then(|mut rows| rows.next()?.ok());
    first.is_some_and(|row| {
        let given = |field: &str| row.get(field).is_some_and(chat_row::is_truthy);
        given("gt") || (given("question") && given("answer") && !given("choices") && !given("conversations"))
    })
}

/// The format that a row's fields show.
pub fn format_of_row(row: &Value) -> Option<DataFormat> {
    let has = |field: &str| row.get(field).is_some();
    if has("conversations") {
        Some(DataFormat::Chat)
    } else if has("chosen") || has("rejected") {
        Some(DataFormat::Preference)
    } else {
        has("text").then_some(DataFormat::Text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_with_tools_are_read_as_the_model_reads_them() {
        let template = train::template().unwrap();
        let said = |text: &str| row_text(&serde_json::from_str(text).unwrap(), &template);
        let plain =
            r#"{"conversations": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
        assert_eq!(said(plain).unwrap(), "a\nb");
        let none =
            plain.replace("\"b\"", "\"b\", \"tool_calls\": []").replace("\"a\"", "\"a\", \"tools\": \"\"");
        assert_ne!(none, plain);
        assert_eq!(said(&none).unwrap(), "a\nb");
        let tools = r#"{"conversations": [{"role": "system", "content": "", "tools": "[{\"name\": \"add\"}]"},
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "", "tool_calls": "[{\"name\": \"add\", \"arguments\": {\"x\": 1}}]"}]}"#;
        let text = said(tools).unwrap();
        for part in [r#"{"name": "add"}"#, r#"{"x": 1}"#, "function signatures"] {
            assert!(text.contains(part), "{text}");
        }
        assert!(!text.contains("<|im_start|>") && !text.contains("<tool_call>"), "{text}");
        let broken = tools.replace("[{\\\"name\\\": \\\"add\\\"}]", "{");
        assert_ne!(broken, tools);
        assert!(said(&broken).is_err());
    }
}
