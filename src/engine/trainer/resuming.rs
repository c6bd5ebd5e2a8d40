//! How a training loop resumes: weights, moments, random state, and its place in the run, which may be longer now than
//! when the checkpoint was written.

use super::Trainer;
use crate::engine::resume::{ResumeFile, SavedState};
use crate::engine::throughput::Throughput;
use crate::error::Result;

impl Trainer<'_> {
    /// Continues where `file` was written.
    pub(super) fn resume(&mut self, file: &ResumeFile) -> Result<()> {
        self.restore(file)?;
        let saved = file.state.as_ref();
        let progress = &mut self.progress;
        let before = saved.map_or(0, |state| state.per_epoch);
        let position = file.position.rescaled(before, progress.per_epoch);
        if self.config.forced {
            // Past the end, nothing is left to do.
            progress.total = progress.total.max(position.of(progress.per_epoch, u64::MAX)?);
        }
        progress.jump_to(position.of(progress.per_epoch, progress.total)?);
        if let Some(state) = saved {
            return self.resume_state(state);
        }
        if self.config.update_schedule.is_some() {
            self.state.updates = file.scheduled_updates();
        }
        if self.ranks.is_single() && self.objective.passes_per_step() == 1 {
            // Upstream saves inside a window too, without its gradients, and updates where a whole window would end.
            let done = file.position.step_in_epoch % self.progress.per_epoch; // the end of an epoch ends a window
            self.progress.accumulated = done % self.config.accumulation_steps;
        }
        Ok(())
    }

    /// Takes over the state of a file of ours.
    fn resume_state(&mut self, state: &SavedState) -> Result<()> {
        let progress = &self.progress;
        self.state = SavedState {
            content_hash: self.config.content_hash.clone(),
            total_steps: progress.total,
            per_epoch: progress.per_epoch,
            made_from: self.config.made_from.clone(),
            ..state.clone()
        };
        let other_world = state.objectives.len() + 1 != self.ranks.world();
        let other_length = state.schedule_shift != 0 && state.total_steps != progress.total;
        if let Some(schedule) = &self.config.update_schedule
            && (other_world || other_length || self.config.forced)
        {
            // With another number of ranks (or other settings) a step makes another number of updates.
            let share = progress.step as f64 / progress.total.max(1) as f64;
            let scheduled = (share * schedule.total_steps as f64).round() as i64;
            self.state.schedule_shift = scheduled - state.updates as i64;
        }
        self.throughput = Throughput::resume_at(state.elapsed_s);
        self.objective.restore(state.objective_of(self.ranks.rank()))
    }

    /// Puts everything back that a checkpoint holds of weights and optimizers.
    pub(super) fn restore(&mut self, file: &ResumeFile) -> Result<()> {
        self.optimizers.restore(file, self.model, self.ranks.rank())
    }
}
