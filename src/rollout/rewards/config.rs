//! What rewards a stage asks for: plain values that `plan` fills. Next: `mod`, which carries them out.

use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::rollout::service::ServiceConfig;

/// One reward of a list. A recipe writes it as a map with one key, its kind: `length: {weight: 0.5, min: 20}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RewardConfig {
    /// Names its curve; unique in the list (its kind).
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub name: String,
    /// Multiplies its value in the total.
    #[serde(default = "one")]
    pub weight: f64,
    /// What a failure means: stop, or a value to count instead (stop).
    #[serde(default)]
    #[schemars(with = "Option<OnError>")]
    pub on_error: OnError,
    /// Which reward.
    pub kind: RewardKind,
}

fn one() -> f64 {
    1.0
}

impl RewardConfig {
    /// A reward of weight 1 that stops the run where it fails, named by its kind.
    pub fn new(kind: RewardKind) -> Self {
        Self { name: kind.name().to_owned(), weight: 1.0, on_error: OnError::Stop, kind }
    }
}

/// What a reward that fails or times out means.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run ends with an error.
    #[default]
    Stop,
    /// The value is this, and the log says so.
    Value(f64),
}

// Written as `stop` or as a number; recorded as the enum it is.
impl<'de> Deserialize<'de> for OnError {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(word) if word == "stop" => Ok(Self::Stop),
            other => other
                .as_f64()
                .map(Self::Value)
                .ok_or_else(|| D::Error::custom("`on_error` is neither `stop` nor a number")),
        }
    }
}

impl JsonSchema for OnError {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "OnError".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["number", "string"]})
    }
}

/// Which part of a completion a reward looks at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All of it.
    Completion,
    /// What stands before `</think>`.
    Thinking,
    /// What follows `</think>`, or the inside of `<answer>`; all of it without either.
    #[default]
    Answer,
}

/// The kinds of rewards.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Characters within bounds, as upstream rewards them.
    Length(LengthConfig),
    /// Think and answer tags, as upstream rewards them.
    Format(FormatConfig),
    /// A negative value for repeated n-grams of the answer, as upstream's.
    Repetition(RepetitionConfig),
    /// A pattern occurs.
    Regex(RegexConfig),
    /// The final answer equals the row's, as a number.
    Math(MathConfig),
    /// A valid tool call with the expected arguments.
    JsonTool(JsonToolConfig),
    /// The built-in world's verifier: the answer to the letter.
    Synthetic(SyntheticReward),
    /// A reward model's score.
    Model(ModelRewardConfig),
    /// A reward service: gets {"rows": [...]}, answers {"scores": [...]}.
    Http(HttpRewardConfig),
    /// A program: reads a JSON line a completion, writes a line with its score.
    Command(CommandRewardConfig),
}

impl RewardKind {
    /// The kind's name in recipes.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Length(_) => "length",
            Self::Format(_) => "format",
            Self::Repetition(_) => "repetition",
            Self::Regex(_) => "regex",
            Self::Math(_) => "math",
            Self::JsonTool(_) => "json_tool",
            Self::Synthetic(_) => "synthetic",
            Self::Model(_) => "model",
            Self::Http(_) => "http",
            Self::Command(_) => "command",
        }
    }
}

/// `inside` where the stripped completion has `min..=max` characters, else `outside`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LengthConfig {
    /// Fewest characters.
    pub min: usize,
    /// Most characters.
    pub max: usize,
    /// Value within.
    pub inside: f64,
    /// Value without.
    pub outside: f64,
}

impl Default for LengthConfig {
    fn default() -> Self {
        Self { min: 20, max: 800, inside: 0.5, outside: -0.5 }
    }
}

/// Whose tags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FormatStyle {
    /// minimind3: `</think>` closes a thinking part of fitting length.
    #[default]
    Think,
    /// minimind2: `<think>`, `</think>`, `<answer>`, `</answer>`, each once and in order.
    ThinkAnswer,
}

/// Upstream's rewards for tags; the lengths are those of `think`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FormatConfig {
    /// Whose tags.
    pub style: FormatStyle,
    /// Fewest characters of thinking.
    pub min: usize,
    /// Most characters of thinking.
    pub max: usize,
}

impl Default for FormatConfig {
    fn default() -> Self {
        Self { style: FormatStyle::Think, min: 20, max: 300 }
    }
}

/// `-min(cap, 2 cap (n-grams - distinct) / n-grams)` of the answer's words.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RepetitionConfig {
    /// Words a gram.
    #[schemars(range(min = 1))]
    pub ngram: usize,
    /// Largest penalty.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub cap: f64,
}

impl Default for RepetitionConfig {
    fn default() -> Self {
        Self { ngram: 3, cap: 0.5 }
    }
}

/// `found` where the pattern occurs, else `missing`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RegexConfig {
    /// The pattern (the `regex` crate's syntax: no look-around, linear time).
    pub pattern: String,
    /// Where to look.
    pub on: Part,
    /// Value where it occurs.
    pub found: f64,
    /// Value where it does not.
    pub missing: f64,
}

impl Default for RegexConfig {
    fn default() -> Self {
        Self { pattern: String::new(), on: Part::Answer, found: 1.0, missing: 0.0 }
    }
}

/// `right` where the final answer is the expected one, else `wrong`; several expected answers count by share.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct MathConfig {
    /// The row's field with the expected answer (gt, else answer).
    pub field: Option<String>,
    /// Largest relative difference that is still equal.
    #[schemars(range(min = 0))]
    pub tolerance: f64,
    /// Value of a right answer.
    pub right: f64,
    /// Value of a wrong one.
    pub wrong: f64,
}

impl Default for MathConfig {
    fn default() -> Self {
        Self { field: None, tolerance: 1e-6, right: 1.0, wrong: 0.0 }
    }
}

/// `right` for the expected call, `valid` for another that fits the row's tools, else `wrong`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct JsonToolConfig {
    /// The row's field with the expected call or calls.
    pub field: String,
    /// Value of the expected call.
    pub right: f64,
    /// Value of a well-formed call that is not the expected one.
    pub valid: f64,
    /// Value of anything else.
    pub wrong: f64,
}

impl Default for JsonToolConfig {
    fn default() -> Self {
        Self { field: "tool_calls".into(), right: 1.0, valid: 0.25, wrong: 0.0 }
    }
}

/// `right` where the answer is the row's `answer` to the letter, else `wrong`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct SyntheticReward {
    /// Value of a right answer.
    pub right: f64,
    /// Value of a wrong one.
    pub wrong: f64,
}

impl Default for SyntheticReward {
    fn default() -> Self {
        Self { right: 1.0, wrong: 0.0 }
    }
}

/// Where a reward model comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardSource {
    /// A `reward` stage of the same run.
    Stage(String),
    /// A Hugging Face folder or a weight file.
    Path(PathBuf),
}

impl Default for RewardSource {
    fn default() -> Self {
        Self::Path(PathBuf::new())
    }
}

/// A reward model's score, clipped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ModelRewardConfig {
    /// A reward stage above, a Hugging Face folder, or a weight file.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "String", extend("default" = null))]
    pub from: RewardSource,
    /// The reward model's tokenizer folder (beside its weights).
    pub tokenizer: Option<PathBuf>,
    /// Share of the answer's own score beside the whole completion's: 1 in minimind3, 0.6 in minimind2.
    #[schemars(range(min = 0, max = 1))]
    pub answer_share: f64,
    /// Scores are clipped to this and its negative.
    #[schemars(extend("exclusiveMinimum" = 0))]
    pub clip: f64,
    /// Conversations a forward pass.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
    /// Longest conversation in tokens; a longer one loses its beginning.
    #[schemars(range(min = 2))]
    pub max_seq_len: usize,
}

impl Default for ModelRewardConfig {
    fn default() -> Self {
        Self {
            from: RewardSource::default(),
            tokenizer: None,
            answer_share: 1.0,
            clip: 3.0,
            batch_size: 8,
            max_seq_len: 2048,
        }
    }
}

/// A reward service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct HttpRewardConfig {
    /// Where, and with what patience.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, flatten)]
    pub service: ServiceConfig,
    /// Completions a request.
    #[schemars(range(min = 1))]
    pub batch_size: usize,
}

impl Default for HttpRewardConfig {
    fn default() -> Self {
        Self { service: ServiceConfig::default(), batch_size: 64 }
    }
}

/// A program that reads a JSON line a completion and writes a line with its score.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct CommandRewardConfig {
    /// Program and arguments; no shell reads them.
    pub command: Vec<String>,
    /// Seconds for a batch.
    #[schemars(range(max = 86_400), extend("exclusiveMinimum" = 0))]
    pub timeout_secs: f64,
}

impl Default for CommandRewardConfig {
    fn default() -> Self {
        Self { command: Vec::new(), timeout_secs: 60.0 }
    }
}
