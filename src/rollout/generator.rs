//! One prompt after another over one decoder, for chat and `generate`. A prefix in common with earlier prompts is not
//! computed again.

use std::ops::ControlFlow;
use std::time::Instant;

use super::batcher::{Batcher, BatcherConfig};
use super::decoder::{Decoder, DecoderConfig};
use super::request::{Constraint, GenerateRequest, TokenEvent};
use super::types::{FinishReason, GenerateConfig, Generation};
use crate::error::Result;
use crate::model::CausalLm;

/// Positions of the prefix cache, in addition to those of the longest sequence.
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
    /// Memory runs out for them.
    pub fn new(model: &'m CausalLm, config: DecoderConfig) -> Result<Self> {
        let decoder = Decoder::new(model, config)?;
        let max_tokens = decoder.config().max_position_embeddings as usize + SPARE;
        let batcher = Batcher::new(decoder, BatcherConfig { max_rows: 1, max_tokens, prefill_chunk: 512 })?;
        Ok(Self { batcher, next: 0 })
    }

    /// Continues a prompt; `on_token` gets each new token and may end the answer.
    ///
    /// # Errors
    /// A prompt that is empty, too long, or holds an id outside the vocabulary; logits that are not numbers.
    pub fn generate(
        &mut self,
        prompt: &[u32],
        config: &GenerateConfig,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.generate_constrained(prompt, config, None, on_token)
    }

    /// As [`Generator::generate`], with an answer that follows a constraint.
    ///
    /// # Errors
    /// As [`Generator::generate`], and those of the constraint.
    pub fn generate_constrained(
        &mut self,
        prompt: &[u32],
        config: &GenerateConfig,
        constraint: Option<Box<dyn Constraint + Send>>,
        on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
    ) -> Result<Generation> {
        self.next += 1;
        let id = self.next;
        self.batcher.submit(GenerateRequest {
            sampling: config.sampling.clone(),
            stop_ids: config.stop_ids.clone(),
            constraint,
            ..GenerateRequest::new(id, prompt.to_vec(), config.max_new_tokens)
        })?;
        let mut clock = Clock::start();
        let mut ids = Vec::new();
        let mut finish = None;
        while !self.batcher.is_idle() {
            for (_, event) in self.batcher.step()? {
                match event {
                    TokenEvent::Prompt(_) => {}
                    TokenEvent::Token(token) => {
                        clock.token();
                        if config.stop_ids.contains(&token.id) {
                            continue;
                        }
                        ids.push(token.id);
                        if on_token(token.id).is_break() {
                            finish = Some(FinishReason::Cancelled);
                            self.batcher.cancel(id);
                        }
                    }
                    TokenEvent::Done(done) => {
                        finish = finish.or(Some(done.reason));
                        clock.cached = done.cached_tokens;
                    }
                    TokenEvent::Failed(error) => return Err(error),
                }
            }
        }
        let (prefill_s, decode_s) = clock.seconds();
        Ok(Generation {
            ids,
            finish: finish.unwrap_or(FinishReason::Length),
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
