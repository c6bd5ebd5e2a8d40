//! Where rollouts come from: recorded ones here, generated ones in `native`.

use crate::data::{Episode, Recorded};
use crate::error::Result;
use crate::model::CausalLm;

use super::batch::Attend;

/// A number by its column's name.
pub type Fact = (&'static str, f64);

/// One step's rows.
#[derive(Debug)]
pub struct Rollout {
    /// Rows; a prompt's generations side by side.
    pub episodes: Vec<Episode>,
    /// What attention does not see.
    pub attend: Attend,
    /// Whether the rows were drawn from the very policy that learns from them now.
    pub fresh: bool,
    /// What is worth a column.
    pub facts: Vec<Fact>,
    /// Share of repeated trigrams, where texts are known.
    pub repetition: Option<f64>,
}

/// Makes rollouts.
pub trait Source {
    /// Steps an epoch.
    fn steps_per_epoch(&self) -> u64;

    /// Rows of a step.
    fn rows_per_step(&self) -> usize;

    /// The rows of a step, a function of the policy and the step alone.
    fn roll(&mut self, policy: &CausalLm, epoch: u64, index: u64) -> Result<Rollout>;

    /// Held-out reward and what goes with it, the reward first; empty where nothing is held out.
    fn measure(&mut self, policy: &CausalLm) -> Result<Vec<Fact>>;

    /// What a checkpoint must hold; [`Self::restore`] gets it back.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Goes on from [`Self::state`].
    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let _ = state;
        Ok(())
    }

    /// Some of what was written, for the summary.
    fn completions(&mut self) -> Result<Vec<serde_json::Value>> {
        Ok(Vec::new())
    }
}

/// Recorded rollouts, in their order.
#[derive(Debug)]
pub struct Replay {
    /// The file.
    pub recorded: Recorded,
    /// The tokens that end a completion.
    pub ends: Vec<i64>,
    /// The token that fills rows.
    pub pad: i64,
    /// What attention does not see.
    pub attend: Attend,
}

impl Source for Replay {
    fn steps_per_epoch(&self) -> u64 {
        self.recorded.steps as u64
    }

    fn rows_per_step(&self) -> usize {
        self.recorded.rows
    }

    fn roll(&mut self, _policy: &CausalLm, _epoch: u64, index: u64) -> Result<Rollout> {
        let episodes = self.recorded.step(index as usize, &self.ends, self.pad)?;
        Ok(Rollout { episodes, attend: self.attend, fresh: false, facts: Vec::new(), repetition: None })
    }

    fn measure(&mut self, _policy: &CausalLm) -> Result<Vec<Fact>> {
        Ok(Vec::new())
    }
}
