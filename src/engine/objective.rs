//! What a training loop is given: its settings, the objective that a stage minimises, the observer that logs.
//!
//! Next: `trainer`, the loop.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tch::Kind;

use super::aux_model::AuxModel;
use super::ranks::{GradientReducer, Ranks};
use super::settings::{AnomalyConfig, LoopIntervals};
use crate::error::Result;
use crate::model::CausalLm;
use crate::optim::{AdamWConfig, Schedule};

/// The loop's settings.
#[derive(Debug, Clone)]
pub struct LoopConfig {
    /// Passes over the data.
    pub epochs: u64,
    /// Micro-batches an update on each rank.
    pub accumulation_steps: u64,
    /// Learning rate; its `total_steps` is the run's length in micro-batches.
    pub schedule: Schedule,
    /// Where given, the learning rate follows the updates and not the micro-batches (policy optimisation), and rows show
    /// it after the update; its `total_steps` is the run's length in updates.
    pub update_schedule: Option<Schedule>,
    /// Largest gradient norm; 0 for no clipping.
    pub grad_clip: f64,
    /// AdamW's hyper-parameters.
    pub adamw: AdamWConfig,
    /// How often to log, save and validate.
    pub intervals: LoopIntervals,
    /// Type of the numbers in weight files.
    pub save_kind: Kind,
    /// What to do about a loss or gradient that is not finite, and about a spike.
    pub anomalies: AnomalyConfig,
    /// Whether the loss is scaled (fp16).
    pub loss_scaling: bool,
    /// JSON that every weight file carries.
    pub metadata: String,
    /// Hash of settings, data and start weights.
    pub content_hash: String,
    /// The stage's inputs as JSON; goes into the checkpoint.
    pub made_from: serde_json::Value,
    /// Whether to resume from a checkpoint made with other settings, even past the end (`--resume force`).
    pub forced: bool,
    /// Seed of the random numbers used while training.
    pub seed: u64,
    /// Whether the optimizer's state is sharded over the ranks.
    pub shard_optimizer: bool,
}

/// What a micro-batch had of one part of a mixture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct PartLoss {
    /// The loss summed over its labels.
    pub loss: f64,
    /// Its labels with loss.
    pub labels: u64,
    /// Its tokens without padding.
    pub tokens: u64,
}

impl PartLoss {
    /// Adds another micro-batch's.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.labels += other.labels;
        self.tokens += other.tokens;
    }

    /// The mean loss of its labels; `None` where it has none.
    pub fn mean(&self) -> Option<f64> {
        (self.labels > 0).then(|| self.loss / self.labels as f64)
    }
}

/// A name of a column that is made at run time. Names live as long as the program: there is one for each part of a mixture.
pub fn column(name: &str) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name) {
        return known;
    }
    let kept: &'static str = Box::leak(name.to_owned().into_boxed_str());
    names.insert(kept);
    kept
}

/// One micro-batch's numbers.
#[derive(Debug, Clone, Default)]
pub struct StepLoss {
    /// The loss as the stage reports it (cross-entropy alone).
    pub loss: f64,
    /// The experts' balance loss.
    pub aux_loss: f64,
    /// Tokens without padding.
    pub tokens: u64,
    /// Further columns of the row.
    pub extra: Vec<(&'static str, f64)>,
    /// The same by part of a mixture, in the order of [`Objective::parts`].
    pub parts: Vec<PartLoss>,
}

/// How a backward pass is to be made.
#[derive(Debug)]
pub struct BackwardPass<'a> {
    /// Factor of the loss before backward: accumulation and loss scaling.
    pub scale: f64,
    /// What sends gradients to other ranks during the pass.
    reducers: &'a mut [GradientReducer],
    /// Whether there are no other ranks.
    alone: bool,
}

impl<'a> BackwardPass<'a> {
    pub(super) fn new(scale: f64, reducers: &'a mut [GradientReducer], alone: bool) -> Self {
        Self { scale, reducers, alone }
    }

    /// Whether this is the only process: no hook has to see each gradient, so that a step may run as a CUDA graph.
    pub fn single_process(&self) -> bool {
        self.alone
    }

    /// To be called just before the micro-batch's last backward through the model: gradients are sent to other ranks
    /// during it. An objective that never calls it loses that overlap and nothing else.
    ///
    /// # Errors
    /// libtorch fails on the device, which includes running out of memory.
    pub fn last_backward(&mut self) -> Result<()> {
        self.reducers.iter_mut().try_for_each(GradientReducer::arm)
    }
}

/// What a stage minimises.
pub trait Objective {
    /// Micro-batches an epoch, the same every epoch.
    fn steps_per_epoch(&self) -> u64;

    /// Forward and backward of micro-batch `index` (from 0) of `epoch` (from 0): adds to the parameters' gradients that
    /// of `pass.scale` times the loss.
    ///
    /// # Errors
    /// Rows that cannot be read or do not fit the model; a fault of the device.
    fn backward(
        &mut self,
        model: &CausalLm,
        epoch: u64,
        index: u64,
        pass: &mut BackwardPass<'_>,
    ) -> Result<StepLoss>;

    /// Metrics on held-out rows: `val_loss` first; empty where there are none. Called on all ranks at once, which may
    /// share the rows and return the same numbers.
    ///
    /// # Errors
    /// As [`Self::backward`].
    fn validate(&mut self, model: &CausalLm, ranks: &Ranks) -> Result<Vec<(&'static str, f64)>>;

    /// Whether the first number of [`Self::validate`] is better when lower.
    fn lower_is_better(&self) -> bool {
        true
    }

    /// Whether the micro-batch needs another backward pass; each pass counts for accumulation. The last pass returns
    /// what the row shows.
    fn has_more_passes(&self) -> bool {
        false
    }

    /// Backward passes a micro-batch at most; [`Self::has_more_passes`] ends them earlier.
    fn passes_per_step(&self) -> u64 {
        1
    }

    /// Whether the learning rate follows the optimizer steps done, and not the micro-batches.
    fn schedules_by_updates(&self) -> bool {
        false
    }

    /// A second model that is trained at the same updates.
    fn aux_model(&self) -> Option<AuxModel> {
        None
    }

    /// Factor on the learning rate; below 1 after a guard lowered it.
    fn lr_factor(&self) -> f64 {
        1.0
    }

    /// The names of the mixture's parts; none without a mixture. Rows then have `loss/NAME`, over the labels since the last
    /// row, and `tokens/NAME`.
    fn parts(&self) -> Vec<String> {
        Vec::new()
    }

    /// What a person should read since the last call.
    fn notes(&mut self) -> Vec<String> {
        Vec::new()
    }

    /// What a checkpoint must hold of the objective; [`Self::restore`] gets it back.
    fn state(&self) -> serde_json::Value {
        serde_json::Value::Null
    }

    /// Puts [`Self::state`] back.
    ///
    /// # Errors
    /// The state cannot be read.
    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        let _ = state;
        Ok(())
    }
}

/// A row of metrics.
#[derive(Debug, Clone)]
pub struct MetricsRow {
    /// The epoch, counted from 1.
    pub epoch: u64,
    /// Micro-batches from 1 over the whole run.
    pub step: u64,
    /// Names and values in order.
    pub values: Vec<(&'static str, f64)>,
}

/// Receives what the training loop reports: rows of metrics, messages.
pub trait Observer {
    /// Logs a row of metrics.
    ///
    /// # Errors
    /// I/O faults.
    fn log_metrics(&mut self, metrics: &MetricsRow) -> Result<()>;
    /// How far the logged rows reach; goes into the checkpoint.
    ///
    /// # Errors
    /// I/O faults.
    fn position(&self) -> Result<serde_json::Value>;
    /// Called after each micro-batch.
    fn on_step(&mut self, step: u64, loss: f64, lr: f64, tokens_per_s: f64);
    /// Logs a note for a person.
    fn log_note(&mut self, text: &str);
}

/// How a run ended.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Micro-batches done.
    pub steps: u64,
    /// Optimizer updates made.
    pub updates: u64,
    /// Tokens without padding.
    pub tokens: u64,
    /// Seconds trained, over all starts.
    pub elapsed_s: f64,
    /// Last micro-batch's loss.
    pub loss: Option<f64>,
    /// Columns of the last validation, by name.
    pub validation: Vec<(String, f64)>,
    /// Best validation loss and its micro-batch.
    pub best: Option<(f64, u64)>,
    /// Steps whose loss was NaN, infinite or a spike.
    pub anomalies: u64,
}
