//! The resume file: upstream's keys, plus what makes resuming exact.
//!
//! `model`, `optimizer`, `epoch`, `step`, `world_size`, `wandb_id` and `scaler` are upstream's, so that its
//! scripts continue our runs; `minimind` (JSON text) and `rng_state` (bytes) are ours. Weights and moments
//! are fp32. Upstream's own files, without our keys and with half-precision weights, are read too.
//!
//! `read` and `write` are the file, `state_dict` the dicts in it in PyTorch's form.

mod read;
mod state_dict;
mod write;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::anomaly::LossMonitor;
use super::objective::PartLoss;
use crate::error::{Error, Result};

pub use read::{ResumeFile, load_last, one_line, rename_broken};
pub(in crate::engine) use state_dict::{optimizer_value, scheduler_value, tensor_dict};
pub use state_dict::{state_dict, weights_value};
pub use write::{Snapshot, save};

/// Where the files of a training stage go.
#[derive(Debug, Clone)]
pub struct CheckpointPaths {
    /// `<stage>_<hidden>[_moe].pth`.
    pub weights: PathBuf,
    /// `<stage>_<hidden>[_moe]_resume.pth`; the one before it is kept as well ([`previous_path`]).
    pub resume: PathBuf,
    /// The stage's folder: best and numbered weights.
    pub folder: PathBuf,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The epoch in progress, from 0, as upstream's file counts.
    pub epoch: u64,
    /// Micro-batches done in it.
    pub step_in_epoch: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "epoch {}, micro-batch {}", self.epoch + 1, self.step_in_epoch)
    }
}

impl Position {
    /// The same share of an epoch that had `old` micro-batches and has `new` ones now.
    pub fn rescaled(self, old: u64, new: u64) -> Self {
        if old == new || old == 0 {
            return self;
        }
        let share = self.step_in_epoch.min(old) as f64 / old as f64;
        Self { step_in_epoch: (share * new as f64).round() as u64, ..self }
    }

    /// Micro-batches done of a run of `total`, with `per_epoch` in an epoch.
    ///
    /// # Errors
    /// The run has fewer.
    pub fn of(&self, per_epoch: u64, total: u64) -> Result<u64> {
        let step = self.epoch * per_epoch + self.step_in_epoch;
        if step > total {
            return Err(Error::input(format!(
                "the checkpoint is at micro-batch {step}, the run has {total}"
            ))
            .hint("raise epochs or max_steps, or start over with --from and the stage's name"));
        }
        Ok(step)
    }
}

/// The `minimind` entry: what our files hold beyond upstream's keys.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    /// Hash of the settings, data and start weights that led here.
    pub content_hash: String,
    /// Optimizer updates made.
    pub updates: u64,
    /// Tokens without padding.
    pub tokens: u64,
    /// Seconds trained.
    pub elapsed_s: f64,
    /// Gradient norm of an update since the last row of metrics.
    pub grad_norm: Option<f64>,
    /// The last micro-batch's loss.
    pub loss: Option<f64>,
    /// The last validation's numbers.
    pub validation: Vec<(String, f64)>,
    /// Running mean of the loss, anomalies.
    #[serde(rename = "watch")]
    pub loss_monitor: LossMonitor,
    /// Best validation loss and its micro-batch.
    pub best: Option<(f64, u64)>,
    /// How far the metric files reach; the observer's own.
    pub metrics: serde_json::Value,
    /// Micro-batches of the whole run when this was written.
    pub total_steps: u64,
    /// Micro-batches in an epoch then; 0 in files from before this was kept.
    #[serde(default)]
    pub per_epoch: u64,
    /// What the run was made from, as the stage records it; null in files from before this was kept.
    #[serde(default)]
    pub made_from: serde_json::Value,
    /// By part of a mixture: tokens of the whole run, loss and labels since the last row of metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartLoss>,
    /// The objective's state on rank 0.
    #[serde(default)]
    pub objective: serde_json::Value,
    /// The same on the other ranks.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<serde_json::Value>,
    /// The lowest of the ranks' factors on the learning rate; none in a single process.
    #[serde(default)]
    pub rate_factor: Option<f64>,
    /// Added to the updates for the schedule, since the number of ranks changed.
    #[serde(default)]
    pub schedule_shift: i64,
}

impl SavedState {
    /// Updates as a schedule counts them.
    pub fn scheduled(&self) -> u64 {
        self.updates.saturating_add_signed(self.schedule_shift)
    }

    /// The objective's state on a rank; rank 0's where the run had fewer ranks.
    pub fn objective_of(&self, rank: usize) -> &serde_json::Value {
        rank.checked_sub(1).and_then(|i| self.objectives.get(i)).unwrap_or(&self.objective)
    }
}

/// The path of the resume file before the last one: `..._resume.prev.pth`.
pub fn previous_path(resume: &Path) -> PathBuf {
    resume.with_extension("prev.pth")
}
