//! A row in MiniMind's own keys as a row in another shape.

use serde_json::{Map, Value, json};

use super::Shape;
use super::turns::dialogue_text;
use crate::data::jsonl::RowFault;

/// A row in MiniMind's own keys, as [`super::convert`] gives it for the shape's [`Shape::format`], written in that shape. What
/// is written converts back to the same row.
///
/// # Errors
/// The shape has no place for something that the row holds.
pub fn write(row: &Value, shape: Shape) -> Result<Value, RowFault> {
    let Some(map) = row.as_object() else { return Err(no_place(shape, "what is no object")) };
    let turns = |key: &str| {
        let list = row[key].as_array().map(Vec::as_slice).filter(|list| !list.is_empty());
        list.ok_or_else(|| no_place(shape, &format!("a row without `{key}`")))
    };
    let mut out = Map::new();
    let mut put = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    match shape {
        Shape::Text => {
            put("text", row.get("text").cloned().ok_or_else(|| no_place(shape, "a row without `text`"))?)
        }
        Shape::Conversations => put("conversations", turns("conversations")?.into()),
        Shape::Messages => put("messages", turns("conversations")?.into()),
        Shape::ShareGpt => put("conversations", share_gpt(shape, turns("conversations")?)?.into()),
        Shape::Alpaca => {
            let (prompt, answer) = apart(shape, turns("conversations")?)?;
            out = alpaca(shape, prompt)?;
            out.insert("output".into(), text(shape, answer)?.into());
        }
        Shape::PromptCompletion => {
            let (prompt, answer) = apart(shape, turns("conversations")?)?;
            put("prompt", prompt.into());
            put("completion", json!([answer]));
        }
        Shape::PromptResponse | Shape::QuestionAnswer | Shape::QueryResponse => {
            let (question, answer) = match shape {
                Shape::PromptResponse => ("prompt", "response"),
                Shape::QuestionAnswer => ("question", "answer"),
                _ => ("query", "response"),
            };
            let (prompt, last) = apart(shape, turns("conversations")?)?;
            let [only] = prompt else { return Err(no_place(shape, "more than one question and its answer")) };
            put(question, user_text(shape, only)?.into());
            put(answer, text(shape, last)?.into());
        }
        Shape::Prompt => {
            let list = turns("conversations")?;
            let end = list.iter().rposition(|turn| turn["role"] != "assistant").map_or(0, |at| at + 1);
            match &list[..end] {
                [] => return Err(no_place(shape, "a conversation without a question")),
                [only] if user_text(shape, only).is_ok() => put("prompt", only["content"].clone()),
                several => put("prompt", several.to_vec().into()),
            }
        }
        Shape::Preference => {
            put("chosen", turns("chosen")?.into());
            put("rejected", turns("rejected")?.into());
        }
        Shape::TextPreference => {
            for key in ["chosen", "rejected"] {
                let said = dialogue_text(turns(key)?);
                put(
                    key,
                    said.ok_or_else(|| {
                        no_place(shape, "turns of others than user and assistant, or such texts")
                    })?
                    .into(),
                );
            }
        }
        Shape::PromptPreference | Shape::ShareGptPreference | Shape::AlpacaPreference => {
            let (prompt, chosen) = apart(shape, turns("chosen")?)?;
            let (other, rejected) = apart(shape, turns("rejected")?)?;
            if prompt != other {
                return Err(no_place(shape, "two answers to different prompts"));
            }
            out = match shape {
                Shape::PromptPreference => Map::from_iter([("prompt".to_owned(), prompt.into())]),
                Shape::ShareGptPreference => {
                    Map::from_iter([("conversations".to_owned(), share_gpt(shape, prompt)?.into())])
                }
                _ => alpaca(shape, prompt)?,
            };
            for (key, answer) in [("chosen", chosen), ("rejected", rejected)] {
                let answer = match shape {
                    Shape::PromptPreference => json!([answer]),
                    Shape::ShareGptPreference => share_gpt(shape, std::slice::from_ref(answer))?.remove(0),
                    _ => text(shape, answer)?.into(),
                };
                out.insert(key.to_owned(), answer);
            }
        }
        Shape::Unpaired => {
            let (prompt, answer) = apart(shape, turns("conversations")?)?;
            put("prompt", prompt.into());
            put("completion", json!([answer]));
            put("label", row.get("label").cloned().ok_or_else(|| no_place(shape, "a row without `label`"))?);
        }
    }
    keep(map, &mut out);
    Ok(Value::Object(out))
}

/// Keys that stand beside the content stay.
fn keep(row: &Map<String, Value>, out: &mut Map<String, Value>) {
    let content = ["text", "conversations", "chosen", "rejected"];
    let shapes = [
        "messages",
        "prompt",
        "completion",
        "response",
        "question",
        "answer",
        "query",
        "instruction",
        "input",
        "output",
        "history",
        "system",
        "label",
    ];
    for (key, value) in row {
        if !content.contains(&key.as_str()) && !shapes.contains(&key.as_str()) && !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
}

fn no_place(shape: Shape, what: &str) -> RowFault {
    RowFault::new(
        format!("shape {} has no place for {what}", shape.name()),
        "choose another shape: `messages` holds every conversation, `prompt-preference` every pair",
    )
}

/// A conversation up to its answer, and the answer.
fn apart(shape: Shape, turns: &[Value]) -> Result<(&[Value], &Value), RowFault> {
    match turns.split_last() {
        Some((last, prompt)) if last["role"] == "assistant" && !prompt.is_empty() => Ok((prompt, last)),
        _ => Err(no_place(shape, "a conversation that does not end with the assistant's answer to somebody")),
    }
}

/// The text of a turn that holds nothing else.
fn text(shape: Shape, turn: &Value) -> Result<String, RowFault> {
    let plain = turn.as_object().is_some_and(|turn| turn.keys().all(|key| key == "role" || key == "content"));
    let content = turn["content"].as_str().filter(|text| plain && !text.trim().is_empty());
    content.map(str::to_owned).ok_or_else(|| no_place(shape, "tool calls, tools or empty turns"))
}

fn user_text(shape: Shape, turn: &Value) -> Result<String, RowFault> {
    let text = text(shape, turn)?;
    // Such a text would be read as a whole conversation.
    let plain = turn["role"] == "user" && !text.starts_with("Human:") && !text.starts_with("\n\nHuman:");
    if plain { Ok(text) } else { Err(no_place(shape, "a turn of another than the user")) }
}

/// Alpaca's keys of everything before the answer.
fn alpaca(shape: Shape, prompt: &[Value]) -> Result<Map<String, Value>, RowFault> {
    let mut out = Map::new();
    let rest = match prompt {
        [system, rest @ ..] if system["role"] == "system" => {
            out.insert("system".into(), text(shape, system)?.into());
            rest
        }
        all => all,
    };
    let Some((question, rounds)) = rest.split_last() else {
        return Err(no_place(shape, "an answer without a question"));
    };
    let mut history = Vec::new();
    let (pairs, odd) = rounds.as_chunks::<2>();
    if !odd.is_empty() {
        return Err(no_place(shape, "turns that do not take turns"));
    }
    for [asked, answered] in pairs {
        if answered["role"] != "assistant" {
            return Err(no_place(shape, "turns that do not take turns"));
        }
        history.push(json!([user_text(shape, asked)?, text(shape, answered)?]));
    }
    out.insert("instruction".into(), user_text(shape, question)?.into());
    out.insert("input".into(), "".into());
    if !history.is_empty() {
        out.insert("history".into(), history.into());
    }
    Ok(out)
}

fn share_gpt(shape: Shape, turns: &[Value]) -> Result<Vec<Value>, RowFault> {
    let one = |turn: &Value| {
        let from = match turn["role"].as_str() {
            Some("user") => "human",
            Some("assistant") => "gpt",
            Some("system") => "system",
            Some("tool") => "observation",
            _ => return Err(no_place(shape, "turns of other roles")),
        };
        if let Some(calls) = turn.get("tool_calls").filter(|calls| calls.is_array() && turn["content"] == "")
        {
            let alone = turn.as_object().is_some_and(|turn| turn.len() == 3);
            return if alone && from == "gpt" {
                Ok(json!({"from": "function_call", "value": calls.to_string()}))
            } else {
                Err(no_place(shape, "more than tool calls in a turn"))
            };
        }
        let plain = turn.as_object().is_some_and(|turn| turn.len() == 2) && turn["content"].is_string();
        if plain {
            Ok(json!({"from": from, "value": turn["content"]}))
        } else {
            Err(no_place(shape, "tools of a turn"))
        }
    };
    turns.iter().map(one).collect()
}
