//! Generation for one prompt or many: what callers without a decoder of their own use.

use std::ops::ControlFlow;

use super::completions::generate_completions;
use super::decoder::DecoderConfig;
use super::generator::Generator;
use super::types::{CompletionConfig, FinishReason, GenerateConfig, Generation, clamp_new_tokens};
use crate::error::Result;
use crate::model::CausalLm;

/// Continues one prompt; `on_token` gets each new token and may end the answer. For several prompts on one model a
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
    let limit = clamp_new_tokens(model.config(), prompt, config.max_new_tokens)?;
    let positions = Some(prompt.len() + limit);
    Generator::new(model, DecoderConfig { positions, ..DecoderConfig::default() })?.generate(
        prompt,
        &GenerateConfig { max_new_tokens: limit, ..config.clone() },
        on_token,
    )
}

/// Continues many prompts. The answers, without their stop tokens, stand in the prompts' order and do not depend on
/// their neighbours beyond rounding.
///
/// # Errors
/// As [`generate`], for any of the prompts.
pub fn generate_batch(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    config: &GenerateConfig,
) -> Result<Vec<Vec<u32>>> {
    let config = CompletionConfig {
        max_new_tokens: config.max_new_tokens,
        sampling: config.sampling.clone(),
        eos_ids: config.stop_ids.clone(),
        seed: config.sampling.seed,
    };
    let made = generate_completions(model, prompts, 1, &config)?;
    Ok(made
        .into_iter()
        .map(|mut answer| {
            if answer.finish == FinishReason::Stop {
                answer.ids.pop();
            }
            answer.ids
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::kv_slots::ids_tensor;
    use super::super::packing_tests::tiny;
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
        assert_eq!((long.ids.len(), long.finish), (4, FinishReason::Length));
        let all = &mut |_| ControlFlow::Continue(());
        assert!(generate(&model, &[1; 64], &config, all).unwrap_err().to_string().contains("64 tokens"));
        assert!(generate(&model, &[], &config, all).is_err());
        assert!(generate(&model, &[50], &config, all).unwrap_err().to_string().contains("vocabulary"));
        let cut = generate(&model, &[1], &config, &mut |_| ControlFlow::Break(())).unwrap();
        assert_eq!((cut.ids.len(), cut.finish), (1, FinishReason::Cancelled));
    }
}
