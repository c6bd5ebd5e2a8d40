//! The decoder as the server sees it: orders in, events out, one step at a time.
//!
//! B rows, T tokens, D hidden, V vocab.

use tch::{Kind, Tensor};

use crate::error::{Error, Result};
use crate::model::{CausalLm, KvCache, Mask};
use crate::rollout::{Finish, Sampler, Sampling};

/// A generation that is asked for.
#[derive(Debug, Clone)]
pub struct Order {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Most new tokens; none asks for the prompt's log-probabilities alone.
    pub max_new_tokens: usize,
    /// How to choose.
    pub sampling: Sampling,
    /// Tokens that end it.
    pub stop_ids: Vec<u32>,
    /// How many likeliest tokens to name beside each new one.
    pub logprobs: Option<usize>,
    /// Whether the prompt's tokens get log-probabilities too.
    pub prompt_logprobs: bool,
}

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

/// What is said of a generation.
#[derive(Debug, Clone)]
pub enum Said {
    /// The prompt's tokens, where asked for.
    Prompt(Vec<Scored>),
    /// A new token.
    Token(Scored),
    /// It ended; a token that ended it comes along.
    Done(Finish),
    /// It failed.
    Failed(Error),
}

/// The engine over one model.
#[derive(Debug)]
pub struct Engine {
    model: CausalLm,
    slots: usize,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    id: u64,
    order: Order,
    cache: Option<KvCache>,
    sampler: Sampler,
    made: Vec<u32>,
}

impl Engine {
    /// An engine that decodes up to `slots` rows together.
    pub fn new(model: CausalLm, slots: usize) -> Self {
        Self { model, slots, rows: Vec::new() }
    }

    /// Takes an order.
    pub fn submit(&mut self, id: u64, order: Order) -> Result<()> {
        let sampler = Sampler::new(&order.sampling, &order.prompt, 0);
        self.rows.push(Row { id, order, cache: None, sampler, made: Vec::new() });
        Ok(())
    }

    /// Forgets an order.
    pub fn cancel(&mut self, id: u64) {
        self.rows.retain(|row| row.id != id);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows that are decoded now.
    pub fn running(&self) -> usize {
        self.rows.len().min(self.slots)
    }

    /// Forgets everything, after a fault.
    pub fn reset(&mut self) {
        self.rows.clear();
    }

    /// One token for each row.
    pub fn step(&mut self) -> Result<Vec<(u64, Said)>> {
        let _no_grad = tch::no_grad_guard();
        let mut events = Vec::new();
        let count = self.running();
        let mut done = Vec::new();
        for row in &mut self.rows[..count] {
            let at = events.len();
            row.step(&self.model, &mut events)?;
            if events[at..].iter().any(|(_, said)| matches!(said, Said::Done(_))) {
                done.push(row.id);
            }
        }
        self.rows.retain(|row| !done.contains(&row.id));
        Ok(events)
    }

    /// The mean of the last hidden state over the tokens of each input.
    pub fn embed(&mut self, inputs: &[Vec<u32>]) -> Result<Vec<Vec<f32>>> {
        let _no_grad = tch::no_grad_guard();
        inputs
            .iter()
            .map(|ids| {
                let (hidden, _) = self.model.hidden(&tensor(ids, &self.model), Mask::Causal, false); // [1, T, D]
                let mean = hidden.to_kind(Kind::Float).mean_dim(1, false, Kind::Float).view([-1]); // [D]
                Ok(Vec::try_from(mean.to_device(tch::Device::Cpu))?)
            })
            .collect()
    }
}

fn tensor(ids: &[u32], model: &CausalLm) -> Tensor {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    Tensor::from_slice(&ids).view([1, -1]).to_device(model.device())
}

fn scored(logprobs: &[f32], id: u32, top: usize) -> Scored {
    let mut order: Vec<u32> = (0..logprobs.len() as u32).collect();
    order.sort_by(|&a, &b| logprobs[b as usize].total_cmp(&logprobs[a as usize]));
    let top = order.into_iter().take(top).map(|id| (id, logprobs[id as usize])).collect();
    Scored { id, logprob: Some(logprobs[id as usize]), top }
}

impl Row {
    fn step(&mut self, model: &CausalLm, events: &mut Vec<(u64, Said)>) -> Result<()> {
        let first = self.cache.is_none();
        if first {
            let room = (self.order.prompt.len() + self.order.max_new_tokens.max(1)) as i64;
            self.cache = Some(KvCache::new(model.config(), 1, room, model.kind(), model.device())?);
        }
        let input = if first { &self.order.prompt[..] } else { &self.made[self.made.len() - 1..] };
        let cache = self.cache.as_mut().expect("a cache was made");
        let logits = model
            .logits(&model.hidden_cached(&tensor(input, model), cache))
            .squeeze_dim(0)
            .to_kind(Kind::Float); // [T, V]
        let rows: Vec<Vec<f32>> = Vec::try_from(logits.log_softmax(-1, Kind::Float).contiguous())?;
        if first && self.order.prompt_logprobs {
            let top = self.order.logprobs.unwrap_or(0);
            let mut said = vec![Scored { id: self.order.prompt[0], logprob: None, top: Vec::new() }];
            said.extend(self.order.prompt[1..].iter().zip(&rows).map(|(&id, row)| scored(row, id, top)));
            events.push((self.id, Said::Prompt(said)));
        }
        if self.order.max_new_tokens == 0 {
            events.push((self.id, Said::Done(Finish::Length)));
            return Ok(());
        }
        let last = rows.last().expect("a row of logits");
        let id = self.sampler.choose(&mut last.clone()).token;
        let said = match self.order.logprobs {
            Some(top) => scored(last, id, top),
            None => Scored { id, logprob: None, top: Vec::new() },
        };
        self.made.push(id);
        events.push((self.id, Said::Token(said)));
        if self.order.stop_ids.contains(&id) {
            events.push((self.id, Said::Done(Finish::Stop)));
        } else if self.made.len() >= self.order.max_new_tokens {
            events.push((self.id, Said::Done(Finish::Length)));
        }
        Ok(())
    }
}
