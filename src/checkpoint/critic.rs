//! Loads PPO's critic: a language model with a value head, from upstream's critic file, or with a fresh head from any
//! language model.
//!
//! Next: `load`, which builds the trunk.
//!
//! D hidden.

use std::path::Path;

use tch::{Device, Kind};

use super::adapter::detect::is_adapter;
use super::convert;
use super::host_tensor::HostTensor;
use super::load::{self, LoadedModel};
use super::read::read_weights;
use crate::error::{Error, Place, Result};
use crate::model::value_head::{VALUE_BIAS, VALUE_WEIGHT, ValueModel};
use crate::model::{CausalLm, ModelConfig};

/// Builds the critic that `path` holds, in fp32 on `device`; without a value head (`[1, D]` and bias `[1]`) in the file a
/// fresh one is initialised. `given` wins over what the file states of its architecture. Also returns notes for the user.
///
/// # Errors
/// As `load_model`; the file has half of a value head, or one of another shape.
pub fn load_critic(
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
) -> Result<(ValueModel, Vec<String>)> {
    let mut weights = read_weights(path)?;
    let head = (weights.tensors.remove(VALUE_WEIGHT), weights.tensors.remove(VALUE_BIAS));
    // A policy that starts from an adapter has its critic on the same weights.
    let LoadedModel { model, mut notes, .. } = if is_adapter(&weights.tensors) {
        load::load_weights(weights, path, given, device, Kind::Float)?
    } else {
        load::model_from(weights, path, given, device, Kind::Float)?
    };
    let critic = match head {
        (Some(weight), Some(bias)) => {
            let d = model.config().hidden_size;
            let weight = head_tensor(&weight, VALUE_WEIGHT, &[1, d], &model, path)?;
            let bias = head_tensor(&bias, VALUE_BIAS, &[1], &model, path)?;
            ValueModel::new(model, weight, bias)
        }
        (None, None) => {
            notes.push("no value head in the file: a fresh one is initialised".to_owned());
            ValueModel::fresh(model)?
        }
        _ => {
            return Err(Error::failed(format!(
                "a critic has `{VALUE_WEIGHT}` and `{VALUE_BIAS}`, this file has one"
            ))
            .at(Place::file(path)));
        }
    };
    Ok((critic, notes))
}

fn head_tensor(
    host: &HostTensor,
    name: &str,
    want: &[i64],
    model: &CausalLm,
    path: &Path,
) -> Result<tch::Tensor> {
    if host.shape() != want {
        let got = host.shape();
        return Err(Error::failed(format!("`{name}` has shape {got:?}, the critic wants {want:?}"))
            .at(Place::file(path)));
    }
    Ok(convert::to_tensor(host)?.to_kind(Kind::Float).f_to_device(model.device())?.copy())
}
