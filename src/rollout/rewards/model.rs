//! A reward model's score of a conversation, batched by length and clipped.
//!
//! minimind3 scores the prompt with the answer alone; minimind2 mixes in the whole completion (0.4 whole + 0.6 answer, where
//! the completion has an `<answer>`). The score is read at the conversation's last token.
//!
//! B batch, T tokens, D hidden.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::config::{ModelRewardConfig, RewardSource};
use super::{BatchReward, RewardContext, RewardInput, text};
use crate::checkpoint::reward_model::{RewardModel, load_reward_model};
use crate::checkpoint::{resolve_model_path, tokenizer_folder};
use crate::data::Tokenizer;
use crate::data::tokenizer::{RenderOptions, remove_empty_think};
use crate::error::{Error, Place, Result};
use crate::model::Mask;

impl RewardSource {
    /// Its weights, where `run` is the folder of the stage's run.
    ///
    /// # Errors
    /// They are not there.
    pub fn locate(&self, run: &Path) -> Result<PathBuf> {
        match self {
            Self::Stage(name) => resolve_model_path(&format!("{}:{name}", run.display())),
            Self::Path(path) => resolve_model_path(&path.to_string_lossy()),
        }
    }
}

/// A loaded reward model with its tokenizer.
#[derive(Debug)]
pub(super) struct ModelReward {
    model: RewardModel,
    tokenizer: Tokenizer,
    config: ModelRewardConfig,
}

impl ModelReward {
    pub(super) fn new(config: &ModelRewardConfig, context: &RewardContext<'_>) -> Result<Self> {
        let path = config.from.locate(context.run)?;
        let model = load_reward_model(&path, context.device, context.kind)?;
        let own = tokenizer_folder::find(&path)?.as_deref().map(Tokenizer::load).transpose()?;
        let given = config.tokenizer.as_deref().map(Tokenizer::load).transpose()?;
        if let (Some(own), Some(given)) = (&own, &given)
            && !own.same_vocabulary(given)
        {
            return Err(Error::input("`tokenizer` has another vocabulary than the reward model's own")
                .at(Place::file(&path))
                .hint("leave `tokenizer` out: the reward model brings its own"));
        }
        let tokenizer = given.or(own).ok_or_else(|| {
            Error::input("the reward model has no tokenizer.json or tokenizer.model beside it").at(Place::file(&path)).hint(
                "name its folder with `tokenizer`; a model that only has tokenizer.model must be converted first",
            )
        })?;
        let (have, want) = (model.trunk.config().vocab_size, tokenizer.vocab_size() as i64);
        if want > have {
            return Err(Error::input(format!(
                "the reward model's tokenizer has {want} tokens, its embedding {have} rows"
            ))
            .at(Place::file(&path))
            .hint("give the tokenizer that the reward model was trained with"));
        }
        Ok(Self { model, tokenizer, config: config.clone() })
    }

    /// Ids of the prompt's conversation with this answer.
    fn ids(&self, messages: &[Value], answer: &str) -> Result<Vec<i64>> {
        let mut whole = messages.to_vec();
        whole.push(json!({"role": "assistant", "content": answer}));
        let text = self.tokenizer.apply_chat_template(&Value::from(whole), None, RenderOptions::default())?;
        // Our stage learns from conversations without empty think blocks.
        let text = remove_empty_think(text, !self.model.ours);
        let mut ids: Vec<i64> = self.tokenizer.encode(&text)?.into_iter().map(i64::from).collect();
        ids.extend(self.model.end_id.map(i64::from));
        let surplus = ids.len().saturating_sub(self.config.max_seq_len);
        Ok(ids.split_off(surplus))
    }

    /// A clipped score each.
    fn scores(&self, conversations: &[Vec<i64>]) -> Result<Vec<f64>> {
        let mut order: Vec<usize> = (0..conversations.len()).collect();
        order.sort_by_key(|i| conversations[*i].len());
        let mut scores = vec![0.0; conversations.len()];
        let device = self.model.trunk.device();
        let _no_grad = tch::no_grad_guard();
        for batch in order.chunks(self.config.batch_size) {
            let longest = batch.iter().map(|i| conversations[*i].len()).max().unwrap_or(0).max(1);
            let mut flat = vec![0i64; batch.len() * longest];
            for (row, i) in flat.chunks_mut(longest).zip(batch) {
                row[..conversations[*i].len()].copy_from_slice(&conversations[*i]);
            }
            let ids = Tensor::from_slice(&flat).view([batch.len() as i64, longest as i64]).to_device(device); // [B, T]
            // Padding stands right, where a causal model does not look.
            let (hidden, _) = self.model.trunk.hidden(&ids, Mask::Causal, false); // [B, T, D]
            let last: Vec<i64> = batch
                .iter()
                .enumerate()
                .map(|(row, i)| (row * longest + conversations[*i].len().max(1) - 1) as i64)
                .collect();
            let (_, _, d) = hidden.size3().expect("hidden states are [B, T, D]");
            let last = hidden.reshape([-1, d]).index_select(0, &Tensor::from_slice(&last).to_device(device)); // [B, D]
            let values = last.to_kind(Kind::Float).matmul(&self.model.score.tr()).squeeze_dim(1); // [B]
            let values: Vec<f64> = Vec::try_from(values.to_kind(Kind::Double).to_device(Device::Cpu))?;
            for (i, value) in batch.iter().zip(values) {
                if value.is_nan() {
                    return Err(Error::failed("the reward model's score is not a number")
                        .hint("its weights are broken, or its precision is too low"));
                }
                scores[*i] = value.clamp(-self.config.clip, self.config.clip);
            }
        }
        Ok(scores)
    }
}

impl BatchReward for ModelReward {
    fn score(&self, inputs: &[RewardInput<'_>]) -> Result<Vec<f64>> {
        let share = self.config.answer_share;
        let (mut conversations, mut parts) = (Vec::new(), Vec::new());
        for (i, input) in inputs.iter().enumerate() {
            // minimind3's answer is what follows the thinking; minimind2's is the inside of its tag.
            let tagged = text::tagged_answer(input.completion);
            let answer = tagged.unwrap_or(text::split(input.completion).1);
            let whole = if share < 1.0 && tagged.is_none() { 1.0 } else { 1.0 - share };
            for (weight, text) in [(whole, input.completion), (1.0 - whole, answer)] {
                if weight > 0.0 {
                    conversations.push(self.ids(input.prompt_messages, text)?);
                    parts.push((i, weight));
                }
            }
        }
        let mut totals = vec![0.0; inputs.len()];
        for ((i, weight), score) in parts.into_iter().zip(self.scores(&conversations)?) {
            totals[i] += weight * score;
        }
        Ok(totals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelOverrides, Params};
    use crate::rollout::rewards::{RewardConfig, RewardKind, Rewards};

    /// A reward model of random weights, with a tokenizer, in a Hugging Face folder.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let texts = std::iter::repeat_n(Ok("user assistant think what is two and two four".to_owned()), 4);
        crate::data::tokenizer::train(texts, 340, folder.path()).unwrap();
        let json = json!({
            "model_type": "qwen3", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 340, "intermediate_size": 64,
            "rms_norm_eps": 1e-6, "rope_theta": 1e6, "hidden_act": "silu", "max_position_embeddings": 512,
            "tie_word_embeddings": true,
        });
        let config = ModelOverrides::from_json(&json).unwrap().resolve().unwrap();
        tch::manual_seed(11);
        let params = Params::init(&config, Device::Cpu).unwrap();
        let mut named: Vec<(String, Tensor)> =
            params.names().iter().cloned().zip(params.tensors().iter().map(Tensor::shallow_clone)).collect();
        named.push(("score.weight".into(), Tensor::randn([1, 32], (Kind::Float, Device::Cpu)) * 0.3));
        let list: Vec<(&str, Tensor)> = named.iter().map(|(k, t)| (k.as_str(), t.detach())).collect();
        Tensor::write_safetensors(&list, folder.path().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("config.json"), json.to_string()).unwrap();
        folder
    }

    fn config(folder: &Path, batch_size: usize, answer_share: f64) -> ModelRewardConfig {
        let from = RewardSource::Path(folder.to_owned());
        ModelRewardConfig { from, tokenizer: None, answer_share, clip: 3.0, batch_size, max_seq_len: 512 }
    }

    fn totals(config: ModelRewardConfig, completions: &[&str]) -> Vec<f64> {
        let rewards =
            Rewards::new(&[RewardConfig::new(RewardKind::Model(config))], &RewardContext::default()).unwrap();
        let (row, messages) = (Value::Null, [json!({"role": "user", "content": "what is two and two"})]);
        let inputs: Vec<RewardInput<'_>> = completions
            .iter()
            .map(|completion| RewardInput { prompt_messages: &messages, prompt: "", completion, row: &row })
            .collect();
        rewards.score(&inputs).unwrap().iter().map(|scores| scores.total).collect()
    }

    #[test]
    fn scores_do_not_depend_on_the_batch_and_see_the_answer_alone() {
        let folder = folder();
        let texts = ["four", "four and two and four", "what\n</think>\n\nfour", "two"];
        let alone: Vec<f64> =
            texts.iter().map(|text| totals(config(folder.path(), 1, 1.0), &[text])[0]).collect();
        let together = totals(config(folder.path(), 3, 1.0), &texts);
        for (a, b) in alone.iter().zip(&together) {
            assert!((a - b).abs() < 1e-5, "{alone:?} {together:?}");
        }
        assert!((alone[0] - alone[2]).abs() < 1e-6 && (alone[0] - alone[1]).abs() > 1e-4, "{alone:?}");
        let clipped = totals(ModelRewardConfig { clip: 1e-3, ..config(folder.path(), 8, 1.0) }, &texts);
        assert!(clipped.iter().all(|score| score.abs() <= 1e-3));
    }

    #[test]
    fn minimind2_mixes_the_whole_with_a_tagged_answer() {
        let folder = folder();
        let tagged = "<think>\nwhat\n</think>\n<answer>\nfour\n</answer>";
        let mixed = totals(config(folder.path(), 8, 0.6), &[tagged, "four"]);
        let whole = totals(config(folder.path(), 8, 0.0), &[tagged, "four"]);
        assert!((mixed[0] - (0.4 * whole[0] + 0.6 * whole[1])).abs() < 1e-5, "{mixed:?} {whole:?}");
        assert!((mixed[1] - whole[1]).abs() < 1e-6);
    }
}
