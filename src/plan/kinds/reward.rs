//! `reward` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TrainConfig;
use crate::plan::changes::Kinds;
use crate::plan::resolve::Resolver;
use crate::plan::types::StageConfig;
use crate::recipe::Section;

/// Trains a reward model: a score head on the trunk, by Bradley-Terry.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct RewardConfig {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// Weight of a term that keeps scores around zero.
    #[schemars(range(min = 0), extend("default" = 0.0))]
    pub center_rewards_coefficient: f64,
}

impl RewardConfig {
    /// A change of any other setting changes the result.
    pub const KINDS: Kinds = &[];
}

impl Resolver<'_> {
    pub(in crate::plan) fn reward(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let train = self.train(s)?;
        if !train.samples.is_empty() {
            self.fault(&s.at("samples"), "a reward model does not speak", "remove `samples`");
        }
        let config: RewardConfig = self.read(s, &[("dropout".to_owned(), train.dropout.into())])?;
        Some(StageConfig::Reward(RewardConfig { train, ..config }))
    }
}
