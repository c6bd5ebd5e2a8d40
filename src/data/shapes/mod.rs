//! Rows in the keys that people use elsewhere, as rows in MiniMind's own: `text`, `conversations`, `chosen` and `rejected`.
//!
//! A row that has MiniMind's keys stays as it is. Rows are looked at one by one, so a file may mix shapes. In reading order:
//! `shape` (their names), `keys` (which shape a row has), `turns` (messages and turns of all forms), `read` and `write`
//! (conversion there and back). Next: `chat`, `text` and `preference`, which tokenise the result.

mod columns;
mod keys;
mod read;
mod shape;
mod tally;
#[cfg(test)]
mod tests;
mod turns;
mod write;

use serde_json::{Map, Value};

pub use columns::{COLUMNS, is_column};
use keys::{Found, find, nearest};
use read::{Content, read};
pub use shape::Shape;
pub use tally::Tally;
pub use write::write;

use super::config::{DataFormat, ReadOptions};
use super::jsonl::{self, RowFault};
use super::source;

/// The JSON text of a row as the row that `format` reads.
///
/// # Errors
/// The text is not a JSON object, or the row has no shape that carries what the format needs.
pub fn parse(bytes: &[u8], format: DataFormat, options: &ReadOptions) -> Result<Value, RowFault> {
    convert(jsonl::parse(bytes)?, format, options)
}

/// A row of any known shape as the row that `format` reads. Keys that have nothing to do with it stay, for rewards.
///
/// # Errors
/// The row has no shape that carries what the format needs.
pub fn convert(row: Value, format: DataFormat, options: &ReadOptions) -> Result<Value, RowFault> {
    named(row, format, options).map(|(_, row)| row)
}

/// As [`convert`], with the shape that the row was read as; `None` where it stays as it is.
fn named(row: Value, format: DataFormat, options: &ReadOptions) -> Result<(Option<Shape>, Value), RowFault> {
    if options.columns.is_empty() && is_own(&row, format) {
        return Ok((None, row));
    }
    let Value::Object(map) = row else { return Ok((None, row)) };
    let renamed = columns::rename(&map, &options.columns)?;
    let fields = renamed.as_ref();
    let Some(Found { shape, fields: own }) = find(fields, &options.columns, format) else {
        // MiniMind's own keys with something else in them: the format's reader says what is wrong with it.
        if own_keys(format).iter().any(|key| fields.contains_key(*key)) {
            return Ok((None, Value::Object(renamed.into_owned())));
        }
        return Err(nearest(fields, format));
    };
    let content = read(shape, &own)?;
    let mut row = renamed.into_owned();
    carry(shape, content, format, &mut row)?;
    Ok((Some(shape), Value::Object(row)))
}

/// The shape of a row by its keys, as a stage that reads `format` takes it; `None` where it fits none.
pub fn shape_of(row: &Value, format: DataFormat, options: &ReadOptions) -> Option<Shape> {
    let renamed = columns::rename(row.as_object()?, &options.columns).ok()?;
    find(renamed.as_ref(), &options.columns, format).map(|found| found.shape)
}

/// The format that holds all of a row, for commands that know no stage; `None` where its shape is not known.
pub fn format_of(row: &Value, options: &ReadOptions) -> Option<DataFormat> {
    shape_of(row, DataFormat::Chat, options).map(Shape::format)
}

/// MiniMind's own keys of a format.
fn own_keys(format: DataFormat) -> &'static [&'static str] {
    match format {
        DataFormat::Text | DataFormat::Tokens => &["text"],
        DataFormat::Chat => &["conversations"],
        DataFormat::Preference => &["chosen", "rejected"],
        DataFormat::Prompts | DataFormat::Agent => &["conversations", "prompt"],
    }
}

/// Whether a row is in MiniMind's own form already, so that not a bit of it changes.
fn is_own(row: &Value, format: DataFormat) -> bool {
    let Value::Object(fields) = row else { return false };
    let list = |key: &str| row[key].as_array().filter(|list| list.iter().all(turns::is_plain));
    match format {
        DataFormat::Text | DataFormat::Tokens => row["text"].is_string(),
        DataFormat::Chat => list("conversations").is_some() && row.get("label").is_none() && !has_pair(row),
        DataFormat::Agent => list("conversations").is_some() && row.get("gt").is_some(),
        DataFormat::Prompts => {
            list("conversations").is_some() && (has_answer(fields) || keys::answer(fields).is_none())
        }
        DataFormat::Preference => {
            let whole =
                |key| list(key).is_some_and(|list| list.first().is_some_and(|m| m["role"] != "assistant"));
            whole("chosen") && whole("rejected")
        }
    }
}

fn has_pair(row: &Value) -> bool {
    row.get("chosen").is_some() && row.get("rejected").is_some()
}

fn has_answer(row: &Map<String, Value>) -> bool {
    row.contains_key("gt") || row.contains_key("answer")
}

/// Puts the content of a row under the keys of `format`.
fn carry(
    shape: Shape,
    content: Content,
    format: DataFormat,
    row: &mut Map<String, Value>,
) -> Result<(), RowFault> {
    let lacks = |what: &str, hint: &'static str| {
        Err(RowFault::new(format!("the row is of shape {}, which has {what}", shape.name()), hint))
    };
    match format {
        DataFormat::Text | DataFormat::Tokens => {
            let text = match content {
                Content::Text(text) => text,
                Content::Joined(text, _) => text,
                Content::Chat(turns) | Content::Question(turns) => said(turns, row)?,
                Content::Pair { chosen, .. } => said(chosen, row)?,
                Content::Unpaired { turns, good: true } => said(turns, row)?,
                Content::Unpaired { .. } => return Err(unwanted()),
            };
            row.insert("text".into(), text.into());
        }
        DataFormat::Chat => {
            let turns = match content {
                Content::Chat(turns) | Content::Joined(_, turns) => turns,
                Content::Pair { chosen, .. } => chosen,
                Content::Unpaired { turns, good: true } => turns,
                Content::Unpaired { .. } => return Err(unwanted()),
                Content::Question(_) => {
                    return lacks(
                        "no answer to learn",
                        "add the answer, as `response` say, or name its column: data: {columns: {response: NAME}}",
                    );
                }
                Content::Text(_) => {
                    return lacks(
                        "no `conversations`: no question and no answer",
                        "texts are for pretrain; a conversation is {\"messages\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}",
                    );
                }
            };
            row.insert("conversations".into(), turns.into());
        }
        DataFormat::Preference => {
            let Content::Pair { chosen, rejected } = content else {
                return lacks(
                    "one answer, not a better and a worse one",
                    "a preference row is {\"prompt\", \"chosen\", \"rejected\"}",
                );
            };
            row.insert("chosen".into(), chosen.into());
            row.insert("rejected".into(), rejected.into());
        }
        DataFormat::Prompts | DataFormat::Agent => {
            let turns = match content {
                Content::Chat(turns) | Content::Question(turns) | Content::Joined(_, turns) => turns,
                Content::Pair { chosen, .. } => chosen,
                Content::Unpaired { turns, .. } => turns,
                Content::Text(_) => {
                    return lacks("no question", "a prompt is {\"prompt\": \"...\"} or a conversation");
                }
            };
            let wanted = if format == DataFormat::Agent { !row.contains_key("gt") } else { !has_answer(row) };
            if wanted && let Some(answer) = keys::answer(row) {
                row.insert("gt".into(), answer);
            }
            row.insert("conversations".into(), turns.into());
        }
    }
    Ok(())
}

fn unwanted() -> RowFault {
    RowFault::new(
        "`label` is false: nobody should learn this answer",
        "data.on_bad_row: skip leaves unwanted answers out",
    )
}

/// What a conversation says, as text.
fn said(turns: Vec<Value>, row: &Map<String, Value>) -> Result<String, RowFault> {
    let mut chat = Map::new();
    chat.insert("conversations".into(), turns.into());
    for key in super::tokenizer::chat_row::TOOL_KEYS {
        chat.extend(row.get(key).map(|tools| (key.to_owned(), tools.clone())));
    }
    source::conversation_text(&Value::Object(chat))
}

/// A list of keys for a message.
fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}
