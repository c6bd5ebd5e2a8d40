//! Loads reward models, a trunk with a head that gives one score, from a `reward` stage's file or a Hugging Face folder.
//!
//! The head is `score.weight` `[1, D]` (sequence classifiers of the Llama and Qwen3 families, and our own stage) or
//! InternLM2's `v_head.weight`, whose trunk is renamed to Llama's. There is no output layer. Next: `load`, `internlm2`.
//!
//! D hidden.

use std::path::Path;

use serde_json::Value as Json;
use tch::{Device, Kind, Tensor};

use super::architecture::architecture;
use super::read::read_weights;
use super::weights::{LM_HEAD, Weights, read_json};
use super::{convert, internlm2, load};
use crate::error::{Error, Place, Result};
use crate::model::{CausalLm, SCORE};

/// A reward model.
#[derive(Debug)]
pub struct RewardModel {
    /// Everything but the head.
    pub trunk: CausalLm,
    /// The head, `[1, D]`.
    pub score: Tensor,
    /// Appended to a conversation before it is scored (InternLM2's reward token).
    pub end_id: Option<u32>,
    /// Whether one of our `reward` stages trained it.
    pub ours: bool,
}

/// Reads a reward model: the trunk in the type `kind` on `device`, the head in fp32.
///
/// # Errors
/// The weights cannot be read, have no score head or one of several scores, or an unknown architecture.
pub fn load_reward_model(path: &Path, device: Device, kind: Kind) -> Result<RewardModel> {
    let mut weights = read_weights(path)?;
    let config = folder_config(path)?;
    let mut end_id = None;
    let given = match config.as_ref().filter(|c| internlm2::is(c)) {
        Some(config) => {
            end_id = config["reward_token_id"].as_u64().and_then(|id| u32::try_from(id).ok());
            Some(internlm2::as_llama(config, &mut weights.tensors).map_err(|e| e.at(Place::file(path)))?)
        }
        None => None,
    };
    let score = take_head(path, &mut weights)?;
    let (d, ours) = (score.size()[1], weights.metadata.as_ref().is_some_and(|m| m.get("head").is_some()));
    let mut config = match given {
        Some(config) => config,
        None => architecture(path, &weights)?.config,
    };
    // There is no output layer, and none is used: it is tied to the embedding.
    config.tie_word_embeddings |= !weights.tensors.contains_key(LM_HEAD);
    let loaded = load::model_from(weights, path, Some(&config), device, kind)?;
    if loaded.model.config().hidden_size != d {
        return Err(Error::input(format!(
            "the head takes {d} numbers, the trunk gives {}",
            loaded.model.config().hidden_size
        ))
        .at(Place::file(path)));
    }
    Ok(RewardModel { trunk: loaded.model, score: score.to_device(device).to_kind(Kind::Float), end_id, ours })
}

fn folder_config(path: &Path) -> Result<Option<Json>> {
    let file = path.join("config.json");
    if !path.is_dir() || !file.is_file() {
        return Ok(None);
    }
    read_json(&file).map(Some)
}

fn take_head(path: &Path, weights: &mut Weights) -> Result<Tensor> {
    let Some(head) = weights.tensors.remove(SCORE) else {
        return Err(Error::input("these weights have no score head, so they are no reward model")
            .at(Place::file(path))
            .hint("a reward model has `score.weight`; `reward` stages and sequence classifiers with one label make it"));
    };
    let shape = head.shape().to_vec();
    if shape.len() != 2 || shape[0] != 1 {
        return Err(Error::input(format!(
            "`{SCORE}` is {shape:?}; a reward model gives one score, [1, hidden]"
        ))
        .at(Place::file(path))
        .hint("a classifier of several labels is no reward model"));
    }
    if weights.tensors.contains_key("score.bias") {
        return Err(Error::input("a score head with a bias is not known").at(Place::file(path)));
    }
    convert::to_tensor(&head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ModelConfig, ModelOverrides, Params, params};
    use std::collections::HashMap;

    fn tiny() -> (ModelConfig, CausalLm) {
        let mut stated = crate::model::config::preset("minimind2").unwrap();
        (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(2), Some(64));
        (stated.num_attention_heads, stated.num_key_value_heads) = (Some(4), Some(2));
        let config = ModelOverrides { tie_word_embeddings: Some(false), ..stated }.resolve().unwrap();
        tch::manual_seed(5);
        let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
        (config, model)
    }

    fn named(model: &CausalLm, config: &ModelConfig) -> HashMap<String, Tensor> {
        let names = params::specs(config).into_iter().map(|s| s.name);
        names.map(|name| (name.clone(), model.params().get(&name))).collect()
    }

    fn save(folder: &Path, tensors: &HashMap<String, Tensor>, config: &Json) {
        let list: Vec<(&str, Tensor)> = tensors.iter().map(|(k, t)| (k.as_str(), t.contiguous())).collect();
        Tensor::write_safetensors(&list, folder.join("model.safetensors")).unwrap();
        std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    }

    fn config_json(config: &ModelConfig, kin: &str) -> Json {
        serde_json::json!({
            "model_type": kin, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "vocab_size": 64, "intermediate_size": config.intermediate_size,
            "rms_norm_eps": config.rms_norm_eps, "rope_theta": config.rope_theta, "hidden_act": "silu",
            "max_position_embeddings": 128, "tie_word_embeddings": false, "reward_token_id": 63,
            "rope_scaling": if kin == "internlm2" { serde_json::json!({"type": "dynamic", "factor": 2.0}) } else { Json::Null },
        })
    }

    fn hidden(model: &CausalLm) -> Tensor {
        let ids = Tensor::from_slice(&[3i64, 9, 27, 50]).view([1, 4]);
        tch::no_grad(|| model.hidden(&ids, crate::model::Mask::Causal, false).0)
    }

    #[test]
    fn a_sequence_classifier_and_internlm2_give_the_same_trunk() {
        let (config, model) = tiny();
        let mut tensors = named(&model, &config);
        tensors.remove("lm_head.weight");
        let head = Tensor::randn([1, 32], (Kind::Float, Device::Cpu));
        tensors.insert(SCORE.to_owned(), head.shallow_clone());
        let llama = tempfile::tempdir().unwrap();
        save(llama.path(), &tensors, &config_json(&config, "llama"));
        let back = load_reward_model(llama.path(), Device::Cpu, Kind::Float).unwrap();
        assert!(back.score.equal(&head) && back.end_id.is_none() && !back.ours);
        assert!(hidden(&back.trunk).equal(&hidden(&model)));

        let other = tempfile::tempdir().unwrap();
        save(other.path(), &internlm2::tests::renamed(&tensors, &config), &config_json(&config, "internlm2"));
        let back = load_reward_model(other.path(), Device::Cpu, Kind::Float).unwrap();
        assert_eq!(back.end_id, Some(63));
        assert!(back.score.equal(&head) && hidden(&back.trunk).equal(&hidden(&model)));
    }

    #[test]
    fn what_is_no_reward_model_is_refused() {
        let (config, model) = tiny();
        let mut tensors = named(&model, &config);
        let folder = tempfile::tempdir().unwrap();
        let fault = |tensors: &HashMap<String, Tensor>| {
            save(folder.path(), tensors, &config_json(&config, "llama"));
            load_reward_model(folder.path(), Device::Cpu, Kind::Float).unwrap_err().to_string()
        };
        assert!(fault(&tensors).contains("no score head"));
        tensors.insert(SCORE.to_owned(), Tensor::zeros([3, 32], (Kind::Float, Device::Cpu)));
        assert!(fault(&tensors).contains("several labels"));
        tensors.insert(SCORE.to_owned(), Tensor::zeros([1, 16], (Kind::Float, Device::Cpu)));
        assert!(fault(&tensors).contains("the head takes 16"));
    }
}
