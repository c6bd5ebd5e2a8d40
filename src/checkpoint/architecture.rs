//! Which architecture a weight file has, from the first source that states it: the caller, the file's own metadata, the
//! weights saved beside a resume file, a `config.json` beside it, names and shapes of the weights.
//!
//! Next: `infer_shapes`, `config_conflicts`.

use std::path::Path;

use serde_json::Value as Json;

use super::adapter::detect::is_adapter;
use super::config_conflicts::{shadowed_keys, shape_conflicts};
use super::infer_shapes::{EXPERTS_NOTE, infer_shapes};
use super::weight_file::weights_of_resume;
use super::weights::{METADATA, Weights, read_json};
use super::{metadata, pth, read};
use crate::error::{Error, Place, Result};
use crate::model::{ModelConfig, ModelOverrides};

/// The architecture of weights.
#[derive(Debug, Clone)]
pub struct Architecture {
    /// The architecture.
    pub config: ModelConfig,
    /// What stated it, for the user.
    pub source: String,
    /// What had to be assumed, for the user.
    pub notes: Vec<String>,
}

impl Architecture {
    /// The one that the caller gives, else that of the weights.
    ///
    /// # Errors
    /// As [`architecture`].
    pub(super) fn given_or_of(given: Option<&ModelConfig>, path: &Path, weights: &Weights) -> Result<Self> {
        match given {
            Some(config) => {
                Ok(Self { config: config.clone(), source: "the given config".to_owned(), notes: Vec::new() })
            }
            None => architecture(path, weights),
        }
    }
}

/// The architecture of weights that were read from `path`.
///
/// # Errors
/// A config that cannot be read, or keys and shapes that make no model.
pub fn architecture(path: &Path, weights: &Weights) -> Result<Architecture> {
    let beside = if path.is_dir() { path.join("config.json") } else { path.with_file_name("config.json") };
    let (stated, source) = if let Some(config) = weights.entry("config") {
        (ModelOverrides::from_json(config)?, "the file's own metadata".to_owned())
    } else if let Some(config) = config_of_resumed(path) {
        (ModelOverrides::from_json(&config)?, "the weight file beside it".to_owned())
    } else if beside.is_file() {
        let stated = read_json(&beside)
            .and_then(|j| ModelOverrides::from_json(&j))
            .map_err(|e| e.at(Place::file(&beside)))?;
        (stated, beside.display().to_string())
    } else {
        (ModelOverrides::default(), "names and shapes of the weights".to_owned())
    };
    let (inferred, mut notes) = infer_shapes(&weights.tensors, stated.num_attention_heads);
    if stated.num_experts_per_tok.is_some() {
        notes.retain(|note| note != EXPERTS_NOTE);
    }
    let config = stated.over(inferred).resolve().map_err(|e| {
        Error::failed("the architecture of these weights is not clear")
            .at(Place::file(path))
            .because(e.what())
            .hint("put a config.json beside them, or give --config")
    })?;
    Ok(Architecture { config, source, notes })
}

/// The architecture of weights for which a recipe states `overrides`, and notes for the user. Names and shapes of the
/// weights are facts; what they leave open comes from the recipe, then from a `config.json` beside the weights. `None`
/// where nothing is open (the file states its own architecture, the `config.json` is of its folder, or it is an
/// adapter, which has base weights), and where the recipe's model is another one, such as that of another stage.
///
/// # Errors
/// The weights cannot be read; facts and overrides that no model has together.
pub fn infer_config(path: &Path, overrides: &ModelOverrides) -> Result<Option<(ModelConfig, Vec<String>)>> {
    let stated =
        if path.is_dir() { path.join("config.json").is_file() } else { metadata::states_architecture(path)? };
    if stated || config_of_resumed(path).is_some() {
        return Ok(None);
    }
    let weights = read::read_weights(path)?;
    if is_adapter(&weights.tensors) {
        return Ok(None);
    }
    let beside = path.with_file_name("config.json");
    // One that cannot be read is not missed where the recipe states everything.
    let config = if beside.is_file() {
        read_json(&beside).and_then(|j| ModelOverrides::from_json(&j)).unwrap_or_default()
    } else {
        ModelOverrides::default()
    };
    let heads = overrides.num_attention_heads.or(config.num_attention_heads);
    let (inferred, mut notes) = infer_shapes(&weights.tensors, heads);
    if overrides.num_experts_per_tok.or(config.num_experts_per_tok).is_some() {
        notes.retain(|note| note != EXPERTS_NOTE);
    }
    let conflicts = shape_conflicts(overrides, &inferred);
    if conflicts.iter().any(|(key, _)| ["hidden_size", "num_hidden_layers"].contains(key)) {
        for (_, note) in conflicts {
            tracing::info!("{}: {note}", path.display());
        }
        return Ok(None);
    }
    notes.extend(conflicts.into_iter().map(|(_, note)| note));
    notes.extend(shadowed_keys(overrides, &config));
    // Dropout is the stage's to state.
    let overrides = ModelOverrides { dropout: None, ..overrides.clone() };
    let config = inferred.over(overrides).over(config).resolve().map_err(|e| {
        Error::input("the recipe's `model` does not go with these weights")
            .at(Place::file(path))
            .because(e.what())
            .hint("state the architecture that the weights were trained with")
    })?;
    Ok(Some((config, notes)))
}

/// The config of a resume file, which has no metadata of its own: that of the weights saved with it.
fn config_of_resumed(path: &Path) -> Option<Json> {
    let bytes = pth::read_extra(&weights_of_resume(path)?, METADATA).ok()??;
    serde_json::from_slice::<Json>(&bytes).ok()?.get("config").cloned()
}
