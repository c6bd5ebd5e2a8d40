//! What data a stage reads and how it becomes batches: plain values that `plan` fills.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::mixture::MixturePart;
use super::reader::kind::FileKind;
use super::selection::RowSelection;
use crate::error::{Error, Place};

/// The shape of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DataFormat {
    /// `{"text"}`.
    Text,
    /// `{"conversations"}`.
    Chat,
    /// `{"chosen", "rejected"}`.
    Preference,
    /// `{"conversations"}` whose last answer is left out, or `{"prompt"}`.
    Prompts,
    /// `{"conversations", "gt"}`: prompts answered with tools.
    Agent,
    /// A `.safetensors` with `input_ids` and `labels`, or with pairs of ids and masks.
    Tokens,
}

/// Where rows come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DataSource {
    /// Files, read one after another.
    Paths(Vec<PathBuf>),
    /// The built-in world.
    Synthetic(SyntheticConfig),
    /// Several sources by weight.
    Mixture(Vec<MixturePart>),
}

impl DataSource {
    /// Its name for people.
    pub fn name(&self) -> String {
        match self {
            Self::Paths(paths) => match paths.as_slice() {
                [] => "no file".to_owned(),
                [one] => one.display().to_string(),
                [first, rest @ ..] => format!("{} and {} more", first.display(), rest.len()),
            },
            Self::Synthetic(_) => "synthetic".to_owned(),
            Self::Mixture(parts) => parts.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(" + "),
        }
    }

    /// The first file as the place of a fault of all rows; the built-in world has none.
    pub fn at(&self, fault: Error) -> Error {
        match self {
            Self::Paths(paths) if !paths.is_empty() => fault.at(Place::file(&paths[0])),
            _ => fault,
        }
    }
}

/// Which part of the built-in world to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SyntheticConfig {
    /// Rows to make; `None`: the task's own number.
    pub rows: Option<usize>,
    /// Seed of the world and its rows; the same seed gives the same facts.
    pub seed: u64,
    /// Which rows: `train` or `heldout` (never the same question).
    pub split: SyntheticSplit,
    /// What they are about.
    pub task: SyntheticTask,
}

/// What rows of the built-in world are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyntheticTask {
    /// Facts, sums, comparisons and small talk.
    #[default]
    World,
    /// Errands that tools answer, with the calls and their results.
    Tools,
}

/// Questions of one split never occur in the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SyntheticSplit {
    /// For training.
    #[default]
    Train,
    /// For measuring.
    Heldout,
}

/// How rows become micro-batches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Batching {
    /// Rows of like length together, padded to the longest of the batch.
    #[default]
    Bucket,
    /// Every row padded to `max_seq_len`, as upstream does.
    Pad,
    /// Rows side by side in lines of `max_seq_len`, each attending to itself alone.
    Pack,
}

/// What to do with a row that cannot be used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnBadRow {
    /// Stop, naming file, line and field.
    #[default]
    Error,
    /// Leave it out, count it, report the count.
    Skip,
}

/// Where validation rows come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Validation {
    /// None.
    Off,
    /// A share of the rows, 0..1, chosen by seed and taken out of training.
    Share(f64),
    /// A file of its own.
    Path(PathBuf),
    /// The built-in world's held-out questions.
    Heldout,
}

/// Where one document of a text file ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TextSplit {
    /// Each line is a document.
    Line,
    /// Empty lines are between documents.
    Paragraph,
    /// This text is between documents.
    Marker(String),
}

impl TextSplit {
    /// What a word means; `marker` alone is `<|endoftext|>`.
    pub fn by_word(word: &str) -> Option<Self> {
        match word {
            "line" => Some(Self::Line),
            "paragraph" => Some(Self::Paragraph),
            "marker" => Some(Self::Marker("<|endoftext|>".to_owned())),
            _ => None,
        }
    }
}

/// How files are read.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ReadOptions {
    /// The file's own names of columns, by what they are: `{prompt: Frage, response: Antwort}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub columns: BTreeMap<String, String>,
    /// The encoding of text files, by its name in the Encoding Standard; `None`: UTF-8, or UTF-16 with a byte order mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// How text files are divided into documents; `None`: a file is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split: Option<TextSplit>,
}

impl ReadOptions {
    /// Whether nothing is said: files are read as they are.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A stage's data.
#[derive(Debug, Clone, Serialize)]
pub struct DataConfig {
    /// Where rows come from.
    pub source: DataSource,
    /// Their shape (`auto` is resolved from the stage's kind and the file's ending).
    pub format: DataFormat,
    /// Whether each epoch draws a new order.
    pub shuffle: bool,
    /// Validation rows.
    pub validation: Validation,
    /// How rows become batches.
    pub batching: Batching,
    /// What to do with bad rows.
    pub on_bad_row: OnBadRow,
    /// How files are read.
    #[serde(flatten)]
    pub read: ReadOptions,
    /// Which rows are taken; not of validation files. A mixture's parts have their own.
    #[serde(flatten)]
    pub select: RowSelection,
}

impl Default for DataConfig {
    /// No rows at all.
    fn default() -> Self {
        Self::files(Vec::new(), DataFormat::Text)
    }
}

impl DataConfig {
    /// Of each file whether it holds documents (text, Markdown) that are divided where they are longer than `max_seq_len`;
    /// rows of other files are cut there, as upstream cuts them.
    pub fn divided_files(&self) -> Vec<bool> {
        let DataSource::Paths(paths) = &self.source else { return Vec::new() };
        let documents =
            |path: &PathBuf| matches!(FileKind::by_name(path), Some(FileKind::Text | FileKind::Markdown));
        paths.iter().map(|path| self.format == DataFormat::Text && documents(path)).collect()
    }

    /// The parts of a mixture; this alone where it is none.
    pub fn parts(&self) -> Vec<Self> {
        match &self.source {
            DataSource::Mixture(parts) => parts.iter().map(|part| part.config(self)).collect(),
            _ => vec![self.clone()],
        }
    }

    /// Another source read in the same way, all of its rows: for validation.
    pub(super) fn beside(&self, source: DataSource) -> Self {
        Self { source, select: RowSelection::default(), validation: Validation::Off, ..self.clone() }
    }

    /// Files to look through in order, with no validation rows and no shuffling.
    pub fn files(paths: Vec<PathBuf>, format: DataFormat) -> Self {
        Self {
            source: DataSource::Paths(paths),
            format,
            shuffle: false,
            validation: Validation::Off,
            batching: Batching::Bucket,
            on_bad_row: OnBadRow::Error,
            read: ReadOptions::default(),
            select: RowSelection::default(),
        }
    }
}
