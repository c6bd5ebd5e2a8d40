//! SPO (arXiv 2509.13232): one sample a prompt against a tracked baseline, no groups and no ratio.
//!
//! The tracker is a Beta distribution of rewards (scaled from -3..3 to 0..1) that forgets faster the more the
//! policy moves. A row's advantage is `clamp(r - (6 b - 3), -5, 5)`; its loss is the mean over its tokens of
//! `-lp A + beta k3`. Ports `AutoAdaptiveValueTracker` of upstream's `train_spo.py`. Next: `stage::policy::spo`.
//!
//! R rows, T tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use tch::Tensor;

use super::policy::{k3, row_mean};

/// Rewards are read on the scale -3..3.
const SCALE: f64 = 3.0;
/// Largest advantage.
const LARGEST: f64 = 5.0;

/// How fast the tracker forgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RhoMode {
    /// By how far the policy's mean log-probability moved.
    #[default]
    Kl,
    /// Always `rho_const`.
    Constant,
}

/// The tracker's settings, as a recipe states them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct TrackerConfig {
    /// What decides how fast the baseline forgets: kl or constant. The plan's file says whether it is constant.
    #[serde(rename(serialize = "constant_rho"), serialize_with = "is_constant")]
    #[schemars(extend("default" = "kl"))]
    pub rho_mode: RhoMode,
    /// Share kept at the first step, and always with rho_mode: constant.
    #[schemars(range(min = 0, max = 1))]
    pub rho_const: f64,
    /// Move of the mean log-probability that halves what is kept.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub d_half: f64,
    /// Least share kept.
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    pub clip_lower: f64,
    /// Most share kept.
    #[schemars(range(min = 0, max = 1))]
    pub clip_upper: f64,
}

fn is_constant<S: Serializer>(mode: &RhoMode, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_bool(*mode == RhoMode::Constant)
}

impl Default for TrackerConfig {
    fn default() -> Self {
        Self { rho_mode: RhoMode::Kl, rho_const: 0.9, d_half: 0.06, clip_lower: 0.5, clip_upper: 0.96 }
    }
}

/// The adaptive baseline; part of a checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tracker {
    /// Weight of good outcomes.
    pub alpha: f64,
    /// Weight of bad ones.
    pub beta: f64,
    /// The policy's mean log-probability a step ago.
    pub mean_logprob: Option<f64>,
}

impl Tracker {
    /// Undecided: half of the memory that `clip_lower` leaves on each side (1 and 1 at its default).
    pub fn new(config: &TrackerConfig) -> Self {
        let half = 0.5 / (1.0 - config.clip_lower);
        Self { alpha: half, beta: half, mean_logprob: None }
    }

    /// Expected outcome, 0..1.
    pub fn baseline(&self) -> f64 {
        self.alpha / (self.alpha + self.beta)
    }

    /// Rewards against the baseline as it stands before they are taken in.
    pub fn advantages(&self, rewards: &[f64]) -> Vec<f64> {
        let baseline = 2.0 * SCALE * self.baseline() - SCALE;
        rewards.iter().map(|r| (r - baseline).clamp(-LARGEST, LARGEST)).collect()
    }

    /// Takes rewards in; `mean_logprob` is the policy's over their tokens. Gives the share that was kept.
    pub fn update(&mut self, config: &TrackerConfig, rewards: &[f64], mean_logprob: f64) -> f64 {
        let rho = match (config.rho_mode, self.mean_logprob) {
            (RhoMode::Kl, Some(before)) => {
                let moved = (before - mean_logprob).abs();
                (-moved / config.d_half).exp2().clamp(config.clip_lower, config.clip_upper)
            }
            _ => config.rho_const,
        };
        self.mean_logprob = Some(mean_logprob);
        let outcome = |r: &f64| (r + SCALE) / (2.0 * SCALE);
        let good = rewards.iter().map(outcome).sum::<f64>() / rewards.len().max(1) as f64;
        self.alpha = rho * self.alpha + good;
        self.beta = rho * self.beta + (1.0 - good);
        rho
    }
}

/// The loss of `[R, T]` log-probabilities, a scalar with a graph; `advantages` is `[R, 1]`.
pub fn loss(
    logprobs: &Tensor,
    reference: Option<&Tensor>,
    advantages: &Tensor,
    mask: &Tensor,
    beta: f64,
) -> Tensor {
    let gain = logprobs * advantages;
    let token = match reference {
        Some(reference) => k3(reference, logprobs) * beta - gain,
        None => gain.neg(),
    };
    row_mean(&token, mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: TrackerConfig = TrackerConfig {
        rho_mode: RhoMode::Kl,
        rho_const: 0.9,
        d_half: 0.06,
        clip_lower: 0.5,
        clip_upper: 0.96,
    };

    #[test]
    fn the_tracker_forgets_by_how_far_the_policy_moved() {
        let mut tracker = Tracker::new(&CONFIG);
        assert_eq!((tracker.alpha, tracker.beta, tracker.baseline()), (1.0, 1.0, 0.5));
        // A reward of 1.5 is an outcome of 0.75.
        assert_eq!(tracker.update(&CONFIG, &[1.5, 1.5], -2.0), 0.9);
        assert!((tracker.alpha - 1.65).abs() < 1e-12 && (tracker.beta - 1.15).abs() < 1e-12);
        // Moved by d_half: half is kept; farther: clip_lower; not at all: clip_upper.
        assert!(
            (tracker.update(&TrackerConfig { clip_lower: 0.1, ..CONFIG }, &[0.0], -2.06) - 0.5).abs() < 1e-12
        );
        assert_eq!(tracker.update(&CONFIG, &[0.0], -9.0), 0.5);
        assert_eq!(tracker.update(&CONFIG, &[0.0], -9.0), 0.96);
        assert_eq!(
            tracker.update(&TrackerConfig { rho_mode: RhoMode::Constant, ..CONFIG }, &[0.0], -2.0),
            0.9
        );
    }

    #[test]
    fn advantages_are_clamped_on_both_sides() {
        let tracker = Tracker { alpha: 3.0, beta: 1.0, mean_logprob: None };
        // Baseline 0.75 is 1.5 on the rewards' scale.
        assert_eq!(tracker.advantages(&[2.5, 9.0, -9.0]), [1.0, 5.0, -5.0]);
    }

    #[test]
    fn a_row_counts_once_however_long() {
        let lp = Tensor::from_slice(&[-1f32, -3.0, -2.0, 0.0]).view([2, 2]).set_requires_grad(true);
        let mask = Tensor::from_slice(&[1f32, 1.0, 1.0, 0.0]).view([2, 2]);
        let advantages = super::super::policy::column(&[1.0, -2.0], tch::Device::Cpu);
        let reference = lp.detach();
        let value = loss(&lp, Some(&reference), &advantages, &mask, 0.02);
        // Row 1: (1 + 3) / 2; row 2: 2 * -2.
        assert!((value.double_value(&[]) - (2.0 - 4.0) / 2.0).abs() < 1e-6);
        value.backward();
        assert!((lp.grad().double_value(&[0, 1]) + 0.25).abs() < 1e-6);
        assert_eq!(lp.grad().double_value(&[1, 1]), 0.0);
    }
}
