//! The strict check of weights against an architecture: every parameter is there with its shape, and nothing else.
//!
//! Next: `load`, which demands it, and `config_conflicts`, which explains it.

use std::collections::{HashMap, HashSet};

use super::host_tensor::HostTensor;
use super::weights::{EMBEDDING, LM_HEAD};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, params};

/// Positions that a file may ask for: a table of them is made, whatever the file's size.
const MAX_POSITIONS: i64 = 1 << 20;

/// Tables of rotary positions and the like, which older files carry and every model computes.
const DERIVED: [&str; 3] = ["freqs_cos", "freqs_sin", "rotary_emb.inv_freq"];

/// Removes derived tensors and a tied output layer from `tensors`, then demands the architecture's table of parameters
/// exactly.
///
/// # Errors
/// Parameters are missing, misshapen or too many (all are named); a tied output layer differs from the embedding; the
/// config claims more layers, experts or positions than the file can have.
pub(super) fn check_fit(config: &ModelConfig, tensors: &mut HashMap<String, HostTensor>) -> Result<()> {
    tensors.retain(|name, _| !DERIVED.iter().any(|end| name.ends_with(end)));
    let mut faults = Vec::new();
    if config.tie_word_embeddings
        && let (Some(head), Some(embedding)) = (tensors.remove(LM_HEAD), tensors.get(EMBEDDING))
        && !head.is_same(embedding)
        && head.bytes()? != embedding.bytes()?
    {
        faults.push("differs from the embedding, which the architecture ties: lm_head.weight".to_owned());
    }
    check_plausible(config, tensors.len())?;
    let table = params::specs(config);
    for spec in &table {
        match tensors.get(&spec.name).map(HostTensor::shape) {
            None => faults.push(format!("missing: {}", spec.name)),
            Some(shape) if shape != spec.shape => faults.push(format!(
                "misshapen: {} is {shape:?}, the architecture wants {:?}",
                spec.name, spec.shape
            )),
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = table.iter().map(|s| s.name.as_str()).collect();
    let mut extra: Vec<_> = tensors.keys().filter(|name| !known.contains(name.as_str())).collect();
    extra.sort();
    faults.extend(extra.into_iter().map(|name| format!("extra: {name}")));
    if faults.is_empty() {
        return Ok(());
    }
    Err(Error::failed("the weights do not fit the architecture")
        .because(faults.join("\n         "))
        .hint("give the config they were trained with, or take another file"))
}

/// A config may claim a million layers or positions: the claim must not cost more memory than the file has bytes.
fn check_plausible(config: &ModelConfig, tensors: usize) -> Result<()> {
    let experts = config.moe.as_ref().map_or((0, 0), |moe| (moe.num_experts, moe.n_shared_experts));
    for (name, claimed, most) in [
        ("num_hidden_layers", config.num_hidden_layers, tensors as i64),
        ("num_experts", experts.0, tensors as i64),
        ("n_shared_experts", experts.1, tensors as i64),
        ("max_position_embeddings", config.max_position_embeddings, MAX_POSITIONS),
    ] {
        if claimed > most {
            return Err(Error::failed("the weights do not fit the architecture").because(format!(
                "`{name}` is {claimed}, but there are {tensors} tensors and at most {MAX_POSITIONS} positions"
            )));
        }
    }
    Ok(())
}
