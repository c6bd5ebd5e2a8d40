//! Greedy continuations of prompts.

use crate::data::Tokenizer;
use crate::data::tokenizer::RenderOptions;
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::rollout::{GenerateConfig, generate_batch};

/// The ids of a conversation up to where the assistant's turn begins; `messages` is a JSON array.
///
/// # Errors
/// The chat template cannot render it.
pub fn chat_prompt_ids(tokenizer: &Tokenizer, messages: &serde_json::Value) -> Result<Vec<u32>> {
    let options = RenderOptions::prompt();
    tokenizer.encode(&tokenizer.apply_chat_template(messages, None, options)?)
}

/// Greedy continuations of `prompts`, each of at most `max_new_tokens` and up to one of `eos_token_ids`: as chat for a
/// fine-tuned model, as plain text for a pretrained one.
///
/// # Errors
/// A prompt is empty or cannot be rendered.
pub fn continue_greedily(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    prompts: &[String],
    chat: bool,
    (max_new_tokens, eos_token_ids): (usize, &[u32]),
) -> Result<Vec<String>> {
    let ids = prompts
        .iter()
        .map(|prompt| {
            if chat {
                return chat_prompt_ids(tokenizer, &serde_json::json!([{"role": "user", "content": prompt}]));
            }
            Ok(tokenizer.bos_id().into_iter().chain(tokenizer.encode(prompt)?).collect())
        })
        .collect::<Result<Vec<_>>>()?;
    if ids.iter().any(Vec::is_empty) {
        return Err(Error::input("a sample prompt is empty").hint("give `samples` non-empty texts"));
    }
    let config = GenerateConfig::greedy(max_new_tokens, eos_token_ids);
    generate_batch(model, &ids, &config)?.iter().map(|ids| tokenizer.decode(ids, true)).collect()
}
