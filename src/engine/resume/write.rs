//! Writes a resume file.

use tch::Tensor;

use super::state_dict::{optimizer_value, state_dict, tensor_dict};
use super::{CheckpointPaths, Position, SavedState, previous_path};
use crate::checkpoint::{Value, convert, pth};
use crate::error::{Error, Result};
use crate::model::CausalLm;
use crate::native;
use crate::optim::adamw::ParamState;
use crate::optim::{AdamWConfig, GradScaler};

/// Everything that a resume file holds.
pub struct Snapshot<'a> {
    /// The model whose weights are saved.
    pub model: &'a CausalLm,
    /// The optimizer's hyper-parameters.
    pub adamw: AdamWConfig,
    /// Moments of every parameter.
    pub moments: Vec<ParamState>,
    /// The current learning rate.
    pub lr: f64,
    /// Loss scaling, if it is on.
    pub scaler: Option<&'a GradScaler>,
    /// How far the run is.
    pub position: Position,
    /// The `minimind` entry.
    pub state: &'a SavedState,
    /// Random states of the ranks after the first.
    pub rng_states: &'a [Tensor],
    /// More entries: schedulers, a critic.
    pub extras: Vec<(&'static str, Value)>,
}

/// Writes a resume file; the one before it is kept ([`previous_path`]).
///
/// # Errors
/// I/O faults; tensors that cannot be copied to the host.
pub fn save(files: &CheckpointPaths, snapshot: Snapshot<'_>) -> Result<()> {
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
        ("rng_state", Value::Tensor(convert::to_host(&native::rng_state(model.device())?)?)),
    ];
    let mut extras = extras;
    if !rng_states.is_empty() {
        let states = rng_states.iter().map(|t| Ok(Value::Tensor(convert::to_host(t)?)));
        extras.push(("rng_states", Value::List(states.collect::<Result<_>>()?)));
    }
    let value = Value::dict(own.into_iter().chain(extras));
    pth::write_keeping(&files.resume, &value, &[], &previous_path(&files.resume))
}
