//! A step's experience: rollouts as tensors, with rewards and the reference's log-probabilities.
//!
//! R rows, T tokens.

use std::time::Instant;

use tch::Tensor;

use super::batch::Batch;
use super::guards::{GuardState, StepHealth};
use super::source::{Metric, Rollout, RolloutSource, StepIndex};
use crate::engine::Compute;
use crate::engine::memory::measure_peak;
use crate::error::{Error, Result};
use crate::loss::policy::spread;
use crate::model::CausalLm;
use crate::plan::GuardPlan;

/// Makes experience, and lets the guards look at it.
pub struct ExperienceMaker {
    /// Where rollouts come from.
    pub source: Box<dyn RolloutSource>,
    /// What the KL penalty is measured against.
    pub reference: Option<CausalLm>,
    /// Precision of forward and backward.
    pub compute: Compute,
    /// The id that fills short rows.
    pub pad: i64,
    /// Settings of the guards.
    pub guard_plan: GuardPlan,
    /// What the guards remember.
    pub guards: GuardState,
    /// What a person should read since [`Self::take_notes`].
    pub notes: Vec<String>,
}

/// A step's rows, ready to learn from.
pub struct Experience {
    /// On the device.
    pub batch: Batch,
    /// The reference's log-probabilities, `[R, T]`.
    pub reference: Option<Tensor>,
    /// A number a row.
    pub rewards: Vec<f64>,
    /// Whether the rows were sampled from the policy as it is now (on-policy).
    pub on_policy: bool,
    /// Tokens of all rows without padding.
    pub tokens: u64,
    /// Metrics that do not depend on the loss.
    metrics: Vec<Metric>,
    repetition: Option<f64>,
    started: Instant,
    rollout_s: f64,
}

impl Experience {
    /// The metrics, with the rollout's share of the step's time so far; to be called when the step is done.
    pub fn into_metrics(mut self) -> Vec<Metric> {
        if self.on_policy {
            let step_s = self.started.elapsed().as_secs_f64();
            self.metrics.push(("rollout_share", self.rollout_s / step_s.max(1e-9)));
        }
        self.metrics
    }
}

impl ExperienceMaker {
    /// Generates the rollout of a step and runs the reference over it.
    ///
    /// # Errors
    /// The rollout cannot be made, or holds tokens that the policy does not know.
    pub fn make(&mut self, policy: &CausalLm, at: StepIndex) -> Result<Experience> {
        let started = Instant::now();
        let device = policy.device();
        let (rollout, peak) = measure_peak(device, || self.source.rollout(policy, at));
        let Rollout { episodes, attend, on_policy, mut metrics, repetition } = rollout?;
        let rollout_s = started.elapsed().as_secs_f64();
        metrics.extend(peak.map(|peak| ("rollout_peak_mb", peak)));
        let vocab = policy.config().vocab_size;
        if let Some(id) = episodes.iter().flat_map(|e| &e.ids).find(|id| !(0..vocab).contains(*id)) {
            return Err(Error::input(format!(
                "step {} holds token {id}; the policy's vocabulary has {vocab}",
                self.step_number(at)
            ))
            .hint("rollouts must use the policy's tokenizer"));
        }
        let batch = Batch::new(&episodes, self.pad, attend, device);
        let mut reference = None;
        if let Some(model) = &self.reference {
            let (logprobs, peak) = measure_peak(device, || batch.logprobs(model, self.compute));
            reference = Some(logprobs?);
            metrics.extend(peak.map(|peak| ("reference_peak_mb", peak)));
        }
        let rewards: Vec<f64> = episodes.iter().map(|e| e.reward).collect();
        let (reward, reward_std) = spread(&rewards);
        let rows = episodes.len().max(1) as f64;
        let length = episodes.iter().map(|e| e.length() as f64).sum::<f64>() / rows;
        metrics.splice(0..0, [("reward", reward), ("reward_std", reward_std), ("avg_response_len", length)]);
        let tokens = episodes.iter().flat_map(|e| &e.ids).filter(|&&id| id != self.pad).count() as u64;
        Ok(Experience {
            batch,
            reference,
            rewards,
            on_policy,
            tokens,
            metrics,
            repetition,
            started,
            rollout_s,
        })
    }

    /// Of the steps of the run, from 1.
    fn step_number(&self, at: StepIndex) -> u64 {
        at.in_run(self.source.steps_per_epoch()) + 1
    }

    /// Lets the guards look at a step; `kl` is its KL to the reference a token.
    ///
    /// # Errors
    /// A guard that stops.
    pub fn check_guards(&mut self, at: StepIndex, step: &Experience, kl: Option<f64>) -> Result<()> {
        let number = self.step_number(at);
        let (reward, _) = spread(&step.rewards);
        let health = StepHealth { kl, reward, repetition: step.repetition };
        self.notes.extend(self.guards.check(&self.guard_plan, number, health)?);
        Ok(())
    }

    /// What a person should read since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notes)
    }
}

/// Largest absolute difference between the log-probabilities that rows were sampled with (`old`) and those that the
/// trainer computes, each `[R, T]`; positions with `mask` 0 do not count.
pub fn max_logprob_gap(logprobs: &Tensor, old: &Tensor, mask: &Tensor) -> f64 {
    tch::no_grad(|| ((logprobs - old) * mask).abs().max().double_value(&[]))
}
