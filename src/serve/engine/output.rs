//! The choices of one request as they come: events of the engine become text, within the time allowed.
//!
//! Dropping an [`OutputStream`] (the client went away) cancels what is not done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::detokenizer::{IncrementalDetokenizer, TextDelta};
use super::handle::{EventStream, ModelHandle};
use super::queue::QueuePermit;
use crate::rollout::{FinishReason, GenerateRequest, ScoredToken, TokenEvent};
use crate::serve::error::ApiError;
use crate::serve::metrics::Metrics;

/// What is new of a choice.
#[derive(Debug)]
pub enum ChoiceUpdate {
    /// The prompt's tokens, where their log-probabilities were asked for.
    Prompt(Vec<ScoredToken>),
    /// More text.
    Delta(TextDelta),
    /// The last text, and why it ended: OpenAI's `stop` or `length`.
    End(TextDelta, &'static str),
}

/// Numbers of tokens so far: OpenAI's `usage`.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// Tokens of the prompts; several choices of one prompt count it once.
    pub prompt_tokens: usize,
    /// Tokens that were generated, of all choices together.
    pub completion_tokens: usize,
    /// Tokens of the prompts that came from the prefix cache.
    pub cached_tokens: usize,
}

/// One choice of a request.
#[derive(Debug)]
struct Choice {
    detokenizer: IncrementalDetokenizer,
    ended: bool,
    /// Whether its prompt counts: not where the choice before it has the same one.
    counts_prompt: bool,
}

/// The choices of one request.
#[derive(Debug)]
pub struct OutputStream {
    /// The model that answers.
    pub model: Arc<ModelHandle>,
    events: EventStream,
    choices: Vec<Choice>,
    /// Choices that have not ended.
    open: usize,
    started: Instant,
    timeout: Duration,
    /// Whether a token has come.
    has_token: bool,
    metrics: Arc<Metrics>,
    prompt_tokens: usize,
    cached_tokens: usize,
}

impl OutputStream {
    /// Starts the generations: `requests` with a detokenizer each, and a place in the queue each.
    pub fn start(
        model: Arc<ModelHandle>,
        requests: Vec<(GenerateRequest, IncrementalDetokenizer)>,
        permits: Vec<QueuePermit>,
        timeout: Duration,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (requests, detokenizers): (Vec<_>, Vec<_>) = requests.into_iter().unzip();
        let is_first = |i: usize| i == 0 || requests[i].prompt != requests[i - 1].prompt;
        let choices: Vec<Choice> = detokenizers
            .into_iter()
            .enumerate()
            .map(|(i, detokenizer)| Choice { detokenizer, ended: false, counts_prompt: is_first(i) })
            .collect();
        let counted = requests.iter().zip(&choices).filter(|(_, choice)| choice.counts_prompt);
        let prompt_tokens: usize = counted.map(|(request, _)| request.prompt.len()).sum();
        metrics.prompt_tokens.inc_by(prompt_tokens as u64);
        Self {
            events: model.generate(requests, permits),
            open: choices.len(),
            choices,
            started: Instant::now(),
            timeout,
            has_token: false,
            metrics,
            prompt_tokens,
            cached_tokens: 0,
            model,
        }
    }

    /// The next update with its choice's index; `None` at the end.
    ///
    /// # Errors
    /// 504 where the time is over, and what failed in the model; nothing follows.
    pub async fn next(&mut self) -> Option<Result<(usize, ChoiceUpdate), ApiError>> {
        while self.open > 0 {
            let Ok((index, event)) = timeout_at(self.started + self.timeout, self.events.next()).await else {
                self.open = 0;
                return Some(Err(ApiError::timeout(self.timeout.as_secs())));
            };
            match self.update(index, event) {
                Ok(None) => {}
                Ok(Some(update)) => return Some(Ok((index, update))),
                Err(error) => {
                    self.open = 0;
                    return Some(Err(error));
                }
            }
        }
        None
    }

    fn update(&mut self, index: usize, event: TokenEvent) -> Result<Option<ChoiceUpdate>, ApiError> {
        let choice = &mut self.choices[index];
        if choice.ended {
            return Ok(None);
        }
        match event {
            TokenEvent::Failed(error) => Err(error.into()),
            TokenEvent::Prompt(tokens) => Ok(Some(ChoiceUpdate::Prompt(tokens))),
            TokenEvent::Token(token) => {
                if !std::mem::replace(&mut self.has_token, true) {
                    self.metrics.first_token.observe(self.started.elapsed().as_secs_f64());
                }
                let (delta, stopped) = choice.detokenizer.push(&self.model.tokenizer, token)?;
                if !stopped {
                    return Ok(Some(ChoiceUpdate::Delta(delta)));
                }
                self.end(index);
                Ok(Some(ChoiceUpdate::End(delta, "stop")))
            }
            TokenEvent::Done(finished) => {
                if choice.counts_prompt {
                    self.cached_tokens += finished.cached_tokens;
                }
                let delta = choice.detokenizer.finish(&self.model.tokenizer)?;
                self.end(index);
                let reason = if finished.reason == FinishReason::Length { "length" } else { "stop" };
                Ok(Some(ChoiceUpdate::End(delta, reason)))
            }
        }
    }

    /// Ends a choice, early too; no more updates of it come.
    pub fn end(&mut self, index: usize) {
        if !std::mem::replace(&mut self.choices[index].ended, true) {
            self.open -= 1;
            self.events.cancel(index);
            if self.open == 0 {
                self.metrics.duration.observe(self.started.elapsed().as_secs_f64());
            }
        }
    }

    /// The numbers of tokens so far.
    pub fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.choices.iter().map(|choice| choice.detokenizer.count()).sum(),
            cached_tokens: self.cached_tokens,
        }
    }
}
