//! Many answers through libtorch, for devices other than the CPU: prompts of one length are decoded together.
//!
//! B rows, T tokens, D hidden, V vocab.

use std::rc::Rc;

use tch::{Kind, Tensor};

use super::complete::{CompleteConfig, Completion, stream};
use super::generate::{Finish, room};
use super::recorded::{Recorded, record};
use super::sample::{Chosen, Sampler, Sampling};
use crate::error::Result;
use crate::model::{CausalLm, KvCache, StepWeights};

/// Rows that are decoded together at the most.
const ROWS: usize = 64;
/// New tokens from which a recording pays.
const WORTH_RECORDING: usize = 8;

/// [`super::complete::complete`] through libtorch.
pub(super) fn complete(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    per_prompt: usize,
    config: &CompleteConfig,
) -> Result<Vec<Completion>> {
    let mut rows = Vec::with_capacity(prompts.len() * per_prompt);
    for (index, prompt) in prompts.iter().enumerate() {
        let limit = room(model.config(), prompt, config.max_new_tokens)?;
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
            together(model, rows, config, weights.as_ref())?;
        }
    }
    Ok(rows.into_iter().map(|row| row.made).collect())
}

/// An answer in the making.
struct Row<'p> {
    ids: &'p [u32],
    limit: usize,
    sampler: Sampler,
    made: Completion,
    alive: bool,
}

impl<'p> Row<'p> {
    fn new(prompt: usize, sample: usize, ids: &'p [u32], limit: usize, config: &CompleteConfig) -> Self {
        let sampling = Sampling { seed: config.seed, ..config.sampling.clone() };
        let made = Completion::empty(prompt);
        Self {
            ids,
            limit,
            sampler: Sampler::new(&sampling, ids, stream(prompt, sample)),
            made,
            alive: limit > 0,
        }
    }

    fn push(&mut self, chosen: Chosen, eos_ids: &[u32]) {
        self.made.ids.push(chosen.token);
        self.made.logprobs.push(chosen.logprob);
        self.made.model_logprobs.push(chosen.model_logprob);
        if eos_ids.contains(&chosen.token) {
            self.made.finish = Finish::Stop;
            self.alive = false;
        }
        self.alive &= self.made.ids.len() < self.limit;
    }
}

/// Decodes rows whose prompts have one length. Where steps are recorded, finished rows stay to the end, unread; else they
/// leave the batch.
fn together(
    model: &CausalLm,
    rows: &mut [&mut Row<'_>],
    config: &CompleteConfig,
    weights: Option<&Rc<StepWeights>>,
) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut batch: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].alive).collect();
    let Some(longest) = batch.iter().map(|&i| rows[i].limit).max() else { return Ok(()) };
    let inputs: Vec<&[u32]> = batch.iter().map(|&i| rows[i].ids).collect();
    let (count, capacity) = (batch.len() as i64, inputs[0].len() + longest);
    let recorded = weights.filter(|_| longest >= WORTH_RECORDING).and_then(|weights| {
        let made = record(model, weights, count, capacity);
        made.inspect_err(|fault| tracing::warn!("steps are not recorded on this GPU: {fault}")).ok()
    });
    let mut held = match recorded {
        Some(Recorded { cache, step }) => (cache, Some(step)),
        None => (KvCache::new(model.config(), count, capacity as i64, model.kind(), model.device())?, None),
    };
    let (cache, step) = (&mut held.0, &mut held.1);
    let mut logits = last_logits(model, &ids_tensor(&inputs, model), cache)?;
    loop {
        let mut stays = Vec::new();
        for (place, &i) in batch.iter().enumerate().filter(|(_, i)| rows[**i].alive).collect::<Vec<_>>() {
            let chosen = rows[i].sampler.choose(&mut logits[place])?;
            rows[i].push(chosen, &config.eos_ids);
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

/// `[B, T]` ids on the model's device.
pub(super) fn ids_tensor(rows: &[&[u32]], model: &CausalLm) -> Tensor {
    let flat: Vec<i64> = rows.iter().flat_map(|row| row.iter().map(|&id| i64::from(id))).collect();
    Tensor::from_slice(&flat).view([rows.len() as i64, -1]).to_device(model.device())
}

/// Logits after the last token of each row, on the host, `B` rows of `[V]`.
pub(super) fn last_logits(model: &CausalLm, ids: &Tensor, cache: &mut KvCache) -> Result<Vec<Vec<f32>>> {
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
