//! An answer on its way: events of the engine become updates of its choices, within the time allowed.
//!
//! Dropping it (the client went away) cancels what is not done.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::assemble::{Assembler, Shown};
use super::fault::Fault;
use super::metrics::Metrics;
use super::worker::{Live, Place, Running};
use crate::rollout::{FinishReason, GenerateRequest, ScoredToken, TokenEvent};

/// Something new of a choice.
#[derive(Debug)]
pub enum Update {
    /// The prompt's tokens.
    Prompt(Vec<ScoredToken>),
    /// More text.
    Shown(Shown),
    /// The last text, and why it ended: `stop` or `length`.
    End(Shown, &'static str),
}

/// The choices of one request.
#[derive(Debug)]
pub struct Answer {
    /// The model that answers.
    pub live: Arc<Live>,
    running: Running,
    choices: Vec<(Assembler, bool)>,
    left: usize,
    started: Instant,
    limit: Duration,
    first: bool,
    metrics: Arc<Metrics>,
    prompt_tokens: usize,
    cached_tokens: usize,
    /// Which of the choices read their prompt: several answers to one prompt read it once.
    reads: Vec<bool>,
}

impl Answer {
    /// Hands the orders in.
    pub fn start(
        live: Arc<Live>,
        orders: Vec<GenerateRequest>,
        assemblers: Vec<Assembler>,
        places: Vec<Place>,
        limit: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let first = |i: usize| i == 0 || orders[i].prompt != orders[i - 1].prompt;
        let reads: Vec<bool> = (0..orders.len()).map(first).collect();
        let prompt_tokens: usize =
            orders.iter().zip(&reads).filter(|(_, reads)| **reads).map(|(o, _)| o.prompt.len()).sum();
        metrics.prompt_tokens.add(prompt_tokens as u64);
        Self {
            running: live.generate(orders, places),
            left: assemblers.len(),
            choices: assemblers.into_iter().map(|a| (a, false)).collect(),
            started: Instant::now(),
            limit,
            first: true,
            metrics,
            prompt_tokens,
            cached_tokens: 0,
            reads,
            live,
        }
    }

    /// The next update with its choice's index; `None` at the end.
    pub async fn next(&mut self) -> Option<Result<(usize, Update), Fault>> {
        while self.left > 0 {
            let Ok((index, event)) = timeout_at(self.started + self.limit, self.running.next()).await else {
                self.left = 0;
                return Some(Err(Fault::late(self.limit.as_secs())));
            };
            match self.update(index, event) {
                Ok(None) => {}
                Ok(Some(update)) => return Some(Ok((index, update))),
                Err(fault) => {
                    self.left = 0;
                    return Some(Err(fault));
                }
            }
        }
        None
    }

    fn update(&mut self, index: usize, event: TokenEvent) -> Result<Option<Update>, Fault> {
        let (assembler, ended) = &mut self.choices[index];
        if *ended {
            return Ok(None);
        }
        match event {
            TokenEvent::Failed(error) => Err(error.into()),
            TokenEvent::Prompt(tokens) => Ok(Some(Update::Prompt(tokens))),
            TokenEvent::Token(token) => {
                if std::mem::take(&mut self.first) {
                    self.metrics.first_token.observe(self.started.elapsed());
                }
                let (shown, stopped) = assembler.push(&self.live.tokenizer, token)?;
                if !stopped {
                    return Ok(Some(Update::Shown(shown)));
                }
                self.end(index);
                Ok(Some(Update::End(shown, "stop")))
            }
            TokenEvent::Done(finished) => {
                if self.reads[index] {
                    self.cached_tokens += finished.cached_tokens;
                }
                let shown = assembler.finish(&self.live.tokenizer)?;
                self.end(index);
                Ok(Some(Update::End(
                    shown,
                    if finished.reason == FinishReason::Length { "length" } else { "stop" },
                )))
            }
        }
    }

    /// Ends a choice early; nothing more is said of it.
    pub fn end(&mut self, index: usize) {
        if !std::mem::replace(&mut self.choices[index].1, true) {
            self.left -= 1;
            self.running.cancel(index);
            if self.left == 0 {
                self.metrics.duration.observe(self.started.elapsed());
            }
        }
    }

    /// The numbers of tokens so far.
    pub fn usage(&self) -> Value {
        let completion: usize = self.choices.iter().map(|(a, _)| a.tokens()).sum();
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        })
    }
}
