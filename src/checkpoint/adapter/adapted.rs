//! A model with an adapter on it, of any kind we read, made when it is opened: no file is written.
//!
//! The adapter is added to the weights (`W + scale * B A`), so that the model is as fast as without it.

use std::path::Path;

use tch::{Device, Kind};

use super::{Adapter, merge};
use crate::checkpoint::load::{self, LoadedModel};
use crate::error::{Place, Result};
use crate::model::ModelConfig;

/// The model at `path` with the adapter at `adapter` in it.
///
/// # Errors
/// One of them cannot be read, the adapter does not fit, or it is in these weights already.
pub fn load(
    path: &Path,
    adapter: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    let pairs = Adapter::read(adapter)?;
    let weights = load::read_weights(path)?;
    merge::refuse_twice(path, adapter, weights.metadata.as_ref(), &pairs.fingerprint()?)?;
    let mut loaded = load::load_read(weights, path, given, device, kind, 0)?;
    let params = loaded.model.params();
    let places = params.names().iter().zip(params.tensors());
    let weight = |name: &str| places.clone().find(|(own, _)| *own == name).map(|(_, tensor)| tensor);
    merge::fit(&pairs, &|name| weight(name).map(|t| t.size())).map_err(|e| e.at(Place::file(adapter)))?;
    for (module, pair) in &pairs.pairs {
        let Some(weight) = weight(&format!("{module}.weight")) else { continue };
        let new = merge::merged(&weight.f_to_device(Device::Cpu)?, pair, kind)?;
        tch::no_grad(|| weight.shallow_clone().f_copy_(&new))?;
    }
    loaded.notes.push(format!("with the adapter {}", adapter.display()));
    Ok(loaded)
}
