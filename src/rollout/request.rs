//! What the batcher takes, and the events it sends back.

use super::types::{FinishReason, SamplingParams};
use crate::error::{Error, Result};

/// A prompt to continue.
pub struct GenerateRequest {
    /// The caller's id for it, its own among the requests in flight.
    pub id: u64,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most new tokens; cut to what the model's positions leave. 0 only reads the prompt.
    pub max_new_tokens: usize,
    /// How each token is chosen.
    pub sampling: SamplingParams,
    /// Random stream of `sampling.seed`: requests with the same seed and another stream differ.
    pub stream: u64,
    /// Any of these tokens ends the answer.
    pub stop_ids: Vec<u32>,
    /// Log-probabilities of the new tokens, with this many of the likeliest tokens at each place.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt's own tokens first ([`TokenEvent::Prompt`]).
    pub prompt_logprobs: bool,
    /// A rule for the answer, such as a grammar.
    pub constraint: Option<Box<dyn Constraint + Send>>,
}

impl GenerateRequest {
    /// A greedy request that ends at `max_new_tokens`.
    pub fn new(id: u64, prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            id,
            prompt,
            max_new_tokens,
            sampling: SamplingParams::GREEDY,
            stream: 0,
            stop_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: false,
            constraint: None,
        }
    }

    /// A copy for answer `number` to the same prompt, with a random stream of its own. A constraint is not copied.
    pub fn for_choice(&self, number: usize) -> Self {
        Self {
            prompt: self.prompt.clone(),
            sampling: self.sampling.clone(),
            stream: number as u64,
            stop_ids: self.stop_ids.clone(),
            constraint: None,
            ..*self
        }
    }
}

impl std::fmt::Debug for GenerateRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GenerateRequest")
            .field("id", &self.id)
            .field("prompt_tokens", &self.prompt.len())
            .field("max_new_tokens", &self.max_new_tokens)
            .finish_non_exhaustive()
    }
}

/// A rule for which tokens may come next, such as a grammar.
pub trait Constraint {
    /// Sets the logits of tokens that may not come next to minus infinity. `logits`: `[V]`.
    ///
    /// # Errors
    /// The rule cannot be followed any more; the request fails with it.
    fn mask(&mut self, logits: &mut [f32]) -> Result<()>;

    /// Takes note of the token that was chosen. Returns whether the answer is complete.
    ///
    /// # Errors
    /// As [`Constraint::mask`].
    fn accept(&mut self, token: u32) -> Result<bool>;
}

/// A token's log-probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Under the model's own distribution: temperature 1, all tokens, no penalty.
    pub logprob: f32,
    /// Under the very distribution it was sampled from; of a prompt's token the same as `logprob`.
    pub sampled_logprob: f32,
    /// The likeliest tokens with their log-probabilities under the model's own distribution, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// A token of an answer or a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoredToken {
    /// The token's id.
    pub id: u32,
    /// Its log-probabilities, where they were asked for; a prompt's first token has none.
    pub logprobs: Option<Logprobs>,
}

/// What happened to a request in a step.
#[derive(Debug, Clone)]
pub enum TokenEvent {
    /// The prompt was read: its tokens with their log-probabilities, where they were asked for.
    Prompt(Vec<ScoredToken>),
    /// A new token. A stop token comes as an event too, before `Done`: a caller that shows text leaves it out.
    Token(ScoredToken),
    /// The answer ended; nothing follows for this request.
    Done(Finished),
    /// The request failed; nothing follows for it.
    Failed(Error),
}

/// How an answer ended, and its numbers of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finished {
    /// Why. [`FinishReason::Stop`] for a stop token and for a complete constraint.
    pub reason: FinishReason,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Those of them that were found in the prefix cache.
    pub cached_tokens: usize,
    /// New tokens, a stop token among them.
    pub new_tokens: usize,
}
