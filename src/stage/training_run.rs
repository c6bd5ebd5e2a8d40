//! The loop of a stage with its files: metrics, the checkpoint it resumes from, its part of the summary.

use serde_json::{Map, Value, json};

use super::context::{StageResult, StageRun};
use super::metrics_logger::MetricsLogger;
use super::resuming;
use crate::engine::resume::ResumeFile;
use crate::engine::{CheckpointPaths, LoopConfig, Objective, Outcome, TrainSetup, train};
use crate::error::Result;
use crate::model::{CausalLm, params};

/// A stage about to train.
pub struct TrainingRun<'a> {
    pub(super) stage: StageRun<'a>,
    /// Name of the weight file.
    pub(super) weights: String,
    pub(super) paths: CheckpointPaths,
    pub(super) config: LoopConfig,
    /// Micro-batches an epoch.
    pub(super) per_epoch: u64,
    /// What it resumes from; `None`: from the first step.
    pub(super) checkpoint: Option<ResumeFile>,
}

/// What came of a training loop.
#[derive(Debug)]
pub struct Trained {
    /// Its numbers.
    pub outcome: Outcome,
    /// What a person should know.
    pub notes: Vec<String>,
}

impl TrainingRun<'_> {
    /// Opens the stage's metric files, cut back to where the checkpoint was written.
    ///
    /// # Errors
    /// I/O faults.
    pub fn open_metrics(&self) -> Result<MetricsLogger> {
        let state = self.checkpoint.as_ref().and_then(|file| file.state.as_ref());
        let position = state.map(|state| state.metrics.clone());
        MetricsLogger::open(self.stage, self.config.schedule.total_steps, position.as_ref())
    }

    /// Runs the loop.
    ///
    /// # Errors
    /// As [`train`].
    pub fn train(
        &self,
        model: &CausalLm,
        objective: &mut dyn Objective,
        mut metrics: MetricsLogger,
    ) -> Result<Trained> {
        let setup = TrainSetup {
            model,
            config: &self.config,
            paths: &self.paths,
            resume: self.checkpoint.as_ref(),
            control: self.stage.context.run_control(),
        };
        let outcome = train(setup, objective, &mut metrics);
        let mut notes = metrics.finish();
        notes.extend(resuming::forced_notes(&self.stage.context.start));
        Ok(Trained { outcome: outcome?, notes })
    }

    /// The stage's result with this summary.
    pub fn result(&self, trained: &Trained, summary: Value) -> StageResult {
        let state = self.checkpoint.as_ref().and_then(|file| file.state.as_ref());
        StageResult {
            outputs: vec![self.weights.clone()],
            summary,
            steps: Some((trained.outcome.steps, self.per_epoch)),
            earlier_seconds: state.map_or(0.0, |state| state.elapsed_s),
        }
    }
}

impl Trained {
    /// What the summaries of all training stages begin with: `parameters`, `tokens`, `steps`, `updates`,
    /// `train_seconds` and `metrics`.
    pub fn summary(&self, model: &CausalLm) -> Value {
        let outcome = &self.outcome;
        let (parameters, active) = params::count(model.config());
        let mut metrics = Map::new();
        metrics.extend(outcome.loss.map(|loss| ("loss".to_owned(), json!(loss))));
        metrics.extend(outcome.validation.iter().map(|(key, value)| (key.clone(), json!(value))));
        json!({
            "parameters": {"total": parameters, "active": active},
            "tokens": outcome.tokens,
            "steps": outcome.steps,
            "updates": outcome.updates,
            "train_seconds": outcome.elapsed_s,
            "metrics": metrics,
        })
    }
}
