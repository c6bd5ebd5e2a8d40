//! The plan: a recipe with every default filled and every name resolved. Plain values, no `Option`
//! for what is required. `plan::resolve` builds it; stages read nothing else.

use std::path::PathBuf;

use schemars::SchemaGenerator;
use serde::Serialize;
use serde_json::{Map, Value};

pub use crate::data::config::*;
pub use crate::engine::OnAnomaly;
pub use crate::engine::device::Wanted;
use crate::error::Place;
use crate::model::{ModelConfig, ModelOverrides};
pub use crate::optim::ScheduleKind;
use crate::recipe::Section;

pub use super::kinds::*;
use super::resolve::Resolver;
pub use super::runtime::{Precision, Runtime};

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The recipe's name.
    pub name: String,
    /// The recipe file as the user named it.
    pub recipe: PathBuf,
    /// The recipe's text with `--set` applied: what `<output>/recipe.yaml` holds.
    #[serde(skip)]
    pub recipe_text: String,
    /// Seed of every random choice.
    pub seed: u64,
    /// The run's folder.
    pub output: PathBuf,
    /// Device, precision, threads.
    pub runtime: Runtime,
    /// Stages in order.
    pub stages: Vec<StagePlan>,
}

/// One stage.
#[derive(Debug, Clone, Serialize)]
pub struct StagePlan {
    /// Unique name; defaults to the kind.
    pub name: String,
    /// Where the stage stands in the recipe.
    #[serde(skip)]
    pub place: Option<Place>,
    /// What to do.
    pub config: StageConfig,
}

/// Each kind of stage once: its name in recipes, its settings in the plan, the struct of its keys in recipes, and the method
/// that resolves them.
macro_rules! stage_kinds {
    ($($(#[$doc:meta])* $name:literal => $variant:ident($config:ty), keys $keys:ty, by $resolve:path;)*) => {
        /// What a stage does, with its settings.
        #[derive(Debug, Clone, Serialize)]
        #[serde(rename_all = "lowercase")]
        pub enum StageConfig {
            $($(#[$doc])* $variant($config),)*
        }

        /// The kinds of stages, as recipes name them.
        pub const KINDS: [&str; [$($name),*].len()] = [$($name),*];

        impl StageConfig {
            /// The kind's name in recipes.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(StageConfig::$variant(_) => $name,)*
                }
            }
        }

        /// The schema of each kind's keys.
        pub(super) fn kind_schemas(generator: &mut SchemaGenerator) -> Map<String, Value> {
            [$(($name.to_owned(), generator.subschema_for::<$keys>().into())),*].into_iter().collect()
        }

        impl Resolver<'_> {
            /// The settings of the stage at `s`, whose last step is its kind; `None` where a fault was found.
            pub(super) fn stage(&mut self, s: &Section<'_>) -> Option<StageConfig> {
                match s.key() {
                    $($name => $resolve(self, s),)*
                    _ => None, // the schema knows no other: a fault already
                }
            }
        }
    };
}

stage_kinds! {
    /// Trains a byte-level BPE tokenizer.
    "tokenizer" => Tokenizer(TokenizerConfig), keys TokenizerConfig, by Resolver::tokenizer;
    /// Next-token training on plain text.
    "pretrain" => Pretrain(TrainConfig), keys TrainConfig, by Resolver::pretrain;
    /// Supervised fine-tuning on conversations.
    "sft" => Sft(TrainConfig), keys TrainConfig, by Resolver::sft;
    /// Trains an adapter.
    "lora" => Lora(LoraConfig), keys LoraConfig, by Resolver::lora;
    /// Adds an adapter to weights.
    "merge" => Merge(MergeConfig), keys MergeConfig, by Resolver::merge;
    /// Fine-tuning with marked tokens.
    "reason" => Reason(ReasonConfig), keys ReasonConfig, by Resolver::reason;
    /// Learns from a teacher.
    "distill" => Distill(DistillStage), keys DistillStage, by Resolver::distill;
    /// Direct preference optimisation.
    "dpo" => Dpo(DpoStage), keys DpoStage, by Resolver::dpo;
    /// Trains a reward model.
    "reward" => Reward(RewardConfig), keys RewardConfig, by Resolver::reward;
    /// Proximal policy optimisation.
    "ppo" => Ppo(Box<PolicyConfig>), keys PpoKeys, by Resolver::ppo;
    /// Group-relative policy optimisation.
    "grpo" => Grpo(Box<PolicyConfig>), keys GrpoKeys, by Resolver::grpo;
    /// Single-stream policy optimisation.
    "spo" => Spo(Box<PolicyConfig>), keys SpoKeys, by Resolver::spo;
    /// Tool use over several turns.
    "agent" => Agent(Box<PolicyConfig>), keys AgentKeys, by Resolver::agent;
    /// Measures a model.
    "eval" => Eval(EvalConfig), keys EvalConfig, by Resolver::eval;
    /// Writes a model for other tools.
    "export" => Export(ExportConfig), keys ExportConfig, by Resolver::export;
}

/// Where a tokenizer comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenizerSource {
    /// A tokenizer stage of this recipe: `<output>/<stage>/tokenizer.json`.
    Stage(String),
    /// A folder with `tokenizer.json` (and `tokenizer_config.json`).
    Folder(PathBuf),
}

/// Where start weights come from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Fresh weights from the recipe's `model`.
    #[default]
    Scratch,
    /// The final weights of a stage above.
    Stage(String),
    /// A weight file, or a folder with one.
    Path(PathBuf),
}

/// The recipe's `model`, resolved but for the vocabulary, which the tokenizer may decide.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelPlan {
    /// The architecture; `vocab_size` holds where `vocab_size_given`.
    pub config: ModelConfig,
    /// Whether the recipe (or its config file) states `vocab_size`; else the tokenizer's size is used.
    pub vocab_size_given: bool,
    /// What the recipe states, for weights that do not tell it themselves.
    #[serde(skip)]
    pub stated: Box<ModelOverrides>,
}

impl StageConfig {
    /// Weights that a stage reads beside those it starts from, each with what they are.
    pub fn also_reads(&self) -> Vec<(&'static str, &Init)> {
        match self {
            StageConfig::Lora(c) => c.adapter.iter().map(|init| ("adapter", init)).collect(),
            StageConfig::Merge(c) => vec![("adapter", &c.adapter)],
            StageConfig::Distill(c) => vec![("teacher", &c.teacher)],
            StageConfig::Dpo(DpoStage { reference: Reference::Weights(init), .. }) => {
                vec![("reference", init)]
            }
            _ => Vec::new(),
        }
    }

    /// Weights whose architecture the recipe may state, and what it states.
    pub fn stated(&self) -> Vec<(&'static str, &Init, Option<&ModelPlan>)> {
        let mut all = Vec::new();
        match self {
            StageConfig::Eval(c) => all.push(("stated model", &c.init, c.model.as_ref())),
            StageConfig::Export(c) => all.push(("stated model", &c.init, c.model.as_ref())),
            StageConfig::Merge(c) => all.extend(c.init.iter().map(|i| ("stated model", i, c.model.as_ref()))),
            StageConfig::Distill(c) => all.push(("stated teacher", &c.teacher, c.teacher_model.as_ref())),
            _ => {}
        }
        all.extend(self.training().map(|c| ("stated model", &c.init, c.model.as_ref())));
        all
    }

    /// What a stage that trains on rows has in common with all others that do.
    pub fn training(&self) -> Option<&TrainConfig> {
        match self {
            StageConfig::Pretrain(c) | StageConfig::Sft(c) => Some(c),
            StageConfig::Lora(c) => Some(&c.train),
            StageConfig::Reason(c) => Some(&c.train),
            StageConfig::Distill(c) => Some(&c.train),
            StageConfig::Dpo(c) => Some(&c.train),
            StageConfig::Reward(c) => Some(&c.train),
            StageConfig::Ppo(c) | StageConfig::Grpo(c) | StageConfig::Spo(c) | StageConfig::Agent(c) => {
                Some(&c.train)
            }
            StageConfig::Tokenizer(_)
            | StageConfig::Merge(_)
            | StageConfig::Eval(_)
            | StageConfig::Export(_) => None,
        }
    }
}
