//! SPO: one completion a prompt against a baseline that follows the rewards.
//!
//! Ports upstream's `train_spo.py`. Next: `loss::spo`, the formulas.

use serde_json::{Value, json};

use super::policy::{Learner, Shared, largest_gap};
use crate::engine::{Objective, StepLoss};
use crate::error::{Error, Result};
use crate::loss::policy::{column, k3, spread, token_mean};
use crate::loss::spo::{self, RhoMode, Tracker, TrackerConfig};
use crate::model::CausalLm;
use crate::plan::SpoPlan;

/// The stage's objective.
pub struct Spo {
    shared: Shared,
    beta: f64,
    config: TrackerConfig,
    tracker: Tracker,
}

impl Spo {
    /// From the plan.
    pub fn new(plan: &SpoPlan, shared: Shared) -> Self {
        let config = TrackerConfig {
            rho_mode: if plan.constant_rho { RhoMode::Constant } else { RhoMode::Kl },
            rho_const: plan.rho_const,
            d_half: plan.d_half,
            clip_lower: plan.clip_lower,
            clip_upper: plan.clip_upper,
        };
        Self { shared, beta: plan.beta, config, tracker: Tracker::new(&config) }
    }
}

impl Learner for Spo {
    fn as_objective(&mut self) -> &mut dyn Objective {
        self
    }
}

impl Objective for Spo {
    fn steps_per_epoch(&self) -> u64 {
        self.shared.source.steps_per_epoch()
    }

    fn backward(&mut self, model: &CausalLm, epoch: u64, index: u64, scale: f64) -> Result<StepLoss> {
        let step = self.shared.step(model, epoch, index)?;
        let baseline = self.tracker.baseline();
        let given = self.tracker.advantages(&step.rewards);
        let (batch, reference, beta) = (&step.batch, step.reference.as_ref(), self.beta);
        let (terms, aux_loss) = batch.learn(model, self.shared.compute, scale, |logprobs| {
            let advantages = column(&given, model.device());
            let loss = spo::loss(logprobs, reference, &advantages, &batch.mask, beta);
            let now = logprobs.detach();
            let mean = |x: &tch::Tensor| token_mean(x, &batch.mask).double_value(&[]);
            let kl = reference.map(|reference| mean(&k3(reference, &now)));
            let old = batch.old.as_ref().filter(|_| step.fresh);
            let gap = old.map(|old| largest_gap(&now, old, &batch.mask));
            let value = loss.double_value(&[]);
            (loss, 1.0, (value, mean(&now), kl, gap))
        })?;
        let (loss, mean_logprob, kl, gap) = terms;
        let rho = self.tracker.update(&self.config, &step.rewards, mean_logprob);
        self.shared.judge(index + 1, &step, kl)?;
        let mut extra = vec![("policy_loss", loss + aux_loss)];
        extra.extend(kl.map(|kl| ("kl", kl)));
        extra.extend([
            ("rho", rho),
            ("baseline", baseline),
            ("advantages_mean", spread(&given).0),
            ("tracker_alpha", self.tracker.alpha),
            ("tracker_beta", self.tracker.beta),
        ]);
        extra.extend(step.fresh.then_some(("entropy", -mean_logprob)));
        extra.extend(gap.map(|gap| ("logprob_gap", gap)));
        extra.extend(step.facts);
        Ok(StepLoss { loss, aux_loss, tokens: step.tokens, extra })
    }

    fn validate(&mut self, model: &CausalLm) -> Result<Vec<(&'static str, f64)>> {
        self.shared.source.measure(model)
    }

    fn lower_is_better(&self) -> bool {
        false
    }

    fn rate_factor(&self) -> f64 {
        self.shared.rate_factor()
    }

    fn notes(&mut self) -> Vec<String> {
        self.shared.notes()
    }

    fn state(&self) -> Value {
        self.shared.state(json!(self.tracker))
    }

    fn restore(&mut self, state: &Value) -> Result<()> {
        let own = self.shared.restore(state)?;
        if !own.is_null() {
            self.tracker = serde_json::from_value(own)
                .map_err(|e| Error::failed("cannot read spo's tracker in the resume file").because(e))?;
        }
        Ok(())
    }
}
