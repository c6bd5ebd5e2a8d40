//! A request at work: which of its tokens are computed, which a step computes next, and how its next token is chosen.

use super::kv_slots::{KvSlot, LogitsOf, SequenceChunk};
use super::request::{GenerateRequest, Logprobs, ScoredToken};
use super::sample::{Sampler, log_sum_exp};
use super::types::FinishReason;
use crate::error::{Error, Result};

/// A request at work.
pub(super) struct Sequence {
    pub request: GenerateRequest,
    /// The sequence ends after this many new tokens at the latest.
    pub limit: usize,
    pub sampler: Sampler,
    pub slot: KvSlot,
    /// The prompt and the new tokens.
    pub tokens: Vec<u32>,
    /// How many of them have their keys and values in the slot.
    pub computed: usize,
    /// How many of the prompt's came from the prefix cache.
    pub cached: usize,
    pub prompt_tokens: Vec<ScoredToken>,
    /// Tokens that this step computes.
    pub scheduled: usize,
    /// Those of them that need logits.
    pub logits_of: LogitsOf,
    pub end: Option<SequenceEnd>,
}

/// How a sequence ended in this step.
pub(super) enum SequenceEnd {
    Finished(FinishReason),
    Failed(Error),
}

impl Sequence {
    /// Tokens of the prompt.
    pub fn prompt_len(&self) -> usize {
        self.request.prompt.len()
    }

    /// Whether a part of the prompt is not computed yet.
    pub fn is_prefilling(&self) -> bool {
        self.computed < self.prompt_len()
    }

    /// The number of tokens generated after the prompt.
    pub fn new_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_len()
    }

    /// Decides what this step computes: the newest token, or of the prompt what `prefill_budget` still allows.
    pub fn schedule(&mut self, prefill_budget: &mut usize) {
        let left = self.tokens.len() - self.computed;
        self.scheduled = left;
        if self.is_prefilling() {
            self.scheduled = left.min(*prefill_budget);
            *prefill_budget -= self.scheduled;
        }
        self.logits_of = match self.is_prefilling() && self.request.prompt_logprobs {
            true => LogitsOf::All,
            false if self.scheduled == left => LogitsOf::Last,
            false => LogitsOf::None,
        };
    }

    /// Its share of this step, if it has one.
    pub fn chunk(&mut self) -> Option<SequenceChunk<'_>> {
        let ids = &self.tokens[self.computed..self.computed + self.scheduled];
        (self.scheduled > 0).then_some(SequenceChunk {
            slot: &mut self.slot,
            ids,
            start: self.computed,
            logits_of: self.logits_of,
        })
    }

    /// Rows of logits that this step gives it.
    pub fn logit_rows(&self) -> usize {
        match self.logits_of {
            _ if self.scheduled == 0 => 0,
            LogitsOf::None => 0,
            LogitsOf::Last => 1,
            LogitsOf::All => self.scheduled,
        }
    }

    /// Lists the prompt's tokens behind position `first` with their log-probabilities, from `logits` of `[V]` a row.
    pub fn score_prompt(&mut self, first: usize, logits: &[f32], vocab: usize) {
        let top = self.request.logprobs.unwrap_or(0);
        if first == 0 {
            self.prompt_tokens
                .extend(self.request.prompt.first().map(|&id| ScoredToken { id, logprobs: None }));
        }
        for (i, logits) in logits.chunks(vocab).enumerate() {
            if let Some(&id) = self.request.prompt.get(first + i + 1) {
                let logprob = logits[id as usize] - log_sum_exp(logits);
                let logprobs = Logprobs { logprob, sampled_logprob: logprob, top: top_tokens(logits, top) };
                self.prompt_tokens.push(ScoredToken { id, logprobs: Some(logprobs) });
            }
        }
    }

    /// Chooses the next token from `[V]` logits, which it may change; the reason where it is the last.
    ///
    /// # Errors
    /// Logits that are NaN, a constraint that allows no token or fails.
    pub fn sample(&mut self, logits: &mut [f32]) -> Result<(ScoredToken, Option<FinishReason>)> {
        let top = self.request.logprobs.map(|n| top_tokens(logits, n));
        let sampled = self.sampler.sample_constrained(logits, self.request.constraint.as_deref_mut())?;
        self.tokens.push(sampled.token);
        let is_complete = match &mut self.request.constraint {
            Some(constraint) => constraint.accept(sampled.token)?,
            None => false,
        };
        let finish = if is_complete || self.request.stop_ids.contains(&sampled.token) {
            Some(FinishReason::Stop)
        } else {
            (self.new_tokens() >= self.limit).then_some(FinishReason::Length)
        };
        let logprobs =
            top.map(|top| Logprobs { logprob: sampled.model_logprob, sampled_logprob: sampled.logprob, top });
        Ok((ScoredToken { id: sampled.token, logprobs }, finish))
    }
}

/// The `n` likeliest tokens with their log-probabilities.
fn top_tokens(logits: &[f32], n: usize) -> Vec<(u32, f32)> {
    if n == 0 {
        return Vec::new();
    }
    let total = log_sum_exp(logits);
    let mut all: Vec<(u32, f32)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, x - total)).collect();
    let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
    if n < all.len() {
        all.select_nth_unstable_by(n, order);
        all.truncate(n);
    }
    all.sort_by(order);
    all
}
