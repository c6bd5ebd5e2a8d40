//! What followed a prompt: one completion, or several turns with tool results between them.

use crate::data::Tokenizer;
use crate::error::Result;
use crate::rollout::{Completion, FinishReason};

/// The tokens after a prompt, over one turn or several.
pub struct Answer {
    /// Tokens after the prompt.
    pub ids: Vec<u32>,
    /// Which of them the policy generated.
    pub learn: Vec<bool>,
    /// Their log-probabilities at temperature 1, 0 for those that it did not generate.
    pub logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// What rewards see: the text of the last turn, without the end mark.
    pub text: String,
    /// Assistant turns.
    pub turns: usize,
}

impl Answer {
    /// The first turn.
    pub fn new(completion: Completion, text: String) -> Self {
        Self {
            learn: vec![true; completion.ids.len()],
            logprobs: completion.model_logprobs,
            ids: completion.ids,
            finish: completion.finish,
            text,
            turns: 1,
        }
    }

    /// Tokens that the policy generated.
    pub fn generated(&self) -> usize {
        self.learn.iter().filter(|&&learn| learn).count()
    }
}

/// The text of a turn: everything before the first of `eos_ids`.
///
/// # Errors
/// Ids that the tokenizer does not know.
pub fn turn_text(tokenizer: &Tokenizer, ids: &[u32], eos_ids: &[u32]) -> Result<String> {
    let end = ids.iter().position(|id| eos_ids.contains(id)).unwrap_or(ids.len());
    tokenizer.decode(&ids[..end], false)
}
