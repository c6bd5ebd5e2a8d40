//! Settings of the stages after fine-tuning: adapters, marked tokens, teachers, preferences.

use serde::Serialize;

use super::{Init, Kinds, ModelPlan, SaveDtype, SettingKind, TokenizerSource, TrainConfig};
use crate::loss::dpo::{PairLoss, Reduction};

/// Trains an adapter beside frozen weights.
#[derive(Debug, Clone, Serialize)]
pub struct LoraConfig {
    /// What every training stage has; `dropout` is that of what goes into the adapter.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// Rank; `None`: that of `adapter`, else [`LoraConfig::RANK`].
    pub rank: Option<usize>,
    /// The adapter's output is multiplied by alpha / rank; `None`: by 1.
    pub alpha: Option<f64>,
    /// Which layers; empty: those with as many outputs as inputs.
    pub target_modules: Vec<String>,
    /// An adapter to go on from.
    pub adapter: Option<Init>,
}

impl LoraConfig {
    /// Upstream's rank (minimind3).
    pub const RANK: usize = 16;
    /// What a change of each field means.
    pub const KINDS: Kinds =
        &[(SettingKind::Place, "adapter"), (SettingKind::Result, "rank alpha target_modules")];
}

/// Adds an adapter to weights.
#[derive(Debug, Clone, Serialize)]
pub struct MergeConfig {
    /// The weights; `None`: those that the adapter's file names.
    pub init: Option<Init>,
    /// The architecture, for files that do not state theirs.
    pub model: Option<ModelPlan>,
    /// Noted in the file.
    pub tokenizer: Option<TokenizerSource>,
    /// The adapter.
    pub adapter: Init,
    /// What the adapter's output is multiplied by; `None`: what its file states, else 1.
    pub scale: Option<f64>,
    /// Type in which the two are added and saved.
    pub save_dtype: SaveDtype,
}

impl MergeConfig {
    /// What a change of each field means.
    pub const KINDS: Kinds =
        &[(SettingKind::Place, "init tokenizer adapter"), (SettingKind::Result, "model scale save_dtype")];
}

/// Fine-tuning with marked tokens.
#[derive(Debug, Clone, Serialize)]
pub struct ReasonConfig {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// Tokens that weigh more; empty: those of the think and answer tags in the tokenizer.
    pub marker_token_ids: Vec<i64>,
    /// How much they weigh.
    pub marker_weight: f64,
}

impl ReasonConfig {
    /// What a change of each field means.
    pub const KINDS: Kinds = &[(SettingKind::Result, "marker_token_ids marker_weight")];
}

/// Learns from a teacher.
#[derive(Debug, Clone, Serialize)]
pub struct DistillStage {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// The teacher's weights.
    pub teacher: Init,
    /// Its architecture, for files that do not state theirs.
    pub teacher_model: Option<ModelPlan>,
    /// Share of the cross-entropy.
    pub alpha: f64,
    /// Temperature of both distributions.
    pub temperature: f64,
}

impl DistillStage {
    /// What a change of each field means.
    pub const KINDS: Kinds =
        &[(SettingKind::Place, "teacher"), (SettingKind::Result, "teacher_model alpha temperature")];
}

/// What the policy is held against.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reference {
    /// The weights it starts from.
    Start,
    /// Nothing.
    Free,
    /// Other weights.
    Weights(Init),
}

/// Direct preference optimisation.
#[derive(Debug, Clone, Serialize)]
pub struct DpoStage {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// What the policy is held against.
    pub reference: Reference,
    /// How strongly.
    pub beta: f64,
    /// Chance that a label is the wrong way round.
    pub label_smoothing: f64,
    /// Which loss.
    pub loss_type: PairLoss,
    /// How a row's log-probabilities become one number.
    pub logprob_reduction: Reduction,
}

impl DpoStage {
    /// What a change of each field means.
    pub const KINDS: Kinds = &[
        (SettingKind::Place, "reference.weights"),
        (SettingKind::Result, "reference beta label_smoothing loss_type logprob_reduction"),
    ];
}

/// Trains a reward model.
#[derive(Debug, Clone, Serialize)]
pub struct RewardConfig {
    /// What every training stage has.
    #[serde(flatten)]
    pub train: TrainConfig,
    /// Weight of a term that keeps scores around zero.
    pub center_rewards_coefficient: f64,
}

impl RewardConfig {
    /// What a change of each field means.
    pub const KINDS: Kinds = &[(SettingKind::Result, "center_rewards_coefficient")];
}
