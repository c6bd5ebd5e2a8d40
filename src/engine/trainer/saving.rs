//! What a training loop writes: the resume file, weights, numbered weights of which the last few stay. The first
//! rank writes; the others hand it what it lacks.

use std::path::Path;

use super::{Trainer, turns};
use crate::checkpoint::pth;
use crate::engine::resume::{self, Position};
use crate::error::{Error, Result};

impl Trainer<'_> {
    fn position(&self) -> Position {
        // The last micro-batch of an epoch belongs to it, as in upstream's files.
        let epoch = self.step.saturating_sub(1) / self.per_epoch;
        Position { epoch, step_in_epoch: self.step - epoch * self.per_epoch }
    }

    pub(super) fn save_resume(&mut self) -> Result<()> {
        self.state.elapsed_s = self.pace.elapsed();
        self.state.metrics = self.observer.position()?;
        self.state.objective = self.objective.state();
        let others = turns::states(self.ranks, &self.state.objective, self.model.device())?;
        let moments = match &self.shards {
            Some(shards) => shards.gather(&self.optimizer, self.model.params().trained().1)?,
            None if self.ranks.is_first() => self.optimizer.states(),
            None => Vec::new(),
        };
        if !self.ranks.is_first() {
            return Ok(());
        }
        self.state.objectives = others.objectives;
        let mut extras = Vec::new();
        if let Some(schedule) = &self.config.by_updates {
            extras.push(("scheduler", resume::scheduler_value(schedule, 1.0, self.state.scheduled())));
        }
        if let Some(second) = &self.second {
            extras.extend(second.saved(self.lr, self.config, self.state.scheduled())?);
        }
        let snapshot = resume::Snapshot {
            model: self.model,
            adamw: self.config.adamw,
            moments,
            lr: self.lr,
            scaler: self.scaler.as_ref(),
            position: self.position(),
            state: &self.state,
            rng_states: &others.rng_states,
            extras,
        };
        resume::save(self.files, snapshot)
    }

    pub(super) fn save_weights(&self, path: &Path) -> Result<()> {
        if !self.ranks.is_first() {
            return Ok(());
        }
        let value = resume::weights_value(self.model, self.config.save_kind)?;
        pth::write(path, &value, &[("minimind.json", self.config.metadata.as_bytes())])
    }

    /// The resume file first: it alone is what going on needs.
    pub(super) fn save_all(&mut self) -> Result<()> {
        self.save_resume()?;
        self.save_weights(&self.files.weights)?;
        if self.config.keep_last > 0 && self.ranks.is_first() {
            self.save_weights(&self.files.folder.join(format!("step-{:08}.pth", self.step)))?;
            self.drop_old()?;
        }
        Ok(())
    }

    fn drop_old(&self) -> Result<()> {
        let folder = &self.files.folder;
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
        let surplus = numbered.len().saturating_sub(self.config.keep_last);
        for path in &numbered[..surplus] {
            std::fs::remove_file(path).map_err(|e| Error::io("remove an old checkpoint", path, e))?;
        }
        Ok(())
    }
}
