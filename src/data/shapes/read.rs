//! The content of a row of a known shape.

use serde_json::{Map, Value, json};

use super::Shape;
use super::keys::{QUESTION_KEYS, TEXT_KEYS, flag};
use super::turns::{dialogue, spoken, turns};
use crate::data::jsonl::RowFault;

/// What a row holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Content {
    /// A text.
    Text(String),
    /// A prompt and its completion, as one text and as turns.
    Joined(String, Vec<Value>),
    /// A conversation with its answer.
    Chat(Vec<Value>),
    /// A conversation that waits for its answer.
    Question(Vec<Value>),
    /// Two conversations that begin alike.
    Pair {
        /// The better one.
        chosen: Vec<Value>,
        /// The worse one.
        rejected: Vec<Value>,
    },
    /// A conversation and whether its answer is wanted.
    Unpaired {
        /// The conversation.
        turns: Vec<Value>,
        /// Whether it is wanted.
        good: bool,
    },
}

type Row = Map<String, Value>;

/// Reads the fields of `row` as `shape`, which it has.
///
/// # Errors
/// A turn that holds something else than text, or two answers without a common prompt.
pub(super) fn read(shape: Shape, row: &Row) -> Result<Content, RowFault> {
    Ok(match shape {
        Shape::Text => {
            let (_, text) = first(row, &TEXT_KEYS, "text");
            Content::Text(text.as_str().map_or_else(|| text.to_string(), str::to_owned))
        }
        Shape::Conversations | Shape::Messages | Shape::ShareGpt => {
            let (key, list) = first(row, &["conversations", "messages", "conversation"], "conversations");
            Content::Chat(with_system(row, turns(key, list.as_array().map_or(&[], Vec::as_slice))?))
        }
        Shape::Alpaca => {
            let (key, answer) = first(row, &["output", "response"], "output");
            Content::Chat([alpaca(row)?, spoken(key, answer, "assistant")?].concat())
        }
        Shape::PromptCompletion | Shape::PromptResponse | Shape::QueryResponse | Shape::QuestionAnswer => {
            pair_of_texts(shape, row)?
        }
        Shape::Prompt => {
            let (key, question) = first(row, &QUESTION_KEYS, "prompt");
            let asked = if key == "instruction" { alpaca(row)? } else { asked(row, key, question)? };
            Content::Question(asked)
        }
        Shape::Preference => {
            let (chosen, rejected) = (side(row, "chosen")?, side(row, "rejected")?);
            Content::Pair { chosen: with_system(row, chosen), rejected: with_system(row, rejected) }
        }
        Shape::TextPreference => {
            let read = |key: &str| {
                let text = row.get(key).and_then(Value::as_str).unwrap_or_default();
                dialogue(text).ok_or_else(|| {
                    RowFault::new(
                        format!("`{key}` is a text without a prompt before it"),
                        "add `prompt`, or write \"\\n\\nHuman: ...\\n\\nAssistant: ...\" as Anthropic does",
                    )
                })
            };
            Content::Pair { chosen: read("chosen")?, rejected: read("rejected")? }
        }
        Shape::PromptPreference | Shape::AlpacaPreference | Shape::ShareGptPreference => {
            let prompt = match shape {
                Shape::AlpacaPreference => alpaca(row)?,
                Shape::ShareGptPreference => {
                    let (key, list) = first(row, &["conversations", "messages"], "conversations");
                    with_system(row, turns(key, list.as_array().map_or(&[], Vec::as_slice))?)
                }
                _ => {
                    let (key, prompt) = first(row, &["prompt", "question", "query"], "prompt");
                    asked(row, key, prompt)?
                }
            };
            Content::Pair {
                chosen: answered(row, &prompt, "chosen")?,
                rejected: answered(row, &prompt, "rejected")?,
            }
        }
        Shape::Unpaired => {
            let good = row.get("label").and_then(flag).unwrap_or_default();
            let turns = match first(row, &["conversations", "messages"], "prompt") {
                (key, Value::Array(list)) if key != "prompt" => with_system(row, turns(key, list)?),
                _ => match pair_of_texts(Shape::PromptCompletion, row)? {
                    Content::Joined(_, turns) | Content::Chat(turns) => turns,
                    _ => Vec::new(),
                },
            };
            Content::Unpaired { turns, good }
        }
    })
}

/// The first of `keys` that a row has, and its value.
fn first<'a>(row: &'a Row, keys: &[&'static str], otherwise: &'static str) -> (&'static str, &'a Value) {
    let given = |key: &&&'static str| row.get(**key).is_some_and(|v| !v.is_null() && v.as_str() != Some(""));
    let key = keys.iter().find(given).copied().unwrap_or(otherwise);
    (key, row.get(key).unwrap_or(&Value::Null))
}

/// The system prompt beside a conversation, put first.
fn with_system(row: &Row, mut turns: Vec<Value>) -> Vec<Value> {
    let system = row.get("system").or_else(|| row.get("system_prompt")).and_then(Value::as_str);
    if let Some(text) = system.filter(|text| !text.is_empty())
        && turns.first().is_none_or(|turn| turn["role"] != "system")
    {
        turns.insert(0, json!({"role": "system", "content": text}));
    }
    turns
}

/// Alpaca's question: system prompt, earlier rounds, then instruction and input, a line each as LLaMA-Factory joins them.
fn alpaca(row: &Row) -> Result<Vec<Value>, RowFault> {
    let mut turns = Vec::new();
    for (i, round) in row.get("history").and_then(Value::as_array).into_iter().flatten().enumerate() {
        let said = round.as_array().and_then(|pair| match &pair[..] {
            [Value::String(question), Value::String(answer)] => Some((question, answer)),
            _ => None,
        });
        let Some((question, answer)) = said else {
            let hint = "a round of `history` is [\"question\", \"answer\"]";
            return Err(RowFault::new(format!("`history[{i}]` is not a pair of texts"), hint));
        };
        turns.push(json!({"role": "user", "content": question}));
        turns.push(json!({"role": "assistant", "content": answer}));
    }
    let text = |key: &str| row.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let parts: Vec<&str> = [text("instruction"), text("input")].into_iter().flatten().collect();
    turns.push(json!({"role": "user", "content": parts.join("\n")}));
    Ok(with_system(row, turns))
}

/// A question of a text, Anthropic's text of a conversation, or turns.
fn asked(row: &Row, key: &str, question: &Value) -> Result<Vec<Value>, RowFault> {
    if let Some(mut turns) = question.as_str().and_then(dialogue) {
        // The turn that waits for its answer is opened, and empty.
        turns.pop_if(|last| last["role"] == "assistant" && last["content"] == "");
        return Ok(with_system(row, turns));
    }
    Ok(with_system(row, spoken(key, question, "user")?))
}

fn pair_of_texts(shape: Shape, row: &Row) -> Result<Content, RowFault> {
    let (questions, answers): (&[&'static str], &[&'static str]) = match shape {
        Shape::PromptCompletion => (&["prompt"], &["completion"]),
        Shape::PromptResponse => (&["prompt"], &["response", "output"]),
        Shape::QueryResponse => (&["query", "question"], &["response"]),
        _ => (&["question", "problem", "prompt", "input"], &["answer", "solution", "output"]),
    };
    let ((key, question), (answer_key, answer)) =
        (first(row, questions, "prompt"), first(row, answers, "completion"));
    let turns = [asked(row, key, question)?, spoken(answer_key, answer, "assistant")?].concat();
    Ok(match (question.as_str(), answer.as_str(), shape) {
        (Some(question), Some(answer), Shape::PromptCompletion) => {
            Content::Joined(format!("{question}{answer}"), turns)
        }
        _ => Content::Chat(turns),
    })
}

fn side(row: &Row, key: &str) -> Result<Vec<Value>, RowFault> {
    turns(key, row.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice))
}

/// The conversation up to and with one of two answers; an answer that holds the whole conversation is taken as it is.
fn answered(row: &Row, prompt: &[Value], key: &str) -> Result<Vec<Value>, RowFault> {
    let value = row.get(key).unwrap_or(&Value::Null);
    let answer = match value.as_str().and_then(dialogue) {
        Some(turns) => turns,
        None => spoken(key, value, "assistant")?,
    };
    let whole = answer.first().is_some_and(|turn| turn["role"] != "assistant");
    match answer.last() {
        Some(last) if last["role"] == "assistant" => {}
        last => {
            let role = last.and_then(|turn| turn["role"].as_str()).unwrap_or("nobody");
            return Err(RowFault::new(
                format!("`{key}` ends with a turn of `{role}`, not of the assistant"),
                "an answer is a text, an assistant turn, or a conversation that ends with one",
            ));
        }
    }
    // A system prompt that only one of the two forms has belongs to both.
    Ok(if whole { with_system(row, answer) } else { [prompt.to_vec(), answer].concat() })
}
