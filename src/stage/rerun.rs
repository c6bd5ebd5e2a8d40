//! `--from STAGE` over several starts: which stages have been rerun already, so that the same command continues after it
//! was stopped.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::context::{Resume, RunOptions};
use super::record::write_json;
use crate::error::{Error, Result};

/// Kept in the run's folder until such a run ends well.
const FILE: &str = ".from.json";

/// The progress of `--from STAGE`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rerun {
    from: Option<String>,
    done: Vec<String>,
}

impl Rerun {
    /// What an earlier start of the same command has done; nothing after another command, or with `--resume never`.
    pub fn read(output: &Path, options: &RunOptions) -> Self {
        let kept = std::fs::read_to_string(output.join(FILE)).ok();
        let kept: Option<Self> = kept.and_then(|text| serde_json::from_str(&text).ok());
        match kept.filter(|kept| kept.from == options.from && options.resume != Resume::Never) {
            Some(kept) => kept,
            None => Self { from: options.from.clone(), done: Vec::new() },
        }
    }

    /// Whether a stage has been rerun.
    pub fn has_rerun(&self, name: &str) -> bool {
        self.done.iter().any(|done| done == name)
    }

    /// Writes that such a run is in progress, or removes the file where there is none.
    ///
    /// # Errors
    /// I/O faults.
    pub fn start(&self, output: &Path) -> Result<()> {
        match &self.from {
            None => self.finish(output),
            Some(from) => {
                if !self.done.is_empty() {
                    let done = self.done.join(", ");
                    tracing::info!(
                        "--from {from} continues where it was stopped, after {done}; with --resume never it starts over"
                    );
                }
                write_json(&output.join(FILE), self)
            }
        }
    }

    /// Adds a stage that has been rerun.
    ///
    /// # Errors
    /// I/O faults.
    pub fn record(&mut self, output: &Path, name: &str) -> Result<()> {
        if self.from.is_none() {
            return Ok(());
        }
        self.done.push(name.to_owned());
        write_json(&output.join(FILE), self)
    }

    /// Removes the file.
    ///
    /// # Errors
    /// I/O faults.
    pub fn finish(&self, output: &Path) -> Result<()> {
        let path = output.join(FILE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove a note", &path, e)),
            _ => Ok(()),
        }
    }
}
