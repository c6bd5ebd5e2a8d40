//! Many prompts, several answers each, with the log-probabilities of what was sampled: what reinforcement
//! learning and evaluation ask for.
//!
//! An answer depends on the model, its prompt, the seed and its own number alone, not on what else is
//! decoded beside it (beyond rounding on a GPU). B rows, T tokens, D hidden, V vocab.

use tch::{Kind, Tensor};

use super::generate::{Finish, room};
use super::sample::{Chosen, Sampler, Sampling};
use crate::error::Result;
use crate::model::{CausalLm, KvCache};

/// Rows that are decoded together at the most.
const ROWS: usize = 64;

/// How long, and how to choose.
#[derive(Debug, Clone)]
pub struct CompleteConfig {
    /// Most new tokens an answer.
    pub max_new_tokens: usize,
    /// How to choose; its seed is not used.
    pub sampling: Sampling,
    /// Any of these ends an answer; none goes on to the limit.
    pub eos_ids: Vec<u32>,
    /// Seed of all answers; each has a random stream of its own from it.
    pub seed: u64,
}

/// One answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Completion {
    /// Which prompt it goes on from.
    pub prompt: usize,
    /// New tokens, with the end mark where it was sampled.
    pub ids: Vec<u32>,
    /// Log-probability of each token under the very distribution it was sampled from.
    pub logprobs: Vec<f32>,
    /// The same under the model's own distribution: temperature 1, all tokens.
    pub model_logprobs: Vec<f32>,
    /// Why it ended.
    pub finish: Finish,
}

/// `per_prompt` answers to each prompt, in the order of the prompts, a prompt's answers side by side.
///
/// # Errors
/// A prompt that is empty, too long, or holds an id outside the vocabulary; logits that are not numbers.
pub fn complete(
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
    for group in order.chunk_by_mut(|a, b| a.ids.len() == b.ids.len()) {
        for rows in group.chunks_mut(ROWS) {
            together(model, rows, config)?;
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
        let made = Completion {
            prompt,
            ids: Vec::new(),
            logprobs: Vec::new(),
            model_logprobs: Vec::new(),
            finish: Finish::Length,
        };
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

/// The random stream of an answer.
pub fn stream(prompt: usize, sample: usize) -> u64 {
    (prompt as u64) << 32 | sample as u64
}

/// Decodes rows whose prompts have one length; finished rows leave the batch.
fn together(model: &CausalLm, rows: &mut [&mut Row<'_>], config: &CompleteConfig) -> Result<()> {
    let _no_grad = tch::no_grad_guard();
    let mut batch: Vec<usize> = (0..rows.len()).filter(|&i| rows[i].alive).collect();
    let Some(longest) = batch.iter().map(|&i| rows[i].limit).max() else { return Ok(()) };
    let inputs: Vec<&[u32]> = batch.iter().map(|&i| rows[i].ids).collect();
    let capacity = (inputs[0].len() + longest) as i64;
    let mut cache = KvCache::new(model.config(), batch.len() as i64, capacity, model.kind(), model.device())?;
    let mut logits = last_logits(model, &ids_tensor(&inputs, model), &mut cache)?;
    loop {
        let mut stays = Vec::new();
        for (place, &i) in batch.iter().enumerate() {
            let chosen = rows[i].sampler.choose(&mut logits[place])?;
            rows[i].push(chosen, &config.eos_ids);
            if rows[i].alive {
                stays.push(place);
            }
        }
        if stays.is_empty() {
            return Ok(());
        }
        if stays.len() < batch.len() {
            batch = stays.iter().map(|&place| batch[place]).collect();
            let index: Vec<i64> = stays.iter().map(|&place| place as i64).collect();
            cache.select_rows(&Tensor::from_slice(&index).to_device(model.device()));
        }
        let next: Vec<&[u32]> =
            batch.iter().map(|&i| &rows[i].made.ids[rows[i].made.ids.len() - 1..]).collect();
        logits = last_logits(model, &ids_tensor(&next, model), &mut cache)?;
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
    let logits = model.logits(&hidden.select(1, t - 1)).to_kind(Kind::Float).to_device(tch::Device::Cpu); // [B, V]
    let (b, v) = logits.size2().expect("logits are [B, V]");
    let mut flat = vec![0f32; (b * v) as usize];
    let count = flat.len();
    logits.contiguous().f_copy_data(&mut flat, count)?;
    Ok(flat.chunks(v as usize).map(<[f32]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Mask, ModelOverrides, Params};

    fn model(moe: bool) -> CausalLm {
        let config = ModelOverrides {
            hidden_size: Some(32),
            num_hidden_layers: Some(2),
            num_attention_heads: Some(4),
            num_key_value_heads: Some(2),
            vocab_size: Some(50),
            max_position_embeddings: Some(64),
            use_moe: Some(moe),
            ..ModelOverrides::default()
        }
        .resolve()
        .unwrap();
        tch::manual_seed(3);
        CausalLm::new(&config, Params::init(&config, tch::Device::Cpu).unwrap())
    }

    fn config(max_new_tokens: usize) -> CompleteConfig {
        let sampling = Sampling { temperature: 0.8, top_k: 20, ..Sampling::GREEDY };
        CompleteConfig { max_new_tokens, sampling, eos_ids: vec![7], seed: 11 }
    }

    #[test]
    fn an_answer_does_not_depend_on_its_neighbours() {
        for moe in [false, true] {
            let model = model(moe);
            let prompts = vec![vec![1, 2, 3], vec![9, 8, 7], vec![4], vec![20; 61]];
            let all = complete(&model, &prompts, 3, &config(20)).unwrap();
            assert_eq!(
                all.iter().map(|c| c.prompt).collect::<Vec<_>>(),
                [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
            );
            let fewer = complete(&model, &prompts[..2], 2, &config(20)).unwrap();
            for (alone, place) in fewer.iter().zip([0, 1, 3, 4]) {
                assert_eq!(alone.ids, all[place].ids);
            }
            assert_ne!(all[0].ids, all[1].ids);
            for made in &all {
                let stopped = made.ids.last() == Some(&7);
                assert_eq!(made.finish, if stopped { Finish::Stop } else { Finish::Length });
                let limit = 20.min(64 - prompts[made.prompt].len());
                assert!(stopped || made.ids.len() == limit);
                assert!(made.ids.iter().rev().skip(1).all(|&id| id != 7));
            }
        }
    }

    #[test]
    fn logprobs_are_what_a_full_forward_gives() {
        let model = model(false);
        let prompt = vec![3u32, 1, 4, 1, 5];
        let made = complete(&model, std::slice::from_ref(&prompt), 2, &config(12)).unwrap();
        for answer in &made {
            let whole: Vec<u32> = prompt.iter().chain(&answer.ids).copied().collect();
            let (hidden, _) = model.hidden(&ids_tensor(&[&whole], &model), Mask::Causal, false);
            let logits = model.logits(&hidden).squeeze_dim(0); // [T, V]
            for (i, &id) in answer.ids.iter().enumerate() {
                let row = logits.select(0, (prompt.len() + i - 1) as i64);
                let at = |t: &Tensor| t.double_value(&[i64::from(id)]);
                let plain = at(&row.log_softmax(-1, Kind::Float));
                assert!((plain - f64::from(answer.model_logprobs[i])).abs() < 1e-5);
                let (top, _) = (&row / 0.8).topk(20, -1, true, true);
                let sampled = at(&row) / 0.8 - top.logsumexp([0i64].as_slice(), false).double_value(&[]);
                assert!((sampled - f64::from(answer.logprobs[i])).abs() < 1e-5);
            }
        }
    }
}
