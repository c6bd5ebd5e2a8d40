//! What a training loop tells: rows to files, progress to the person.

use std::path::Path;

use crate::engine::{Metrics, Observer};
use crate::error::Result;
use crate::report::console::{Console, ConsoleMode};
use crate::report::metrics::MetricsFile;

/// Metrics files and console of one stage.
#[derive(Debug)]
pub struct Watch {
    file: MetricsFile,
    console: Console,
    notes: Vec<String>,
}

impl Watch {
    /// Opens a stage's metric files, cut back to `position` where a run goes on.
    pub fn new(
        folder: &Path,
        stage: &str,
        total: u64,
        mode: ConsoleMode,
        position: Option<&serde_json::Value>,
    ) -> Result<Self> {
        Ok(Self {
            file: MetricsFile::open(folder, stage, position)?,
            console: Console::new(stage, total, mode),
            notes: Vec::new(),
        })
    }

    /// Ends the progress display and gives back what was noted.
    pub fn finish(mut self) -> Vec<String> {
        self.console.finish();
        self.notes
    }
}

impl Observer for Watch {
    fn row(&mut self, metrics: &Metrics) -> Result<()> {
        self.file.row(metrics.epoch, metrics.step, &metrics.values)
    }

    fn position(&self) -> Result<serde_json::Value> {
        self.file.position()
    }

    fn tick(&mut self, step: u64, loss: f64, lr: f64, tokens_per_s: f64) {
        self.console.tick(step, loss, lr, tokens_per_s);
    }

    fn note(&mut self, text: &str) {
        self.console.note(text);
        self.notes.push(text.to_owned());
    }
}
