//! `{"conversations"}` to ids: rendered by the chat template; loss on what the assistant says.
//!
//! Upstream's two random changes (a system prompt put first, empty think blocks removed) are decided
//! by the seed and the row's number, so a row is the same in every run. Next: `tokenizer::chat_row`.

use serde_json::{Value, json};

use super::jsonl::{RowError, RowFault, kind};
use super::random::{chance, mix};
use super::token_cache::TokenizedRow;
use super::tokenizer::chat_row::{self, TOOL_KEYS};
use super::tokenizer::{MaskedTokens, Tokenizer};
use crate::error::Result;

/// Our own system prompts, five Chinese and five English.
pub const SYSTEM_PROMPTS: [&str; 10] = [
    "你是一个可靠的小助手，请简明地回答问题。",
    "请用清楚、友好的语言帮助用户。",
    "你是一位耐心的对话伙伴，知道就说，不知道就说不知道。",
    "请认真阅读用户的话，然后给出准确的回答。",
    "你是一个小型语言模型，请尽力帮忙。",
    "You are a reliable small assistant. Answer briefly.",
    "Help the user in clear and friendly words.",
    "You are a patient companion. Say so when you do not know.",
    "Read what the user says with care, then answer exactly.",
    "You are a small language model. Do your best to help.",
];

/// What shapes a chat row beside its text.
#[derive(Debug, Clone, Copy)]
pub struct ChatOptions {
    /// Rows are cut at this many tokens.
    pub max_seq_len: usize,
    /// Seed of the random changes.
    pub seed: u64,
    /// Chance of a system prompt.
    pub system_prompt_ratio: f64,
    /// Chance that empty think blocks stay.
    pub empty_think_ratio: f64,
}

/// The row's messages.
///
/// # Errors
/// There is no list `conversations` of messages with roles and texts, or none of them is the assistant's.
pub fn conversations(row: &Value) -> Result<&Vec<Value>, RowFault> {
    const FORM: &str = "a chat row is {\"conversations\": [{\"role\": \"user\", \"content\": \"...\"}, ...]}";
    let list = messages(row, "conversations", FORM)?;
    if !list.iter().any(|m| m["role"] == "assistant") {
        return Err(RowFault::new("`conversations` has no assistant message, so nothing to learn", FORM));
    }
    Ok(list)
}

/// The messages in a field of a row.
///
/// # Errors
/// There is no such list, it is empty, or a message has no role or no content. `form` is the hint of every fault.
pub(super) fn messages<'a>(
    row: &'a Value,
    field: &str,
    form: &'static str,
) -> Result<&'a Vec<Value>, RowFault> {
    let fault = |what: String| Err(RowFault::new(what, form));
    let list = match row.get(field) {
        None => return fault(format!("no field `{field}`")),
        Some(Value::Array(list)) if list.is_empty() => {
            return Err(RowFault::new(format!("field `{field}` is empty"), "remove the row"));
        }
        Some(Value::Array(list)) => list,
        Some(other) => return fault(format!("field `{field}` is {}, not a list", kind(other))),
    };
    for (i, message) in list.iter().enumerate() {
        if !message.is_object() {
            return fault(format!("`{field}[{i}]` is {}, not an object", kind(message)));
        }
        for key in ["role", "content"] {
            let name = format!("`{field}[{i}].{key}`");
            match message.get(key) {
                Some(Value::String(_)) => {}
                Some(Value::Null) | None if key == "content" && message.get("tool_calls").is_some() => {}
                Some(other) => return fault(format!("{name} is {}, not a string", kind(other))),
                None => return fault(format!("no field {name}")),
            }
        }
    }
    Ok(list)
}

/// Puts a system prompt first, where chance has it and the row neither has one nor tools. Whether the template shows
/// one is the caller's to ask.
pub fn with_system_prompt(row: &Value, number: usize, options: &ChatOptions) -> Value {
    let mut row = row.clone();
    if chance(options.seed, number as u64, 1) >= options.system_prompt_ratio {
        return row;
    }
    let tools = TOOL_KEYS.iter().any(|key| row.get(key).is_some_and(chat_row::is_truthy));
    if let Some(list) = row.get_mut("conversations").and_then(Value::as_array_mut) {
        let tools = tools || list.iter().any(|m| m.get("tools").is_some_and(|t| !t.is_null()));
        if !tools && list.first().is_some_and(|m| m["role"] != "system") {
            let which = mix(mix(options.seed ^ 2) ^ number as u64) as usize % SYSTEM_PROMPTS.len();
            list.insert(0, json!({"role": "system", "content": SYSTEM_PROMPTS[which]}));
        }
    }
    row
}

/// Tokens of one conversation, cut to `max_seq_len`; `number` is the row's line.
///
/// # Errors
/// The template refuses the row or leaves part of it out; or the template does not tell which tokens carry loss.
pub fn encode(
    tokenizer: &Tokenizer,
    row: &Value,
    number: usize,
    options: &ChatOptions,
) -> Result<TokenizedRow, RowError> {
    let keep = chance(options.seed, number as u64, 3) < options.empty_think_ratio;
    let MaskedTokens { mut ids, loss_mask: mut loss } = if tokenizer.renders_system() {
        chat_row::tokenize(tokenizer, "conversations", &with_system_prompt(row, number, options), keep)?
    } else {
        chat_row::tokenize(tokenizer, "conversations", row, keep)?
    };
    ids.truncate(options.max_seq_len);
    loss.truncate(options.max_seq_len);
    let spoken: Vec<u32> = ids.iter().zip(&loss).filter(|(_, l)| **l).map(|(id, _)| *id).collect();
    let loss_bytes = tokenizer.decode(&spoken, true)?.len();
    Ok(TokenizedRow { ids, loss_mask: loss, loss_bytes })
}
