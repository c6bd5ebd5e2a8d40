//! Fine-tuning for reasoning: the tokens of think and answer tags weigh more (upstream's `train_reason.py`).
//!
//! `sum(w CE) / count`, where w is `marker_weight` for a labelled marker token and 1 for others, and the count is
//! unweighted. The loss in the metrics is this one; a validation is plain cross-entropy.

use tch::Tensor;

use super::context::{StageResult, StageRun};
use super::session::{Extras, Session};
use super::train::LanguageModelling;
use crate::data::Tokenizer;
use crate::error::{Error, Result};
use crate::plan::ReasonConfig;

/// The tags whose tokens are marked where the recipe names none.
const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

/// Trains and writes weights, metrics and samples.
///
/// # Errors
/// Weights or data that cannot be read or do not fit each other; those of [`Session::train`].
pub fn run(stage: StageRun<'_>, config: &ReasonConfig) -> Result<StageResult> {
    let context = stage.context;
    let session = Session::open(stage, &config.train)?;
    let batches = session.row_batches()?;
    let model = session.model(config.train.dropout)?;
    let ids = match session.tokenizer() {
        Some(tokenizer) if config.marker_token_ids.is_empty() => marker_ids(tokenizer)?,
        _ => config.marker_token_ids.clone(),
    };
    if let Some(odd) = ids.iter().find(|id| **id >= model.config().vocab_size) {
        let have = model.config().vocab_size;
        return Err(Error::input(format!("marker token {odd} is not one of the model's {have} tokens"))
            .hint("give marker_token_ids of this vocabulary"));
    }
    let markers = Tensor::from_slice(&ids).to_device(context.device);
    let mut objective = LanguageModelling::new(batches.train, batches.validation, context.compute);
    objective.markers = Some((markers, config.marker_weight));
    session.train(&model, &mut objective, &batches.prepared, Extras { chat: true, ..Extras::default() })
}

/// Every token that the tags are made of, one by one as upstream takes them.
fn marker_ids(tokenizer: &Tokenizer) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    for tag in TAGS {
        ids.extend(tokenizer.encode(tag)?.into_iter().map(i64::from));
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
