//! A conversation to ids with labels: which tokens an SFT step learns.
//!
//! Ports upstream's SFT data set. The random changes (a system prompt put in front, the chance that empty
//! think blocks go) are the caller's, who owns the generator; here is what they decide about.

use serde_json::Value;

use super::{RenderOptions, Tokenizer};
use crate::data::IGNORE;
use crate::data::jsonl::RowFault;
use crate::error::{Error, Result};

/// What a template writes for a turn without thoughts.
pub const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

/// The whole text of a row `{"conversations": [...]}`.
///
/// `tools` (or the older `functions`) on the system message and `tool_calls` may be JSON strings.
pub fn render_conversation(tokenizer: &Tokenizer, row: &Value) -> Result<String> {
    let (messages, tools) = prepare(row)?;
    tokenizer.render(&messages, tools.as_ref(), RenderOptions::default())
}

/// The messages and tools of a row, JSON strings parsed, as a template wants them.
pub fn prepare(row: &Value) -> Result<(Value, Option<Value>)> {
    let conversation = row["conversations"].as_array().ok_or_else(|| {
        Error::input("the row has no `conversations` list")
            .hint(r#"a row is {"conversations": [{"role": "user", "content": "..."}, ...]}"#)
    })?;
    let mut tools = None;
    let mut messages = Vec::with_capacity(conversation.len());
    for message in conversation {
        let mut message = message.clone();
        let fields = message
            .as_object_mut()
            .ok_or_else(|| Error::input("a message of `conversations` is not an object"))?;
        if fields.get("role").and_then(Value::as_str) == Some("system") {
            for key in ["tools", "functions"] {
                if let Some(value) = fields.get(key).filter(|value| is_given(value)) {
                    tools = Some(parsed(key, value)?);
                    break;
                }
            }
        }
        if let Some(calls) = fields.get("tool_calls").filter(|value| is_given(value)) {
            let calls = parsed("tool_calls", calls)?;
            fields.insert("tool_calls".to_owned(), calls);
        }
        messages.push(message);
    }
    Ok((Value::Array(messages), tools))
}

/// The fault of a row that [`prepare`] or a template does not take.
pub(crate) fn row_fault(error: &Error) -> RowFault {
    RowFault::new(error.what(), "write `tools` and `tool_calls` as JSON, or as JSON in a string")
}

/// Python's truth: null, "", [] and {} are not given.
pub(crate) fn is_given(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn parsed(key: &str, value: &Value) -> Result<Value> {
    let Value::String(text) = value else { return Ok(value.clone()) };
    serde_json::from_str(text).map_err(|error| {
        Error::input(format!("`{key}` is a string that is not JSON"))
            .because(error)
            .hint(format!("write `{key}` as JSON, or as JSON in a string"))
    })
}

/// The text without its empty think blocks, all of them, unless `keep`.
pub fn remove_empty_think(text: String, keep: bool) -> String {
    if keep || !text.contains(EMPTY_THINK) { text } else { text.replace(EMPTY_THINK, "") }
}

/// The label of each id: itself in an assistant's answer up to and with `<eos>\n`, [`IGNORE`] elsewhere.
///
/// An answer that the cut left open is learned to the end of `ids`.
pub fn sft_labels(tokenizer: &Tokenizer, ids: &[u32]) -> Vec<i64> {
    let (open, close) = (tokenizer.answer_open.as_slice(), tokenizer.answer_close.as_slice());
    let mut labels = vec![IGNORE; ids.len()];
    if open.is_empty() || close.is_empty() {
        return labels;
    }
    let mut i = 0;
    while i < ids.len() {
        if !ids[i..].starts_with(open) {
            i += 1;
            continue;
        }
        let start = i + open.len();
        let end = ids[start..]
            .windows(close.len())
            .position(|window| window == close)
            .map_or(ids.len(), |found| start + found + close.len());
        for j in start..end {
            labels[j] = i64::from(ids[j]);
        }
        i = end;
    }
    labels
}
