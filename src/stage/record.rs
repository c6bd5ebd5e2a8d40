//! The record of a finished stage in its folder: `done.json` (what it was made from, to decide whether it still holds)
//! and `summary.json` (its results, for the report and the next command).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::atomic;
use crate::error::{Error, Place, Result};
use crate::hash::hex;
use crate::plan::{SettingKind, StageConfig};

/// Layout of the records in `done.json` and in resume files. Raise it when an older program could not read them
/// rightly; a record of a later layout is refused, one of an earlier layout is still read. Say so in `docs/going-on.md`.
pub const FORMAT: u32 = 1;

/// Version of the arithmetic. Raise it when the same settings and data give other numbers than before by more than
/// rounding, so that a stage half made by either would be neither's. What was made with another one then stops with a
/// fault that offers `--resume force` and `--from`. Say so in `docs/going-on.md`. The program's own version is
/// only noted and never compared.
pub const ARITHMETIC: u32 = 1;

/// Everything that decides a stage's result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Inputs {
    /// [`FORMAT`] when it was written.
    #[serde(default = "first")]
    pub format: u32,
    /// [`ARITHMETIC`] when it was made.
    #[serde(default = "first")]
    pub arithmetic: u32,
    /// The program that made it, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// By name: a hash of contents or a plain value each.
    #[serde(rename = "inputs")]
    pub named: BTreeMap<String, String>,
    /// The stage's settings by key under its kind; null in records of before the format had a number, which hold a hash
    /// of them among the named.
    #[serde(default)]
    pub settings: Value,
    /// One hash over all that decides the result ([`Inputs::seal`]).
    #[serde(default)]
    pub content_hash: String,
    /// What `--resume force` passed over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forced: Vec<Forced>,
}

/// One use of `--resume force`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forced {
    /// Micro-batches done then.
    pub step: u64,
    /// Keys with old and new value.
    pub changes: Vec<String>,
}

fn first() -> u32 {
    1
}

impl Default for Inputs {
    fn default() -> Self {
        Self {
            format: FORMAT,
            arithmetic: ARITHMETIC,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            named: BTreeMap::new(),
            settings: Value::Null,
            content_hash: String::new(),
            forced: Vec::new(),
        }
    }
}

impl Inputs {
    /// Adds an input.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.named.insert(name.to_owned(), value.into());
    }

    /// Sets the hash over all that decides the result; settings that do not affect it are left out, as is the program's
    /// version.
    pub fn seal(mut self, config: &StageConfig) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(format!("arithmetic={}\n", self.arithmetic));
        for (name, value) in &self.named {
            hasher.update(format!("{name}={value}\n"));
        }
        // Against nothing, every setting is a change.
        for change in config.changes(&Value::Null, &self.settings) {
            if matches!(change.kind, SettingKind::Result | SettingKind::Length) {
                hasher.update(format!("{}={}\n", change.key, change.new.unwrap_or_default()));
            }
        }
        self.content_hash = hex(&hasher.finalize());
        self
    }
}

/// The record of a finished stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// What it was made from.
    #[serde(flatten)]
    pub inputs: Inputs,
    /// Files it made, relative to the run's folder.
    pub outputs: Vec<String>,
    /// Micro-batches done, where it trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u64>,
    /// Micro-batches in an epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_epoch: Option<u64>,
}

impl Done {
    /// Reads a stage's record; one that cannot be read is none.
    pub fn read(folder: &Path) -> Option<Self> {
        serde_json::from_str(&std::fs::read_to_string(folder.join(DONE)).ok()?).ok()
    }

    /// Writes it.
    ///
    /// # Errors
    /// I/O faults.
    pub fn write(&self, folder: &Path) -> Result<()> {
        write_json(&folder.join(DONE), self)
    }
}

/// The record's name in a stage's folder.
pub const DONE: &str = "done.json";

/// Removes a stage's record, so that it counts as unfinished.
///
/// # Errors
/// The file cannot be removed.
pub fn remove_done(folder: &Path) -> Result<()> {
    let path = folder.join(DONE);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove an old file", &path, e)),
        _ => Ok(()),
    }
}

/// Writes a JSON file atomically.
///
/// # Errors
/// I/O faults; a value that JSON cannot hold.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value)
        .map_err(|e| Error::failed("cannot write JSON").at(Place::file(path)).because(e))?;
    text.push('\n');
    atomic::write_bytes(path, text.as_bytes())
}

/// Reads a stage's summary, if it has one.
pub fn summary(folder: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_from_before_the_format_had_a_number_is_read() {
        let text =
            r#"{"inputs": {"program": "0.0.9", "settings": "ab", "seed": "42"}, "outputs": ["sft_8.pth"]}"#;
        let done: Done = serde_json::from_str(text).unwrap();
        assert_eq!((done.inputs.format, done.inputs.arithmetic), (1, 1));
        assert_eq!((done.inputs.settings, done.steps), (Value::Null, None));
        assert_eq!(done.inputs.named["seed"], "42");
    }

    #[test]
    fn a_record_that_cannot_be_read_is_none() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Done::read(folder.path()).is_none());
        let mut inputs = Inputs::default();
        inputs.add("data", "1");
        let done = Done { inputs, outputs: vec!["w.pth".into()], steps: Some(3), per_epoch: Some(3) };
        done.write(folder.path()).unwrap();
        assert_eq!(Done::read(folder.path()).unwrap().inputs, done.inputs);
        std::fs::write(folder.path().join(DONE), "{").unwrap();
        assert!(Done::read(folder.path()).is_none());
    }
}
