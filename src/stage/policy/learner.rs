//! What a method of policy optimisation brings: its loss, and what it remembers between steps.

use serde_json::Value;

use super::experience::ExperienceMaker;
use super::source::StepIndex;
use crate::engine::{AuxModel, StepLoss};
use crate::error::Result;
use crate::model::CausalLm;

/// A method at work (GRPO, PPO, SPO): what it does with a step's experience.
pub trait Learner {
    /// Backward passes a step at most.
    fn passes_per_step(&self) -> u64 {
        1
    }

    /// One backward pass: makes the step's experience with `maker` and adds the gradients of `scale` times the loss to
    /// the model's.
    ///
    /// # Errors
    /// Rollouts that cannot be made or do not fit the method; a guard that stops.
    fn backward(
        &mut self,
        maker: &mut ExperienceMaker,
        model: &CausalLm,
        at: StepIndex,
        scale: f64,
    ) -> Result<StepLoss>;

    /// As [`crate::engine::Objective::has_more_passes`].
    fn has_more_passes(&self) -> bool {
        false
    }

    /// As [`crate::engine::Objective::aux_model`].
    fn aux_model(&self) -> Option<AuxModel> {
        None
    }

    /// What a checkpoint must hold of the method.
    fn state(&self) -> Value {
        Value::Null
    }

    /// Puts [`Self::state`] back.
    ///
    /// # Errors
    /// The state cannot be read.
    fn restore(&mut self, state: Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}
