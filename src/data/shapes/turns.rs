//! Turns and messages of all forms as MiniMind's: `{role, content}` with `content` a text.

use serde_json::{Map, Value, json};

use crate::data::jsonl::{RowFault, kind};

/// Whether a turn is in MiniMind's form already.
pub(super) fn is_plain(turn: &Value) -> bool {
    turn.get("from").is_none() && !turn["content"].is_array()
}

/// A list of turns, `field` by name: messages, or ShareGPT's with `from` and `value`.
///
/// # Errors
/// A turn that is no object, or holds something else than text.
pub(super) fn turns(field: &str, list: &[Value]) -> Result<Vec<Value>, RowFault> {
    list.iter().enumerate().map(|(i, turn)| one(&format!("{field}[{i}]"), turn)).collect()
}

fn one(place: &str, turn: &Value) -> Result<Value, RowFault> {
    let Value::Object(turn) = turn else {
        return Err(RowFault::new(
            format!("`{place}` is {}, not an object", kind(turn)),
            "a turn is {\"role\": \"user\", \"content\": \"...\"} or {\"from\": \"human\", \"value\": \"...\"}",
        ));
    };
    let mut turn = turn.clone();
    if let Some(from) = turn.get("from").and_then(Value::as_str) {
        let from = from.to_owned();
        return share_gpt(place, &from, &mut turn);
    }
    if let Some(Value::Array(parts)) = turn.get("content") {
        let text = joined(place, parts)?;
        turn.insert("content".into(), text.into());
    }
    Ok(Value::Object(turn))
}

/// A ShareGPT turn. Names that the form does not know stay, so that the chat template judges them.
fn share_gpt(place: &str, from: &str, turn: &mut Map<String, Value>) -> Result<Value, RowFault> {
    let value = turn.get("value").or_else(|| turn.get("content")).cloned().unwrap_or(Value::Null);
    let role = match from {
        "human" | "user" => "user",
        "gpt" | "assistant" | "chatgpt" | "bing" | "bard" | "bot" | "model" => "assistant",
        "system" => "system",
        "tool" | "observation" | "function_response" => "tool",
        "function_call" => {
            let call = value.as_str().map_or(Ok(value.clone()), serde_json::from_str::<Value>);
            let calls = match call {
                Ok(Value::Array(calls)) => calls,
                Ok(call @ Value::Object(_)) => vec![call],
                _ => {
                    return Err(RowFault::new(
                        format!("`{place}.value` of a function_call is not JSON"),
                        "write the call as {\"name\": \"...\", \"arguments\": {...}}",
                    ));
                }
            };
            return Ok(json!({"role": "assistant", "content": "", "tool_calls": calls}));
        }
        other => other,
    };
    let content = match &value {
        Value::String(text) => text.clone(),
        Value::Array(parts) => joined(place, parts)?,
        other => {
            return Err(RowFault::new(
                format!("`{place}.value` is {}, not a string", kind(other)),
                "a turn is {\"from\": \"human\", \"value\": \"...\"}",
            ));
        }
    };
    Ok(json!({"role": role, "content": content}))
}

/// The text of content in parts, as the server joins them.
fn joined(place: &str, parts: &[Value]) -> Result<String, RowFault> {
    let mut texts = Vec::new();
    for (i, part) in parts.iter().enumerate() {
        let text = part.as_str().or_else(|| match part["type"].as_str() {
            Some("text" | "input_text" | "output_text") | None => part["text"].as_str(),
            Some(_) => None,
        });
        let Some(text) = text else {
            let what = part["type"].as_str().unwrap_or("something else");
            return Err(RowFault::new(
                format!("`{place}.content[{i}]` is of type `{what}`; a language model reads texts alone"),
                "remove the part, or set data.on_bad_row: skip",
            ));
        };
        texts.push(text);
    }
    Ok(texts.join("\n"))
}

/// A text as a turn, or turns as they are.
///
/// # Errors
/// As [`turns`]; or the value is neither.
pub(super) fn spoken(field: &str, value: &Value, role: &str) -> Result<Vec<Value>, RowFault> {
    match value {
        Value::String(text) => Ok(vec![json!({"role": role, "content": text})]),
        Value::Number(number) => Ok(vec![json!({"role": role, "content": number.to_string()})]),
        Value::Array(list) => turns(field, list),
        Value::Object(_) => Ok(vec![one(field, value)?]),
        other => Err(RowFault::new(
            format!("`{field}` is {}, neither a text nor turns", kind(other)),
            "write a text or a list of messages",
        )),
    }
}

const HUMAN: &str = "\n\nHuman:";
const ASSISTANT: &str = "\n\nAssistant:";

/// Anthropic's texts of a conversation (`\n\nHuman: ...\n\nAssistant: ...`); `None` where a text is no such.
pub(super) fn dialogue(text: &str) -> Option<Vec<Value>> {
    let text = if text.starts_with("Human:") { format!("\n\n{text}") } else { text.to_owned() };
    let mut rest = text.strip_prefix(HUMAN)?;
    let (mut role, mut turns) = ("user", Vec::new());
    loop {
        let next = [(rest.find(HUMAN), "user", HUMAN), (rest.find(ASSISTANT), "assistant", ASSISTANT)];
        let next = next.into_iter().filter_map(|(at, role, mark)| Some((at?, role, mark))).min();
        let end = next.map_or(rest.len(), |(at, ..)| at);
        turns.push(json!({"role": role, "content": rest[..end].trim()}));
        let Some((at, speaker, mark)) = next else { return Some(turns) };
        (role, rest) = (speaker, &rest[at + mark.len()..]);
    }
}

/// A conversation as such a text; `None` where it has other roles, or texts that would not read back.
pub(super) fn dialogue_text(turns: &[Value]) -> Option<String> {
    let mut text = String::new();
    for turn in turns {
        let mark = match turn["role"].as_str()? {
            "user" => HUMAN,
            "assistant" => ASSISTANT,
            _ => return None,
        };
        let content = turn["content"].as_str().filter(|content| content.trim() == *content)?;
        text.push_str(&format!("{mark} {content}"));
    }
    (dialogue(&text).as_deref() == Some(turns)).then_some(text)
}
