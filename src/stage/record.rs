//! What a finished stage leaves in its folder: `done.json` (what it was made from, to tell whether it
//! still holds) and `summary.json` (what came of it, for the report and the next command).

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::checkpoint::atomic;
use crate::error::{Error, Place, Result};
use crate::hash::hex;

/// Everything that decides a stage's result, by name: a hash or a version each.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inputs(pub BTreeMap<String, String>);

impl Inputs {
    /// Adds one.
    pub fn add(&mut self, name: &str, value: impl Into<String>) {
        self.0.insert(name.to_owned(), value.into());
    }

    /// One hash over all.
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        for (name, value) in &self.0 {
            hasher.update(format!("{name}={value}\n"));
        }
        hex(&hasher.finalize())
    }

    /// Names whose values differ, in words; empty where all are equal.
    pub fn changed_since(&self, old: &Inputs) -> Vec<String> {
        let names: std::collections::BTreeSet<_> = self.0.keys().chain(old.0.keys()).collect();
        names.into_iter().filter(|n| self.0.get(*n) != old.0.get(*n)).cloned().collect()
    }
}

/// The record of a finished stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// What it was made from.
    pub inputs: Inputs,
    /// Files it made, relative to the run's folder.
    pub outputs: Vec<String>,
}

/// Whether a stage must run, and why.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It holds.
    Done,
    /// It never finished here.
    New,
    /// These inputs changed.
    Changed(Vec<String>),
    /// A file it made is gone.
    Missing(String),
}

/// Takes a stage's word back that it is done.
pub fn give_up(folder: &Path) -> Result<()> {
    let path = folder.join("done.json");
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove an old file", &path, e)),
        _ => Ok(()),
    }
}

/// Compares a stage's folder with what it would be made from now.
pub fn judge(output: &Path, folder: &Path, inputs: &Inputs) -> Verdict {
    let Ok(text) = std::fs::read_to_string(folder.join("done.json")) else { return Verdict::New };
    // A record that cannot be read is no record: the stage runs again.
    let Ok(done) = serde_json::from_str::<Done>(&text) else { return Verdict::New };
    let changed = inputs.changed_since(&done.inputs);
    if !changed.is_empty() {
        return Verdict::Changed(changed);
    }
    match done.outputs.iter().find(|file| !output.join(file).exists()) {
        Some(file) => Verdict::Missing(file.clone()),
        None => Verdict::Done,
    }
}

/// Writes a JSON file whole or not at all.
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
    fn a_stage_runs_again_for_a_reason() {
        let run = tempfile::tempdir().unwrap();
        let folder = run.path().join("sft");
        std::fs::create_dir(&folder).unwrap();
        let mut inputs = Inputs::default();
        inputs.add("data", "1");
        assert_eq!(judge(run.path(), &folder, &inputs), Verdict::New);
        let done = Done { inputs: inputs.clone(), outputs: vec!["w.pth".into()] };
        write_json(&folder.join("done.json"), &done).unwrap();
        assert_eq!(judge(run.path(), &folder, &inputs), Verdict::Missing("w.pth".into()));
        std::fs::write(run.path().join("w.pth"), "x").unwrap();
        assert_eq!(judge(run.path(), &folder, &inputs), Verdict::Done);
        inputs.add("data", "2");
        assert_eq!(judge(run.path(), &folder, &inputs), Verdict::Changed(vec!["data".into()]));
        std::fs::write(folder.join("done.json"), "{").unwrap();
        assert_eq!(judge(run.path(), &folder, &inputs), Verdict::New);
    }
}
