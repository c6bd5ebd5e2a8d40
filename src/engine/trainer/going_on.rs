//! How a training loop goes on from a resume file: weights, moments, random state, and its place in the run, which may
//! be longer now than when the file was written.

use super::Trainer;
use crate::engine::pace::Pace;
use crate::engine::resume::{Loaded, SavedState};
use crate::error::Result;

impl Trainer<'_> {
    pub(super) fn go_on_from(&mut self, loaded: &Loaded) -> Result<()> {
        self.restore(loaded)?;
        let saved = loaded.state.as_ref();
        let before = saved.map_or(0, |state| state.per_epoch);
        let position = loaded.position.rescaled(before, self.per_epoch);
        if self.config.forced {
            // Past the end, nothing is left to do.
            self.total = self.total.max(position.of(self.per_epoch, u64::MAX)?);
        }
        self.step = position.of(self.per_epoch, self.total)?;
        self.boundaries = [self.step; 2];
        if let Some(state) = saved {
            self.state = SavedState {
                content_hash: self.config.content_hash.clone(),
                total_steps: self.total,
                per_epoch: self.per_epoch,
                made_from: self.config.made_from.clone(),
                ..state.clone()
            };
            let apart = state.objectives.len() + 1 != self.ranks.world();
            let longer = state.schedule_shift != 0 && state.total_steps != self.total;
            if let Some(schedule) = &self.config.by_updates
                && (apart || longer || self.config.forced)
            {
                // With another number of ranks (or other settings) a step makes another number of updates.
                let share = self.step as f64 / self.total.max(1) as f64;
                let there = (share * schedule.total_steps as f64).round() as i64;
                self.state.schedule_shift = there - state.updates as i64;
            }
            self.pace = Pace::after(state.elapsed_s);
            self.objective.restore(state.objective_of(self.ranks.rank()))?;
            return Ok(());
        }
        if self.config.by_updates.is_some() {
            self.state.updates = loaded.scheduled_updates();
        }
        if self.ranks.is_alone() && !self.objective.many_passes() {
            // Upstream saves inside a window too, without its gradients, and updates where a whole window would end.
            let done = loaded.position.step_in_epoch % self.per_epoch; // the end of an epoch ends a window
            self.pending = done % self.config.accumulation_steps;
        }
        Ok(())
    }

    pub(super) fn restore(&mut self, loaded: &Loaded) -> Result<()> {
        loaded.restore(self.model, &mut self.optimizer, self.scaler.as_mut(), self.ranks.rank())?;
        match &mut self.second {
            Some(second) => second.restore(loaded),
            None => Ok(()),
        }
    }
}
