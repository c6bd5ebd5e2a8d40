//! The learning rate over micro-batches.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The curve after the warm-up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ScheduleKind {
    /// Upstream's `get_lr`: `peak * (0.1 + 0.45 * (1 + cos(pi * step / total)))`, from 1.0 down to a tenth.
    #[default]
    Upstream,
    /// Half a cosine from the peak to zero.
    Cosine,
    /// A line from the peak to zero.
    Linear,
    /// The peak throughout.
    Constant,
}

/// A learning rate for every micro-batch of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The curve after the warm-up.
    pub kind: ScheduleKind,
    /// The learning rate at the end of the warm-up, the highest.
    pub peak: f64,
    /// Micro-batches of a line from zero to the peak; the curve fills the rest.
    pub warmup_steps: u64,
    /// Micro-batches of the whole run.
    pub total_steps: u64,
}

impl Schedule {
    /// The rate of micro-batch `step`, counted from 1 over all epochs.
    pub fn at(&self, step: u64) -> f64 {
        if step <= self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        self.curve(step)
    }

    /// The rate that the update after `updates` others takes, where the schedule counts updates: PyTorch's
    /// schedulers stand at the peak before the first.
    pub fn after(&self, updates: u64) -> f64 {
        if updates < self.warmup_steps {
            return self.peak * (updates + 1) as f64 / self.warmup_steps as f64;
        }
        self.curve(updates)
    }

    fn curve(&self, step: u64) -> f64 {
        let span = self.total_steps.saturating_sub(self.warmup_steps).max(1);
        let done = ((step - self.warmup_steps) as f64 / span as f64).min(1.0);
        let cosine = 1.0 + (std::f64::consts::PI * done).cos();
        self.peak
            * match self.kind {
                ScheduleKind::Upstream => 0.1 + 0.45 * cosine,
                ScheduleKind::Cosine => 0.5 * cosine,
                ScheduleKind::Linear => 1.0 - done,
                ScheduleKind::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_matches_its_recorded_rates() {
        let schedule =
            Schedule { kind: ScheduleKind::Upstream, peak: 0.005, warmup_steps: 0, total_steps: 20 };
        assert!((schedule.at(1) - 0.00497229876633906).abs() < 1e-15);
        assert!((schedule.at(10) - 0.00275).abs() < 1e-15);
        assert!((schedule.at(20) - 0.0005).abs() < 1e-15);
    }

    #[test]
    fn updates_are_counted_as_the_reference_does() {
        // Rates that the reference logged after each of three updates.
        let schedule = Schedule { kind: ScheduleKind::Upstream, peak: 1e-3, warmup_steps: 0, total_steps: 3 };
        let got: Vec<f64> = (0..=3).map(|n| schedule.after(n)).collect();
        for (got, want) in got.iter().zip([1e-3, 0.000775, 0.000325, 1e-4]) {
            assert!((got - want).abs() < 1e-15, "{got} {want}");
        }
        let warm = Schedule { warmup_steps: 2, total_steps: 5, ..schedule };
        assert_eq!((warm.after(0), warm.after(1), warm.after(2)), (5e-4, 1e-3, 1e-3));
    }

    #[test]
    fn warm_up_leads_into_each_curve() {
        for (kind, last) in [
            (ScheduleKind::Cosine, 0.0),
            (ScheduleKind::Linear, 0.0),
            (ScheduleKind::Constant, 1.0),
            (ScheduleKind::Upstream, 0.1),
        ] {
            let schedule = Schedule { kind, peak: 1.0, warmup_steps: 4, total_steps: 12 };
            assert_eq!(schedule.at(2), 0.5);
            assert_eq!(schedule.at(4), 1.0);
            assert!((schedule.at(12) - last).abs() < 1e-12);
            assert!((5..=12).all(|s| schedule.at(s) <= schedule.at(s - 1) + 1e-12));
        }
    }
}
