//! The time that a stage still takes, by the steps of its last half minute: a machine that others begin or cease to use
//! changes it soon. Next: `console`, which shows it.

use std::collections::VecDeque;

/// Seconds that count, and between two that are kept.
const WINDOW: f64 = 30.0;
const APART: f64 = 0.25;
/// A step that took so many times the usual, and so many seconds, had something done after it: an evaluation, a checkpoint.
const PAUSE_TIMES: f64 = 10.0;
const PAUSE_SECONDS: f64 = 1.0;

/// When steps were done, lately.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Step and seconds without pauses, oldest first: the last one before the window began, and those in it.
    kept: VecDeque<(u64, f64)>,
    first: Option<u64>,
    last: Option<(u64, f64)>,
    /// Seconds of a step, roughly.
    usual: Option<f64>,
    /// Seconds of pauses, and whether the last step had one.
    paused: f64,
    pause: bool,
}

impl Recent {
    /// Step `step` was done at `seconds`, on a clock that only goes forward.
    pub(super) fn done(&mut self, step: u64, seconds: f64) {
        let first = *self.first.get_or_insert(step);
        if let Some((before, at)) = self.last.filter(|(before, _)| step > *before) {
            let took = (seconds - at) / (step - before) as f64;
            // Two in a row are no pauses: steps take longer now.
            self.pause = !self.pause
                && step > first + 1
                && took > PAUSE_SECONDS
                && self.usual.is_some_and(|usual| took > PAUSE_TIMES * usual);
            if self.pause {
                self.paused += seconds - at;
            } else {
                self.usual = Some(self.usual.map_or(took, |usual| (usual + took) / 2.0));
            }
        }
        self.last = Some((step, seconds));
        let active = seconds - self.paused;
        if self.kept.back().is_none_or(|(_, at)| active - at >= APART) {
            self.kept.push_back((step, active));
        }
        while self.kept.get(1).is_some_and(|(_, at)| active - at >= WINDOW) {
            self.kept.pop_front();
        }
    }

    /// Seconds until step `total` is done, with as many pauses as so far; `None` while nothing can be said.
    pub(super) fn left(&self, total: u64) -> Option<f64> {
        let ((from, began), (step, now)) = (*self.kept.front()?, self.last?);
        let steps = step.checked_sub(from).filter(|n| *n > 0)?;
        let each = (now - self.paused - began) / steps as f64;
        let pauses = self.paused / step.saturating_sub(self.first?).max(1) as f64;
        Some((each + pauses) * total.saturating_sub(step) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_that_of_the_last_half_minute() {
        let mut recent = Recent::default();
        assert_eq!(recent.left(100), None);
        recent.done(1, 5.0);
        assert_eq!(recent.left(100), None);
        // Ten steps a second for 100 seconds, then one in 2 seconds.
        for step in 2..=1000 {
            recent.done(step, 5.0 + (step - 1) as f64 * 0.1);
        }
        let left = recent.left(2000).unwrap();
        assert!((left - 100.0).abs() < 1e-6, "{left}");
        for step in 1001..=1020 {
            recent.done(step, 104.9 + (step - 1000) as f64 * 2.0);
        }
        // 2 seconds of a thousand steps were taken for a pause.
        let left = recent.left(2000).unwrap();
        assert!((left - 1960.0).abs() < 5.0, "{left}");
        assert_eq!(recent.left(1020), Some(0.0));
        assert_eq!(recent.left(1000), Some(0.0));
    }

    #[test]
    fn an_evaluation_counts_as_often_as_it_comes() {
        let mut recent = Recent::default();
        let mut clock = 0.0;
        for step in 0..=1000 {
            clock += if step % 100 == 50 { 60.0 } else { 0.1 };
            recent.done(step, clock);
            if step > 200 {
                // Between ten and a hundred steps' share of it, not sixty seconds a step.
                let each = recent.left(step + 100).unwrap() / 100.0;
                assert!((0.4..1.0).contains(&each), "step {step}: {each}");
            }
        }
    }

    #[test]
    fn steps_longer_than_the_window_count_one_by_one() {
        let mut recent = Recent::default();
        recent.done(7, 0.0);
        recent.done(8, 100.0);
        assert_eq!(recent.left(10), Some(200.0));
        recent.done(9, 150.0);
        assert_eq!(recent.left(10), Some(50.0));
    }

    #[test]
    fn many_steps_are_not_all_kept() {
        let mut recent = Recent::default();
        for step in 0..1_000_000 {
            recent.done(step, step as f64 * 1e-3);
        }
        assert!(recent.kept.len() <= 122, "{}", recent.kept.len());
        let left = recent.left(2_000_000).unwrap();
        assert!((left - 1000.0).abs() < 0.1, "{left}");
    }
}
