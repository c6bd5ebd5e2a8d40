//! Trains a low-rank adapter on frozen weights (upstream's `train_lora.py`; `model::lora` has the formula).
//!
//! The loss is that of fine-tuning. Only the adapter is trained and saved, under upstream's names; the file notes its
//! scale and the weights it belongs to, so that it can be run, merged and trained on. Next: `merge`.

use serde_json::json;

use super::context::{Context, StageResult, StageRun};
use super::loading;
use super::session::{Extras, Session};
use super::train::LanguageModelling;
use crate::checkpoint::adapter::adapter_file::{self, ADAPTER_KEY};
use crate::error::{Error, Place, Result};
use crate::model::{Adapter, CausalLm};
use crate::plan::{Init, LoraConfig};

/// Trains an adapter and writes it with metrics and samples.
///
/// # Errors
/// Weights, adapter or data that cannot be read or do not fit each other; those of [`Session::train`].
pub fn run(stage: StageRun<'_>, config: &LoraConfig) -> Result<StageResult> {
    let context = stage.context;
    let session = Session::open(stage, &config.train)?;
    let batches = session.row_batches()?;
    let base_dropout = config.train.model.as_ref().map_or(0.0, |m| m.config.dropout);
    let model = session.model(base_dropout)?;
    let adapter = start(context, config, &model)?;
    let base = loading::start_weights(context, &config.train.init)?;
    let mut extras = Extras { chat: true, ..Extras::default() };
    extras.metadata.insert(
        ADAPTER_KEY.to_owned(),
        json!({
            "rank": adapter.rank(),
            "scale": adapter.scale(),
            "base": base.map(|path| loading::relative(context, &path)),
        }),
    );
    let model = model.with_adapter(adapter);
    let mut objective = LanguageModelling::new(batches.train, batches.validation, context.compute);
    session.train(&model, &mut objective, &batches.prepared, extras)
}

/// A fresh adapter, or the one to go on from.
fn start(context: &Context<'_>, config: &LoraConfig, model: &CausalLm) -> Result<Adapter> {
    let dropout = config.train.dropout;
    let scale_of = |rank: i64, own: f64| config.alpha.map_or(own, |alpha| alpha / rank as f64);
    let Some(init) = &config.adapter else {
        let rank = config.rank.unwrap_or(LoraConfig::RANK) as i64;
        let fresh = Adapter::fresh(model.config(), &config.target_modules, rank, context.device)?;
        return Ok(fresh.scaled(scale_of(rank, 1.0), dropout));
    };
    let path = adapter_path(context, init)?;
    let file = adapter_file::read(&path)?;
    let loaded = file.build(model.config(), context.device)?;
    if let Some(rank) = config.rank.filter(|rank| *rank as i64 != loaded.rank()) {
        return Err(Error::input(format!("`rank` is {rank}, the adapter has rank {}", loaded.rank()))
            .at(Place::file(path))
            .hint("leave `rank` out, or train a fresh adapter"));
    }
    let scale = scale_of(loaded.rank(), file.scale);
    Ok(loaded.scaled(scale, dropout))
}

/// The file behind the name of an adapter.
pub(super) fn adapter_path(context: &Context<'_>, init: &Init) -> Result<std::path::PathBuf> {
    loading::start_weights(context, init)?
        .ok_or_else(|| Error::input("this stage has no adapter").hint("name a lora stage or a file"))
}
