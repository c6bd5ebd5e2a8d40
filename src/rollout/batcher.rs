//! Continuous batching: requests join and leave at any step, and each step is one pass over all sequences at work.
//!
//! A sequence's tokens depend on its request alone: not on its neighbours, on the chunks of its prefill, or on what the
//! prefix cache held (on the CPU to the bit).
//!
//! ```no_run
//! # use minimind::rollout::{Batcher, BatcherConfig, Decoder, DecoderConfig, GenerateRequest, TokenEvent};
//! # fn example(model: &minimind::model::CausalLm) -> minimind::error::Result<()> {
//! let decoder = Decoder::new(model, DecoderConfig::default())?;
//! let mut batcher = Batcher::new(decoder, BatcherConfig::default())?;
//! batcher.submit(GenerateRequest::new(1, vec![5, 6, 7], 20))?;
//! while !batcher.is_idle() {
//!     for (id, event) in batcher.step()? {
//!         if let TokenEvent::Token(token) = event {
//!             println!("{id}: {}", token.id);
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! N tokens of a step, V vocab.

use std::collections::{HashSet, VecDeque};

use super::decoder::Decoder;
use super::kv_slots::{KvSlots, LogitsOf, SequenceChunk};
use super::request::{Finished, GenerateRequest, TokenEvent};
use super::sample::Sampler;
use super::sequence::{Sequence, SequenceEnd};
use super::types::{FinishReason, clamp_new_tokens};
use crate::error::{Error, Result};
use crate::native::PAGE;

/// Limits of a batcher.
#[derive(Debug, Clone, Copy)]
pub struct BatcherConfig {
    /// Sequences decoded together at the most (vLLM's `max_num_seqs`).
    pub max_rows: usize,
    /// Positions that all sequences may hold together. Memory is taken as it is used.
    pub max_tokens: usize,
    /// Prompt tokens computed in one step at the most, all sequences together.
    pub prefill_chunk: usize,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        Self { max_rows: 16, max_tokens: 32_768, prefill_chunk: 512 }
    }
}

/// Runs many requests together over one decoder.
pub struct Batcher<'m> {
    slots: KvSlots<'m>,
    config: BatcherConfig,
    waiting: VecDeque<GenerateRequest>,
    running: Vec<Sequence>,
    /// Ids in flight.
    ids: HashSet<u64>,
    /// Events that `cancel` left for the next step.
    pending: Vec<(u64, TokenEvent)>,
}

impl std::fmt::Debug for Batcher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (running, waiting) = (self.running.len(), self.waiting.len());
        f.debug_struct("Batcher")
            .field("running", &running)
            .field("waiting", &waiting)
            .finish_non_exhaustive()
    }
}

impl<'m> Batcher<'m> {
    /// A batcher over a decoder.
    ///
    /// # Errors
    /// Memory runs out for the cache.
    pub fn new(decoder: Decoder<'m>, config: BatcherConfig) -> Result<Self> {
        let slots = KvSlots::new(decoder, config.max_tokens)?;
        let config = BatcherConfig {
            max_rows: config.max_rows.max(1),
            prefill_chunk: config.prefill_chunk.max(1),
            ..config
        };
        Ok(Self {
            slots,
            config,
            waiting: VecDeque::new(),
            running: Vec::new(),
            ids: HashSet::new(),
            pending: Vec::new(),
        })
    }

    /// The decoder that runs the model's forward passes.
    pub fn decoder(&mut self) -> &mut Decoder<'m> {
        self.slots.decoder()
    }

    /// Puts a request in the queue.
    ///
    /// # Errors
    /// A prompt that is empty, too long for the model or the cache, or holds an id outside the vocabulary; an id
    /// that is in flight already.
    pub fn submit(&mut self, request: GenerateRequest) -> Result<()> {
        let limit = clamp_new_tokens(self.slots.config(), &request.prompt, request.max_new_tokens)?;
        let need = self.slots.cost(request.prompt.len() + limit);
        if need > self.slots.capacity() {
            let (prompt, most) = (request.prompt.len(), self.slots.capacity());
            return Err(Error::input(format!(
                "a prompt of {prompt} tokens and {limit} new ones do not fit the cache of {most} tokens"
            ))
            .hint("ask for fewer tokens, or raise the budget of cached tokens"));
        }
        if !self.ids.insert(request.id) {
            return Err(Error::input(format!("request {} is in flight already", request.id)));
        }
        self.waiting.push_back(request);
        Ok(())
    }

    /// Ends a request; its slot is free at once, and the next step reports [`FinishReason::Cancelled`]. An id that is
    /// not in flight is ignored.
    pub fn cancel(&mut self, id: u64) {
        if let Some(i) = self.waiting.iter().position(|r| r.id == id) {
            if let Some(request) = self.waiting.remove(i) {
                self.ids.remove(&id);
                self.pending.push((id, unstarted(&request, FinishReason::Cancelled)));
            }
        } else if let Some(i) = self.running.iter().position(|r| r.request.id == id) {
            let mut sequence = self.running.remove(i);
            sequence.end = Some(SequenceEnd::Finished(FinishReason::Cancelled));
            let event = self.retire(sequence);
            self.pending.push((id, event));
        }
    }

    /// Whether nothing is in flight and no event is left to send.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty() && self.pending.is_empty()
    }

    /// The number of sequences that hold a slot.
    pub fn active(&self) -> usize {
        self.running.len()
    }

    /// Requests in the queue.
    pub fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// Admits requests, runs one pass over all sequences, and returns the events of each request by its id.
    ///
    /// # Errors
    /// What concerns all sequences: no memory, a device that fails. One sequence's fault is a [`TokenEvent::Failed`].
    pub fn step(&mut self) -> Result<Vec<(u64, TokenEvent)>> {
        let mut events = std::mem::take(&mut self.pending);
        self.admit(&mut events)?;
        let mut prefill_budget = self.config.prefill_chunk;
        for sequence in &mut self.running {
            sequence.schedule(&mut prefill_budget);
        }
        let mut chunks: Vec<SequenceChunk<'_>> =
            self.running.iter_mut().filter_map(Sequence::chunk).collect();
        if chunks.is_empty() {
            return Ok(events);
        }
        self.slots.step(&mut chunks)?;
        let vocab = self.slots.config().vocab_size as usize;
        let mut logits = std::mem::take(&mut self.slots.logits);
        let mut at = 0;
        for i in 0..self.running.len() {
            let rows = self.running[i].logit_rows();
            self.advance(i, &mut logits[at * vocab..(at + rows) * vocab], &mut events);
            at += rows;
        }
        self.slots.logits = logits;
        let mut i = 0;
        while i < self.running.len() {
            if self.running[i].end.is_none() {
                i += 1;
                continue;
            }
            let sequence = self.running.remove(i);
            events.push((sequence.request.id, self.retire(sequence)));
        }
        Ok(events)
    }

    /// Starts waiting requests while there is room.
    fn admit(&mut self, events: &mut Vec<(u64, TokenEvent)>) -> Result<()> {
        let held = |s: &Sequence| self.slots.cost(s.prompt_len() + s.limit);
        let mut taken: usize = self.running.iter().map(held).sum();
        let mut i = 0;
        while i < self.waiting.len() && self.running.len() < self.config.max_rows {
            // Prompts that begin alike are computed once: the others wait for the first and share its prefix.
            let prompt = &self.waiting[i].prompt;
            if !self.waiting[i].prompt_logprobs && self.is_worth_waiting(prompt) {
                i += 1;
                continue;
            }
            let limit = clamp_new_tokens(self.slots.config(), prompt, self.waiting[i].max_new_tokens)?;
            let need = self.slots.cost(prompt.len() + limit);
            if taken + need > self.slots.capacity() {
                break;
            }
            let Some(request) = self.waiting.remove(i) else { break };
            if limit == 0 && !request.prompt_logprobs {
                self.ids.remove(&request.id);
                events.push((request.id, unstarted(&request, FinishReason::Length)));
                continue;
            }
            taken += need;
            // For a prompt's log-probabilities all of it must be computed.
            let prefix = if request.prompt_logprobs { &request.prompt[..1] } else { &request.prompt[..] };
            let (slot, cached) = self.slots.allocate(prefix, request.prompt.len() + limit)?;
            self.running.push(Sequence {
                sampler: Sampler::new(&request.sampling, &request.prompt, request.stream),
                tokens: request.prompt.clone(),
                limit,
                slot,
                computed: cached,
                cached,
                prompt_tokens: Vec::new(),
                scheduled: 0,
                logits_of: LogitsOf::None,
                end: None,
                request,
            });
        }
        Ok(())
    }

    /// Whether a sequence in prefill will soon leave more of `prompt` in the prefix cache than it holds now: a page, or
    /// all but the last token.
    fn is_worth_waiting(&self, prompt: &[u32]) -> bool {
        let prefilling = self.running.iter().filter(|sequence| sequence.is_prefilling());
        let common = |s: &Sequence| s.request.prompt.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let Some(most) = prefilling.map(common).max().filter(|&most| most > 0) else { return false };
        let gain = most.min(prompt.len() - 1).saturating_sub(self.slots.cached_prefix(prompt));
        gain >= PAGE || (gain > 0 && most == prompt.len())
    }

    /// A sequence's chunk was computed, and `logits` are its rows of `[V]`: chooses its next token.
    fn advance(&mut self, index: usize, logits: &mut [f32], events: &mut Vec<(u64, TokenEvent)>) {
        let vocab = self.slots.config().vocab_size as usize;
        let sequence = &mut self.running[index];
        let (id, first) = (sequence.request.id, sequence.computed);
        sequence.computed += sequence.scheduled;
        if first < sequence.prompt_len() && sequence.scheduled > 0 {
            if sequence.request.prompt_logprobs {
                sequence.score_prompt(first, logits, vocab);
            }
            if !sequence.is_prefilling() {
                self.slots.cache_prefix(&sequence.slot, &sequence.request.prompt);
                if sequence.request.prompt_logprobs {
                    events.push((id, TokenEvent::Prompt(std::mem::take(&mut sequence.prompt_tokens))));
                }
            }
        }
        if sequence.computed < sequence.tokens.len() || logits.is_empty() {
            return;
        }
        if sequence.limit == 0 {
            sequence.end = Some(SequenceEnd::Finished(FinishReason::Length));
            return;
        }
        let last = logits.len() - vocab;
        match sequence.sample(&mut logits[last..]) {
            Ok((token, finish)) => {
                sequence.end = finish.map(SequenceEnd::Finished);
                events.push((id, TokenEvent::Token(token)));
            }
            Err(error) => sequence.end = Some(SequenceEnd::Failed(error)),
        }
    }

    /// Frees a sequence's slot; what it holds goes into the prefix cache.
    fn retire(&mut self, sequence: Sequence) -> TokenEvent {
        self.ids.remove(&sequence.request.id);
        if let Some(SequenceEnd::Failed(error)) = sequence.end {
            self.slots.free(sequence.slot);
            return TokenEvent::Failed(error);
        }
        let finished = Finished {
            reason: match sequence.end {
                Some(SequenceEnd::Finished(reason)) => reason,
                _ => FinishReason::Cancelled,
            },
            prompt_tokens: sequence.prompt_len(),
            cached_tokens: sequence.cached,
            new_tokens: sequence.new_tokens(),
        };
        self.slots.cache_prefix(&sequence.slot, &sequence.tokens[..sequence.computed]);
        self.slots.free(sequence.slot);
        TokenEvent::Done(finished)
    }
}

/// The end of a request that never ran.
fn unstarted(request: &GenerateRequest, reason: FinishReason) -> TokenEvent {
    let prompt_tokens = request.prompt.len();
    TokenEvent::Done(Finished { reason, prompt_tokens, cached_tokens: 0, new_tokens: 0 })
}
