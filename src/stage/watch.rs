//! What a training loop tells: rows to files, progress to the person.

use std::path::Path;

use super::context::Context;
use crate::engine::{MetricsRow, Observer};
use crate::error::Result;
use crate::report::console::{Console, ConsoleMode};
use crate::report::metrics::MetricsFile;

/// Metrics files and console of one stage.
#[derive(Debug)]
pub struct Watch {
    /// Only the first rank writes.
    file: Option<MetricsFile>,
    console: Console,
    notes: Vec<String>,
}

impl Watch {
    /// Opens a stage's metric files, cut back to `position` where a run goes on.
    pub fn new(
        folder: &Path,
        stage: &str,
        total: u64,
        context: &Context<'_>,
        position: Option<&serde_json::Value>,
    ) -> Result<Self> {
        let first = context.ranks.is_rank0();
        if first {
            // What is in the folder from now on belongs to this run.
            super::record::give_up(folder)?;
        }
        let mode = if first { context.console } else { ConsoleMode::Quiet };
        Ok(Self {
            file: first.then(|| MetricsFile::open(folder, stage, position)).transpose()?,
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
    fn log_metrics(&mut self, metrics: &MetricsRow) -> Result<()> {
        match &mut self.file {
            Some(file) => file.row(metrics.epoch, metrics.step, &metrics.values),
            None => Ok(()),
        }
    }

    fn position(&self) -> Result<serde_json::Value> {
        self.file.as_ref().map_or(Ok(serde_json::Value::Null), MetricsFile::position)
    }

    fn on_step(&mut self, step: u64, loss: f64, lr: f64, tokens_per_s: f64) {
        self.console.tick(step, loss, lr, tokens_per_s);
    }

    fn log_note(&mut self, text: &str) {
        self.console.note(text);
        self.notes.push(text.to_owned());
    }
}
