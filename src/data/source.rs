//! Rows as they stand in a source, before any tokenizer: for the tokenizer stage, questions, and looking.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;

use super::config::{DataConfig, DataFormat, DataSource, OnBadRow, ReadOptions};
use super::jsonl::{self, Line, RowFault};
use super::reader::{self, RowReader};
use super::selection::{self, Filter};
use super::shapes;
use super::synthetic::{self, SyntheticKind};
use super::tokenizer::{ChatTemplate, RenderOptions, chat_row, train};
use crate::error::{Error, Place, Result};

/// The text of a row with its place. Its number is made unique over files by the file's place in the list (`NUMBER_BITS`).
pub struct SourceLines {
    /// The files, for places.
    pub files: Vec<PathBuf>,
    /// Every row in order.
    pub lines: RowReader,
}

/// The bits of a row's number that count within its file; those above are the file's place in the list.
const NUMBER_BITS: u32 = 40;

/// The file (its place in the list) and the number in it of a row of several files.
pub fn file_and_number(number: usize) -> (usize, usize) {
    (number >> NUMBER_BITS, number & ((1 << NUMBER_BITS) - 1))
}

/// The number of a row over several files, of which `file` is its file's place in the list.
pub fn number_of(file: usize, number: usize) -> usize {
    number | file << NUMBER_BITS
}

/// Every row of a source in order, as text. Files are opened as they are reached.
pub fn lines(source: &DataSource, format: DataFormat, options: &ReadOptions) -> SourceLines {
    match source {
        DataSource::Mixture(_) => {
            let fault = Error::failed("the parts of a mixture are read one by one");
            SourceLines { files: Vec::new(), lines: Box::new(std::iter::once(Err(fault))) }
        }
        DataSource::Synthetic(world) => {
            let rows = synthetic::rows(world, SyntheticKind::of(format)).enumerate();
            let lines = rows.map(|(i, row)| Ok(Line { number: i + 1, bytes: row.to_string().into_bytes() }));
            SourceLines { files: vec![PathBuf::from("synthetic")], lines: Box::new(lines) }
        }
        DataSource::Paths(paths) => {
            let options = options.clone();
            let each = paths.clone().into_iter().enumerate().flat_map(move |(i, path)| {
                let (lines, fault) = match reader::open(&path, &options) {
                    Ok(lines) => (Some(lines), None),
                    Err(error) => (None, Some(Err(error))),
                };
                let number = move |line: Line| Line { number: number_of(i, line.number), ..line };
                fault.into_iter().chain(lines.into_iter().flatten()).map(move |line| line.map(number))
            });
            SourceLines { files: paths.clone(), lines: Box::new(each) }
        }
    }
}

impl SourceLines {
    /// The place of a row.
    pub fn place(&self, number: usize) -> Place {
        let (file, number) = file_and_number(number);
        Place::line(&self.files[file], number)
    }
}

/// A row in MiniMind's keys, with its place.
#[derive(Debug, Clone)]
pub struct SourceRow {
    /// File and line.
    pub place: Place,
    /// The row.
    pub row: Value,
}

/// Rows in order.
pub type SourceRows = Box<dyn Iterator<Item = Result<SourceRow>>>;

/// Every row of a source in order, in MiniMind's keys, not tokenised; those that the source's selection takes. The parts of a
/// mixture follow one another.
///
/// # Errors
/// The first file cannot be opened. Others, and bad rows, come as errors of the iterator; bad rows are left out where they
/// are skipped.
pub fn rows(config: &DataConfig) -> Result<SourceRows> {
    if let DataSource::Mixture(_) = &config.source {
        let parts = config.parts().iter().map(rows).collect::<Result<Vec<_>>>()?;
        return Ok(Box::new(parts.into_iter().flatten()));
    }
    let Some(sample) = config.select.sample else { return unsampled_rows(config) };
    if let DataSource::Paths(paths) = &config.source
        && let Some(once) = paths.iter().find(|path| path.exists() && !path.is_file())
    {
        let what = "`sample` counts the rows first, and this can be read once";
        return Err(Error::input(what).at(Place::file(once)).hint("save it as a file"));
    }
    let mut all = 0;
    for row in unsampled_rows(config)? {
        row?;
        all += 1;
    }
    let rows = unsampled_rows(config)?;
    let Some(some) = selection::sampled(Some(sample), all) else { return Ok(rows) };
    let mut some = some.into_iter().peekable();
    let drawn = move |(place, row)| some.next_if(|next| *next as usize == place).map(|_| row);
    Ok(Box::new(rows.enumerate().filter_map(drawn)))
}

fn unsampled_rows(config: &DataConfig) -> Result<SourceRows> {
    if let DataSource::Paths(paths) = &config.source
        && let Some(first) = paths.first()
    {
        drop(reader::open(first, &config.read)?);
    }
    let (format, options) = (config.format, config.read.clone());
    let skip = config.on_bad_row == OnBadRow::Skip;
    let filter = Filter::new(&config.select.filter)?;
    let SourceLines { files, lines } = lines(&config.source, format, &options);
    let mut lines = lines.take(config.select.limit.unwrap_or(usize::MAX));
    Ok(Box::new(std::iter::from_fn(move || {
        loop {
            let line = match lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let (file, number) = file_and_number(line.number);
            let place = Place::line(&files[file], number);
            match shapes::parse(&line.bytes, format, &options) {
                Ok(row) if filter.by_text(&row).is_some() => {}
                Ok(row) => return Some(Ok(SourceRow { place, row })),
                Err(_) if skip => {}
                Err(fault) => return Some(Err(fault.into_error().at(place))),
            }
        }
    })))
}

/// The text of every row: its `text`, or what its messages say. For a row with tools, all that our chat template makes of
/// it: definitions and calls are most of what a model reads there.
///
/// # Errors
/// As [`rows`].
pub fn texts(config: &DataConfig) -> Result<impl Iterator<Item = Result<String>> + use<>> {
    let skip = config.on_bad_row == OnBadRow::Skip;
    Ok(rows(config)?.filter_map(move |row| {
        let row = match row {
            Ok(row) => row,
            Err(error) => return Some(Err(error)),
        };
        match conversation_text(&row.row) {
            Err(_) if skip => None,
            text => Some(text.map_err(|fault| fault.into_error().at(row.place))),
        }
    }))
}

/// What a row says: its text, or that of its conversation.
///
/// # Errors
/// Its tools or calls are not JSON.
pub(super) fn conversation_text(row: &Value) -> Result<String, RowFault> {
    static TEMPLATE: LazyLock<Option<ChatTemplate>> = LazyLock::new(|| train::template().ok());
    match &*TEMPLATE {
        Some(template) => row_text(row, template),
        None => Err(RowFault::new("the built-in chat template cannot be parsed", "this is a bug: report it")),
    }
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

/// The first row of a file as it stands.
fn first_row(path: &Path) -> Result<Option<Value>> {
    let Some(line) = reader::open(path, &ReadOptions::default())?.next().transpose()? else {
        return Ok(None);
    };
    jsonl::parse(&line.bytes).map(Some).map_err(|fault| fault.at(path, line.number))
}

/// A file's format by its first row, and whether that row holds an `answer` to check against.
///
/// # Errors
/// The file cannot be read or holds no row.
pub fn detect_format(path: &Path) -> Result<(DataFormat, bool)> {
    if path.extension().is_some_and(|e| e == "safetensors") {
        return Ok((DataFormat::Tokens, false));
    }
    let Some(row) = first_row(path)? else {
        return Err(Error::input("the file holds no row")
            .at(Place::file(path))
            .hint("one JSON object a line"));
    };
    Ok((
        shapes::format_of(&row, &ReadOptions::default()).unwrap_or(DataFormat::Text),
        row.get("answer").is_some(),
    ))
}

/// Whether a file's first row is a sum in words with its answer: `gt`, or `question` and `answer` without choices.
pub fn is_math(path: &Path) -> bool {
    if !path.is_file() || path.extension().is_some_and(|e| e == "safetensors") {
        return false;
    }
    first_row(path).ok().flatten().is_some_and(|row| {
        let given = |field: &str| row.get(field).is_some_and(chat_row::is_truthy);
        given("gt") || (given("question") && given("answer") && !given("choices") && !given("conversations"))
    })
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
