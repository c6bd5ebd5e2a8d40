//! What a training loop writes: the resume file, weights, numbered weights of which the last few stay. Rank 0 writes;
//! the others send it what it lacks.

use std::path::Path;

use super::{Trainer, collectives};
use crate::checkpoint::pth;
use crate::engine::resume;
use crate::error::{Error, Result};

impl Trainer<'_> {
    pub(super) fn save_resume(&mut self) -> Result<()> {
        self.state.elapsed_s = self.throughput.elapsed();
        self.state.metrics = self.observer.position()?;
        self.state.objective = self.objective.state();
        let others = collectives::gather_rank_states(self.ranks, &self.state.objective, self.model.device())?;
        let moments = self.optimizers.states(self.model, self.ranks)?;
        if !self.ranks.is_rank0() {
            return Ok(());
        }
        self.state.objectives = others.objectives;
        let mut extras = Vec::new();
        if let Some(schedule) = &self.config.update_schedule {
            extras.push(("scheduler", resume::scheduler_value(schedule, 1.0, self.state.scheduled())));
        }
        if let Some(aux) = &self.optimizers.aux {
            extras.extend(aux.checkpoint_entries(self.lr, self.config, self.state.scheduled())?);
        }
        let snapshot = resume::Snapshot {
            model: self.model,
            adamw: self.config.adamw,
            moments,
            lr: self.lr,
            scaler: self.optimizers.scaler.as_ref(),
            position: self.progress.position(),
            state: &self.state,
            rng_states: &others.rng_states,
            extras,
        };
        resume::save(self.paths, snapshot)
    }

    pub(super) fn save_weights(&self, path: &Path) -> Result<()> {
        if !self.ranks.is_rank0() {
            return Ok(());
        }
        let value = resume::weights_value(self.model, self.config.save_kind)?;
        pth::write(path, &value, &[("minimind.json", self.config.metadata.as_bytes())])
    }

    /// The resume file first: it alone is what resuming needs.
    pub(super) fn save_all(&mut self) -> Result<()> {
        self.save_resume()?;
        self.save_weights(&self.paths.weights)?;
        if self.config.intervals.keep_last > 0 && self.ranks.is_rank0() {
            self.save_weights(&self.paths.folder.join(format!("step-{:08}.pth", self.progress.step)))?;
            self.remove_old_weights()?;
        }
        Ok(())
    }

    /// Leaves the last `keep_last` numbered weight files.
    fn remove_old_weights(&self) -> Result<()> {
        let folder = &self.paths.folder;
        let read = |e| Error::io("list checkpoints", folder, e);
        let mut numbered = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read)? {
            let path = entry.map_err(read)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if name.starts_with("step-") && name.ends_with(".pth") {
                numbered.push(path);
            }
        }
        numbered.sort();
        let surplus = numbered.len().saturating_sub(self.config.intervals.keep_last);
        for path in &numbered[..surplus] {
            std::fs::remove_file(path).map_err(|e| Error::io("remove an old checkpoint", path, e))?;
        }
        Ok(())
    }
}
