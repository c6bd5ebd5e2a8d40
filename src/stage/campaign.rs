//! `--from STAGE` over several starts: which stages have run again already, so that the same command goes on after it was
//! stopped and does not begin from the top once more.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::context::{Resume, RunOptions};
use super::record::write_json;
use crate::error::{Error, Result};

/// Kept in the run's folder until such a run ends well.
const FILE: &str = ".from.json";

/// Stages that have run again.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Again {
    from: Option<String>,
    done: Vec<String>,
}

impl Again {
    /// What an earlier start of this very command has done; nothing after another one, or where `--resume never` asks
    /// for a beginning.
    pub fn read(output: &Path, options: &RunOptions) -> Self {
        let kept = std::fs::read_to_string(output.join(FILE)).ok();
        let kept: Option<Self> = kept.and_then(|text| serde_json::from_str(&text).ok());
        match kept.filter(|kept| kept.from == options.from && options.resume != Resume::Never) {
            Some(kept) => kept,
            None => Self { from: options.from.clone(), done: Vec::new() },
        }
    }

    /// Whether a stage has run again.
    pub fn has(&self, name: &str) -> bool {
        self.done.iter().any(|done| done == name)
    }

    /// Notes that such a run is under way, or that none is.
    ///
    /// # Errors
    /// I/O faults.
    pub fn begin(&self, output: &Path) -> Result<()> {
        match &self.from {
            None => self.end(output),
            Some(from) => {
                if !self.done.is_empty() {
                    let done = self.done.join(", ");
                    tracing::info!(
                        "--from {from} goes on where it was stopped, after {done}; with --resume never it starts over"
                    );
                }
                write_json(&output.join(FILE), self)
            }
        }
    }

    /// Notes that a stage has run.
    ///
    /// # Errors
    /// I/O faults.
    pub fn done(&mut self, output: &Path, name: &str) -> Result<()> {
        if self.from.is_none() {
            return Ok(());
        }
        self.done.push(name.to_owned());
        write_json(&output.join(FILE), self)
    }

    /// Forgets all.
    ///
    /// # Errors
    /// I/O faults.
    pub fn end(&self, output: &Path) -> Result<()> {
        let path = output.join(FILE);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove a note", &path, e)),
            _ => Ok(()),
        }
    }
}
