//! Logs a training loop: rows of metrics to files, progress and notes to the console.

use serde_json::Value;

use super::context::StageRun;
use super::record;
use crate::engine::{MetricsRow, Observer};
use crate::error::Result;
use crate::report::console::{Console, ConsoleMode};
use crate::report::metrics::MetricsFile;

/// Metric files and console of one stage.
#[derive(Debug)]
pub struct MetricsLogger {
    /// Rank 0 alone writes.
    file: Option<MetricsFile>,
    console: Console,
    notes: Vec<String>,
}

impl MetricsLogger {
    /// Opens a stage's metric files, cut back to `position` where it resumes; `total` is its length in micro-batches.
    ///
    /// # Errors
    /// I/O faults.
    pub fn open(stage: StageRun<'_>, total: u64, position: Option<&Value>) -> Result<Self> {
        let rank0 = stage.context.ranks.is_rank0();
        if rank0 {
            // What is in the folder from now on belongs to this run.
            record::remove_done(stage.folder)?;
        }
        let mode = if rank0 { stage.context.options.console } else { ConsoleMode::Quiet };
        Ok(Self {
            file: rank0.then(|| MetricsFile::open(stage.folder, stage.name, position)).transpose()?,
            console: Console::new(stage.name, total, mode),
            notes: Vec::new(),
        })
    }

    /// Ends the progress display; what was noted.
    pub fn finish(mut self) -> Vec<String> {
        self.console.finish();
        self.notes
    }
}

impl Observer for MetricsLogger {
    fn log_metrics(&mut self, metrics: &MetricsRow) -> Result<()> {
        match &mut self.file {
            Some(file) => file.row(metrics.epoch, metrics.step, &metrics.values),
            None => Ok(()),
        }
    }

    fn position(&self) -> Result<Value> {
        self.file.as_ref().map_or(Ok(Value::Null), MetricsFile::position)
    }

    fn on_step(&mut self, step: u64, loss: f64, lr: f64, tokens_per_s: f64) {
        self.console.tick(step, loss, lr, tokens_per_s);
    }

    fn log_note(&mut self, text: &str) {
        self.console.note(text);
        self.notes.push(text.to_owned());
    }
}
