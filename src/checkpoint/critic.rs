//! From a file to a model with a value head: upstream's critic, or any language model with a fresh head.
//!
//! Next: `load`, which reads the trunk.

use std::path::Path;

use tch::{Device, Kind};

use super::adapter::file::is_adapter;
use super::load::{self, LoadedModel};
use super::{bridge, value::HostTensor};
use crate::error::{Error, Place, Result};
use crate::model::value_head::{VALUE_BIAS, VALUE_WEIGHT, ValueModel};
use crate::model::{CausalLm, ModelConfig};

/// Builds the critic that `path` holds; without a head in the file a fresh one is drawn. `given` wins over what
/// the file says of itself. Also gives what had to be assumed, for the user.
pub fn load_critic(
    path: &Path,
    given: Option<&ModelConfig>,
    device: Device,
) -> Result<(ValueModel, Vec<String>)> {
    let mut weights = load::read_weights(path)?;
    let head = (weights.tensors.remove(VALUE_WEIGHT), weights.tensors.remove(VALUE_BIAS));
    // A policy that starts from an adapter has its critic on the same weights.
    let LoadedModel { model, mut notes, .. } = if is_adapter(&weights.tensors) {
        load::load_model(path, given, device, Kind::Float)?
    } else {
        load::model_from(weights, path, given, device, Kind::Float)?
    };
    let critic = match head {
        (Some(weight), Some(bias)) => {
            let d = model.config().hidden_size;
            let weight = tensor(&weight, VALUE_WEIGHT, &[1, d], &model, path)?;
            let bias = tensor(&bias, VALUE_BIAS, &[1], &model, path)?;
            ValueModel::new(model, weight, bias)
        }
        (None, None) => {
            notes.push("no value head in the file: a fresh one is drawn".to_owned());
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

fn tensor(host: &HostTensor, name: &str, want: &[i64], model: &CausalLm, path: &Path) -> Result<tch::Tensor> {
    if host.shape() != want {
        let got = host.shape();
        return Err(Error::failed(format!("`{name}` has shape {got:?}, the critic wants {want:?}"))
            .at(Place::file(path)));
    }
    Ok(bridge::to_tensor(host)?.to_kind(Kind::Float).f_to_device(model.device())?.copy())
}
