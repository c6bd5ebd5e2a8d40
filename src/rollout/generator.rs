//! One prompt after another over a decoder that stays: chat and `generate`. What a prompt has in common with earlier
//! ones is not read again.

use std::ops::ControlFlow;
use std::time::Instant;

use super::batcher::{Batcher, BatcherConfig};
use super::generate::{Finish, GenerateConfig, Generation};
use super::lanes::{Decoder, DecoderConfig};
use super::request::{Constraint, Event, Request};
use crate::error::Result;
use crate::model::CausalLm;

/// Positions kept for earlier prompts beside a longest one.
const SPARE: usize = 1024;

/// A decoder for one conversation.
#[derive(Debug)]
pub struct Generator<'m> {
    batcher: Batcher<'m>,
    next: u64,
}

impl<'m> Generator<'m> {
    /// Packs the model's weights.
    ///
    /// # Errors
    /// No memory for them.
    pub fn new(model: &'m CausalLm, config: DecoderConfig) -> Result<Self> {
        let decoder = Decoder::new(model, config)?;
        let max_tokens = decoder.config().max_position_embeddings as usize + SPARE;
        let batcher = Batcher::new(decoder, BatcherConfig { max_rows: 1, max_tokens, prefill_chunk: 512 })?;
        Ok(Self { batcher, next: 0 })
    }

    /// Continues a prompt; `on_token` sees each new token and may end it.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or holds an id outside the vocabulary; logits that are not numbers.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        config: &GenerateConfig,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.generate_within(prompt, config, None, on_token)
    }

    /// The same within a constraint.
    ///
    /// # Errors
    /// As [`Generator::generate`], and those of the constraint.
    pub fn generate_within(
        &mut self,
        prompt: &[u32],
        config: &GenerateConfig,
        constraint: Option<Box<dyn Constraint + Send>>,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.next += 1;
        let id = self.next;
        self.batcher.submit(Request {
            sampling: config.sampling.clone(),
            stop_ids: config.ends.clone(),
            constraint,
            ..Request::new(id, prompt.to_vec(), config.max_new_tokens)
        })?;
        let mut clock = Clock::start();
        let mut ids = Vec::new();
        let mut finish = None;
        while !self.batcher.is_idle() {
            for event in self.batcher.step()? {
                match event {
                    Event::Prompt { .. } => {}
                    Event::Token { token, .. } => {
                        clock.token();
                        if config.ends.contains(&token) {
                            continue;
                        }
                        ids.push(token);
                        if on_token(token).is_break() {
                            finish = Some(Finish::Cancelled);
                            self.batcher.cancel(id);
                        }
                    }
                    Event::Done { finish: how, cached_tokens, .. } => {
                        finish = finish.or(Some(how));
                        clock.cached = cached_tokens;
                    }
                    Event::Failed { error, .. } => return Err(error),
                }
            }
        }
        let (prefill_s, decode_s) = clock.seconds();
        Ok(Generation {
            ids,
            finish: finish.unwrap_or(Finish::Length),
            prefill_tokens: prompt.len() - clock.cached,
            prefill_s,
            decode_steps: clock.tokens.saturating_sub(1),
            decode_s,
        })
    }
}

/// When the first and the last token came.
struct Clock {
    started: Instant,
    first: Option<Instant>,
    last: Instant,
    tokens: usize,
    cached: usize,
}

impl Clock {
    fn start() -> Self {
        let now = Instant::now();
        Self { started: now, first: None, last: now, tokens: 0, cached: 0 }
    }

    fn token(&mut self) {
        self.last = Instant::now();
        self.first.get_or_insert(self.last);
        self.tokens += 1;
    }

    /// Seconds up to the first token, and from there to the last.
    fn seconds(&self) -> (f64, f64) {
        let first = self.first.unwrap_or_else(Instant::now);
        ((first - self.started).as_secs_f64(), self.last.saturating_duration_since(first).as_secs_f64())
    }
}
