//! Completions in batches through libtorch, for devices other than the CPU: prompts of one length are decoded
//! together, and one batch's steps are one CUDA graph where the GPU can capture them.
//!
//! B rows, T tokens, D hidden, V vocab.

use std::rc::Rc;

use tch::{Kind, Tensor};

use super::cuda_graphs::{CapturedStep, capture};
use super::kv_slots::ids_tensor;
use super::sample::{SampledToken, Sampler};
use super::types::{
    Completion, CompletionConfig, FinishReason, SamplingParams, clamp_new_tokens, random_stream,
};
use crate::error::Result;
use crate::model::{CausalLm, KvCache, StepWeights};

/// Rows that are decoded together at the most.
const ROWS: usize = 64;
/// New tokens from which capturing a graph pays.
const WORTH_CAPTURING: usize = 8;

/// [`super::completions::generate_completions`] through libtorch.
pub(super) fn generate_completions(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    per_prompt: usize,
    config: &CompletionConfig,
) -> Result<Vec<Completion>> {
    let mut rows = Vec::with_capacity(prompts.len() * per_prompt);
    for (index, prompt) in prompts.iter().enumerate() {
        let limit = clamp_new_tokens(model.config(), prompt, config.max_new_tokens)?;
        for sample in 0..per_prompt {
            rows.push(Row::new(index, sample, prompt, limit, config));
        }
    }
    // Prompts of one length are decoded together; a stable sort keeps a prompt's answers side by side.
    let mut order: Vec<&mut Row<'_>> = rows.iter_mut().collect();
    order.sort_by_key(|row| row.ids.len());
    let weights = if model.device().is_cuda() { StepWeights::new(model)?.map(Rc::new) } else { None };
    for group in order.chunk_by_mut(|a, b| a.ids.len() == b.ids.len()) {
        for rows in group.chunks_mut(ROWS) {
            decode_batch(model, rows, config, weights.as_ref())?;
        }
    }
    Ok(rows.into_iter().map(|row| row.made).collect())
}

/// A completion that is being generated.
struct Row<'p> {
    ids: &'p [u32],
    limit: usize,
    sampler: Sampler,
    made: Completion,
    alive: bool,
}

impl<'p> Row<'p> {
    fn new(prompt: usize, sample: usize, ids: &'p [u32], limit: usize, config: &CompletionConfig) -> Self {
        let sampling = SamplingParams { seed: config.seed, ..config.sampling.clone() };
        let made = Completion::empty(prompt);
        Self {
            ids,
            limit,
            sampler: Sampler::new(&sampling, ids, random_stream(prompt, sample)),
            made,
            alive: limit > 0,
        }
    }

    fn push(&mut self, sampled: SampledToken, eos_ids: &[u32]) {
        self.made.ids.push(sampled.token);
        self.made.logprobs.push(sampled.logprob);
        self.made.model_logprobs.push(sampled.model_logprob);
        if eos_ids.contains(&sampled.token) {
            self.made.finish = FinishReason::Stop;
            self.alive = false;
        }
        self.alive &= self.made.ids.len() < self.limit;
    }
}

/// Decodes rows whose prompts have one length. Where steps are captured, finished rows stay to the end, unread; else they
/// leave the batch.
fn decode_batch(
    model: &CausalLm,
    rows: &mut [&mut Row<'_>],
    config: &CompletionConfig,
    weights: Option<&Rc<StepWeights>>,
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut batch: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].alive).collect();
    let Some(longest) = batch.iter().map(|&i| rows[i].limit).max() else { return Ok(()) };
    let inputs: Vec<&[u32]> = batch.iter().map(|&i| rows[i].ids).collect();
    let (count, capacity) = (batch.len() as i64, inputs[0].len() + longest);
    let captured = weights.filter(|_| longest >= WORTH_CAPTURING).and_then(|weights| {
        let step = capture(model, weights, count, capacity);
        step.inspect_err(|error| tracing::warn!("decoding without CUDA graphs on this GPU: {error}")).ok()
    });
    let mut held = match captured {
        Some(CapturedStep { cache, step }) => (cache, Some(step)),
        None => (KvCache::new(model.config(), count, capacity as i64, model.kind(), model.device())?, None),
    };
    let (cache, step) = (&mut held.0, &mut held.1);
    let mut logits = last_logits(model, &ids_tensor(&inputs, model), cache)?;
    loop {
        let mut stays = Vec::new();
        for (place, &i) in batch.iter().enumerate().filter(|(_, i)| rows[**i].alive).collect::<Vec<_>>() {
            let sampled = rows[i].sampler.sample(&mut logits[place])?;
            rows[i].push(sampled, &config.eos_ids);
            if rows[i].alive {
                stays.push(place);
            }
        }
        if stays.is_empty() {
            return Ok(());
        }
        if stays.len() < batch.len() && step.is_none() {
            batch = stays.iter().map(|&place| batch[place]).collect();
            let index: Vec<i64> = stays.iter().map(|&place| place as i64).collect();
            cache.select_rows(&Tensor::from_slice(&index).to_device(model.device()));
        }
        let next: Vec<u32> = batch.iter().map(|&i| *rows[i].made.ids.last().expect("a token")).collect();
        logits = match step {
            Some(step) => {
                let made = step.run(&next, cache.len())?;
                cache.advance(1);
                on_host(made)?
            }
            None => {
                let next: Vec<&[u32]> = next.iter().map(std::slice::from_ref).collect();
                last_logits(model, &ids_tensor(&next, model), cache)?
            }
        };
    }
}

/// Logits after the last token of each row of ids `[B, T]`, on the host: `B` rows of `[V]`.
fn last_logits(model: &CausalLm, ids: &Tensor, cache: &mut KvCache) -> Result<Vec<Vec<f32>>> {
    let hidden = model.hidden_cached(ids, cache); // [B, T, D]
    let (_, t, _) = hidden.size3().expect("hidden states are [B, T, D]");
    on_host(&model.logits(&hidden.select(1, t - 1)).to_kind(Kind::Float))
}

/// `B` rows of `[V]` from `[B, V]`.
fn on_host(logits: &Tensor) -> Result<Vec<Vec<f32>>> {
    let logits = logits.to_device(tch::Device::Cpu);
    let (_, v) = logits.size2().expect("logits are [B, V]");
    let mut flat = vec![0f32; logits.numel()];
    let count = flat.len();
    logits.contiguous().f_copy_data(&mut flat, count)?;
    Ok(flat.chunks(v as usize).map(<[f32]>::to_vec).collect())
}
