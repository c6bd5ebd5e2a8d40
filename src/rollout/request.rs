//! What the batcher is asked, and what it answers.

use super::generate::Finish;
use super::sample::Sampling;
use crate::error::{Error, Result};

/// A prompt to go on from.
pub struct Request {
    /// The caller's name for it, its own among the requests in flight.
    pub id: u64,
    /// Token ids, at least one.
    pub prompt: Vec<u32>,
    /// Most new tokens; cut to what the model's positions leave. 0 only looks at the prompt.
    pub max_new_tokens: usize,
    /// How to choose.
    pub sampling: Sampling,
    /// Random stream of `sampling.seed`: rows with the same seed and another stream differ.
    pub stream: u64,
    /// Any of these tokens ends the answer.
    pub stop_ids: Vec<u32>,
    /// Log-probabilities of the new tokens, with this many of the likeliest tokens beside each.
    pub logprobs: Option<usize>,
    /// Log-probabilities of the prompt's own tokens first ([`Event::Prompt`]).
    pub prompt_logprobs: bool,
    /// What the answer must look like.
    pub constraint: Option<Box<dyn Constraint + Send>>,
}

impl Request {
    /// A greedy request that ends at `max_new_tokens`.
    pub fn new(id: u64, prompt: Vec<u32>, max_new_tokens: usize) -> Self {
        Self {
            id,
            prompt,
            max_new_tokens,
            sampling: Sampling::GREEDY,
            stream: 0,
            stop_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: false,
            constraint: None,
        }
    }

    /// The same once more, as answer `number` to its prompt; a constraint is not carried over.
    pub fn again(&self, number: usize) -> Self {
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

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("id", &self.id)
            .field("prompt_tokens", &self.prompt.len())
            .field("max_new_tokens", &self.max_new_tokens)
            .finish_non_exhaustive()
    }
}

/// A rule for which tokens may come next, such as a grammar.
pub trait Constraint {
    /// Sets the logits of tokens that may not come next to minus infinity.
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

/// A token's log-probability.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token: u32,
    /// Under the model's own distribution: temperature 1, all tokens, no penalty.
    pub logprob: f32,
    /// Under the very distribution it was sampled from; of a prompt's token the same as `logprob`.
    pub sampled_logprob: f32,
    /// The likeliest tokens with their log-probabilities under the model's own distribution, likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// What happened to a request in a step.
#[derive(Debug)]
pub enum Event {
    /// The prompt was read: log-probabilities of its tokens from the second on (the first has none).
    Prompt {
        /// The request.
        id: u64,
        /// One a token.
        logprobs: Vec<TokenLogprob>,
    },
    /// A new token. A stop token comes as an event too, before `Done`: a caller that shows text leaves it out.
    Token {
        /// The request.
        id: u64,
        /// The token.
        token: u32,
        /// Where it was asked for.
        logprob: Option<TokenLogprob>,
    },
    /// The answer ended; nothing follows for this id.
    Done {
        /// The request.
        id: u64,
        /// Why. [`Finish::Stop`] for a stop token and for a complete constraint.
        finish: Finish,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Those of them that were taken over from earlier requests.
        cached_tokens: usize,
        /// New tokens, a stop token among them.
        new_tokens: usize,
    },
    /// The request cannot be answered; nothing follows for this id.
    Failed {
        /// The request.
        id: u64,
        /// Why.
        error: Error,
    },
}
