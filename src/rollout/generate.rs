//! Generation for one prompt or many: what callers without a decoder of their own use.

use std::ops::ControlFlow;

use super::complete::{CompleteConfig, complete};
use super::generator::Generator;
use super::lanes::DecoderConfig;
use super::sample::Sampling;
use crate::error::{Error, Result};
use crate::model::{CausalLm, ModelConfig};

/// How long and how to choose.
#[derive(Debug, Clone)]
pub struct GenerateConfig {
    /// Most new tokens.
    pub max_new_tokens: usize,
    /// How to choose.
    pub sampling: Sampling,
    /// Any of these ends the answer; none goes on to the limit.
    pub ends: Vec<u32>,
}

impl GenerateConfig {
    /// The likeliest token each time.
    pub fn greedy(max_new_tokens: usize, ends: &[u32]) -> Self {
        Self { max_new_tokens, sampling: Sampling::GREEDY, ends: ends.to_vec() }
    }
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model said so.
    Stop,
    /// The limit was reached.
    Length,
    /// The caller asked for it.
    Cancelled,
}

/// What was generated.
#[derive(Debug, Clone)]
pub struct Generation {
    /// New tokens, without the end mark.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt.
    pub prefill_tokens: usize,
    /// Seconds for the prompt.
    pub prefill_s: f64,
    /// Steps after the prompt, one token each; an end mark is one too.
    pub decode_steps: usize,
    /// Seconds for them.
    pub decode_s: f64,
}

impl Generation {
    /// Prompt tokens a second.
    pub fn prefill_tokens_per_s(&self) -> f64 {
        self.prefill_tokens as f64 / self.prefill_s.max(1e-9)
    }

    /// Tokens a second after the prompt's pass, which gives the first one.
    pub fn decode_tokens_per_s(&self) -> f64 {
        self.decode_steps as f64 / self.decode_s.max(1e-9)
    }
}

/// New tokens that still fit, or why the prompt cannot be used.
pub fn room(config: &ModelConfig, prompt: &[u32], wanted: usize) -> Result<usize> {
    let (positions, vocab) = (config.max_position_embeddings as usize, config.vocab_size);
    if prompt.is_empty() {
        return Err(Error::input("the prompt holds no token").hint("give at least one"));
    }
    if let Some(id) = prompt.iter().find(|&&id| i64::from(id) >= vocab) {
        return Err(Error::input(format!("token id {id} is outside the model's vocabulary of {vocab}"))
            .hint("use the tokenizer the weights were trained with"));
    }
    if prompt.len() >= positions {
        return Err(Error::input(format!(
            "the prompt has {} tokens, the model sees {positions}",
            prompt.len()
        ))
        .hint("shorten the prompt"));
    }
    Ok(wanted.min(positions - prompt.len()))
}

/// Continues one prompt; `on_token` sees each new token and may end it. For several prompts on one model a
/// [`Generator`] packs the weights once.
///
/// # Errors
/// A prompt that is empty, too long, or holds an id outside the vocabulary; logits that are not numbers.
pub fn generate(
    model: &CausalLm,
    prompt: &[u32],
    config: &GenerateConfig,
    on_token: &mut dyn FnMut(u32) -> ControlFlow<()>,
) -> Result<Generation> {
    let limit = room(model.config(), prompt, config.max_new_tokens)?;
    let positions = Some(prompt.len() + limit);
    Generator::new(model, DecoderConfig { positions, ..DecoderConfig::default() })?.generate(
        prompt,
        &GenerateConfig { max_new_tokens: limit, ..config.clone() },
        on_token,
    )
}

/// Continues many prompts; answers, without their end marks, stand in the prompts' order and do not depend
/// on their neighbours beyond rounding.
pub fn generate_batch(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    config: &GenerateConfig,
) -> Result<Vec<Vec<u32>>> {
    let config = CompleteConfig {
        max_new_tokens: config.max_new_tokens,
        sampling: config.sampling.clone(),
        eos_ids: config.ends.clone(),
        seed: config.sampling.seed,
    };
    let made = complete(model, prompts, 1, &config)?;
    Ok(made
        .into_iter()
        .map(|mut answer| {
            if answer.finish == Finish::Stop {
                answer.ids.pop();
            }
            answer.ids
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::decoder_tests::tiny;
    use super::super::grouped::ids_tensor;
    use super::*;
    use crate::model::Era;

    fn model(moe: bool) -> CausalLm {
        tiny(Era::MiniMind3, moe, (32, 50, 64))
    }

    fn alone(model: &CausalLm, prompt: &[u32], config: &GenerateConfig) -> Generation {
        generate(model, prompt, config, &mut |_| ControlFlow::Continue(())).unwrap()
    }

    #[test]
    fn rows_do_not_depend_on_their_neighbours() {
        for moe in [false, true] {
            let model = model(moe);
            let prompts = vec![vec![1, 2, 3], vec![9, 8, 7], vec![4], vec![5, 5, 5], vec![20, 21]];
            let probe = alone(&model, &prompts[0], &GenerateConfig::greedy(12, &[]));
            // A token that some rows meet and others may not ends them at different times.
            let config = GenerateConfig::greedy(12, &[49, probe.ids[4]]);
            let together = generate_batch(&model, &prompts, &config).unwrap();
            for (prompt, ids) in prompts.iter().zip(&together) {
                assert_eq!(&alone(&model, prompt, &config).ids, ids);
            }
        }
    }

    #[test]
    fn the_cache_gives_what_a_full_forward_gives() {
        let model = model(false);
        let config = GenerateConfig::greedy(10, &[]);
        let got = alone(&model, &[3, 1, 4, 1, 5], &config).ids;
        let mut ids = vec![3u32, 1, 4, 1, 5];
        for _ in 0..10 {
            let (hidden, _) = model.hidden(&ids_tensor(&[&ids], &model), crate::model::Mask::Causal, false);
            let last = model.logits(&hidden).select(1, ids.len() as i64 - 1);
            ids.push(last.argmax(-1, false).int64_value(&[0]) as u32);
        }
        assert_eq!(got, ids[5..]);
    }

    #[test]
    fn limits_are_kept_and_said() {
        let model = model(false);
        let config = GenerateConfig::greedy(1000, &[]);
        let long = alone(&model, &[1; 60], &config);
        assert_eq!((long.ids.len(), long.finish), (4, Finish::Length));
        let all = &mut |_| ControlFlow::Continue(());
        assert!(generate(&model, &[1; 64], &config, all).unwrap_err().to_string().contains("64 tokens"));
        assert!(generate(&model, &[], &config, all).is_err());
        assert!(generate(&model, &[50], &config, all).unwrap_err().to_string().contains("vocabulary"));
        let cut = generate(&model, &[1], &config, &mut |_| ControlFlow::Break(())).unwrap();
        assert_eq!((cut.ids.len(), cut.finish), (1, Finish::Cancelled));
    }
}
