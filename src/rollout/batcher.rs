//! Continuous batching: requests join and leave at any step, and each step is one pass over all rows at work.
//!
//! A row's tokens depend on its request alone: not on its neighbours, on the chunks its prompt was read in, or on
//! what was taken over from earlier requests (on the CPU to the bit).
//!
//! ```no_run
//! # use minimind::rollout::{Batcher, BatcherConfig, Decoder, DecoderConfig, Event, Request};
//! # fn example(model: &minimind::model::CausalLm) -> minimind::error::Result<()> {
//! let decoder = Decoder::new(model, DecoderConfig::default())?;
//! let mut batcher = Batcher::new(decoder, BatcherConfig::default())?;
//! batcher.submit(Request::new(1, vec![5, 6, 7], 20))?;
//! while !batcher.is_idle() {
//!     for event in batcher.step()? {
//!         if let Event::Token { id, token, .. } = event {
//!             println!("{id}: {token}");
//!         }
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! N tokens of a step, V vocab.

use std::collections::{HashSet, VecDeque};

use super::generate::{Finish, room};
use super::lanes::{Decoder, Lanes, Part, Want};
use super::request::{Event, Request};
use super::row::{End, Row, choose, prompt_logprob};
use super::sample::Sampler;
use crate::error::{Error, Result};
use crate::native::PAGE;

/// Limits of a batcher.
#[derive(Debug, Clone, Copy)]
pub struct BatcherConfig {
    /// Rows decoded together at the most.
    pub max_rows: usize,
    /// Positions that all rows may hold together. Memory is taken as it is used.
    pub max_tokens: usize,
    /// Prompt tokens read in one step at the most, all rows together.
    pub prefill_chunk: usize,
}

impl Default for BatcherConfig {
    fn default() -> Self {
        Self { max_rows: 16, max_tokens: 32_768, prefill_chunk: 512 }
    }
}

/// The batcher.
pub struct Batcher<'m> {
    lanes: Lanes<'m>,
    config: BatcherConfig,
    waiting: VecDeque<Request>,
    rows: Vec<Row>,
    /// Ids in flight.
    ids: HashSet<u64>,
    /// Events that `cancel` left for the next step.
    pending: Vec<Event>,
}

impl std::fmt::Debug for Batcher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rows, waiting) = (self.rows.len(), self.waiting.len());
        f.debug_struct("Batcher").field("rows", &rows).field("waiting", &waiting).finish_non_exhaustive()
    }
}

impl<'m> Batcher<'m> {
    /// A batcher over a decoder.
    ///
    /// # Errors
    /// No memory for the cache.
    pub fn new(decoder: Decoder<'m>, config: BatcherConfig) -> Result<Self> {
        let lanes = Lanes::new(decoder, config.max_tokens)?;
        let config = BatcherConfig {
            max_rows: config.max_rows.max(1),
            prefill_chunk: config.prefill_chunk.max(1),
            ..config
        };
        Ok(Self {
            lanes,
            config,
            waiting: VecDeque::new(),
            rows: Vec::new(),
            ids: HashSet::new(),
            pending: Vec::new(),
        })
    }

    /// Its decoder.
    pub fn decoder(&mut self) -> &mut Decoder<'m> {
        self.lanes.decoder()
    }

    /// Puts a request in the queue.
    ///
    /// # Errors
    /// A prompt that is empty, too long for the model or the cache, or holds an id outside the vocabulary; an id
    /// that is in flight already.
    pub fn submit(&mut self, request: Request) -> Result<()> {
        let limit = room(self.lanes.config(), &request.prompt, request.max_new_tokens)?;
        let need = self.lanes.cost(request.prompt.len() + limit);
        if need > self.lanes.capacity() {
            let (prompt, most) = (request.prompt.len(), self.lanes.capacity());
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

    /// Ends a request; its slot is free at once, and the next step tells [`Finish::Cancelled`]. An id that is not
    /// in flight is passed over.
    pub fn cancel(&mut self, id: u64) {
        if let Some(i) = self.waiting.iter().position(|r| r.id == id) {
            if let Some(request) = self.waiting.remove(i) {
                self.ids.remove(&id);
                let prompt_tokens = request.prompt.len();
                let (finish, cached_tokens, new_tokens) = (Finish::Cancelled, 0, 0);
                self.pending.push(Event::Done { id, finish, prompt_tokens, cached_tokens, new_tokens });
            }
        } else if let Some(i) = self.rows.iter().position(|r| r.request.id == id) {
            let mut row = self.rows.remove(i);
            row.end = Some(End::Finish(Finish::Cancelled));
            let event = self.leave(row);
            self.pending.push(event);
        }
    }

    /// Whether nothing is in flight and nothing left to tell.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.rows.is_empty() && self.pending.is_empty()
    }

    /// Requests at work.
    pub fn active(&self) -> usize {
        self.rows.len()
    }

    /// Requests in the queue.
    pub fn queued(&self) -> usize {
        self.waiting.len()
    }

    /// Takes requests in, runs one pass, and tells what came of it.
    ///
    /// # Errors
    /// What concerns all rows: no memory, a device that fails. One row's fault is an [`Event::Failed`].
    pub fn step(&mut self) -> Result<Vec<Event>> {
        let mut events = std::mem::take(&mut self.pending);
        self.admit(&mut events)?;
        let mut prefill = self.config.prefill_chunk;
        for row in &mut self.rows {
            row.plan(&mut prefill);
        }
        let mut parts: Vec<Part<'_>> = self.rows.iter_mut().filter_map(Row::part).collect();
        if parts.is_empty() {
            return Ok(events);
        }
        self.lanes.run(&mut parts)?;
        let vocab = self.lanes.config().vocab_size as usize;
        let mut logits = std::mem::take(&mut self.lanes.logits);
        let mut at = 0;
        for i in 0..self.rows.len() {
            let outputs = self.rows[i].outputs();
            self.after(i, &mut logits[at * vocab..(at + outputs) * vocab], &mut events);
            at += outputs;
        }
        self.lanes.logits = logits;
        let mut i = 0;
        while i < self.rows.len() {
            if self.rows[i].end.is_none() {
                i += 1;
                continue;
            }
            let row = self.rows.remove(i);
            events.push(self.leave(row));
        }
        Ok(events)
    }

    /// Moves requests from the queue to the rows while there is room.
    fn admit(&mut self, events: &mut Vec<Event>) -> Result<()> {
        let mut taken: usize = self.rows.iter().map(|r| self.lanes.cost(r.prompt_tokens() + r.limit)).sum();
        let mut i = 0;
        while i < self.waiting.len() && self.rows.len() < self.config.max_rows {
            // Prompts that begin alike are read once: the others wait for the first and take over.
            let prompt = &self.waiting[i].prompt;
            if !self.waiting[i].prompt_logprobs && self.worth_waiting(prompt) {
                i += 1;
                continue;
            }
            let limit = room(self.lanes.config(), prompt, self.waiting[i].max_new_tokens)?;
            let need = self.lanes.cost(prompt.len() + limit);
            if taken + need > self.lanes.capacity() {
                break;
            }
            let Some(request) = self.waiting.remove(i) else { break };
            if limit == 0 && !request.prompt_logprobs {
                self.ids.remove(&request.id);
                events.push(Event::Done {
                    id: request.id,
                    finish: Finish::Length,
                    prompt_tokens: request.prompt.len(),
                    cached_tokens: 0,
                    new_tokens: 0,
                });
                continue;
            }
            taken += need;
            let (lane, held) =
                self.lanes.open(&request.prompt, request.prompt.len() + limit, request.prompt_logprobs)?;
            self.rows.push(Row {
                sampler: Sampler::new(&request.sampling, &request.prompt, request.stream),
                tokens: request.prompt.clone(),
                limit,
                lane,
                held,
                cached: held,
                prompt_logprobs: Vec::new(),
                reads: 0,
                want: Want::Nothing,
                end: None,
                request,
            });
        }
        Ok(())
    }

    /// Whether a row that is reading its prompt will soon leave more of `prompt` to take over than is known now:
    /// a page, or all but its last token.
    fn worth_waiting(&self, prompt: &[u32]) -> bool {
        let reading = self.rows.iter().filter(|row| row.reads_prompt());
        let common = |row: &Row| row.request.prompt.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let Some(most) = reading.map(common).max().filter(|&most| most > 0) else { return false };
        let gain = most.min(prompt.len() - 1).saturating_sub(self.lanes.known(prompt));
        gain >= PAGE || (gain > 0 && most == prompt.len())
    }

    /// A row has read what it planned, and `logits` hold what it wanted: chooses its next token.
    fn after(&mut self, index: usize, logits: &mut [f32], events: &mut Vec<Event>) {
        let vocab = self.lanes.config().vocab_size as usize;
        let row = &mut self.rows[index];
        let (id, first) = (row.request.id, row.held);
        row.held += row.reads;
        let at_prompt = first < row.prompt_tokens() && row.reads > 0;
        if at_prompt && row.request.prompt_logprobs {
            let top = row.request.logprobs.unwrap_or(0);
            for (i, logits) in logits.chunks(vocab).enumerate() {
                if let Some(&token) = row.request.prompt.get(first + i + 1) {
                    row.prompt_logprobs.push(prompt_logprob(logits, token, top));
                }
            }
        }
        if at_prompt && !row.reads_prompt() {
            let row = &self.rows[index];
            self.lanes.remember(&row.lane, &row.request.prompt);
            if row.request.prompt_logprobs {
                let logprobs = std::mem::take(&mut self.rows[index].prompt_logprobs);
                events.push(Event::Prompt { id, logprobs });
            }
        }
        let row = &mut self.rows[index];
        if row.held < row.tokens.len() || logits.is_empty() {
            return;
        }
        if row.limit == 0 {
            row.end = Some(End::Finish(Finish::Length));
            return;
        }
        let last = logits.len() - vocab;
        match choose(row, &mut logits[last..]) {
            Ok((token, logprob, finish)) => {
                row.end = finish.map(End::Finish);
                events.push(Event::Token { id, token, logprob });
            }
            Err(error) => row.end = Some(End::Fault(error)),
        }
    }

    /// Gives a row's memory back, keeping what later prompts may take over.
    fn leave(&mut self, row: Row) -> Event {
        let id = row.request.id;
        self.ids.remove(&id);
        if let Some(End::Fault(error)) = row.end {
            self.lanes.close(row.lane);
            return Event::Failed { id, error };
        }
        let (prompt_tokens, cached_tokens, new_tokens) = (row.prompt_tokens(), row.cached, row.new_tokens());
        let finish = match row.end {
            Some(End::Finish(finish)) => finish,
            _ => Finish::Cancelled,
        };
        self.lanes.remember(&row.lane, &row.tokens[..row.held]);
        self.lanes.close(row.lane);
        Event::Done { id, finish, prompt_tokens, cached_tokens, new_tokens }
    }
}
