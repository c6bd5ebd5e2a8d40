//! Prompts that are text or token ids: `prompt` of completions, `input` of embeddings.

use serde_json::Value;

use super::fields::{Fields, token_ids};
use crate::serve::engine::handle::ModelHandle;
use crate::serve::error::ApiError;

/// A prompt's text and token ids.
pub type PromptInput = (String, Vec<u32>);

/// The prompts of `input`, or of `prompt`: a string, a list of strings, a list of ids, or a list of lists of ids.
/// `add_special_tokens` puts the beginning-of-text token before each text.
///
/// # Errors
/// 400 for any other form, for more than `most` prompts, for one that is empty, too long or has an unknown id.
pub fn read_prompts(fields: &Fields, model: &ModelHandle, most: usize) -> Result<Vec<PromptInput>, ApiError> {
    let name = if fields.get("input").is_some() { "input" } else { "prompt" };
    let wrong = || {
        ApiError::param(name, format!("`{name}` must be a string, strings, token ids, or lists of token ids"))
    };
    let with_bos = fields.flag("add_special_tokens")?.unwrap_or(false);
    let value = fields.get(name).ok_or_else(|| ApiError::param(name, format!("`{name}` is missing")))?;
    let from_text = |text: &str| -> Result<PromptInput, ApiError> {
        model.check_text_bytes(text.len(), name)?;
        let tokenizer = &model.tokenizer;
        let mut ids =
            if with_bos { tokenizer.encode_with_special_tokens(text)? } else { tokenizer.encode(text)? };
        // A model needs something to start from.
        if ids.is_empty() {
            ids.push(tokenizer.prefix_id());
        }
        Ok((text.to_owned(), ids))
    };
    let from_ids = |value: &Value| -> Result<PromptInput, ApiError> {
        let ids = token_ids(value).ok_or_else(wrong)?;
        model.check_tokens(ids.len(), name)?;
        check_ids(name, &ids, model)?;
        if ids.is_empty() {
            return Err(ApiError::param(name, format!("`{name}` holds no token")));
        }
        Ok((model.tokenizer.decode(&ids, false)?, ids))
    };
    let list = match value {
        Value::String(text) => return Ok(vec![from_text(text)?]),
        Value::Array(list) if !list.is_empty() => list,
        _ => return Err(wrong()),
    };
    if list[0].is_number() {
        return Ok(vec![from_ids(value)?]);
    }
    if list.len() > most {
        return Err(ApiError::param(
            name,
            format!("`{name}` has {} entries; at most {most} go together", list.len()),
        ));
    }
    list.iter()
        .map(|entry| match entry {
            Value::String(text) => from_text(text),
            Value::Array(_) => from_ids(entry),
            _ => Err(wrong()),
        })
        .collect()
}

/// Checks that the model has all ids of the field `name`.
///
/// # Errors
/// 400, naming the first that it does not have.
pub fn check_ids(name: &str, ids: &[u32], model: &ModelHandle) -> Result<(), ApiError> {
    let vocab_size = model.config.vocab_size;
    match ids.iter().find(|&&id| i64::from(id) >= vocab_size) {
        Some(id) => {
            Err(ApiError::param(name, format!("`{name}` holds token {id}; the model has {vocab_size}")))
        }
        None => Ok(()),
    }
}
