//! GRPO and CISPO: a group of completions a prompt; the advantage of each is relative to its group.
//!
//! A step: generate `num_generations` completions a prompt; advantages within each group; one clipped loss over
//! all rows; upstream's `train_grpo.py`. Next: `loss::grpo`, the formulas.

use super::experience::{ExperienceMaker, max_logprob_gap};
use super::learner::Learner;
use super::source::StepIndex;
use crate::engine::StepLoss;
use crate::error::{Error, Result};
use crate::loss::grpo::{Clipping, GrpoLoss, LengthNorm, advantages};
use crate::loss::policy::{column, spread, token_mean};
use crate::model::CausalLm;
use crate::plan::{GrpoLossType, GrpoPlan, PolicyConfig, RolloutPlan};

/// GRPO's settings.
pub struct Grpo {
    group: usize,
    scale_rewards: bool,
    loss: GrpoLoss,
}

impl Grpo {
    /// From the plan.
    ///
    /// # Errors
    /// `length_normalization: constant` with recorded rollouts, which have no longest completion.
    pub fn new(plan: &GrpoPlan, config: &PolicyConfig) -> Result<Self> {
        let clipping = if plan.loss_type == GrpoLossType::Cispo {
            Clipping::Weight { upper: plan.epsilon_high }
        } else {
            Clipping::Ratio { low: plan.epsilon, high: plan.upper_clip() }
        };
        let length_norm = plan.length_normalization;
        let max_new_tokens = match &config.rollout {
            RolloutPlan::Generated(rollout) => rollout.max_new_tokens as f64,
            RolloutPlan::Replay { .. } if length_norm == LengthNorm::Constant => {
                return Err(Error::input("recorded rollouts have no longest completion to divide by")
                    .hint("use length_normalization: row or token with replay"));
            }
            RolloutPlan::Replay { .. } => f64::INFINITY,
        };
        let loss = GrpoLoss { clipping, beta: plan.beta, length_norm, max_new_tokens };
        Ok(Self { group: plan.num_generations, scale_rewards: plan.scale_rewards, loss })
    }
}

impl Learner for Grpo {
    fn backward(
        &mut self,
        maker: &mut ExperienceMaker,
        model: &CausalLm,
        at: StepIndex,
        scale: f64,
    ) -> Result<StepLoss> {
        let step = maker.make(model, at)?;
        let rows = step.rewards.len();
        if !rows.is_multiple_of(self.group) {
            return Err(Error::input(format!(
                "a step has {rows} rows, which `num_generations` {} does not divide",
                self.group
            ))
            .hint("set num_generations to how many rows belong to one prompt"));
        }
        let given = advantages(&step.rewards, self.group, self.scale_rewards);
        let (mean, std) = spread(&given);
        let device = model.device();
        let batch = &step.batch;
        let (terms, aux_loss) = batch.backward(model, maker.compute, scale, |logprobs| {
            // Without recorded log-probabilities the rows are on-policy.
            let drawn = logprobs.detach();
            let old = batch.old.as_ref().unwrap_or(&drawn);
            let reference = step.reference.as_ref();
            let terms = self.loss.terms(logprobs, old, reference, &column(&given, device), &batch.mask);
            let gap = step.on_policy.then(|| max_logprob_gap(&drawn, old, &batch.mask));
            let entropy = step.on_policy.then(|| -token_mean(&drawn, &batch.mask).double_value(&[]));
            let value = terms.loss.double_value(&[]);
            (terms.loss, 1.0, (value, terms.kl_ref, terms.kl, terms.clip_fraction, gap, entropy))
        })?;
        let (loss, kl_ref, kl, clip_fraction, gap, entropy) = terms;
        // What upstream logs as kl_ref falls as the policy drifts; a guard needs an estimate that rises.
        maker.check_guards(at, &step, kl)?;
        let mut extra = vec![("policy_loss", loss + aux_loss)];
        extra.extend(kl_ref.map(|kl| ("kl_ref", kl)));
        extra.extend([("advantages_mean", mean), ("advantages_std", std), ("clip_fraction", clip_fraction)]);
        extra.extend(entropy.map(|entropy| ("entropy", entropy)));
        extra.extend(gap.map(|gap| ("logprob_gap", gap)));
        let tokens = step.tokens;
        extra.extend(step.into_metrics());
        Ok(StepLoss { loss, aux_loss, tokens, extra, ..StepLoss::default() })
    }
}
