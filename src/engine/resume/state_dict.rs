//! What PyTorch calls a state dict: of a model, of `torch.optim.AdamW`, of a learning rate scheduler.

use tch::{Kind, Tensor};

use crate::checkpoint::{Value, convert};
use crate::error::Result;
use crate::model::CausalLm;
use crate::optim::adamw::ParamState;
use crate::optim::{AdamWConfig, Schedule};

/// A model's state dict under upstream's names: every trained parameter and, where the embedding of a language model is
/// tied, `lm_head.weight` as well. Tensors keep the parameters' shapes and storage.
pub fn state_dict(model: &CausalLm) -> Vec<(String, Tensor)> {
    let (names, tensors) = model.params().trained();
    let mut dict: Vec<(String, Tensor)> =
        names.iter().cloned().zip(tensors.iter().map(Tensor::shallow_clone)).collect();
    let plain_lm = model.params().adapter().is_none() && model.score().is_none();
    if model.config().tie_word_embeddings && plain_lm {
        dict.push(("lm_head.weight".to_owned(), model.lm_head().shallow_clone()));
    }
    dict
}

pub(in crate::engine) fn tensor_dict(tensors: &[(String, Tensor)]) -> Result<Value> {
    let hosts = convert::borrow_all(tensors.iter().map(|(_, t)| t))?;
    Ok(Value::dict(tensors.iter().map(|(name, _)| name.clone()).zip(hosts.into_iter().map(Value::Tensor))))
}

/// The contents of a weight file in numbers of type `kind`; tied weights stay one storage.
///
/// # Errors
/// A tensor cannot be copied to the host or cast.
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

/// `torch.optim.AdamW`'s `state_dict`.
pub(in crate::engine) fn optimizer_value(
    config: AdamWConfig,
    states: Vec<ParamState>,
    lr: f64,
) -> Result<Value> {
    let AdamWConfig { betas, eps, weight_decay } = config;
    let count = states.len();
    let mut tensors = Vec::new();
    for state in states {
        tensors.extend([Tensor::from(state.step as f32), state.exp_avg, state.exp_avg_sq]);
    }
    let mut hosts = convert::borrow_all(tensors.iter())?.into_iter();
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

/// A `CosineAnnealingLR`'s `state_dict`, with `ratio` times the schedule's rates.
pub(in crate::engine) fn scheduler_value(schedule: &Schedule, ratio: f64, updates: u64) -> Value {
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
