//! Losses that are not numbers, and losses that leap.

use serde::{Deserialize, Serialize};

/// What to do about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnAnomaly {
    /// Stop with an error; the last checkpoint stays.
    Stop,
    /// Leave the update out and go on.
    Skip,
    /// Go back to the last checkpoint's weights and go on after the batches that led here.
    Rollback,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Anomaly {
    /// The loss or the gradient is not a number.
    NotFinite,
    /// The loss is this many times its running mean.
    Spike(f64),
}

/// Losses before a spike can be told from the start of training.
const WARM_UP: u64 = 20;
/// Weight of a new loss in the running mean.
const NEW: f64 = 0.05;
/// Anomalies after which skipping and rolling back are given up, less `RELIEF` for each good update since.
pub const PATIENCE: f64 = 10.0;
/// One anomaly in ten updates can be borne for ever; more often, the run is going nowhere.
const RELIEF: f64 = 0.1;

/// The running mean of the loss; part of a checkpoint, so that a resumed run judges alike.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Watch {
    mean: f64,
    seen: u64,
    /// Anomalies less relief.
    #[serde(default)]
    strain: f64,
    /// Anomalies of the whole run.
    pub total: u64,
}

impl Watch {
    /// Judges a loss, and takes a good one into the mean.
    pub fn judge(&mut self, loss: f64, spike_factor: Option<f64>) -> Option<Anomaly> {
        if !loss.is_finite() {
            return Some(Anomaly::NotFinite);
        }
        if let Some(factor) = spike_factor
            && self.seen >= WARM_UP
            && loss > factor * self.mean
        {
            return Some(Anomaly::Spike(loss / self.mean));
        }
        self.mean = if self.seen == 0 { loss } else { self.mean + NEW * (loss - self.mean) };
        self.seen += 1;
        None
    }

    /// Counts one; false when there were too many.
    pub fn bear(&mut self) -> bool {
        self.strain += 1.0;
        self.total += 1;
        self.strain <= PATIENCE
    }

    /// Counts a good update.
    pub fn relieve(&mut self) {
        self.strain = (self.strain - RELIEF).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_are_told_from_noise_and_from_the_start() {
        let mut watch = Watch::default();
        assert_eq!(watch.judge(f64::NAN, None), Some(Anomaly::NotFinite));
        assert_eq!(watch.judge(9.0, Some(2.0)), None);
        assert_eq!(watch.judge(90.0, Some(2.0)), None, "too early to tell");
        for _ in 0..100 {
            assert_eq!(watch.judge(3.0, Some(3.0)), None);
        }
        assert!(matches!(watch.judge(30.0, Some(2.0)), Some(Anomaly::Spike(r)) if r > 5.0));
        assert_eq!(watch.judge(30.0, None), None);
    }

    #[test]
    fn patience_ends_for_anomalies_that_come_too_often() {
        let mut watch = Watch::default();
        assert!((0..PATIENCE as u64).all(|_| watch.bear()));
        assert!(!watch.bear());
        let lasts = |good: u64| {
            let mut watch = Watch::default();
            let mut round = || {
                (0..good).for_each(|_| watch.relieve());
                watch.bear()
            };
            (0..1000).take_while(|_| round()).count()
        };
        assert!((10..15).contains(&lasts(1)), "every second update is bad");
        assert_eq!(lasts(10), 1000, "one in eleven is");
    }
}
