//! Adds an adapter to weights in memory: each changed tensor replaces the old one.
//!
//! The result computes what peft's model with the adapter on it computes. Where the adapter changes one of two tied
//! layers, they are tied no longer, as in peft; a bias that the model lacks is made. Formulas: `LoraLayer`,
//! `DoraLinearLayer`, `TrainableTokensLayer` of the peft library.
//!
//! O outputs, I inputs, R rank.

use std::collections::HashMap;

use tch::{Device, Kind, Tensor};

use super::lora::{Adapter, BaseInit, LoraPair, NewRows, to_fp32};
use crate::checkpoint::convert;
use crate::checkpoint::host_tensor::HostTensor;
use crate::checkpoint::weights::{EMBEDDING, LM_HEAD};
use crate::error::{Error, Result};
use crate::model::{ModelConfig, params};

/// The weight `[O, I]` with the pair merged in, as `kind`. Plain LoRA in fp16 is merged as upstream does (both rounded,
/// then added); everything else in fp32, rounded once.
///
/// # Errors
/// Shapes that do not fit each other.
pub fn merged(weight: &Tensor, pair: &LoraPair, kind: Kind) -> Result<Tensor> {
    let delta = pair.delta()?;
    if kind == Kind::Half && pair.start == BaseInit::Same && pair.magnitude.is_none() {
        return Ok(weight.f_to_kind(kind)?.f_add(&delta.f_to_kind(kind)?)?);
    }
    let sum = prepared(weight, pair)?.f_to_kind(Kind::Float)?.f_add(&delta)?;
    let Some(magnitude) = &pair.magnitude else { return Ok(sum.f_to_kind(kind)?) };
    // DoRA: lengths of the rows, of an embedding of the columns.
    let across = if pair.embedding { 0i64 } else { 1 };
    let norm = sum.f_norm_scalaropt_dim(2, across, true)?;
    let magnitude = to_fp32(magnitude)?;
    let wanted = sum.size()[1 - across as usize];
    if magnitude.size() != [wanted] {
        return Err(Error::failed(format!("the magnitudes are {:?}, expected [{wanted}]", magnitude.size())));
    }
    let factor = magnitude.f_view_as(&norm)?.f_div(&norm)?;
    Ok(sum.f_mul(&factor)?.f_to_kind(kind)?)
}

/// The base weight `[O, I]` as its [`BaseInit`] prepares it, in its own type.
fn prepared(weight: &Tensor, pair: &LoraPair) -> Result<Tensor> {
    let rank = pair.rank();
    let whole = weight.f_to_kind(Kind::Float)?;
    let part = match pair.start {
        BaseInit::Same => return Ok(whole),
        BaseInit::Pissa => {
            let (u, s, v) = whole.f_svd(true, true)?;
            let rank = rank.min(s.size()[0]);
            let u = u.f_narrow(1, 0, rank)?.f_mul(&s.f_narrow(0, 0, rank)?)?;
            u.f_matmul(&v.f_narrow(1, 0, rank)?.f_transpose(0, 1)?)?
        }
        BaseInit::Olora => {
            let (q, r) = Tensor::f_linalg_qr(&whole, "reduced")?;
            let rank = rank.min(r.size()[0]);
            q.f_narrow(1, 0, rank)?.f_matmul(&r.f_narrow(0, 0, rank)?)?.f_mul_scalar(pair.scale)?
        }
    };
    // peft keeps the rest in the model's own type.
    Ok(whole.f_sub(&part)?.f_to_kind(weight.kind())?)
}

/// Adds an adapter to the weights of a model, whose tied output layer is not among `tensors`. Returns the architecture
/// afterwards (untied layers, new biases) and the number of modules that changed.
///
/// # Errors
/// The adapter does not fit; every module that does not is named.
pub fn apply(
    adapter: &Adapter,
    config: &ModelConfig,
    tensors: &mut HashMap<String, HostTensor>,
    kind: Kind,
) -> Result<(ModelConfig, usize)> {
    let mut config = config.clone();
    for whole in adapter.whole.iter().filter(|whole| !whole.own) {
        let name =
            if config.tie_word_embeddings && whole.name == LM_HEAD { EMBEDDING } else { whole.name.as_str() };
        add_missing_bias(&mut config, tensors, name, kind)?;
        replace(tensors, name, &whole.tensor)?;
    }
    let adapter = untie(adapter, &mut config, tensors)?;
    for (module, pair) in &adapter.pairs {
        if pair.bias.is_some() {
            add_missing_bias(&mut config, tensors, &format!("{module}.bias"), kind)?;
        }
    }
    check_shapes(&adapter, &|name| tensors.get(name).map(HostTensor::shape))?;
    for whole in adapter.whole.iter().filter(|whole| whole.own) {
        replace(tensors, &whole.name, &whole.tensor)?;
    }
    let get = |tensors: &HashMap<String, HostTensor>, name: &str| {
        let tensor =
            tensors.get(name).ok_or_else(|| Error::failed(format!("the weights hold no `{name}`")))?;
        convert::to_tensor(tensor)
    };
    for rows in &adapter.rows {
        let new = with_rows(&get(tensors, &rows.name)?, rows)?;
        tensors.insert(rows.name.clone(), convert::to_host(&new)?);
    }
    for (module, pair) in &adapter.pairs {
        let name = format!("{module}.weight");
        let new = merged(&get(tensors, &name)?, pair, kind)?;
        tensors.insert(name, convert::to_host(&new)?);
        if let Some(bias) = &pair.bias {
            let name = format!("{module}.bias");
            let new = get(tensors, &name)?.f_to_kind(Kind::Float)?.f_add(&(to_fp32(bias)? * pair.scale))?;
            tensors.insert(name, convert::to_host(&new.f_to_kind(kind)?)?);
        }
    }
    let mut changed: Vec<&str> = adapter.pairs.iter().map(|(module, _)| module.as_str()).collect();
    let module = |name: &'_ str| name.rsplit_once('.').map_or(0, |(module, _)| module.len());
    changed.extend(adapter.whole.iter().map(|whole| &whole.name[..module(&whole.name)]));
    changed.extend(adapter.rows.iter().map(|rows| &rows.name[..module(&rows.name)]));
    changed.sort_unstable();
    changed.dedup();
    Ok((config, changed.len()))
}

/// Unties the output layer where the adapter changes one of the tied two, and drops the parts that peft ties again.
fn untie(
    adapter: &Adapter,
    config: &mut ModelConfig,
    tensors: &mut HashMap<String, HostTensor>,
) -> Result<Adapter> {
    let mut adapter = adapter.clone();
    if !config.tie_word_embeddings {
        return Ok(adapter);
    }
    let of = |adapter: &Adapter, weight: &str| -> [bool; 3] {
        let module = weight.trim_end_matches(".weight");
        [
            adapter.pairs.iter().any(|(name, _)| name == module),
            adapter.whole.iter().any(|whole| whole.own && whole.name == weight),
            adapter.rows.iter().any(|rows| rows.name == weight),
        ]
    };
    let (embedding, head) = (of(&adapter, EMBEDDING), of(&adapter, LM_HEAD));
    if [embedding, head].concat().iter().all(|changed| !changed) {
        return Ok(adapter);
    }
    if head[0] && adapter.pairs.iter().any(|(name, pair)| name == "lm_head" && pair.start != BaseInit::Same) {
        return Err(Error::failed(
            "`init_lora_weights` of this adapter begins with a part of the output layer",
        )
        .because("that layer is tied to the embedding, which peft changes with it"));
    }
    // New rows of the embedding are the output layer's too, unless that has others of its own.
    let rows_tied = embedding == [false, false, true] && head == [false; 3];
    let same_rows = embedding[2] && head[2] && {
        let of = |name: &str| adapter.rows.iter().find(|rows| rows.name == name).map(|rows| &rows.indices);
        of(EMBEDDING) == of(LM_HEAD)
    };
    if rows_tied || (same_rows && embedding == head) || (adapter.keep_tie && embedding.contains(&true)) {
        adapter.pairs.retain(|(name, _)| name != "lm_head");
        adapter.whole.retain(|whole| whole.name != LM_HEAD);
        adapter.rows.retain(|rows| rows.name != LM_HEAD);
        return Ok(adapter);
    }
    if adapter.keep_tie {
        return Err(Error::failed(
            "`ensure_weight_tying` of this adapter ties the output layer to the embedding",
        )
        .because("the weights hold a change of the output layer alone"));
    }
    config.tie_word_embeddings = false;
    let shared = tensors.get(EMBEDDING).cloned();
    tensors.insert(LM_HEAD.to_owned(), shared.ok_or_else(|| Error::failed("the weights hold no embedding"))?);
    Ok(adapter)
}

/// Adds zero biases, and the flag in the config, where the model lacks the bias `name`.
fn add_missing_bias(
    config: &mut ModelConfig,
    tensors: &mut HashMap<String, HostTensor>,
    name: &str,
    kind: Kind,
) -> Result<()> {
    if !name.ends_with(".bias") || tensors.contains_key(name) {
        return Ok(());
    }
    let mut with = config.clone();
    match name.trim_end_matches(".bias").rsplit('.').next().unwrap_or_default() {
        "q_proj" | "k_proj" | "v_proj" => with.qkv_bias = true,
        "o_proj" => with.o_bias = true,
        "gate_proj" | "up_proj" | "down_proj" => with.mlp_bias = true,
        _ => return Ok(()),
    }
    let before: Vec<String> = params::specs(config).into_iter().map(|spec| spec.name).collect();
    for spec in params::specs(&with) {
        if !before.contains(&spec.name) {
            let zeros = Tensor::f_zeros(&spec.shape, (kind, Device::Cpu))?;
            tensors.insert(spec.name, convert::to_host(&zeros)?);
        }
    }
    *config = with;
    Ok(())
}

fn replace(tensors: &mut HashMap<String, HostTensor>, name: &str, new: &HostTensor) -> Result<()> {
    let fault = match tensors.get(name).map(HostTensor::shape) {
        Some(shape) if shape == new.shape() => {
            tensors.insert(name.to_owned(), new.clone());
            return Ok(());
        }
        Some(shape) => format!("{name} is {shape:?}, the adapter has {:?}", new.shape()),
        None => format!("no such weight: {name}"),
    };
    Err(misfit(&[fault]))
}

fn with_rows(weight: &Tensor, rows: &NewRows) -> Result<Tensor> {
    let (all, new) = (weight.size(), rows.rows.shape());
    let inside = |id: &i64| (0..all[0]).contains(id);
    if new != [rows.indices.len() as i64, all[1]] || !rows.indices.iter().all(inside) {
        return Err(misfit(&[format!(
            "{} is {all:?}, the adapter has new rows {new:?} for {:?}",
            rows.name, rows.indices
        )]));
    }
    let new = convert::to_tensor(&rows.rows)?.f_to_kind(weight.kind())?;
    Ok(weight.f_index_copy(0, &Tensor::from_slice(&rows.indices), &new)?)
}

fn misfit(faults: &[String]) -> Error {
    Error::input("the adapter does not fit these weights")
        .because(faults.join("\n         "))
        .hint("take the model it was trained on")
}

/// Demands that every adapted module exists with the right shape; all that do not fit are named.
fn check_shapes(adapter: &Adapter, shape: &dyn Fn(&str) -> Option<Vec<i64>>) -> Result<()> {
    let mut faults = Vec::new();
    let mut check = |what: &str, name: &str, module: &str, want: Vec<i64>| match shape(name) {
        None => faults.push(format!("no such {what}: {module}")),
        Some(shape) if shape != want => {
            faults.push(format!("{module} is {shape:?}, the adapter is for {want:?}"));
        }
        Some(_) => {}
    };
    for (module, pair) in &adapter.pairs {
        let what = if pair.embedding { "embedding" } else { "Linear" };
        check(what, &format!("{module}.weight"), module, vec![pair.b.shape()[0], pair.a.shape()[1]]);
        if let Some(bias) = &pair.bias {
            check("bias", &format!("{module}.bias"), module, bias.shape());
        }
    }
    for whole in adapter.whole.iter().filter(|whole| whole.own) {
        check("weight", &whole.name, &whole.name, whole.tensor.shape());
    }
    for rows in &adapter.rows {
        if shape(&rows.name).is_none() {
            faults.push(format!("no such weight: {}", rows.name));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(misfit(&faults)) }
}
