//! Types that every part of this room uses: sampling parameters, why a sequence ended, and what generation returns.
//!
//! It imports nothing else of the room. What the batcher takes and sends stands in [`super::request`].

use crate::error::{Error, Result};
use crate::model::ModelConfig;

/// How the next token is chosen. Names and meaning are those of vLLM's `SamplingParams`.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f64,
    /// Only this many of the likeliest; 0 for all.
    pub top_k: usize,
    /// The smallest set of likeliest tokens with at least this probability; 1 for all.
    pub top_p: f64,
    /// Only tokens with at least this share of the likeliest one's probability; 0 for all.
    pub min_p: f64,
    /// Divides positive and multiplies negative logits of tokens already seen, the prompt's too
    /// (arXiv 1909.05858); 1 for none.
    pub repetition_penalty: f64,
    /// Taken from the logit of every token that was generated before; 0 for none.
    pub presence_penalty: f64,
    /// Taken from a logit for each time its token was generated before; 0 for none.
    pub frequency_penalty: f64,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the random choices.
    pub seed: u64,
}

impl SamplingParams {
    /// The likeliest token each time.
    pub const GREEDY: Self = Self {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        presence_penalty: 0.0,
        frequency_penalty: 0.0,
        logit_bias: Vec::new(),
        seed: 0,
    };

    /// Whether top-k, top-p or min-p leaves tokens out.
    pub(super) fn truncates(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Whether a penalty needs to know which tokens were seen before.
    pub(super) fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// Why a generation ended: OpenAI's `finish_reason`, and cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token was generated, or a constraint is complete.
    Stop,
    /// The limit of new tokens was reached.
    Length,
    /// The caller cancelled it.
    Cancelled,
}

/// How [`generate`](super::generate::generate) continues a prompt.
#[derive(Debug, Clone)]
pub struct GenerateConfig {
    /// The answer ends after this many tokens at the latest.
    pub max_new_tokens: usize,
    /// How each token is chosen.
    pub sampling: SamplingParams,
    /// Any of these tokens ends the answer; with none it runs to the limit.
    pub stop_ids: Vec<u32>,
}

impl GenerateConfig {
    /// The likeliest token each time.
    pub fn greedy(max_new_tokens: usize, stop_ids: &[u32]) -> Self {
        Self { max_new_tokens, sampling: SamplingParams::GREEDY, stop_ids: stop_ids.to_vec() }
    }
}

/// One prompt's continuation, with its timings.
#[derive(Debug, Clone)]
pub struct Generation {
    /// New tokens, without the stop token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: FinishReason,
    /// Tokens of the prompt that were computed: those found in the prefix cache are not counted.
    pub prefill_tokens: usize,
    /// Seconds for the prompt.
    pub prefill_s: f64,
    /// Steps after the prompt, one token each; a stop token is one too.
    pub decode_steps: usize,
    /// Seconds that these steps took.
    pub decode_s: f64,
}

impl Generation {
    /// Prompt tokens a second.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        self.prefill_tokens as f64 / self.prefill_s.max(1e-9)
    }

    /// Tokens a second after the prompt's pass, which gives the first one.
    pub fn decode_tokens_per_s(&self) -> f64 {
        self.decode_steps as f64 / self.decode_s.max(1e-9)
    }
}

/// How [`generate_completions`](super::completions::generate_completions) continues its prompts.
#[derive(Debug, Clone)]
pub struct CompletionConfig {
    /// Most new tokens of a completion.
    pub max_new_tokens: usize,
    /// How each token is chosen; its seed is not used.
    pub sampling: SamplingParams,
    /// Any of these tokens ends a completion; with none it runs to the limit.
    pub eos_ids: Vec<u32>,
    /// Seed of all completions; each has a random stream of its own from it.
    pub seed: u64,
}

/// One of several completions of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Index of the prompt that it continues.
    pub prompt: usize,
    /// New tokens, with the stop token where one was sampled.
    pub ids: Vec<u32>,
    /// Log-probability of each token under the very distribution it was sampled from.
    pub logprobs: Vec<f32>,
    /// The same under the model's own distribution: temperature 1, all tokens.
    pub model_logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: FinishReason,
}

impl Completion {
    /// A completion of a prompt before its first token.
    pub(super) fn empty(prompt: usize) -> Self {
        Self {
            prompt,
            ids: Vec::new(),
            logprobs: Vec::new(),
            model_logprobs: Vec::new(),
            finish: FinishReason::Length,
        }
    }
}

/// The random stream of a prompt's completion number `sample`: no two of one call are the same.
pub fn random_stream(prompt: usize, sample: usize) -> u64 {
    (prompt as u64) << 32 | sample as u64
}

/// New tokens for a prompt: `wanted`, cut to what the model's positions leave.
///
/// # Errors
/// A prompt that is empty, leaves no position, or holds an id outside the vocabulary.
pub fn clamp_new_tokens(config: &ModelConfig, prompt: &[u32], wanted: usize) -> Result<usize> {
    let (positions, vocab) = (config.max_position_embeddings as usize, config.vocab_size);
    if prompt.is_empty() {
        return Err(Error::input("the prompt holds no token").hint("give at least one"));
    }
    if let Some(id) = prompt.iter().find(|&&id| i64::from(id) >= vocab) {
        return Err(Error::input(format!("token id {id} is outside the model's vocabulary of {vocab}"))
            .hint("use the tokenizer the weights were trained with"));
    }
    if prompt.len() >= positions {
        return Err(Error::input(format!(
            "the prompt has {} tokens, the model sees {positions}",
            prompt.len()
        ))
        .hint("shorten the prompt"));
    }
    Ok(wanted.min(positions - prompt.len()))
}
