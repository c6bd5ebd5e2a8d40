//! The batcher as the server sees it: orders in, events out, one step at a time.
//!
//! B rows, T tokens, D hidden.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::model::{CausalLm, Mask};
/// What a generation is asked with; HTTP has requests of its own.
pub use crate::rollout::Request as Order;
use crate::rollout::{Batcher, BatcherConfig, Decoder, DecoderConfig, Event, Finish, TokenLogprob};

/// A token and how likely it was under the model's own distribution.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The token.
    pub id: u32,
    /// Its log-probability; `None` where it was not asked for, and for a prompt's first token.
    pub logprob: Option<f32>,
    /// The likeliest tokens at its place.
    pub top: Vec<(u32, f32)>,
}

impl Scored {
    fn plain(id: u32) -> Self {
        Self { id, logprob: None, top: Vec::new() }
    }

    fn of(token: TokenLogprob) -> Self {
        Self { id: token.token, logprob: Some(token.logprob), top: token.top }
    }
}

/// What is said of a generation.
#[derive(Debug, Clone)]
pub enum Said {
    /// The prompt's tokens, where asked for.
    Prompt(Vec<Scored>),
    /// A new token; an end mark is one too.
    Token(Scored),
    /// It ended; of its prompt so many tokens were taken over from earlier requests.
    Done(Finish, usize),
    /// It failed.
    Failed(Error),
}

/// The engine over one model.
#[derive(Debug)]
pub struct Engine<'m> {
    model: &'m CausalLm,
    config: BatcherConfig,
    decoder: DecoderConfig,
    batcher: Batcher<'m>,
    /// First tokens of prompts whose log-probabilities were asked for.
    firsts: std::collections::HashMap<u64, u32>,
}

fn batcher(model: &CausalLm, config: BatcherConfig, decoder: DecoderConfig) -> Result<Batcher<'_>> {
    Batcher::new(Decoder::new(model, decoder)?, config)
}

impl<'m> Engine<'m> {
    /// An engine that decodes up to `slots` rows together, each of as many tokens as the decoder has positions.
    pub fn new(model: &'m CausalLm, slots: usize, decoder: DecoderConfig) -> Result<Self> {
        let positions = decoder.positions.unwrap_or(model.config().max_position_embeddings as usize);
        let defaults = BatcherConfig::default();
        let config =
            BatcherConfig { max_rows: slots, max_tokens: defaults.max_tokens.max(2 * positions), ..defaults };
        Ok(Self {
            model,
            config,
            decoder,
            batcher: batcher(model, config, decoder)?,
            firsts: Default::default(),
        })
    }

    /// Takes an order under the name `id`.
    pub fn submit(&mut self, id: u64, order: Order) -> Result<()> {
        if order.prompt_logprobs
            && let Some(&first) = order.prompt.first()
        {
            self.firsts.insert(id, first);
        }
        self.batcher.submit(Order { id, ..order })
    }

    /// Forgets an order.
    pub fn cancel(&mut self, id: u64) {
        self.firsts.remove(&id);
        self.batcher.cancel(id);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.batcher.is_idle()
    }

    /// Rows that are decoded now.
    pub fn running(&self) -> usize {
        self.batcher.active()
    }

    /// Begins anew after a fault: what was in flight is lost.
    pub fn reset(&mut self) -> Result<()> {
        self.firsts.clear();
        self.batcher = batcher(self.model, self.config, self.decoder)?;
        Ok(())
    }

    /// One pass over all rows.
    pub fn step(&mut self) -> Result<Vec<(u64, Said)>> {
        let events = self.batcher.step()?;
        Ok(events.into_iter().map(|event| self.said(event)).collect())
    }

    fn said(&mut self, event: Event) -> (u64, Said) {
        match event {
            Event::Prompt { id, logprobs } => {
                let first = self.firsts.remove(&id).map(Scored::plain);
                (id, Said::Prompt(first.into_iter().chain(logprobs.into_iter().map(Scored::of)).collect()))
            }
            Event::Token { id, token, logprob } => {
                (id, Said::Token(logprob.map_or_else(|| Scored::plain(token), Scored::of)))
            }
            Event::Done { id, finish, cached_tokens, .. } => (id, Said::Done(finish, cached_tokens)),
            Event::Failed { id, error } => (id, Said::Failed(error)),
        }
    }

    /// The mean of the last hidden state over an input's tokens.
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let _no_grad = tch::no_grad_guard();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_slice(&ids).view([1, -1]).to_device(self.model.device());
        let (hidden, _) = self.model.hidden(&ids, Mask::Causal, false); // [1, T, D]
        let mean = hidden.to_kind(Kind::Float).mean_dim(1, false, Kind::Float).view([-1]); // [D]
        Ok(Vec::try_from(mean.to_device(tch::Device::Cpu))?)
    }
}
