//! `reason` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrainConfig;
use crate::plan::changes::Kinds;
use crate::plan::resolve::Resolver;
use crate::plan::types::StageConfig;
use crate::recipe::Section;

/// Fine-tuning that weighs the tokens of think and answer tags more.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct ReasonConfig {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// Tokens that weigh more (those of <think>, </think>, <answer>, </answer> in the tokenizer).
    #[schemars(inner(range(min = 0)), extend("default" = []))]
    pub marker_token_ids: Vec<i64>,
    /// How much they weigh.
    #[schemars(extend("default" = 10.0, "exclusiveMinimum" = 0))]
    pub marker_weight: f64,
}

impl ReasonConfig {
    /// A change of any other setting changes the result.
    pub const KINDS: Kinds = &[];
}

impl Resolver<'_> {
    pub(in crate::plan) fn reason(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let train = self.train(s)?;
        let config: ReasonConfig = self.read(s, &[("dropout".to_owned(), train.dropout.into())])?;
        if config.marker_token_ids.is_empty() && train.tokenizer.is_none() {
            self.missing(
                &s.path,
                "marker_token_ids",
                "without a tokenizer the marked tokens are not known",
                "give marker_token_ids, or a tokenizer",
            );
        }
        Some(StageConfig::Reason(ReasonConfig { train, ..config }))
    }
}
