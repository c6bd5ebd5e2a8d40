//! What adapters, teachers and references change about a cost.

use super::{Estimator, Parameters, parameters};
use crate::model::{ModelConfig, lora};
use crate::plan::types::*;

/// The model's parameters and those that the stage changes: all, or the adapter's.
pub(super) fn trained(config: &StageConfig, model: &ModelConfig) -> Parameters {
    let all = parameters(model);
    let StageConfig::Lora(c) = config else { return all };
    let rank = c.rank.unwrap_or(LoraConfig::RANK) as u64;
    // Wide models overflow nothing here: `layers` walks the table of parameters, so their number is bounded first.
    if model.num_hidden_layers > 10_000 {
        return all;
    }
    let layers = lora::layers(model, &c.target_modules).unwrap_or_default();
    let own = layers.iter().map(|(_, o, i)| (*o as u64).saturating_add(*i as u64).saturating_mul(rank));
    let own: u64 = own.fold(0, u64::saturating_add).min(1 << 56);
    Parameters { total: all.total.saturating_add(own), trained: own, active: all.active.saturating_add(own) }
}

/// The second model that stands beside the one that learns.
pub(super) fn other_model(
    config: &StageConfig,
    own: Option<&ModelConfig>,
    estimator: &Estimator,
) -> Option<ModelConfig> {
    match config {
        StageConfig::Distill(c) => estimator
            .architecture(c.teacher_model.as_ref(), c.train.tokenizer.as_ref())
            .or_else(|| own.cloned()),
        StageConfig::Dpo(c) if c.reference != Reference::Free => own.cloned(),
        _ => None,
    }
}
