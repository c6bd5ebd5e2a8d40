//! Loads a model with an adapter of any form merged into its weights in memory; no file is written.
//!
//! The result is as fast as the model without the adapter. Next: `apply`.

use std::collections::HashMap;
use std::path::Path;

use tch::{Device, Kind};

use super::apply::apply;
use super::detect::is_adapter;
use super::lora::Adapter;
use super::merge;
use crate::checkpoint::architecture::Architecture;
use crate::checkpoint::convert;
use crate::checkpoint::load::{self, LoadedModel};
use crate::checkpoint::read::read_weights;
use crate::checkpoint::strict_check::check_fit;
use crate::checkpoint::weights::Weights;
use crate::error::{Place, Result};
use crate::model::ModelConfig;

/// The model at `path` with the adapter at `adapter` merged in, on `device` in the type `kind`.
///
/// # Errors
/// One of them cannot be read, the adapter does not fit, or it is in these weights already.
pub fn load_with_adapter(
    path: &Path,
    adapter: &Path,
    given: Option<&ModelConfig>,
    device: Device,
    kind: Kind,
) -> Result<LoadedModel> {
    let read = Adapter::read(adapter)?;
    let mut weights = read_weights(path)?;
    merge::refuse_twice(path, adapter, weights.metadata.as_ref(), &read.fingerprint()?)?;
    let (config, from, mut notes);
    if is_adapter(&weights.tensors) {
        // An adapter's file means its base with the adapter merged in.
        let below = load::load_weights(weights, path, given, Device::Cpu, kind)?;
        let params = below.model.params();
        let hosts = convert::borrow_all(params.tensors().iter())?;
        let tensors: HashMap<_, _> = params.names().iter().cloned().zip(hosts).collect();
        (config, from, notes) = (below.model.config().clone(), below.architecture_from, below.notes);
        weights = Weights { tensors, metadata: None, state_dict_key: None };
    } else {
        load::refuse_reward_model(&weights, path)?;
        weights.fill_tied_embedding();
        let found = Architecture::given_or_of(given, path, &weights)?;
        (config, from, notes) = (found.config, found.source, found.notes);
        check_fit(&config, &mut weights.tensors).map_err(|e| e.at(Place::file(path)))?;
    }
    let (config, _) =
        apply(&read, &config, &mut weights.tensors, kind).map_err(|e| e.at(Place::file(adapter)))?;
    let mut loaded = load::model_from(weights, path, Some(&config), device, kind)?;
    notes.push(format!("with the adapter {}", adapter.display()));
    (loaded.architecture_from, loaded.notes) = (from, notes);
    Ok(loaded)
}
