//! The keys of a recipe, as written: every field optional, unknown keys refused.
//!
//! Descriptions here are the JSON Schema's (`minimind schema`). Defaults are filled by `plan::resolve`.
//! Lists hold optional elements, so that a faulty element can be set aside and its neighbours still read.
//! Next: `stages` for the one-key maps.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::model::ModelOverrides;

mod export;
mod one_key;
mod parts;
mod policy;
mod stages;
mod training;
pub use export::*;
mod rewards;
mod tools;
pub use parts::*;
pub use policy::*;
pub use rewards::*;
pub use stages::{KINDS, Stage, StageBody};
pub use tools::*;
pub use training::*;

/// A recipe: what to train, on what, in which order.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Root {
    /// The run's name; the file's name without its ending where left out.
    pub name: Option<String>,
    /// Seed of every random choice (42).
    pub seed: Option<i64>,
    /// Device, precision and threads.
    pub runtime: Option<RuntimeSection>,
    /// The run's folder (`checkpoints/NAME`).
    pub output: Option<String>,
    /// A tokenizer stage, or a folder with tokenizer.json; a stage may name its own.
    pub tokenizer: Option<String>,
    /// What `init: scratch` builds.
    pub model: Option<ModelSection>,
    /// Stages in order; each a map with one key, the kind.
    pub stages: Option<Vec<Option<Stage>>>,
    /// Anything; ignored. A place for anchors.
    #[schemars(with = "Option<serde_json::Value>")]
    pub x: Option<serde::de::IgnoredAny>,
}

/// Where and how tensors are computed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimeSection {
    /// auto, cpu, cuda, cuda:N or mps (auto).
    pub device: Option<String>,
    /// Arithmetic of forward and backward (auto: bf16 on a GPU that has it, else fp32).
    pub precision: Option<PrecisionName>,
    /// Threads of the CPU, or auto (all cores, shared by the processes of --nproc).
    pub threads: Option<NumberOrText>,
    /// With several processes: each keeps a part of the optimizer's state (false).
    pub shard_optimizer: Option<bool>,
    /// With several processes, what adds gradients up: nccl between GPUs, gloo through the host, or auto (nccl where each
    /// process has a GPU of its own).
    pub ddp_backend: Option<DdpBackendName>,
}

/// The architecture. Start from a preset or a config file and override any field.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ModelSection {
    /// minimind2-small, minimind2, minimind2-moe, minimind3 or minimind3-moe (minimind3).
    pub preset: Option<String>,
    /// A config.json to start from, instead of a preset.
    pub config: Option<String>,
    /// Keys of the architecture.
    #[serde(flatten)]
    pub stated: ModelOverrides,
}

/// Rows and how they become batches. Give one of path, paths, synthetic; a file's name alone, or a list of names, is
/// the same as path or paths.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(transform = or_files)]
pub struct DataSection {
    /// One file.
    pub path: Option<String>,
    /// Several files, read one after another.
    pub paths: Option<Vec<Option<String>>>,
    /// The built-in world: `true`, or a map.
    pub synthetic: Option<Synthetic>,
    /// The shape of rows (auto: by the file's ending and the stage's kind).
    pub format: Option<FormatName>,
    /// Whether each epoch draws a new order (true).
    pub shuffle: Option<bool>,
    /// Validation rows: a share 0..1 of these rows, a file, or heldout for the built-in world (0: none).
    pub validation: Option<NumberOrText>,
    /// bucket pads to the batch's longest row, pad to max_seq_len (bucket).
    pub batching: Option<BatchingName>,
    /// Stop at a row that cannot be used, or skip and count it (error).
    pub on_bad_row: Option<OnBadRowName>,
}

/// The reader makes a map of a file's name and of a list of names.
fn or_files(schema: &mut schemars::Schema) {
    let map = schema.clone();
    *schema = schemars::json_schema!({
        "anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            map,
        ],
        "x-shorthand": {"string": "path", "array": "paths"},
    });
}

/// Learns a byte-level BPE tokenizer.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenizerSection {
    /// The stage's name (its kind).
    pub name: Option<String>,
    /// Text to learn from.
    pub data: Option<DataSection>,
    /// Entries, the reserved ones included (6400).
    pub vocab_size: Option<i64>,
    /// Most bytes of text to read (all).
    pub max_bytes: Option<i64>,
}

/// Measures a model.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvalSection {
    /// The stage's name (its kind).
    pub name: Option<String>,
    /// Which weights: a stage above or a path (the training stage above).
    pub from: Option<String>,
    /// The same as `from`.
    pub init: Option<String>,
    /// A tokenizer stage above or a folder (the model's stage's, else the recipe's).
    pub tokenizer: Option<String>,
    /// What to measure on.
    pub data: Option<DataSection>,
    /// loss and exact_match; or multiple_choice (also by a benchmark's name); or math (math where the rows hold `gt`, else loss).
    pub tasks: Option<Vec<Option<TaskName>>>,
    /// Rows a batch (16).
    pub batch_size: Option<i64>,
    /// Longest row in tokens (768).
    pub max_seq_len: Option<i64>,
    /// Longest answer in tokens (64).
    pub max_new_tokens: Option<i64>,
    /// Most rows to measure; of multiple choice, most a file (all).
    pub limit: Option<i64>,
    /// Answered examples before each question of multiple choice (0).
    pub shots: Option<i64>,
    /// Where examples come from: a file, or a folder with a file of each subject's name.
    pub shots_from: Option<String>,
    /// Whether questions of multiple choice are put as chat turns (false).
    pub chat_template: Option<bool>,
}
