//! SPO: one completion a prompt; its advantage is relative to a baseline that tracks past rewards.
//!
//! Ports upstream's `train_spo.py`. Next: `loss::spo`, the formulas.

use serde_json::{Value, json};

use super::experience::{ExperienceMaker, max_logprob_gap};
use super::learner::Learner;
use super::source::StepIndex;
use crate::engine::StepLoss;
use crate::error::{Error, Result};
use crate::loss::policy::{column, k3, spread, token_mean};
use crate::loss::spo::{self, Tracker, TrackerConfig};
use crate::model::CausalLm;
use crate::plan::SpoPlan;

/// SPO's settings and its reward tracker.
pub struct Spo {
    beta: f64,
    config: TrackerConfig,
    tracker: Tracker,
}

impl Spo {
    /// From the plan.
    pub fn new(plan: &SpoPlan) -> Self {
        let config = plan.tracker;
        Self { beta: plan.beta, config, tracker: Tracker::new(&config) }
    }
}

impl Learner for Spo {
    fn backward(
        &mut self,
        maker: &mut ExperienceMaker,
        model: &CausalLm,
        at: StepIndex,
        scale: f64,
    ) -> Result<StepLoss> {
        let step = maker.make(model, at)?;
        let baseline = self.tracker.baseline();
        let given = self.tracker.advantages(&step.rewards);
        let (batch, reference, beta) = (&step.batch, step.reference.as_ref(), self.beta);
        let (terms, aux_loss) = batch.backward(model, maker.compute, scale, |logprobs| {
            let advantages = column(&given, model.device());
            let loss = spo::loss(logprobs, reference, &advantages, &batch.mask, beta);
            let now = logprobs.detach();
            let mean = |x: &tch::Tensor| token_mean(x, &batch.mask).double_value(&[]);
            let kl = reference.map(|reference| mean(&k3(reference, &now)));
            let old = batch.old.as_ref().filter(|_| step.on_policy);
            let gap = old.map(|old| max_logprob_gap(&now, old, &batch.mask));
            let value = loss.double_value(&[]);
            (loss, 1.0, (value, mean(&now), kl, gap))
        })?;
        let (loss, mean_logprob, kl, gap) = terms;
        let rho = self.tracker.update(&self.config, &step.rewards, mean_logprob);
        maker.check_guards(at, &step, kl)?;
        let mut extra = vec![("policy_loss", loss + aux_loss)];
        extra.extend(kl.map(|kl| ("kl", kl)));
        extra.extend([
            ("rho", rho),
            ("baseline", baseline),
            ("advantages_mean", spread(&given).0),
            ("tracker_alpha", self.tracker.alpha),
            ("tracker_beta", self.tracker.beta),
        ]);
        extra.extend(step.on_policy.then_some(("entropy", -mean_logprob)));
        extra.extend(gap.map(|gap| ("logprob_gap", gap)));
        let tokens = step.tokens;
        extra.extend(step.into_metrics());
        Ok(StepLoss { loss, aux_loss, tokens, extra, ..StepLoss::default() })
    }

    fn state(&self) -> Value {
        json!(self.tracker)
    }

    fn restore(&mut self, state: Value) -> Result<()> {
        if !state.is_null() {
            self.tracker = serde_json::from_value(state)
                .map_err(|e| Error::failed("cannot read spo's tracker in the resume file").because(e))?;
        }
        Ok(())
    }
}
