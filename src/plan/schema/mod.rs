//! The keys at the top of a recipe, and sections as written: every field optional, filled by `settings`.
//!
//! Lists hold optional elements, so that a faulty element can be set aside and its neighbours still read. Next: `stages`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::runtime::Runtime;
use crate::data::{Batching, OnBadRow};
use crate::model::ModelOverrides;

mod one_key;
mod parts;
mod stages;
pub(in crate::plan) use one_key::{Element, keys_of, kinds_of};
pub use one_key::{RewardItem, ToolItem};
pub use parts::*;
pub use stages::Stage;

/// A recipe: what to train, on what, in which order.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
pub struct Root {
    /// The run's name; the file's name without its ending where left out.
    pub name: Option<String>,
    /// Seed of every random choice.
    #[schemars(extend("default" = 42))]
    pub seed: u64,
    /// Device, precision and threads.
    #[schemars(with = "Runtime")]
    pub runtime: Option<Value>,
    /// The run's folder (`checkpoints/NAME`).
    pub output: Option<String>,
    /// A tokenizer stage, or a folder with tokenizer.json; a stage may name its own.
    pub tokenizer: Option<String>,
    /// What `init: scratch` builds.
    #[schemars(with = "ModelSection")]
    pub model: Option<Value>,
    /// Stages in order; each a map with one key, the kind.
    #[schemars(with = "Vec<Stage>", extend("default" = []))]
    pub stages: Vec<Value>,
    /// Anything; ignored. A place for anchors.
    pub x: Option<Value>,
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

/// Where rows come from and how they are read: what `data` and each part of a mixture may say.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
pub struct RowsSection {
    /// A file, a folder of data files, a pattern such as data/*.jsonl, or - for standard input.
    pub path: Option<String>,
    /// Several of them, read one after another.
    pub paths: Option<Vec<Option<String>>>,
    /// The built-in world: `true`, or a map.
    pub synthetic: Option<Synthetic>,
    /// The shape of rows (auto: by the file's ending and the stage's kind).
    pub format: Option<FormatName>,
    /// The subset of a data set on a hub (the only one, or its default).
    pub subset: Option<String>,
    /// The encoding of the files by its usual name, such as gbk (utf-8, or utf-16 by its byte order mark).
    pub encoding: Option<String>,
    /// Where documents of text files end: line, paragraph, marker (<|endoftext|>), or a map with the marker (a file is one
    /// document); of a data set, its split (train).
    pub split: Option<SplitSection>,
    /// The file's own names of columns, by what they are: `{prompt: Frage, response: Antwort}`.
    pub columns: Option<BTreeMap<String, String>>,
    /// The first rows alone, as many (all).
    #[schemars(range(min = 1))]
    pub limit: Option<usize>,
    /// What rows must be like, others are left out and counted: a map of min_tokens, max_tokens (before rows are cut), regex, language.
    #[schemars(with = "FilterSection")]
    pub filter: Option<FilterSection>,
    /// Rows drawn at random, by the recipe's seed, of those that are left: a share below 1, or as many (all).
    pub sample: Option<f64>,
}

/// What rows must be like.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterSection {
    /// Fewest tokens of a row, before it is cut.
    pub min_tokens: Option<usize>,
    /// Most tokens of a row, before it is cut.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<usize>,
    /// A pattern that the row's text must hold somewhere.
    pub regex: Option<String>,
    /// The language of the row's text, or a list of them, by ISO 639 code: en, zh, kor.
    pub language: Option<Words>,
}

/// One source of a mixture.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct PartSection {
    /// Its name in metrics (its file's name).
    pub name: Option<String>,
    /// Its share of an epoch's tokens, beside the other parts' weights (by its own tokens).
    pub weight: Option<f64>,
    /// The most times that an epoch passes it (1).
    pub epochs: Option<f64>,
    /// Which rows.
    #[serde(flatten)]
    pub rows: RowsSection,
}

impl RowsSection {
    /// What these keys leave out as `other` says it, but for where rows come from.
    pub fn or(self, other: &Self) -> Self {
        Self {
            format: self.format.or(other.format),
            encoding: self.encoding.or_else(|| other.encoding.clone()),
            split: self.split.or_else(|| other.split.clone()),
            limit: self.limit.or(other.limit),
            filter: self.filter.or_else(|| other.filter.clone()),
            sample: self.sample.or(other.sample),
            ..self
        }
    }

    /// The built-in world, where it is asked for.
    pub fn synthetic(&self) -> Option<&SyntheticSection> {
        self.synthetic.as_ref().and_then(|synthetic| synthetic.0.as_ref())
    }
}

/// Rows and how they become batches. Give one of path, paths, synthetic, mixture; a file's name alone, or a list of names, is
/// the same as path or paths.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields, transform = or_files)]
pub struct DataSection {
    /// Which rows.
    #[serde(flatten)]
    pub rows: RowsSection,
    /// Several sources by weight: a list of maps of path, paths or synthetic, and weight, epochs, name and the keys above; what is said
    /// beside it holds for every part that does not say otherwise.
    pub mixture: Option<Vec<Option<PartSection>>>,
    /// Whether each epoch draws a new order (true).
    pub shuffle: Option<bool>,
    /// Validation rows: a share 0..1 of these rows, a file, or heldout for the built-in world (0: none).
    pub validation: Option<NumberOrText>,
    /// bucket pads to the batch's longest row, pad to max_seq_len (bucket).
    pub batching: Option<Batching>,
    /// Stop at a row that cannot be used, or skip and count it (error).
    pub on_bad_row: Option<OnBadRow>,
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
