//! A request at work: what it has read, what it reads next, and how its next token is chosen.

use super::generate::Finish;
use super::lanes::{Lane, Part, Want};
use super::request::{Request, TokenLogprob};
use super::sample::{Sampler, log_sum_exp};
use crate::error::{Error, Result};

/// A request at work.
pub(super) struct Row {
    pub request: Request,
    pub limit: usize,
    pub sampler: Sampler,
    pub lane: Lane,
    /// The prompt and what came after it.
    pub tokens: Vec<u32>,
    /// How many of them the lane holds.
    pub held: usize,
    pub cached: usize,
    pub prompt_logprobs: Vec<TokenLogprob>,
    /// Tokens that it reads in this step, and whose logits it wants.
    pub reads: usize,
    pub want: Want,
    pub end: Option<End>,
}

/// How a row ended in this step.
pub(super) enum End {
    Finish(Finish),
    Fault(Error),
}

impl Row {
    pub fn prompt_tokens(&self) -> usize {
        self.request.prompt.len()
    }

    pub fn reads_prompt(&self) -> bool {
        self.held < self.prompt_tokens()
    }

    pub fn new_tokens(&self) -> usize {
        self.tokens.len() - self.prompt_tokens()
    }

    /// Decides what it reads in this step: its new token, or of its prompt what `prefill` still allows.
    pub fn plan(&mut self, prefill: &mut usize) {
        let left = self.tokens.len() - self.held;
        self.reads = left;
        if self.reads_prompt() {
            self.reads = left.min(*prefill);
            *prefill -= self.reads;
        }
        self.want = match self.reads_prompt() && self.request.prompt_logprobs {
            true => Want::All,
            false if self.reads == left => Want::Last,
            false => Want::Nothing,
        };
    }

    pub fn part(&mut self) -> Option<Part<'_>> {
        let ids = &self.tokens[self.held..self.held + self.reads];
        (self.reads > 0).then_some(Part { lane: &mut self.lane, ids, start: self.held, want: self.want })
    }

    /// Rows of logits it gets in this step.
    pub fn outputs(&self) -> usize {
        match self.want {
            _ if self.reads == 0 => 0,
            Want::Nothing => 0,
            Want::Last => 1,
            Want::All => self.reads,
        }
    }
}

/// The row's next token, and whether it is the last.
pub(super) fn choose(
    row: &mut Row,
    logits: &mut [f32],
) -> Result<(u32, Option<TokenLogprob>, Option<Finish>)> {
    let top = row.request.logprobs.map(|n| top_tokens(logits, n));
    let chosen = row.sampler.choose_among(logits, row.request.constraint.as_deref_mut())?;
    row.tokens.push(chosen.token);
    let complete = match &mut row.request.constraint {
        Some(constraint) => constraint.accept(chosen.token)?,
        None => false,
    };
    let finish = if complete || row.request.stop_ids.contains(&chosen.token) {
        Some(Finish::Stop)
    } else {
        (row.new_tokens() >= row.limit).then_some(Finish::Length)
    };
    let logprob = top.map(|top| TokenLogprob {
        token: chosen.token,
        logprob: chosen.model_logprob,
        sampled_logprob: chosen.logprob,
        top,
    });
    Ok((chosen.token, logprob, finish))
}

pub(super) fn prompt_logprob(logits: &[f32], token: u32, top: usize) -> TokenLogprob {
    let logprob = logits[token as usize] - log_sum_exp(logits);
    TokenLogprob { token, logprob, sampled_logprob: logprob, top: top_tokens(logits, top) }
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
