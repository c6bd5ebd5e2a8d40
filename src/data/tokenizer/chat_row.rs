//! A row's conversation to messages, tools and text, and the labels that tokens around an answer give.
//!
//! Ports upstream's SFT data set. The random changes (a system prompt put in front, the chance that empty
//! think blocks go) are the caller's, who owns the generator; here is what they decide about. Next: `mask`,
//! which finds the answers in any template.

use serde_json::Value;

use super::{MaskedTokens, RenderOptions, Tokenizer};
use crate::data::jsonl::{RowError, RowFault, kind};
use crate::error::{Error, Result};

/// What a template writes for a turn without thoughts.
pub const EMPTY_THINK: &str = "<think>\n\n</think>\n\n";

/// The whole text of a row `{"conversations": [...]}`.
///
/// `tools` (or the older `functions`) on the system message and `tool_calls` may be JSON strings.
///
/// # Errors
/// As [`messages_and_tools`], or the template refuses the row.
pub fn render_conversation(tokenizer: &Tokenizer, row: &Value) -> Result<String> {
    let (messages, tools) = messages_and_tools(row)?;
    tokenizer.apply_chat_template(&messages, tools.as_ref(), RenderOptions::default())
}

/// The messages and tools of a row as a template wants them, JSON strings parsed.
///
/// Tools stand on the system message, as upstream has them, or beside the conversation, as most other data does.
///
/// # Errors
/// There is no list `conversations` of objects, or tools or calls are not JSON.
pub fn messages_and_tools(row: &Value) -> Result<(Value, Option<Value>)> {
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
            tools = find_tools(|key| fields.get(key))?.or(tools);
        }
        if let Some(calls) = fields.get("tool_calls").filter(|value| is_truthy(value)) {
            let calls = parse_if_text("tool_calls", calls)?;
            fields.insert("tool_calls".to_owned(), calls);
        }
        messages.push(message);
    }
    if tools.is_none() {
        tools = find_tools(|key| row.get(key))?;
    }
    Ok((Value::Array(messages), tools))
}

/// The keys that tools are given under.
pub(crate) const TOOL_KEYS: [&str; 2] = ["tools", "functions"];

/// Whether a row's `tools` only name tools of the stage, in place of describing them.
pub(crate) fn lists_tool_names(tools: &Value) -> bool {
    tools.as_array().is_some_and(|list| list.iter().any(Value::is_string))
}

fn find_tools<'a>(field: impl Fn(&str) -> Option<&'a Value>) -> Result<Option<Value>> {
    for key in TOOL_KEYS {
        if let Some(value) = field(key).filter(|value| is_truthy(value)) {
            let tools = parse_if_text(key, value)?;
            let list = tools.as_array().map_or(std::slice::from_ref(&tools), Vec::as_slice);
            if let Some(other) = list.iter().find(|tool| !tool.is_object()) {
                let what = format!("`{key}` holds {}, not the description of a tool", kind(other));
                return Err(Error::input(what));
            }
            return Ok(is_truthy(&tools).then_some(tools));
        }
    }
    Ok(None)
}

/// The fault of a row that [`messages_and_tools`] or a template does not take.
pub(crate) fn row_fault(error: &Error) -> RowFault {
    RowFault::new(error.what(), "write `tools` and `tool_calls` as JSON, or as JSON in a string")
}

/// The fault of a row that a template refuses, with the template's own words.
pub(crate) fn template_fault(error: &Error) -> RowFault {
    let said = error.cause().map(|said| format!(": {said}")).unwrap_or_default();
    RowFault::new(
        format!("{}{said}", error.what()),
        "change the row to what the template takes, or set data.on_bad_row: skip; `minimind data check --tokenizer` finds \
         all such rows",
    )
}

/// Python's `bool(value)`: null, false, "", [] and {} are not.
pub(crate) fn is_truthy(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        _ => true,
    }
}

fn parse_if_text(key: &str, value: &Value) -> Result<Value> {
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

/// Tokens and loss mask of a row's conversation, called `field` in messages; empty think blocks stay if `keep`.
///
/// # Errors
/// The row is bad; or there is no template, or which tokens are the assistant's cannot be told from it.
pub fn tokenize(
    tokenizer: &Tokenizer,
    field: &str,
    row: &Value,
    keep: bool,
) -> Result<MaskedTokens, RowError> {
    match messages_and_tools(row).map_err(|error| row_fault(&error))? {
        (Value::Array(messages), tools) => tokenizer.masked(field, &messages, tools.as_ref(), keep),
        _ => Err(Error::failed("messages are no list").into()),
    }
}

/// Which of `ids` carry loss: all from behind `open` up to and with `close`, and how many answers that is.
///
/// An answer that is left open is learned to the end of `ids`.
pub(super) fn mask_between(ids: &[u32], open: &[u32], close: &[u32]) -> (Vec<bool>, usize) {
    let (mut loss, mut answers) = (vec![false; ids.len()], 0);
    if open.is_empty() || close.is_empty() {
        return (loss, answers);
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
        loss[start..end].fill(true);
        answers += 1;
        i = end;
    }
    (loss, answers)
}
