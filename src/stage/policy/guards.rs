//! Guards against the ways policy optimisation goes wrong: the policy drifts from its reference, the reward falls
//! from its best, completions repeat themselves.
//!
//! Each checks a rolling mean, so that one odd step raises no alarm, and reports once until its mean is back within
//! bounds.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::{Guard, GuardAction, GuardPlan};

/// What the guards remember; part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuardState {
    kl: RollingMean,
    reward: RollingMean,
    repetition: RollingMean,
    best_reward: Option<f64>,
    /// Factor on the learning rate; below 1 after a guard lowered it.
    rate_factor: f64,
}

impl Default for GuardState {
    fn default() -> Self {
        let empty = RollingMean::default;
        Self { kl: empty(), reward: empty(), repetition: empty(), best_reward: None, rate_factor: 1.0 }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct RollingMean {
    values: VecDeque<f64>,
    alarmed: bool,
}

impl RollingMean {
    /// Adds a value; the mean of the last `window` ones, once there are so many.
    fn push(&mut self, value: f64, window: usize) -> Option<f64> {
        self.values.push_back(value);
        while self.values.len() > window {
            self.values.pop_front();
        }
        let full = self.values.len() == window;
        full.then(|| self.values.iter().sum::<f64>() / window as f64)
    }
}

/// What the guards check of a step.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepHealth {
    /// KL to the reference a token.
    pub kl: Option<f64>,
    /// Mean reward.
    pub reward: f64,
    /// Share of repeated trigrams.
    pub repetition: Option<f64>,
}

impl GuardState {
    /// The learning rate's factor.
    pub fn lr_factor(&self) -> f64 {
        self.rate_factor
    }

    /// Takes in step number `step` (from 1); notes of new alarms.
    ///
    /// # Errors
    /// A guard that stops.
    pub fn check(&mut self, plan: &GuardPlan, step: u64, health: StepHealth) -> Result<Vec<String>> {
        let mut alarms = Vec::new();
        if let (Some(guard), Some(kl)) = (plan.kl(), health.kl) {
            let mean = self.kl.push(kl, plan.window);
            let text =
                |mean: f64| format!("the KL to the reference is {mean:.3} a token, above {}", guard.bound);
            alarms.extend(alarm(&mut self.kl, guard, mean, |mean| mean > guard.bound, text));
        }
        if let Some(guard) = plan.reward() {
            let mean = self.reward.push(health.reward, plan.window);
            let best = mean.map(|mean| self.best_reward.map_or(mean, |best| best.max(mean)));
            self.best_reward = best.or(self.best_reward);
            let best = self.best_reward.unwrap_or(f64::NEG_INFINITY);
            let text = |mean: f64| format!("the reward fell to {mean:.3} from {best:.3}");
            alarms.extend(alarm(&mut self.reward, guard, mean, |mean| mean < best - guard.bound, text));
        }
        if let (Some(guard), Some(repetition)) = (plan.repetition(), health.repetition) {
            let mean = self.repetition.push(repetition, plan.window);
            let text = |mean: f64| format!("{:.0}% of the trigrams are repetitions", mean * 100.0);
            alarms.extend(alarm(&mut self.repetition, guard, mean, |mean| mean > guard.bound, text));
        }
        let mut notes = Vec::new();
        for (action, what) in alarms {
            let what = format!("step {step}: {what}, over {} steps", plan.window);
            match action {
                GuardAction::Warn => notes.push(what),
                GuardAction::Lower => {
                    self.rate_factor *= 0.5;
                    notes.push(format!("{what}; the learning rate is halved"));
                }
                GuardAction::Stop => {
                    return Err(Error::failed(what).hint(
                        "lower learning_rate, raise the weight of the KL or mend the rewards; \
                         the last checkpoint is untouched",
                    ));
                }
            }
        }
        Ok(notes)
    }
}

fn alarm(
    recent: &mut RollingMean,
    guard: Guard,
    mean: Option<f64>,
    beyond: impl Fn(f64) -> bool,
    text: impl Fn(f64) -> String,
) -> Option<(GuardAction, String)> {
    let mean = mean?;
    let (was, is) = (recent.alarmed, beyond(mean));
    recent.alarmed = is;
    (is && !was).then(|| (guard.action, text(mean)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(action: GuardAction) -> GuardPlan {
        GuardPlan {
            kl_above: Some(1.0),
            on_kl: action,
            reward_drop: Some(0.5),
            on_reward: action,
            repetition_above: Some(0.4),
            on_repetition: action,
            window: 2,
        }
    }

    fn seen(kl: f64, reward: f64, repetition: f64) -> StepHealth {
        StepHealth { kl: Some(kl), reward, repetition: Some(repetition) }
    }

    #[test]
    fn a_mean_beyond_its_bound_is_told_once() {
        let (plan, mut state) = (plan(GuardAction::Warn), GuardState::default());
        let mut step = |kl, reward, repetition| state.check(&plan, 1, seen(kl, reward, repetition)).unwrap();
        assert!(step(9.0, 1.0, 0.0).is_empty(), "one step is no window");
        assert!(step(0.5, 1.0, 0.0)[0].contains("KL"));
        assert!(step(9.0, 1.0, 0.0).is_empty(), "told already");
        assert!(step(0.1, 1.0, 0.0).is_empty());
        assert!(step(0.1, 0.0, 0.0).is_empty(), "half a unit down is not more than half");
        assert!(step(0.1, -0.2, 0.0)[0].contains("fell to -0.100 from 1.000"));
        assert!(step(0.1, 1.0, 0.9)[0].contains("45%"));
    }

    #[test]
    fn lowering_halves_and_stopping_stops() {
        let mut state = GuardState::default();
        for kl in [0.0, 5.0, 0.0, 0.0, 5.0] {
            state.check(&plan(GuardAction::Lower), 1, seen(kl, 0.0, 0.0)).unwrap();
        }
        assert_eq!(state.rate_factor, 0.25);
        let again: GuardState = serde_json::from_value(serde_json::to_value(&state).unwrap()).unwrap();
        assert_eq!(again, state);
        state.check(&plan(GuardAction::Stop), 7, seen(0.0, 0.0, 0.0)).unwrap();
        let stopped = state.check(&plan(GuardAction::Stop), 7, seen(0.0, 0.0, 9.0)).unwrap_err();
        assert!(stopped.to_string().contains("step 7"));
    }
}
