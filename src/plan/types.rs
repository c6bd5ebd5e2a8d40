//! The plan: a recipe with every default filled and every name resolved. Plain values, no `Option`
//! for what is required. `plan::resolve` builds it; stages read nothing else.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use super::policy::*;
pub use crate::data::config::*;
pub use crate::engine::OnAnomaly;
pub use crate::engine::device::Wanted;
use crate::engine::{Compute, DdpBackend};
use crate::error::Place;
use crate::model::{ModelConfig, ModelOverrides};
pub use crate::optim::ScheduleKind;

use super::kinds::{Kinds, SettingKind};

mod tuning;
pub use tuning::*;

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

/// Where and how tensors are computed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Runtime {
    /// `auto` is resolved when the run starts.
    pub device: Wanted,
    /// `auto`: fp32 on the CPU, bf16 on a GPU that has it.
    pub precision: Precision,
    /// Intra-op threads; `None`: all cores this process may use.
    pub threads: Option<usize>,
    /// Whether ranks keep a part each of the optimizer's state.
    pub shard_optimizer: bool,
    /// What adds gradients up over the ranks.
    pub ddp_backend: DdpBackend,
}

/// Arithmetic of the forward and backward pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// fp32 on the CPU, bf16 on a GPU.
    #[default]
    Auto,
    /// 32-bit.
    Fp32,
    /// bf16 autocast.
    Bf16,
    /// fp16 autocast with loss scaling.
    Fp16,
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

/// The kinds this version runs.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StageConfig {
    /// Trains a byte-level BPE tokenizer.
    Tokenizer(TokenizerConfig),
    /// Next-token training on plain text.
    Pretrain(TrainConfig),
    /// Supervised fine-tuning on conversations.
    Sft(TrainConfig),
    /// Trains an adapter.
    Lora(LoraConfig),
    /// Adds an adapter to weights.
    Merge(MergeConfig),
    /// Fine-tuning with marked tokens.
    Reason(ReasonConfig),
    /// Learns from a teacher.
    Distill(DistillStage),
    /// Direct preference optimisation.
    Dpo(DpoStage),
    /// Trains a reward model.
    Reward(RewardConfig),
    /// Measures a model.
    Eval(EvalConfig),
    /// Writes a model for other tools.
    Export(super::ExportConfig),
    /// Proximal policy optimisation.
    Ppo(Box<PolicyConfig>),
    /// Group-relative policy optimisation.
    Grpo(Box<PolicyConfig>),
    /// Single-stream policy optimisation.
    Spo(Box<PolicyConfig>),
    /// Tool use over several turns.
    Agent(Box<PolicyConfig>),
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Init {
    /// Fresh weights from the recipe's `model`.
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

/// Trains a tokenizer.
#[derive(Debug, Clone, Serialize)]
pub struct TokenizerConfig {
    /// Text to learn from.
    pub data: DataConfig,
    /// Entries, the 36 reserved ones included.
    pub vocab_size: usize,
    /// Most bytes of text to read; `None`: all of it.
    pub max_bytes: Option<u64>,
}

impl TokenizerConfig {
    /// What a change of each field means.
    pub const KINDS: Kinds = &[(SettingKind::Result, "vocab_size max_bytes")];
}

/// The type of the numbers in the weight file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SaveDtype {
    /// Half precision, as upstream saves.
    #[default]
    Fp16,
    /// bfloat16.
    Bf16,
    /// Full precision.
    Fp32,
}

/// Pretraining and fine-tuning.
#[derive(Debug, Clone, Serialize)]
pub struct TrainConfig {
    /// Start weights.
    pub init: Init,
    /// The architecture for `init: scratch`, and for files that do not state theirs.
    pub model: Option<ModelPlan>,
    /// `None` where the data is tokens.
    pub tokenizer: Option<TokenizerSource>,
    /// The rows.
    pub data: DataConfig,
    /// Passes over the data.
    pub epochs: usize,
    /// Rows a micro-batch.
    pub batch_size: usize,
    /// Micro-batches an update.
    pub accumulation_steps: usize,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Longest row, in tokens.
    pub max_seq_len: usize,
    /// Largest global gradient norm; 0 turns clipping off.
    pub grad_clip: f64,
    /// AdamW's decay, on every parameter.
    pub weight_decay: f64,
    /// AdamW's betas.
    pub betas: (f64, f64),
    /// AdamW's epsilon.
    pub eps: f64,
    /// Learning rate over time.
    pub schedule: ScheduleKind,
    /// Micro-batches of linear warm-up.
    pub warmup_steps: usize,
    /// Stop after this many micro-batches (the schedule ends there too).
    pub max_steps: Option<usize>,
    /// Micro-batches between rows of metrics.
    pub log_interval: usize,
    /// Micro-batches between checkpoints.
    pub save_interval: usize,
    /// Micro-batches between validations; `None`: at each checkpoint and at the end.
    pub eval_interval: Option<usize>,
    /// Numbered checkpoints to keep beside the newest; 0 keeps the newest alone.
    pub keep_last: usize,
    /// Type of the numbers in the weight file.
    pub save_dtype: SaveDtype,
    /// What to do about a loss that is not a number.
    pub on_nan: OnAnomaly,
    /// What to do about a loss above `spike_factor` times its running mean.
    pub on_spike: OnAnomaly,
    /// How far above the running mean a loss is a spike; `None`: never.
    pub spike_factor: Option<f64>,
    /// Dropout probability while training.
    pub dropout: f64,
    /// Chance of a random system prompt before a conversation without one (sft).
    pub system_prompt_ratio: f64,
    /// Chance that empty think blocks stay in a conversation (sft).
    pub empty_think_ratio: f64,
    /// Prompts answered before and after the stage, for the report.
    pub samples: Vec<String>,
    /// The token that ends a row; `None`: the tokenizer's.
    pub eos_token_id: Option<i64>,
    /// The token that fills a row; `None`: the tokenizer's, and 0 where there is none.
    pub pad_token_id: Option<i64>,
}

impl TrainConfig {
    /// What a change of each field means. `on_nan`, `on_spike` and `spike_factor` say what is done about a fault from
    /// now on: a run that one of them stopped is to go on with another.
    pub const KINDS: Kinds = &[
        (SettingKind::Place, "init tokenizer"),
        (SettingKind::Length, "epochs max_steps save_dtype"),
        (
            SettingKind::Watch,
            "log_interval save_interval eval_interval keep_last samples on_nan on_spike spike_factor",
        ),
        (
            SettingKind::Result,
            "model batch_size accumulation_steps learning_rate max_seq_len grad_clip weight_decay",
        ),
        (
            SettingKind::Result,
            "betas eps schedule warmup_steps dropout system_prompt_ratio empty_think_ratio",
        ),
        (SettingKind::Result, "eos_token_id pad_token_id"),
    ];
}

/// Measures a model.
#[derive(Debug, Clone, Serialize)]
pub struct EvalConfig {
    /// Which weights.
    pub init: Init,
    /// The architecture, for files that do not state theirs.
    pub model: Option<ModelPlan>,
    /// `None` where the data is tokens.
    pub tokenizer: Option<TokenizerSource>,
    /// What to measure on.
    pub data: DataConfig,
    /// `loss` (with perplexity and bits per byte), `exact_match`, or both.
    pub tasks: Vec<EvalTask>,
    /// Rows a batch.
    pub batch_size: usize,
    /// Longest row, in tokens.
    pub max_seq_len: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Most rows to measure; `None`: all.
    pub limit: Option<usize>,
    /// How questions of multiple choice are put.
    pub choice: ChoicePlan,
}

impl EvalConfig {
    /// What a change of each field means.
    pub const KINDS: Kinds = &[
        (SettingKind::Place, "init tokenizer choice.shots_from"),
        (SettingKind::Result, "model tasks batch_size max_seq_len max_new_tokens limit choice"),
    ];
}

/// How questions of multiple choice are put.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ChoicePlan {
    /// Answered examples before each question.
    pub shots: usize,
    /// Where they come from.
    pub shots_from: Option<PathBuf>,
    /// Whether questions are chat turns.
    pub chat_template: bool,
}

/// What an evaluation measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum EvalTask {
    /// Cross-entropy, perplexity, bits per byte.
    Loss,
    /// Greedy answers compared with the verifiable answer.
    ExactMatch,
    /// The likeliest of several answers.
    #[value(aliases = ["ceval", "cmmlu", "arc", "piqa", "openbookqa", "hellaswag"])]
    MultipleChoice,
    /// Greedy answers whose final number is compared.
    #[value(alias = "gsm8k")]
    Math,
}

impl Precision {
    /// The arithmetic on a device: `auto` is fp32 on the CPU and bf16 on a GPU.
    pub fn compute(self, device: tch::Device) -> Compute {
        match self {
            Precision::Fp32 => Compute::Fp32,
            Precision::Bf16 => Compute::Bf16,
            Precision::Fp16 => Compute::Fp16,
            Precision::Auto if matches!(device, tch::Device::Cuda(_)) => Compute::Bf16,
            Precision::Auto => Compute::Fp32,
        }
    }
}

impl StageConfig {
    /// The kind's name in recipes.
    pub fn kind(&self) -> &'static str {
        match self {
            StageConfig::Tokenizer(_) => "tokenizer",
            StageConfig::Pretrain(_) => "pretrain",
            StageConfig::Sft(_) => "sft",
            StageConfig::Lora(_) => "lora",
            StageConfig::Merge(_) => "merge",
            StageConfig::Reason(_) => "reason",
            StageConfig::Distill(_) => "distill",
            StageConfig::Dpo(_) => "dpo",
            StageConfig::Reward(_) => "reward",
            StageConfig::Eval(_) => "eval",
            StageConfig::Export(_) => "export",
            StageConfig::Ppo(_) => "ppo",
            StageConfig::Grpo(_) => "grpo",
            StageConfig::Spo(_) => "spo",
            StageConfig::Agent(_) => "agent",
        }
    }

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
