//! Hashes of everything that a stage's result depends on.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::context::Context;
use super::loading::{start_weights, tokenizer_folder};
use super::record::Inputs;
use crate::checkpoint::{metadata, tokenizer_folder};
use crate::data::{DataConfig, DataSource, Validation};
use crate::error::{Error, Place, Result};
use crate::hash::hex;
use crate::plan::{ChoicePlan, EvalConfig, Init, PolicyConfig, StageConfig};
use crate::rollout::rewards::RewardKind;

/// What a stage's result depends on: its settings, and by name the hashes of tokenizer, data and start weights.
///
/// # Errors
/// A file that cannot be read.
pub fn stage_inputs(context: &Context<'_>, config: &StageConfig) -> Result<Inputs> {
    let mut inputs = Inputs { settings: config.record()?, ..Inputs::default() };
    inputs.add("seed", context.plan.seed.to_string());
    inputs.add("precision", context.compute.name());
    inputs.add("device", crate::engine::device::name(context.device));
    let (data, init, source) = match config {
        StageConfig::Tokenizer(c) => (Some(&c.data), None, None),
        StageConfig::Eval(c) => (Some(&c.data), Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Export(c) => (None, Some(&c.init), c.tokenizer.as_ref()),
        StageConfig::Merge(c) => (None, c.init.as_ref(), None),
        StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
            add_policy_inputs(context, c, &mut inputs)?;
            (Some(&c.train.data), Some(&c.train.init), c.train.tokenizer.as_ref())
        }
        other => {
            let c = other.training();
            (c.map(|c| &c.data), c.map(|c| &c.init), c.and_then(|c| c.tokenizer.as_ref()))
        }
    };
    if let Some(data) = data {
        inputs.add("data", data_hash(data)?);
        if let StageConfig::Eval(EvalConfig { choice: ChoicePlan { shots_from: Some(path), .. }, .. }) =
            config
        {
            inputs.add("examples", path_hash(path)?);
        }
    }
    if let Some(source) = source {
        let folder = tokenizer_folder(context, source);
        inputs.add("tokenizer", file_hash(&tokenizer_file(&folder))?);
        inputs.add("chat template", template_hash(&folder)?);
    }
    if let Some(init) = init
        && let Some(path) = start_weights(context, init)?
    {
        inputs.add("start weights", weights_hash(&path)?);
    }
    // The architecture that the recipe states for weights whose files do not; for fresh ones the settings hold it.
    for (what, init, plan) in config.stated() {
        if let (Init::Path(_), Some(plan)) = (init, plan) {
            inputs.add(what, without_unset(&format!("{:?}", plan.stated)));
        }
    }
    for (what, init) in config.also_reads() {
        if let Some(path) = start_weights(context, init)? {
            inputs.add(what, weights_hash(&path)?);
        }
    }
    Ok(inputs.seal(config))
}

/// Adds what a policy stage reads beyond its start weights and data: reference, critic, reward models, held-out prompts.
fn add_policy_inputs(context: &Context<'_>, c: &PolicyConfig, inputs: &mut Inputs) -> Result<()> {
    for (key, init) in c.others() {
        if let Some(path) = start_weights(context, init)? {
            inputs.add(key, weights_hash(&path)?);
        }
    }
    for reward in &c.rewards {
        if let RewardKind::Model(model) = &reward.kind {
            let path = model.from.locate(&context.plan.output)?;
            let own = tokenizer_folder::find(&path)?;
            let tokenizer = model.tokenizer.as_ref().or(own.as_ref());
            let spoken = tokenizer.map(|folder| file_hash(&tokenizer_file(folder))).transpose()?;
            let scores = format!("{} {}", weights_hash(&path)?, spoken.unwrap_or_default());
            inputs.add(&format!("reward {}", reward.name), scores);
        }
    }
    if let Some(heldout) = &c.heldout {
        inputs.add("held-out data", data_hash(heldout)?);
    }
    Ok(())
}

/// The debug text of a struct without its fields that are `None`, so that a new optional field is no change.
pub fn without_unset(text: &str) -> String {
    let parts = text.split(", ").map(|part| part.trim_end_matches(" }"));
    parts.filter(|part| !part.ends_with(": None")).collect::<Vec<_>>().join(", ")
}

/// Hash of the chat template of a tokenizer's folder, and of nothing else that lies there.
fn template_hash(folder: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    for name in ["chat_template.jinja", "tokenizer_config.json"] {
        let path = folder.join(name);
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if name.ends_with(".jinja") {
            hasher.update(&bytes);
        } else if let Ok(config) = serde_json::from_slice::<serde_json::Value>(&bytes) {
            hasher.update(config["chat_template"].to_string());
        }
    }
    Ok(hex(&hasher.finalize()))
}

fn data_hash(data: &DataConfig) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut files = Vec::new();
    add_source(&data.source, &mut hasher, &mut files);
    if let Validation::Path(path) = &data.validation {
        files.push(path);
    }
    for file in files {
        hasher.update(path_hash(file)?);
    }
    Ok(hex(&hasher.finalize()))
}

/// Adds the files of a source, and the version of the built-in world.
fn add_source<'a>(source: &'a DataSource, hasher: &mut Sha256, files: &mut Vec<&'a PathBuf>) {
    match source {
        DataSource::Paths(paths) => files.extend(paths),
        DataSource::Synthetic(_) => {
            hasher.update(format!("built-in world {}", crate::data::synthetic::VERSION));
        }
        DataSource::Mixture(parts) => parts.iter().for_each(|part| add_source(&part.source, hasher, files)),
    }
}

/// Hash of weights, joined by that of `config.json` in the same folder where the file does not state its architecture.
fn weights_hash(path: &Path) -> Result<String> {
    let (own, beside) = (path_hash(path)?, path.with_file_name("config.json"));
    if path.is_dir() || !beside.is_file() || metadata::states_architecture(path)? {
        return Ok(own);
    }
    Ok(format!("{own} {}", file_hash(&beside)?))
}

/// Hash of a file, or of every file of a folder.
fn path_hash(path: &Path) -> Result<String> {
    if !path.is_dir() {
        return file_hash(path);
    }
    let read = |e| Error::io("list", path, e);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(read)? {
        let file = entry.map_err(read)?.path();
        if file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    let mut hasher = Sha256::new();
    for file in &files {
        hasher.update(file_hash(file)?);
    }
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of a file's bytes, read in pieces.
///
/// # Errors
/// It cannot be read.
pub fn file_hash(path: &Path) -> Result<String> {
    use std::io::Read;
    let read = |e| Error::io("read", path, e).at(Place::file(path));
    let mut file = crate::files::open(path).map_err(read)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let n = file.read(&mut buffer).map_err(read)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&buffer[..n]);
    }
}

/// The file that a tokenizer's folder holds it in.
fn tokenizer_file(folder: &Path) -> PathBuf {
    crate::data::tokenizer::load::file(folder).unwrap_or_else(|| folder.join("tokenizer.json"))
}
