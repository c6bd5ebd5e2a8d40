//! Exact answers to questions whose answer can be verified.

use crate::data::{Tokenizer, synthetic};
use crate::error::Result;
use crate::model::CausalLm;
use crate::rollout::{GenerateConfig, generate_batch};
use crate::stage::greedy::chat_prompt_ids;

/// A question and the one answer that counts.
#[derive(Debug, Clone)]
pub struct Question {
    /// The conversation up to the answer.
    pub messages: Vec<serde_json::Value>,
    /// The answer.
    pub answer: String,
}

impl Question {
    /// Reads `{"conversations": [...], "answer"?}`; without `answer` the last assistant turn counts.
    pub fn from_row(row: &serde_json::Value) -> Option<Self> {
        let mut messages = row.get("conversations")?.as_array()?.clone();
        let last = messages.pop()?;
        if last.get("role")?.as_str()? != "assistant" || messages.is_empty() {
            return None;
        }
        let given = row.get("answer").and_then(|a| a.as_str());
        let answer = given.or_else(|| last.get("content")?.as_str())?.to_owned();
        Some(Self { messages, answer })
    }
}

/// A question with the model's answer.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The last user turn.
    pub question: String,
    /// The expected answer.
    pub expected: String,
    /// The model's answer.
    pub got: String,
    /// Whether it is the same.
    pub correct: bool,
}

/// Greedy answers to all questions, each of at most `max_new_tokens` and up to one of `eos_token_ids`.
///
/// # Errors
/// A question that cannot be rendered or is too long for the model.
pub fn exact_match(
    model: &CausalLm,
    tokenizer: &Tokenizer,
    questions: &[Question],
    (max_new_tokens, eos_token_ids): (usize, &[u32]),
) -> Result<Vec<Answered>> {
    let prompts = questions
        .iter()
        .map(|q| chat_prompt_ids(tokenizer, &serde_json::Value::Array(q.messages.clone())))
        .collect::<Result<Vec<_>>>()?;
    let config = GenerateConfig::greedy(max_new_tokens, eos_token_ids);
    let answers = generate_batch(model, &prompts, &config)?;
    questions
        .iter()
        .zip(answers)
        .map(|(question, ids)| {
            let got = tokenizer.decode(&ids, true)?.trim().to_owned();
            let last = question.messages.last().and_then(|m| m.get("content")).and_then(|c| c.as_str());
            Ok(Answered {
                question: last.unwrap_or_default().to_owned(),
                expected: question.answer.clone(),
                correct: synthetic::verify(&question.answer, &got),
                got,
            })
        })
        .collect()
}
