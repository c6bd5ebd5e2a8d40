//! The batcher behind the fair queue: requests in, events out, one step at a time (vLLM's engine core).
//!
//! B rows, T tokens, D hidden.

use tch::{Kind, Tensor};

use super::queue::FairQueue;
use crate::error::Result;
use crate::model::{CausalLm, Mask};
use crate::native::PAGE;
use crate::rollout::{Batcher, BatcherConfig, Decoder, DecoderConfig, GenerateRequest, TokenEvent};

/// How much an engine is built for.
#[derive(Debug, Clone, Copy)]
pub struct EngineConfig {
    /// Most tokens of a prompt and its answer together.
    pub context: usize,
    /// How many sequences are decoded together at most.
    pub slots: usize,
    /// Most new tokens of an answer.
    pub new_tokens: usize,
    /// Those of an answer where the request names no number.
    pub default_new_tokens: usize,
}

/// Tokens of a prompt for which a slot has room with its answer. Longer ones share what others leave.
const PROMPT_TOKENS: usize = 1024;

/// Most memory for keys and values. It is taken as it is used, and then kept as the prefix cache.
const CACHE_BYTES: usize = 4 << 30;

impl EngineConfig {
    /// Tokens that the cache of a model of `positions` holds: the longest answer in every slot, within [`CACHE_BYTES`];
    /// and how many slots can run at once with answers of the usual length.
    fn cache_tokens(&self, positions: usize, token_bytes: usize) -> (usize, usize) {
        let slot = |new_tokens: usize| (PROMPT_TOKENS + new_tokens).min(positions).next_multiple_of(PAGE);
        let wanted = self.slots * slot(self.new_tokens);
        // Any request that the context allows must fit.
        let tokens = wanted.min(CACHE_BYTES / token_bytes.max(1)).max(positions.next_multiple_of(PAGE));
        (tokens, self.slots.min(tokens / slot(self.default_new_tokens)))
    }
}

/// The batcher and the queue of one model.
#[derive(Debug)]
pub struct EngineCore<'m> {
    model: &'m CausalLm,
    batcher_config: BatcherConfig,
    decoder_config: DecoderConfig,
    batcher: Batcher<'m>,
    queue: FairQueue,
}

fn batcher(model: &CausalLm, config: BatcherConfig, decoder: DecoderConfig) -> Result<Batcher<'_>> {
    Batcher::new(Decoder::new(model, decoder)?, config)
}

impl<'m> EngineCore<'m> {
    /// An engine that decodes up to `config.slots` sequences together, each of as many tokens as the decoder has
    /// positions.
    ///
    /// # Errors
    /// Memory runs out for the packed weights or the cache.
    pub fn new(model: &'m CausalLm, config: EngineConfig, decoder: DecoderConfig) -> Result<Self> {
        let own = model.config();
        let positions = decoder.positions.unwrap_or(own.max_position_embeddings as usize);
        // Keys and values, in fp32.
        let floats = 2 * own.num_hidden_layers * own.num_key_value_heads * own.head_dim;
        let (max_tokens, filled) = config.cache_tokens(positions, 4 * floats as usize);
        if filled < config.slots {
            tracing::warn!(
                "the cache holds {max_tokens} tokens: {filled} of the {} slots can be at work together with {PROMPT_TOKENS} tokens of prompt and {} of answer; fewer where more are asked for",
                config.slots,
                config.default_new_tokens
            );
        }
        let batcher_config = BatcherConfig { max_rows: config.slots, max_tokens, ..Default::default() };
        Ok(Self {
            model,
            batcher_config,
            decoder_config: decoder,
            batcher: batcher(model, batcher_config, decoder)?,
            queue: FairQueue::new(config.slots, max_tokens),
        })
    }

    /// Queues a generation of the HTTP request `group` under the id `id`.
    ///
    /// # Errors
    /// A request that is larger than the whole cache.
    pub fn submit(&mut self, id: u64, group: u64, request: GenerateRequest) -> Result<()> {
        match self.queue.push(GenerateRequest { id, ..request }, group) {
            None => Ok(()),
            // The batcher refuses it with the reason.
            Some(request) => self.batcher.submit(request),
        }
    }

    /// Drops a generation that is not wanted any more.
    pub fn cancel(&mut self, id: u64) {
        self.queue.remove(id);
        self.batcher.cancel(id);
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.batcher.is_idle()
    }

    /// Sequences that are decoded now.
    pub fn running(&self) -> usize {
        self.batcher.active()
    }

    /// Begins anew after a fault: what was in flight is lost.
    ///
    /// # Errors
    /// Memory runs out for a new decoder.
    pub fn reset(&mut self) -> Result<()> {
        self.queue.clear();
        self.batcher = batcher(self.model, self.batcher_config, self.decoder_config)?;
        Ok(())
    }

    /// One pass over all running sequences; the events of each generation with its id.
    ///
    /// # Errors
    /// What concerns all of them, as [`Batcher::step`].
    pub fn step(&mut self) -> Result<Vec<(u64, TokenEvent)>> {
        let mut events = Vec::new();
        while let Some(request) = self.queue.pop() {
            let id = request.id;
            if let Err(error) = self.batcher.submit(request) {
                self.queue.remove(id);
                events.push((id, TokenEvent::Failed(error)));
            }
        }
        for (id, event) in self.batcher.step()? {
            if matches!(event, TokenEvent::Done(_) | TokenEvent::Failed(_)) {
                self.queue.remove(id);
            }
            events.push((id, event));
        }
        Ok(events)
    }

    /// The mean of the last hidden state over an input's tokens: `[D]`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn embed(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let _no_grad = tch::no_grad_guard();
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        let ids = Tensor::from_slice(&ids).view([1, -1]).to_device(self.model.device());
        let (hidden, _) = self.model.hidden(&ids, Mask::Causal, false); // [1, T, D]
        let mean = hidden.to_kind(Kind::Float).mean_dim(1, false, Kind::Float).view([-1]); // [D]
        Ok(Vec::try_from(mean.to_device(tch::Device::Cpu))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_room_until_memory_ends() {
        let config =
            |slots: usize| EngineConfig { context: 8192, slots, new_tokens: 4096, default_new_tokens: 1024 };
        // The 64 M model: 8 layers, 4 heads of 96 for keys and as many for values.
        let bytes = 2 * 8 * 4 * 96 * 4;
        assert_eq!(config(16).cache_tokens(8192, bytes), (16 * 5120, 16));
        assert_eq!(config(64).cache_tokens(8192, bytes), ((4 << 30) / bytes, 64));
        assert_eq!(config(1024).cache_tokens(8192, bytes).1, (4 << 30) / bytes / 2048);
        // A model that sees little needs little, and one request always fits.
        assert_eq!(config(64).cache_tokens(500, bytes), (64 * 512, 64));
        assert_eq!(config(1).cache_tokens(32_768, 1 << 20), (32_768, 1));
    }
}
