//! Anomalies of training: losses that are not finite, and loss spikes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to do about an anomaly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnAnomaly {
    /// Stop with an error; the last checkpoint stays.
    #[default]
    Stop,
    /// Skip the update and continue with the next batch.
    Skip,
    /// Restore the last checkpoint's weights and continue after the batches that led here.
    Rollback,
}

/// An anomaly of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anomaly {
    /// The loss or the gradient is not a number.
    NotFinite,
    /// The loss is this many times its moving average.
    Spike(f64),
}

/// Losses seen before any can count as a spike.
const WARMUP_LOSSES: u64 = 20;
/// Weight of a new loss in the exponential moving average.
const EMA_WEIGHT: f64 = 0.05;
/// The anomaly score above which training stops instead of skipping or rolling back.
pub const MAX_ANOMALY_SCORE: f64 = 10.0;
/// What a good update takes off the score: one anomaly in ten updates is tolerated for ever, more often is not.
const GOOD_STEP_CREDIT: f64 = 0.1;

/// The exponential moving average of the loss and the count of anomalies; part of a checkpoint, so that a resumed run
/// decides alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LossMonitor {
    mean: f64,
    seen: u64,
    /// Rises by 1 with each anomaly, falls by `GOOD_STEP_CREDIT` with each good update, not below 0.
    #[serde(default, rename = "strain")]
    anomaly_score: f64,
    /// Anomalies of the whole run.
    pub total: u64,
}

impl LossMonitor {
    /// Classifies a loss; a normal one (`None`) enters the moving average. `spike_factor`: how many times the average
    /// is a spike, never where `None`.
    pub fn check(&mut self, loss: f64, spike_factor: Option<f64>) -> Option<Anomaly> {
        if !loss.is_finite() {
            return Some(Anomaly::NotFinite);
        }
        if let Some(factor) = spike_factor
            && self.seen >= WARMUP_LOSSES
            && loss > factor * self.mean
        {
            return Some(Anomaly::Spike(loss / self.mean));
        }
        self.mean = if self.seen == 0 { loss } else { self.mean + EMA_WEIGHT * (loss - self.mean) };
        self.seen += 1;
        None
    }

    /// Raises the anomaly score; false where it is above [`MAX_ANOMALY_SCORE`] and training should stop.
    pub fn record_anomaly(&mut self) -> bool {
        self.anomaly_score += 1.0;
        self.total += 1;
        self.anomaly_score <= MAX_ANOMALY_SCORE
    }

    /// Lowers the anomaly score after an update that went well.
    pub fn record_good_step(&mut self) {
        self.anomaly_score = (self.anomaly_score - GOOD_STEP_CREDIT).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_told_from_noise_and_from_the_start() {
        let mut monitor = LossMonitor::default();
        assert_eq!(monitor.check(f64::NAN, None), Some(Anomaly::NotFinite));
        assert_eq!(monitor.check(9.0, Some(2.0)), None);
        assert_eq!(monitor.check(90.0, Some(2.0)), None, "too early to tell");
        for _ in 0..100 {
            assert_eq!(monitor.check(3.0, Some(3.0)), None);
        }
        assert!(matches!(monitor.check(30.0, Some(2.0)), Some(Anomaly::Spike(r)) if r > 5.0));
        assert_eq!(monitor.check(30.0, None), None);
    }

    #[test]
    fn patience_ends_for_anomalies_that_come_too_often() {
        let mut monitor = LossMonitor::default();
        assert!((0..MAX_ANOMALY_SCORE as u64).all(|_| monitor.record_anomaly()));
        assert!(!monitor.record_anomaly());
        let lasts = |good: u64| {
            let mut monitor = LossMonitor::default();
            let mut round = || {
                (0..good).for_each(|_| monitor.record_good_step());
                monitor.record_anomaly()
            };
            (0..1000).take_while(|_| round()).count()
        };
        assert!((10..15).contains(&lasts(1)), "every second update is bad");
        assert_eq!(lasts(10), 1000, "one in eleven is");
    }
}
