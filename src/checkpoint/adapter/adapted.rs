//! A model with an adapter on it, of any kind we read, made when it is opened: no file is written.
//!
//! The adapter is added to the weights (`apply`), so that the model is as fast as without it.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind};

use super::apply::apply;
use super::file::is_adapter;
use super::{Adapter, merge};
use crate::checkpoint::bridge;
use crate::checkpoint::load::{self, LoadedModel, Weights};
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
    let read = Adapter::read(adapter)?;
    let mut weights = load::read_weights(path)?;
    merge::refuse_twice(path, adapter, weights.metadata.as_ref(), &read.fingerprint()?)?;
    let (config, from, mut notes);
    if is_adapter(&weights.tensors) {
        // An adapter's own file stands for its base with it in.
        let below = load::load_read(weights, path, given, Device::Cpu, kind, 0)?;
        let params = below.model.params();
        let hosts = bridge::borrow_all(params.tensors().iter())?;
        let tensors: HashMap<_, _> = params.names().iter().cloned().zip(hosts).collect();
        (config, from, notes) = (below.model.config().clone(), below.architecture_from, below.notes);
        weights = Weights { tensors, metadata: None, under: None };
    } else {
        load::refuse_reward(&weights, path)?;
        load::name_embedding(&mut weights);
        (config, from, notes) = match given {
            Some(config) => (config.clone(), "the given config".to_owned(), Vec::new()),
            None => load::architecture(path, &weights)?,
        };
        load::check(&config, &mut weights.tensors).map_err(|e| e.at(Place::file(path)))?;
    }
    let (config, _) =
        apply(&read, &config, &mut weights.tensors, kind).map_err(|e| e.at(Place::file(adapter)))?;
    let mut loaded = load::model_from(weights, path, Some(&config), device, kind)?;
    notes.push(format!("with the adapter {}", adapter.display()));
    (loaded.architecture_from, loaded.notes) = (from, notes);
    Ok(loaded)
}
