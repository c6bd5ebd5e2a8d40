//! The resume file: upstream's keys, plus what makes going on exact.
//!
//! `model`, `optimizer`, `epoch`, `step`, `world_size`, `wandb_id` and `scaler` are upstream's, so that its
//! scripts continue our runs; `minimind` (JSON text) and `rng_state` (bytes) are ours. Weights and moments
//! are fp32. Upstream's own files, without our keys and with half-precision weights, are read too.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use super::anomaly::Watch;
use crate::checkpoint::{Value, bridge, pth};
use crate::error::{Error, Place, Result};
use crate::model::CausalLm;
use crate::native;
use crate::optim::adamw::{AdamW, ParamState};
use crate::optim::{AdamWConfig, GradScaler, Schedule};

/// Where a training stage keeps its files.
#[derive(Debug, Clone)]
pub struct Files {
    /// `<stage>_<hidden>[_moe].pth`.
    pub weights: PathBuf,
    /// `<stage>_<hidden>[_moe]_resume.pth`; the one before it is kept as well ([`previous`]).
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

/// Where the resume point before the last one lies: `..._resume.prev.pth`.
pub fn previous(resume: &Path) -> PathBuf {
    resume.with_extension("prev.pth")
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

/// What our files hold beside weights and optimizer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SavedState {
    /// Hash of the settings, data and start weights that led here.
    pub content_hash: String,
    /// Updates made.
    pub updates: u64,
    /// Real tokens seen.
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
    pub watch: Watch,
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
    /// The objective's own, on the first rank.
    #[serde(default)]
    pub objective: serde_json::Value,
    /// The same on the ranks after the first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objectives: Vec<serde_json::Value>,
    /// The lowest factor that any rank's guards put on the learning rate; none where there was one process.
    #[serde(default)]
    pub rate_factor: Option<f64>,
    /// What a schedule by updates is ahead of them, since the number of ranks changed.
    #[serde(default)]
    pub schedule_shift: i64,
}

impl SavedState {
    /// Updates as a schedule counts them.
    pub fn scheduled(&self) -> u64 {
        self.updates.saturating_add_signed(self.schedule_shift)
    }

    /// The objective's own on a rank; the first's where the run had fewer.
    pub fn objective_of(&self, rank: usize) -> &serde_json::Value {
        rank.checked_sub(1).and_then(|i| self.objectives.get(i)).unwrap_or(&self.objective)
    }
}

/// Everything needed to go on.
pub struct Snapshot<'a> {
    /// Weights.
    pub model: &'a CausalLm,
    /// The optimizer's constants.
    pub adamw: AdamWConfig,
    /// Moments of every parameter.
    pub moments: Vec<ParamState>,
    /// The rate in force.
    pub lr: f64,
    /// Loss scaling, if it is on.
    pub scaler: Option<&'a GradScaler>,
    /// How far the run is.
    pub position: Position,
    /// Ours.
    pub state: &'a SavedState,
    /// Random states of the ranks after the first.
    pub rng_states: &'a [Tensor],
    /// More entries: schedulers, a critic.
    pub extras: Vec<(&'static str, Value)>,
}

/// A resume file that was read.
#[derive(Debug)]
pub struct Loaded {
    value: Value,
    path: PathBuf,
    /// How far it is.
    pub position: Position,
    /// Ours; `None` for upstream's files.
    pub state: Option<SavedState>,
}

/// Upstream's state dict: every trained parameter and, where a language model's is tied, the output layer as
/// well.
pub fn state_dict(model: &CausalLm) -> Vec<(String, Tensor)> {
    let (names, tensors) = model.params().trained();
    let mut dict: Vec<(String, Tensor)> =
        names.iter().cloned().zip(tensors.iter().map(Tensor::shallow_clone)).collect();
    let speaks = model.params().adapter().is_none() && model.score().is_none();
    if model.config().tie_word_embeddings && speaks {
        dict.push(("lm_head.weight".to_owned(), model.lm_head().shallow_clone()));
    }
    dict
}

pub(super) fn tensor_dict(tensors: &[(String, Tensor)]) -> Result<Value> {
    let hosts = bridge::borrow_all(tensors.iter().map(|(_, t)| t))?;
    Ok(Value::dict(tensors.iter().map(|(name, _)| name.clone()).zip(hosts.into_iter().map(Value::Tensor))))
}

/// A weight file's contents at the given precision; tied weights stay one storage.
pub fn weights_value(model: &CausalLm, kind: Kind) -> Result<Value> {
    let dict = state_dict(model);
    let mut seen: Vec<(usize, Tensor)> = Vec::new();
    let mut cast = Vec::with_capacity(dict.len());
    for (name, tensor) in dict {
        let address = tensor.data_ptr() as usize;
        let known = seen.iter().find(|(a, _)| *a == address).map(|(_, t)| t.shallow_clone());
        let made = match known {
            Some(tensor) => tensor,
            None => tensor.detach().f_to_device(tch::Device::Cpu)?.f_to_kind(kind)?,
        };
        seen.push((address, made.shallow_clone()));
        cast.push((name, made));
    }
    tensor_dict(&cast)
}

/// Writes everything needed to go on.
pub fn save(files: &Files, snapshot: Snapshot<'_>) -> Result<()> {
    let Snapshot { model, adamw, moments, lr, scaler, position, state, rng_states, extras } = snapshot;
    let as_json = |e: serde_json::Error| Error::failed("cannot describe the run's state").because(e);
    let scaler = match scaler {
        None => Value::Dict(Vec::new()),
        Some(s) => Value::dict([
            ("scale", Value::Float(s.scale)),
            ("growth_factor", Value::Float(s.growth_factor)),
            ("backoff_factor", Value::Float(s.backoff_factor)),
            ("growth_interval", Value::Int(s.growth_interval as i64)),
            ("_growth_tracker", Value::Int(s.growth_tracker as i64)),
        ]),
    };
    let own = [
        ("model", tensor_dict(&state_dict(model))?),
        ("optimizer", optimizer_value(adamw, moments, lr)?),
        ("epoch", Value::Int(position.epoch as i64)),
        ("step", Value::Int(position.step_in_epoch as i64)),
        ("world_size", Value::Int(1 + rng_states.len() as i64)),
        ("wandb_id", Value::None),
        ("scaler", scaler),
        ("minimind", Value::Str(serde_json::to_string(state).map_err(as_json)?)),
        ("rng_state", Value::Tensor(bridge::to_host(&native::rng_state(model.device())?)?)),
    ];
    let mut extras = extras;
    if !rng_states.is_empty() {
        let states = rng_states.iter().map(|t| Ok(Value::Tensor(bridge::to_host(t)?)));
        extras.push(("rng_states", Value::List(states.collect::<Result<_>>()?)));
    }
    let value = Value::dict(own.into_iter().chain(extras));
    pth::write_keeping(&files.resume, &value, &[], &previous(&files.resume))
}

/// The last resume point, or the one before it where the last cannot be read or is not there. Beside it the fault of
/// the last, where it had one.
///
/// # Errors
/// Neither can be read; the faults of both.
pub fn load_last(resume: &Path) -> Result<(Loaded, Option<Error>)> {
    let before = previous(resume);
    let fault = match load(resume) {
        Ok(loaded) => return Ok((loaded, None)),
        Err(fault) => fault,
    };
    let gone = !resume.exists();
    if !before.exists() {
        return Err(fault);
    }
    match load(&before) {
        // A run that was killed between two renames leaves the one alone; it is the last then.
        Ok(loaded) => Ok((loaded, (!gone).then_some(fault))),
        Err(other) => Err(Error::failed("neither of the last two resume points can be read")
            .at(Place::file(resume))
            .because(format!("{}; {}", in_a_line(&fault), in_a_line(&other)))),
    }
}

/// A fault with its cause, without its hint.
pub fn in_a_line(fault: &Error) -> String {
    let text = fault.to_string();
    let lines = text.lines().take_while(|line| !line.starts_with("hint: "));
    let lines: Vec<&str> = lines.map(|line| line.trim().trim_start_matches("error: ")).collect();
    lines.join(", ")
}

/// Renames a resume file that cannot be read to `....broken`, so that the one before it is not replaced by it.
///
/// # Errors
/// I/O faults.
pub fn set_broken_aside(resume: &Path) -> Result<PathBuf> {
    let mut name = resume.file_name().unwrap_or_default().to_owned();
    name.push(".broken");
    let aside = resume.with_file_name(name);
    std::fs::rename(resume, &aside).map_err(|e| Error::io("rename a broken file", resume, e))?;
    Ok(aside)
}

/// `torch.optim.AdamW`'s `state_dict`.
pub(super) fn optimizer_value(config: AdamWConfig, states: Vec<ParamState>, lr: f64) -> Result<Value> {
    let AdamWConfig { betas, eps, weight_decay } = config;
    let count = states.len();
    let mut tensors = Vec::new();
    for state in states {
        tensors.extend([Tensor::from(state.step as f32), state.exp_avg, state.exp_avg_sq]);
    }
    let mut hosts = bridge::borrow_all(tensors.iter())?.into_iter();
    let mut entries = Vec::new();
    for i in 0..count {
        let mut part =
            |name: &str| (name.to_owned(), Value::Tensor(hosts.next().expect("three tensors a parameter")));
        let parts = [part("step"), part("exp_avg"), part("exp_avg_sq")];
        entries.push((Value::Int(i as i64), Value::dict(parts)));
    }
    let group = Value::dict([
        ("lr", Value::Float(lr)),
        ("betas", Value::Tuple(vec![Value::Float(betas.0), Value::Float(betas.1)])),
        ("eps", Value::Float(eps)),
        ("weight_decay", Value::Float(weight_decay)),
        ("amsgrad", Value::Bool(false)),
        ("maximize", Value::Bool(false)),
        ("foreach", Value::None),
        ("capturable", Value::Bool(false)),
        ("differentiable", Value::Bool(false)),
        ("fused", Value::None),
        ("decoupled_weight_decay", Value::Bool(true)),
        ("params", Value::List((0..count).map(|i| Value::Int(i as i64)).collect())),
    ]);
    Ok(Value::dict([("state", Value::Dict(entries)), ("param_groups", Value::List(vec![group]))]))
}

/// Reads a resume file, ours or upstream's, without touching a model yet.
pub fn load(path: &std::path::Path) -> Result<Loaded> {
    let value = pth::read(path)?;
    let place = || Place::file(path);
    let number = |key: &str| {
        value.get(key).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| {
            Error::failed(format!("this resume file has no whole number `{key}`"))
                .at(place())
                .hint("run with --resume never to start over")
        })
    };
    let position = Position { epoch: number("epoch")?, step_in_epoch: number("step")? };
    let state = match value.get("minimind").and_then(Value::as_str) {
        None => None,
        Some(text) => Some(serde_json::from_str(text).map_err(|e| {
            Error::failed("this resume file's `minimind` entry cannot be read").at(place()).because(e)
        })?),
    };
    Ok(Loaded { value, path: path.to_owned(), position, state })
}

/// A `CosineAnnealingLR`'s `state_dict`, with `ratio` times the schedule's rates.
pub(super) fn scheduler_value(schedule: &Schedule, ratio: f64, updates: u64) -> Value {
    let peak = schedule.peak * ratio;
    Value::dict([
        ("T_max", Value::Int(schedule.total_steps as i64)),
        ("eta_min", Value::Float(peak / 10.0)),
        ("base_lrs", Value::List(vec![Value::Float(peak)])),
        ("last_epoch", Value::Int(updates as i64)),
        ("_step_count", Value::Int(updates as i64 + 1)),
        ("_is_initial", Value::Bool(false)),
        ("_get_lr_called_within_step", Value::Bool(false)),
        ("_last_lr", Value::List(vec![Value::Float(schedule.after(updates) * ratio)])),
    ])
}

impl Loaded {
    /// The file it was read from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Updates done as the scheduler of upstream's files counts them.
    pub fn scheduled_updates(&self) -> u64 {
        let count = self.value.get("scheduler").and_then(|s| s.get("last_epoch")).and_then(Value::as_i64);
        count.and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
    }

    /// Puts weights, moments, scaler and a rank's random state back; a rank that the run did not have keeps its own.
    pub fn restore(
        &self,
        model: &CausalLm,
        optimizer: &mut AdamW,
        scaler: Option<&mut GradScaler>,
        rank: usize,
    ) -> Result<()> {
        let at = |e: Error| e.at(Place::file(&self.path));
        let (names, tensors) = model.params().trained();
        self.restore_into("model", names.iter().zip(tensors)).map_err(at)?;
        self.restore_optimizer("optimizer", optimizer).map_err(at)?;
        if let Some(scaler) = scaler
            && let Some(saved) = self.value.get("scaler")
            && let Some(scale) = saved.get("scale").and_then(Value::as_f64)
        {
            scaler.scale = scale;
            scaler.growth_tracker =
                saved.get("_growth_tracker").and_then(Value::as_i64).unwrap_or(0).max(0) as u64;
        }
        let others = self.value.get("rng_states").and_then(Value::as_list);
        let rng = match rank.checked_sub(1) {
            None => self.value.get("rng_state"),
            Some(i) => others.and_then(|states| states.get(i)),
        };
        if let Some(rng) = rng.and_then(Value::as_tensor) {
            native::set_rng_state(model.device(), &bridge::to_tensor(rng)?)?;
        }
        Ok(())
    }

    /// Puts the weights under `key` back into tensors of the same names.
    pub(super) fn restore_into<'a>(
        &self,
        key: &str,
        named: impl Iterator<Item = (&'a String, &'a Tensor)>,
    ) -> Result<()> {
        let dict = self
            .value
            .get(key)
            .and_then(Value::as_dict)
            .ok_or_else(|| Error::failed(format!("this resume file has no `{key}`")))?;
        let mut found = std::collections::HashMap::new();
        for (name, value) in dict {
            if let (Some(name), Some(tensor)) = (name.as_str(), value.as_tensor()) {
                found.insert(crate::checkpoint::names::own_name(name), tensor);
            }
        }
        for (name, param) in named {
            let saved = found
                .get(name.as_str())
                .ok_or_else(|| Error::failed(format!("this resume file has no weight `{name}`")))?;
            if saved.shape() != param.size() {
                let (got, want) = (saved.shape(), param.size());
                return Err(Error::failed(format!(
                    "`{name}` has shape {got:?} in the resume file, the model wants {want:?}"
                ))
                .hint("the model in the recipe changed: start the stage anew with --from and its name"));
            }
            let saved = bridge::to_tensor(saved)?;
            tch::no_grad(|| param.shallow_clone().f_copy_(&saved))?;
        }
        Ok(())
    }

    /// Puts the moments under `key` back.
    pub(super) fn restore_optimizer(&self, key: &str, optimizer: &mut AdamW) -> Result<()> {
        let states = self
            .value
            .get(key)
            .and_then(|o| o.get("state"))
            .ok_or_else(|| Error::failed(format!("this resume file has no `{key}` state")))?;
        // PyTorch keeps no state for parameters that never had a gradient: theirs stays empty.
        for i in 0..optimizer.len() {
            let Some(saved) = states.get_index(i as i64) else { continue };
            let moment = |key: &str| {
                saved
                    .get(key)
                    .and_then(Value::as_tensor)
                    .ok_or_else(|| Error::failed(format!("optimizer state {i} has no `{key}`")))
                    .and_then(bridge::to_tensor)
            };
            let step = match saved.get("step") {
                Some(Value::Tensor(t)) => {
                    bridge::to_tensor(t)?.to_kind(Kind::Double).sum(Kind::Double).double_value(&[])
                }
                Some(other) => other.as_f64().unwrap_or(0.0),
                None => 0.0,
            };
            optimizer.set_state(
                i,
                &ParamState { step, exp_avg: moment("exp_avg")?, exp_avg_sq: moment("exp_avg_sq")? },
            )?;
        }
        Ok(())
    }
}
