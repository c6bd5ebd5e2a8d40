//! Where rollouts come from: recorded ones here, generated ones in `generated`.

use super::batch::Attend;
use crate::data::{Episode, Recorded};
use crate::error::Result;
use crate::model::CausalLm;

/// A column's name and its value.
pub type Metric = (&'static str, f64);

/// Which step of the run.
#[derive(Debug, Clone, Copy)]
pub struct StepIndex {
    /// From 0.
    pub epoch: u64,
    /// In the epoch, from 0.
    pub index: u64,
}

impl StepIndex {
    /// Over the whole run, from 0.
    pub fn in_run(self, steps_per_epoch: u64) -> u64 {
        self.epoch * steps_per_epoch + self.index
    }
}

/// One step's rows.
#[derive(Debug)]
pub struct Rollout {
    /// Dataset; the completions of a prompt side by side.
    pub episodes: Vec<Episode>,
    /// What attention masks out beside the future.
    pub attend: Attend,
    /// Whether the rows were sampled from the policy as it is now (on-policy).
    pub on_policy: bool,
    /// What is worth a column.
    pub metrics: Vec<Metric>,
    /// Share of repeated trigrams, where texts are known.
    pub repetition: Option<f64>,
}

/// Makes rollouts.
pub trait RolloutSource {
    /// Steps an epoch.
    fn steps_per_epoch(&self) -> u64;

    /// Rows of a step.
    fn rows_per_step(&self) -> usize;

    /// The rows of a step, a function of the policy and the step alone.
    ///
    /// # Errors
    /// Generation, a tool server or a reward fails; recorded rows that cannot be read.
    fn rollout(&mut self, policy: &CausalLm, at: StepIndex) -> Result<Rollout>;

    /// Mean rewards on held-out prompts, the total first; empty where nothing is held out.
    ///
    /// # Errors
    /// Generation or a reward fails.
    fn measure_heldout(&mut self, policy: &CausalLm) -> Result<Vec<Metric>>;

    /// What a checkpoint must hold; [`Self::restore`] gets it back.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Puts [`Self::state`] back.
    ///
    /// # Errors
    /// I/O faults.
    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// Some of the completions, for the summary.
    ///
    /// # Errors
    /// I/O faults.
    fn completions(&mut self) -> Result<Vec<serde_json::Value>> {
        Ok(Vec::new())
    }
}

/// Rollouts from a file, in their order.
#[derive(Debug)]
pub struct RecordedRollouts {
    /// The file.
    pub recorded: Recorded,
    /// The ids of the tokens that end a completion.
    pub ends: Vec<i64>,
    /// The id that fills rows.
    pub pad: i64,
    /// What attention masks out beside the future.
    pub attend: Attend,
}

impl RolloutSource for RecordedRollouts {
    fn steps_per_epoch(&self) -> u64 {
        self.recorded.steps as u64
    }

    fn rows_per_step(&self) -> usize {
        self.recorded.rows
    }

    fn rollout(&mut self, _policy: &CausalLm, at: StepIndex) -> Result<Rollout> {
        let episodes = self.recorded.step(at.index as usize, &self.ends, self.pad)?;
        Ok(Rollout { episodes, attend: self.attend, on_policy: false, metrics: Vec::new(), repetition: None })
    }

    fn measure_heldout(&mut self, _policy: &CausalLm) -> Result<Vec<Metric>> {
        Ok(Vec::new())
    }
}
