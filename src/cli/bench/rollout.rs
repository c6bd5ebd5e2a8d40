//! `minimind bench decode|prefill|rollout`: tokens a second of one model at one precision, beside what memory and
//! arithmetic allow.
//!
//! Next: `mod`, which prints the figures.

use std::ops::ControlFlow;
use std::time::Instant;

use super::{Args, Figure, Limits, What, median};
use crate::error::Result;
use crate::model::{CausalLm, params};
use crate::native::Storage;
use crate::rollout::{
    Batcher, BatcherConfig, CompletionConfig, Decoder, DecoderConfig, GenerateConfig, GenerateRequest,
    Generator, SamplingParams, TokenEvent, generate_completions,
};

/// A model, how its weights are stored, and the limits it is compared with.
pub(super) struct Case<'a> {
    pub model: &'a CausalLm,
    pub args: &'a Args,
    pub threads: usize,
    pub storage: Storage,
    pub limits: Limits,
    pub precision: &'static str,
}

/// What one new token takes.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Bytes of weights that are read.
    bytes: f64,
    operations: f64,
}

impl Case<'_> {
    /// Measures whatever of decode, prefill and rollout was asked for.
    ///
    /// # Errors
    /// The decoder refuses the weights or the lengths.
    pub(super) fn measure(&self, figures: &mut Vec<Figure>) -> Result<()> {
        for what in &self.args.what {
            match what {
                What::Decode => {
                    for &rows in &self.args.rows {
                        figures.push(self.decode(rows)?);
                    }
                }
                What::Prefill => figures.push(self.prefill()?),
                // Reinforcement learning rolls out in the precision it trains in.
                What::Rollout if self.storage == Storage::F32 => figures.push(self.rollout()?),
                What::Rollout | What::Train | What::Load | What::Data => {}
            }
        }
        Ok(())
    }

    /// New tokens a second of `rows` sequences decoded together, the prompts' step left out.
    fn decode(&self, rows: usize) -> Result<Figure> {
        let (start, new_tokens) = (self.short_prompt(), self.args.new_tokens);
        let positions = start + new_tokens;
        let config = BatcherConfig {
            max_rows: rows,
            max_tokens: rows * (positions + 64),
            prefill_chunk: rows * start,
        };
        let mut batcher = Batcher::new(Decoder::new(self.model, self.packed(positions))?, config)?;
        let cost = cost(batcher.decoder(), self.model);
        let mut speeds = Vec::new();
        for repeat in 0..u64::from(self.args.repeat) {
            for row in 0..rows as u64 {
                let id = repeat * rows as u64 + row;
                batcher.submit(GenerateRequest::new(id, self.prompt(start, 1 + id), new_tokens))?;
            }
            // The first step reads the prompts and gives a token each.
            let mut tokens = 0;
            batcher.step()?;
            let clock = Instant::now();
            while !batcher.is_idle() {
                tokens +=
                    batcher.step()?.iter().filter(|(_, event)| matches!(event, TokenEvent::Token(_))).count();
            }
            speeds.push(tokens as f64 / clock.elapsed().as_secs_f64());
        }
        Ok(self.figure("decode", rows, median(speeds), cost))
    }

    /// Prompt tokens a second of one sequence.
    fn prefill(&self) -> Result<Figure> {
        let mut generator = Generator::new(self.model, self.packed(self.args.prompt_tokens + 1))?;
        let mut speeds = Vec::new();
        for repeat in 0..u64::from(self.args.repeat) {
            let ids = self.prompt(self.args.prompt_tokens, 1 + repeat);
            let one = GenerateConfig::greedy(1, &[]);
            let made = generator.generate(&ids, &one, &mut |_| ControlFlow::Continue(()))?;
            speeds.push(made.prefill_tokens_per_s());
        }
        let cost = cost(&mut Decoder::new(self.model, self.packed(1))?, self.model);
        Ok(Figure {
            what: "prefill",
            precision: self.precision,
            rows: 1,
            tokens_per_s: median(speeds),
            limit: self.limits.flops / cost.operations,
            bound: "arithmetic",
            trained: None,
        })
    }

    /// Completion tokens a second of one prompt's completions with log-probabilities; packing the weights counts.
    fn rollout(&self) -> Result<Figure> {
        let completions = self.args.completions;
        let mut speeds = Vec::new();
        for seed in 0..u64::from(self.args.repeat) {
            let ids = self.prompt(self.short_prompt(), 1 + seed);
            let config = CompletionConfig {
                max_new_tokens: self.args.new_tokens,
                sampling: SamplingParams { temperature: 1.0, ..SamplingParams::GREEDY },
                eos_ids: Vec::new(),
                seed,
            };
            let clock = Instant::now();
            let made = generate_completions(self.model, &[ids], completions, &config)?;
            let tokens: usize = made.iter().map(|c| c.ids.len()).sum();
            speeds.push(tokens as f64 / clock.elapsed().as_secs_f64());
        }
        let cost = cost(&mut Decoder::new(self.model, self.packed(1))?, self.model);
        Ok(self.figure("rollout", completions, median(speeds), cost))
    }

    /// A speed beside the slower of memory and arithmetic; `rows` sequences share each read of the weights.
    fn figure(&self, what: &'static str, rows: usize, tokens_per_s: f64, cost: Cost) -> Figure {
        let memory = self.limits.read / cost.bytes * rows as f64;
        let compute = self.limits.flops / cost.operations;
        Figure {
            what,
            precision: self.precision,
            rows,
            tokens_per_s,
            limit: memory.min(compute),
            bound: if memory < compute { "memory" } else { "arithmetic" },
            trained: None,
        }
    }

    /// Tokens of the prompt that decoding and rollouts start from.
    fn short_prompt(&self) -> usize {
        (self.args.prompt_tokens / 16).max(1)
    }

    /// Made-up token ids, others for each seed.
    fn prompt(&self, tokens: usize, seed: u64) -> Vec<u32> {
        let vocab = self.model.config().vocab_size as u64;
        (0..tokens as u64).map(|i| ((i * 7919 + seed * 104_729 + 3) % vocab) as u32).collect()
    }

    fn packed(&self, positions: usize) -> DecoderConfig {
        DecoderConfig { storage: Some(self.storage), threads: Some(self.threads), positions: Some(positions) }
    }
}

fn cost(decoder: &mut Decoder<'_>, model: &CausalLm) -> Cost {
    if let Some(network) = decoder.network() {
        let (bytes, operations) = (network.bytes_per_token(), network.operations_per_token());
        return Cost { bytes: bytes as f64, operations: operations as f64 };
    }
    let (_, active) = params::count(model.config());
    let bytes = active as f64 * model.kind().elt_size_in_bytes() as f64;
    Cost { bytes, operations: 2.0 * active as f64 }
}
