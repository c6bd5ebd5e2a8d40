//! What rewards a stage asks for: plain values that `plan` fills. Next: `mod`, which carries them out.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::rollout::service::ServiceConfig;

/// One reward of a list.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RewardConfig {
    /// Names its curve; unique in the list.
    pub name: String,
    /// Multiplies its value in the total.
    pub weight: f64,
    /// What a failure means.
    pub on_error: OnError,
    /// Which reward.
    pub kind: RewardKind,
}

impl RewardConfig {
    /// A reward of weight 1 that stops the run where it fails, named by its kind.
    pub fn new(kind: RewardKind) -> Self {
        Self { name: kind.name().to_owned(), weight: 1.0, on_error: OnError::Stop, kind }
    }
}

/// What a reward that fails or times out means.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The run ends with an error.
    Stop,
    /// The value is this, and the log says so.
    Value(f64),
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
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardKind {
    /// Characters within bounds.
    Length(LengthConfig),
    /// Think and answer tags.
    Format(FormatConfig),
    /// A penalty (negative) for repeated n-grams.
    Repetition(RepetitionConfig),
    /// A pattern occurs.
    Regex(RegexConfig),
    /// The final number is the expected one.
    Math(MathConfig),
    /// A tool call with the right arguments.
    JsonTool(JsonToolConfig),
    /// The built-in world's verifier.
    Synthetic(SyntheticReward),
    /// A reward model.
    Model(ModelRewardConfig),
    /// A reward service.
    Http(HttpRewardConfig),
    /// A program.
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct RepetitionConfig {
    /// Words a gram.
    pub ngram: usize,
    /// Largest penalty.
    pub cap: f64,
}

impl Default for RepetitionConfig {
    fn default() -> Self {
        Self { ngram: 3, cap: 0.5 }
    }
}

/// `found` where the pattern occurs, else `missing`.
#[derive(Debug, Clone, PartialEq, Serialize)]
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

/// `right` where the final answer is the expected one, else `wrong`; several expected answers count by share.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MathConfig {
    /// The row's field with the expected answer; `None`: `gt`, else `answer`.
    pub field: Option<String>,
    /// Largest relative difference that is still equal.
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
#[derive(Debug, Clone, PartialEq, Serialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
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

/// A reward model's score, clipped.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ModelRewardConfig {
    /// Where it lies.
    pub from: RewardSource,
    /// Its tokenizer's folder; `None`: beside the weights.
    pub tokenizer: Option<PathBuf>,
    /// Share of the answer's own score beside the whole completion's: 1 in minimind3, 0.6 in minimind2.
    pub answer_share: f64,
    /// Scores are clipped to this and its negative.
    pub clip: f64,
    /// Conversations a forward pass.
    pub batch_size: usize,
    /// Longest conversation in tokens; a longer one loses its beginning.
    pub max_seq_len: usize,
}

/// A reward service.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HttpRewardConfig {
    /// Where, and with what patience.
    pub service: ServiceConfig,
    /// Completions a request.
    pub batch_size: usize,
}

/// A program that reads a JSON line a completion and writes a line with its score.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CommandRewardConfig {
    /// Program and arguments; no shell.
    pub command: Vec<String>,
    /// Seconds for a batch.
    pub timeout_secs: f64,
}
