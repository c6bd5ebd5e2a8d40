//! Records of versions before the format had a number: they hold one hash of all settings, and their resume files one
//! hash of everything. Other files of the run's folder (`plan.json`, the weight file's metadata) give names and settings
//! back where their hash is the recorded one.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::record::{Inputs, write_json};
use crate::checkpoint::metadata;
use crate::error::{Error, Result};
use crate::hash::hex;
use crate::plan::{StageConfig, StagePlan};

/// The name of the hash of all settings.
pub const SETTINGS: &str = "settings";
/// The name of the program's version.
pub const PROGRAM: &str = "program";
/// The name of the one hash of everything.
pub const UNKNOWN: &str = "settings, data or start weights";

/// Where the settings of a stage are kept once `plan.json` is about to hold newer ones.
const KEPT: &str = "settings.json";
/// Versions of the program that wrote such records.
const VERSIONS: [&str; 2] = ["0.1.0", env!("CARGO_PKG_VERSION")];

/// The hash that such a record holds of a stage's settings.
///
/// # Errors
/// None that a plan can have.
pub fn hash_of(config: &StageConfig) -> Result<String> {
    let text =
        serde_json::to_string(config).map_err(|e| Error::failed("cannot describe a stage").because(e))?;
    Ok(hex(&Sha256::digest(text.as_bytes())))
}

/// The hash over everything that such a resume file holds.
fn hash_of_all(named: &BTreeMap<String, String>) -> String {
    let mut hasher = Sha256::new();
    for (name, value) in named {
        hasher.update(format!("{name}={value}\n"));
    }
    hex(&hasher.finalize())
}

/// Settings that the run's folder holds of a stage, each with its hash.
fn candidates(output: &Path, stage: &str, config: &StageConfig) -> Vec<(String, Value)> {
    let read =
        |path: &Path| -> Option<Value> { serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok() };
    let planned = read(&output.join("plan.json")).and_then(|plan| {
        let stages = plan.get("stages")?.as_array()?.clone();
        let own = stages.into_iter().find(|s| s["name"] == stage)?;
        own.get("config").cloned()
    });
    let all = [config.record().ok(), read(&output.join(stage).join(KEPT)), planned];
    all.into_iter()
        .flatten()
        .map(|value| (hex(&Sha256::digest(value.to_string().as_bytes())), value))
        .collect()
}

/// Fills the settings into a record that holds only their hash, where the run's folder still has them.
pub fn fill_settings(inputs: &mut Inputs, output: &Path, stage: &str, config: &StageConfig) {
    if !inputs.settings.is_null() {
        return;
    }
    let Some(hash) = inputs.named.get(SETTINGS) else { return };
    let found = candidates(output, stage, config).into_iter().find(|(own, _)| own == hash);
    inputs.settings = found.map_or(Value::Null, |(_, settings)| settings);
}

/// The inputs behind a resume file's one hash: those of the weight file saved with it, or those of `now` where they give
/// the same hash.
pub fn inputs_of_resume_file(
    content_hash: &str,
    weights: &Path,
    output: &Path,
    stage: &StagePlan,
    now: &Inputs,
) -> Inputs {
    let metadata = metadata::read(weights).ok().flatten();
    let metadata = metadata.filter(|metadata| metadata["content_hash"] == content_hash);
    let mut named: Option<BTreeMap<String, String>> =
        metadata.and_then(|metadata| serde_json::from_value(metadata["inputs"].clone()).ok());
    for version in VERSIONS {
        for (hash, _) in candidates(output, &stage.name, &stage.config) {
            let mut tried = now.named.clone();
            tried.remove("chat template");
            tried.insert(PROGRAM.to_owned(), version.to_owned());
            tried.insert(SETTINGS.to_owned(), hash);
            if named.is_none() && hash_of_all(&tried) == content_hash {
                named = Some(tried);
            }
        }
    }
    let named = named.unwrap_or_else(|| BTreeMap::from([(UNKNOWN.to_owned(), content_hash.to_owned())]));
    let mut inputs = Inputs { format: 1, arithmetic: 1, program: String::new(), named, ..Inputs::default() };
    fill_settings(&mut inputs, output, &stage.name, &stage.config);
    inputs
}

/// Writes the settings of such a record beside it, before `plan.json` is replaced.
///
/// # Errors
/// I/O faults.
pub fn keep_settings(inputs: &Inputs, folder: &Path) -> Result<()> {
    let kept = folder.join(KEPT);
    if !inputs.named.contains_key(SETTINGS) || inputs.settings.is_null() || kept.exists() || !folder.is_dir()
    {
        return Ok(());
    }
    write_json(&kept, &inputs.settings)
}
