//! Merges an adapter into the weights it was trained on.
//!
//! As upstream does it: the weights and `scale B A` are rounded to half precision each and added in it. The file notes
//! which adapters are in it, so that none is added twice.

use serde_json::{Value, json};
use tch::Kind;

use super::context::{Context, StageResult};
use super::loading;
use super::loop_config::save_kind;
use super::lora::adapter_path;
use super::metadata;
use crate::checkpoint::adapter::detect::is_adapter;
use crate::checkpoint::adapter::merge::{MERGED, record, refuse_twice};
use crate::checkpoint::adapter::{Adapter, adapter_file};
use crate::checkpoint::{METADATA, WeightFile, eos, pth, read_weights};
use crate::data::tokenizer::eos_token_ids;
use crate::engine::resume::weights_value;
use crate::error::{Error, Place, Result};
use crate::plan::MergeConfig;

/// Merges and writes `<stage>_<hidden>[_moe].pth`.
///
/// # Errors
/// Weights or adapter that cannot be read or do not fit each other; an adapter that is merged already.
pub fn run(context: &Context<'_>, name: &str, config: &MergeConfig) -> Result<StageResult> {
    let path = adapter_path(context, &config.adapter)?;
    let file = adapter_file::read(&path)?;
    let base = match &config.init {
        Some(init) => loading::start_weights(context, init)?,
        None => file.base.clone(),
    };
    let base = base.ok_or_else(|| {
        Error::input("the adapter does not name the weights it belongs to")
            .at(Place::file(&path))
            .hint("give `init`: the weights it was trained on")
    })?;
    let pairs = Adapter::read(&path)?;
    let fingerprint = pairs.fingerprint()?;
    let weights = read_weights(&base)?;
    refuse_twice(&base, &path, weights.metadata.as_ref(), &fingerprint)?;
    // An adapter's own file stands for its base with it merged in.
    if is_adapter(&weights.tensors) && Adapter::read(&base)?.fingerprint()? == fingerprint {
        return Err(Error::input("this adapter is in these weights already")
            .at(Place::file(&base))
            .hint("merge into the weights that the adapter was trained on"));
    }
    let merged = record(weights.metadata.as_ref(), &path, &pairs, &fingerprint);
    drop(weights);
    let model = loading::load(&base, config.model.as_ref(), context.device)?;
    let scale = config.scale.unwrap_or(file.scale);
    let adapter = file.build(model.config(), context.device)?.scaled(scale, 0.0);
    let kind = save_kind(config.save_dtype);
    adapter.merge_into(model.params(), kind)?;
    let mut about = metadata::of_model(context, name, config.tokenizer.as_ref(), &model);
    about.insert(MERGED.to_owned(), merged);
    let tokenizer = loading::tokenizer(context, config.tokenizer.as_ref())?;
    let marks = eos_token_ids(tokenizer.as_ref(), &eos::token_ids(&base)?);
    about.insert(eos::KEY.to_owned(), eos::to_json(&marks));
    let about = Value::Object(about).to_string();
    let output = WeightFile::new(name, model.config()).weights();
    let value = weights_value(&model, kind)?;
    pth::write(&context.plan.output.join(&output), &value, &[(METADATA, about.as_bytes())])?;
    let half = if kind == Kind::Float { "full" } else { "half" };
    Ok(StageResult {
        outputs: vec![output],
        summary: json!({
            "metrics": {"adapted_layers": adapter.names().len() / 2, "rank": adapter.rank(), "scale": scale},
            "notes": [format!("added in {half} precision")],
        }),
        ..StageResult::default()
    })
}
