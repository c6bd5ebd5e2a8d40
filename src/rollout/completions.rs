//! Many prompts, several completions each, with the log-probabilities of what was sampled: what reinforcement
//! learning and evaluation need.
//!
//! A completion depends on the model, its prompt, the seed and its own number alone, not on what else is in the batch
//! (beyond rounding on a GPU).

use tch::Device;

use super::batcher::{Batcher, BatcherConfig};
use super::decoder::{Decoder, DecoderConfig};
use super::request::{GenerateRequest, TokenEvent};
use super::torch_batch;
use super::types::{Completion, CompletionConfig, SamplingParams, clamp_new_tokens, random_stream};
use crate::error::Result;
use crate::model::CausalLm;
use crate::native::PAGE;

/// Sequences that are decoded together at the most.
const ROWS: usize = 64;

/// `per_prompt` completions of each prompt, in the order of the prompts; a prompt's completions follow each other.
///
/// # Errors
/// A prompt that is empty, too long, or holds an id outside the vocabulary; logits that are not numbers.
pub fn generate_completions(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    per_prompt: usize,
    config: &CompletionConfig,
) -> Result<Vec<Completion>> {
    if model.device() == Device::Cpu {
        on_cpu(model, prompts, per_prompt, config)
    } else {
        torch_batch::generate_completions(model, prompts, per_prompt, config)
    }
}

/// On the CPU: weights are packed once, all sequences go through one batcher.
fn on_cpu(
    model: &CausalLm,
    prompts: &[Vec<u32>],
    per_prompt: usize,
    config: &CompletionConfig,
) -> Result<Vec<Completion>> {
    let mut longest = 1;
    for prompt in prompts {
        longest =
            longest.max(prompt.len() + clamp_new_tokens(model.config(), prompt, config.max_new_tokens)?);
    }
    let decoder =
        Decoder::new(model, DecoderConfig { positions: Some(longest), ..DecoderConfig::default() })?;
    let max_rows = ROWS.min(prompts.len() * per_prompt).max(1);
    let max_tokens = (max_rows + 1) * longest.next_multiple_of(PAGE);
    let mut batcher = Batcher::new(decoder, BatcherConfig { max_rows, max_tokens, prefill_chunk: 512 })?;
    let mut completions = Vec::with_capacity(prompts.len() * per_prompt);
    for (index, prompt) in prompts.iter().enumerate() {
        for sample in 0..per_prompt {
            batcher.submit(GenerateRequest {
                sampling: SamplingParams { seed: config.seed, ..config.sampling.clone() },
                stream: random_stream(index, sample),
                stop_ids: config.eos_ids.clone(),
                logprobs: Some(0),
                ..GenerateRequest::new(completions.len() as u64, prompt.clone(), config.max_new_tokens)
            })?;
            completions.push(Completion::empty(index));
        }
    }
    while !batcher.is_idle() {
        for (id, event) in batcher.step()? {
            let completion = &mut completions[id as usize];
            match event {
                TokenEvent::Prompt(_) => {}
                TokenEvent::Token(token) => {
                    completion.ids.push(token.id);
                    if let Some(logprobs) = token.logprobs {
                        completion.logprobs.push(logprobs.sampled_logprob);
                        completion.model_logprobs.push(logprobs.logprob);
                    }
                }
                TokenEvent::Done(finished) => completion.finish = finished.reason,
                TokenEvent::Failed(error) => return Err(error),
            }
        }
    }
    Ok(completions)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::super::kv_slots::ids_tensor;
    use super::super::packing_tests::tiny;
    use super::*;
    use crate::model::{Era, Mask};
    use crate::rollout::types::FinishReason;

    fn model(moe: bool) -> CausalLm {
        tiny(Era::MiniMind3, moe, (32, 50, 64))
    }

    fn config(max_new_tokens: usize) -> CompletionConfig {
        let sampling = SamplingParams { temperature: 0.8, top_k: 20, ..SamplingParams::GREEDY };
        CompletionConfig { max_new_tokens, sampling, eos_ids: vec![7], seed: 11 }
    }

    #[test]
    fn an_answer_does_not_depend_on_its_neighbours() {
        for moe in [false, true] {
            let model = model(moe);
            let prompts = vec![vec![1, 2, 3], vec![9, 8, 7], vec![4], vec![20; 61]];
            let all = generate_completions(&model, &prompts, 3, &config(20)).unwrap();
            assert_eq!(
                all.iter().map(|c| c.prompt).collect::<Vec<_>>(),
                [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
            );
            let fewer = generate_completions(&model, &prompts[..2], 2, &config(20)).unwrap();
            for (alone, place) in fewer.iter().zip([0, 1, 3, 4]) {
                assert_eq!(alone.ids, all[place].ids);
            }
            assert_ne!(all[0].ids, all[1].ids);
            for made in &all {
                let stopped = made.ids.last() == Some(&7);
                assert_eq!(made.finish, if stopped { FinishReason::Stop } else { FinishReason::Length });
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
        let made = generate_completions(&model, std::slice::from_ref(&prompt), 2, &config(12)).unwrap();
        for answer in &made {
            let whole: Vec<u32> = prompt.iter().chain(&answer.ids).copied().collect();
            let (hidden, _) = model.hidden(&ids_tensor(&[&whole], &model), Mask::Causal, false);
            let logits = model.logits(&hidden).squeeze_dim(0); // [T, V]
            for (i, &id) in answer.ids.iter().enumerate() {
                let row = logits.select(0, (prompt.len() + i - 1) as i64);
                let at = |t: &tch::Tensor| t.double_value(&[i64::from(id)]);
                let plain = at(&row.log_softmax(-1, Kind::Float));
                assert!((plain - f64::from(answer.model_logprobs[i])).abs() < 1e-5);
                let (top, _) = (&row / 0.8).topk(20, -1, true, true);
                let sampled = at(&row) / 0.8 - top.logsumexp([0i64].as_slice(), false).double_value(&[]);
                assert!((sampled - f64::from(answer.logprobs[i])).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn libtorch_gives_the_same_answers() {
        for moe in [false, true] {
            let model = model(moe);
            let prompts = vec![vec![1, 2, 3], vec![4], vec![9, 8, 7], vec![20; 63]];
            let ours = generate_completions(&model, &prompts, 2, &config(20)).unwrap();
            let theirs = torch_batch::generate_completions(&model, &prompts, 2, &config(20)).unwrap();
            for (a, b) in ours.iter().zip(&theirs) {
                assert_eq!((a.prompt, &a.ids, a.finish), (b.prompt, &b.ids, b.finish));
                let near = |x: &[f32], y: &[f32]| x.iter().zip(y).all(|(x, y)| (x - y).abs() < 1e-4);
                assert!(near(&a.logprobs, &b.logprobs) && near(&a.model_logprobs, &b.model_logprobs));
            }
        }
    }
}
