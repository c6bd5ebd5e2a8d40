//! From a file or folder to a model, strictly: every weight must fit, and all that do not are named.
//!
//! Next: `read` (the weights), `architecture` (the config), `strict_check`, `adapter` (low-rank files).

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use tch::{Device, Kind, Tensor};

use super::adapter::adapter_file::AdapterFile;
use super::adapter::detect::is_adapter;
use super::architecture::Architecture;
use super::convert;
use super::host_tensor::HostTensor;
use super::read::read_weights;
use super::strict_check::check_fit;
use super::weights::Weights;
use crate::error::{Error, Place, Result};
use crate::model::{CausalLm, ModelConfig, Params, SCORE};

/// A model that was read, and what stated its architecture.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model.
    pub model: CausalLm,
    /// The file or folder that was named.
    pub path: PathBuf,
    /// What stated its architecture, for the user.
    pub architecture_from: String,
    /// What had to be assumed, for the user.
    pub notes: Vec<String>,
}

/// Every tensor of a file or folder by upstream's names, on the CPU in its stored type.
///
/// # Errors
/// As [`read_weights`]; a tensor of a type that libtorch does not compute with.
pub fn named_tensors(path: &Path) -> Result<HashMap<String, Tensor>> {
    let weights = read_weights(path)?;
    weights.tensors.iter().map(|(name, t)| Ok((name.clone(), convert::to_tensor(t)?))).collect()
}

/// Builds the model that `path` holds on `device` in the type `kind`. `given` wins over what the file states of its
/// architecture. An adapter's file gives its base weights with the adapter merged in.
///
/// # Errors
/// The file cannot be read; its architecture is unclear; weights are missing, misshapen or too many; it is a reward
/// model, or an adapter whose base is not there.
pub fn load_model(
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    load_weights(read_weights(path)?, path, given, device, kind)
}

/// [`load_model`] of weights that were read from `path`.
///
/// # Errors
/// As [`load_model`].
pub(super) fn load_weights(
    mut weights: Weights,
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    let mut adapters: Vec<(AdapterFile, PathBuf)> = Vec::new();
    let (mut base, mut config) = (path.to_owned(), given.cloned());
    while is_adapter(&weights.tensors) {
        let adapter = AdapterFile::from_weights(&base, weights)?;
        base = adapter.base_weights(adapters.len())?;
        config = config.or_else(|| adapter.config.clone());
        weights = read_weights(&base)?;
        adapters.push((adapter, base.clone()));
    }
    refuse_reward_model(&weights, &base)?;
    let mut loaded = model_from(weights, &base, config.as_ref(), device, kind)?;
    for (adapter, base) in adapters.iter().rev() {
        adapter.build(loaded.model.config(), device)?.merge_into(loaded.model.params(), kind)?;
        loaded.notes.push(format!("an adapter on {}", base.display()));
    }
    loaded.path = path.to_owned();
    Ok(loaded)
}

/// Refuses weights with a score head where a language model is wanted.
///
/// # Errors
/// They have one.
pub(super) fn refuse_reward_model(weights: &Weights, path: &Path) -> Result<()> {
    if weights.tensors.contains_key(SCORE) {
        return Err(Error::input("this is a reward model; it cannot generate text")
            .at(Place::file(path))
            .hint("name a language model's weights"));
    }
    Ok(())
}

/// The model of weights that were read from `path`, whatever head came with them.
///
/// # Errors
/// As [`load_model`].
pub(super) fn model_from(
    mut weights: Weights,
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    if weights.tensors.is_empty() {
        return Err(Error::failed("there are no weights in this file").at(Place::file(path)).hint(
            "a state dict is looked for in the file itself and under model, state_dict, model_state_dict and module",
        ));
    }
    weights.fill_tied_embedding();
    let Architecture { config, source, notes } = Architecture::given_or_of(given, path, &weights)?;
    check_fit(&config, &mut weights.tensors).map_err(|e| e.at(Place::file(path)))?;
    let params = Params::build(&config, |spec| {
        let saved = weights.tensors.remove(&spec.name);
        let saved = saved.ok_or_else(|| Error::failed(format!("the weights hold no `{}`", spec.name)))?;
        let own = convert::to_tensor_as(&saved, device, kind)?;
        saved.storage().release();
        Ok(own)
    })?;
    Ok(LoadedModel {
        model: CausalLm::new(&config, params),
        path: path.to_owned(),
        architecture_from: source,
        notes,
    })
}

/// Copies weights into a model, which keeps its type and device; as strict as [`load_model`].
///
/// # Errors
/// Weights are missing, misshapen or too many; all are named.
pub fn load_into(model: &CausalLm, mut tensors: HashMap<String, HostTensor>) -> Result<()> {
    check_fit(model.config(), &mut tensors)?;
    for (name, param) in model.params().names().iter().zip(model.params().tensors()) {
        let saved = convert::to_tensor(&tensors[name])?;
        tch::no_grad(|| param.shallow_clone().f_copy_(&saved))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::weights::METADATA;
    use crate::checkpoint::{pth, state_dict};

    #[test]
    fn models_come_back_and_faults_are_all_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sft_32.pth");
        for name in ["minimind2", "minimind3-moe"] {
            let mut stated = crate::model::config::preset(name).unwrap();
            (stated.hidden_size, stated.num_hidden_layers, stated.vocab_size) = (Some(32), Some(2), Some(64));
            let config = stated.resolve().unwrap();
            let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).unwrap());
            let value = crate::engine::resume::weights_value(&model, Kind::Float).unwrap();
            let meta = serde_json::json!({"config": config.to_json()}).to_string();
            for extra in [&[(METADATA, meta.as_bytes())][..], &[]] {
                pth::write(&path, &value, extra).unwrap();
                let back = load_model(&path, None, Device::Cpu, Kind::Float).unwrap();
                assert_eq!(back.model.config(), &config);
                for (a, b) in back.model.params().tensors().iter().zip(model.params().tensors()) {
                    assert!(a.equal(b));
                }
            }
            let mut tensors = state_dict::tensors_of(&value).unwrap();
            let norm = tensors.remove("model.norm.weight").unwrap();
            tensors.insert("odd".into(), norm.clone());
            tensors.insert("model.embed_tokens.weight".into(), norm);
            tensors.remove("lm_head.weight");
            let text = load_into(&model, tensors).unwrap_err().to_string();
            for part in ["missing: model.norm.weight", "extra: odd", "misshapen: model.embed_tokens.weight"] {
                assert!(text.contains(part), "{text}");
            }
        }
    }

    #[test]
    fn the_references_models_are_loaded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        for (era, shape) in [("minimind2", "moe"), ("minimind3", "dense")] {
            let folder = root.join(era).join(shape);
            let loaded =
                load_model(&folder.join("weights_fp32.pth"), None, Device::Cpu, Kind::Float).unwrap();
            let config = loaded.model.config().clone();
            assert_eq!((config.era.name(), config.moe.is_some()), (era, shape == "moe"));
            assert!(loaded.architecture_from.ends_with("config.json") && loaded.notes.is_empty());
            let resume = folder.join("resume/pretrain_32_resume.pth");
            if shape == "dense" {
                let given = load_model(&resume, Some(&config), Device::Cpu, Kind::Float).unwrap();
                assert_eq!(given.model.config(), &config);
            }
        }
    }
}
