//! `rewards:`, a list of one-key maps, as written: `- length: {weight: 0.5, min: 20}`.
//!
//! Every reward has `name`, `weight` and `on_error`. Defaults are filled by `plan::rewards`; what each computes is
//! in `rollout::rewards`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::NumberOrText;
use crate::one_key;

one_key!(
    /// One reward.
    Reward, RewardBody, REWARD_KINDS, "reward":
    "length" => Length(LengthSection),
    "format" => Format(FormatSection),
    "repetition" => Repetition(RepetitionSection),
    "regex" => Regex(RegexSection),
    "math" => Math(MathSection),
    "json_tool" => JsonTool(JsonToolSection),
    "synthetic" => Synthetic(SyntheticRewardSection),
    "model" => Model(ModelRewardSection),
    "http" => Http(HttpRewardSection),
    "command" => Command(CommandRewardSection),
);

/// What every reward has.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// Its name, where given.
    pub name: Option<&'a str>,
    /// Its weight, where given.
    pub weight: Option<f64>,
    /// `stop` or a value, where given.
    pub on_error: Option<&'a NumberOrText>,
}

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
            #[serde(deny_unknown_fields)]
            pub struct $name {
                /// Names its curve (its kind).
                pub name: Option<String>,
                /// Multiplies its value in the total (1).
                pub weight: Option<f64>,
                /// What a failure means: stop, or a value to count instead (stop).
                pub on_error: Option<NumberOrText>,
                $($(#[$fdoc])* pub $field: Option<$type>),*
            }

            impl $name {
                fn common(&self) -> Common<'_> {
                    Common { name: self.name.as_deref(), weight: self.weight, on_error: self.on_error.as_ref() }
                }
            }
        )*
    };
}

impl Reward {
    /// What every reward has.
    pub fn common(&self) -> Common<'_> {
        match &self.body {
            RewardBody::Length(s) => s.common(),
            RewardBody::Format(s) => s.common(),
            RewardBody::Repetition(s) => s.common(),
            RewardBody::Regex(s) => s.common(),
            RewardBody::Math(s) => s.common(),
            RewardBody::JsonTool(s) => s.common(),
            RewardBody::Synthetic(s) => s.common(),
            RewardBody::Model(s) => s.common(),
            RewardBody::Http(s) => s.common(),
            RewardBody::Command(s) => s.common(),
        }
    }
}

sections! {
    /// Characters within bounds, as upstream rewards them.
    LengthSection {
        /// Fewest characters (20).
        min: i64,
        /// Most characters (800).
        max: i64,
        /// Value within (0.5).
        inside: f64,
        /// Value without (-0.5).
        outside: f64,
    }
    /// Think and answer tags, as upstream rewards them.
    FormatSection {
        /// think (minimind3) or think_answer (minimind2) (think).
        style: StyleName,
        /// Fewest characters of thinking (20).
        min: i64,
        /// Most characters of thinking (300).
        max: i64,
    }
    /// A negative value for repeated n-grams of the answer, as upstream's.
    RepetitionSection {
        /// Words a gram (3).
        ngram: i64,
        /// Largest penalty (0.5).
        cap: f64,
    }
    /// A pattern occurs.
    RegexSection {
        /// The pattern; ^ and $ are the text's ends.
        pattern: String,
        /// Where to look: completion, thinking or answer (answer).
        on: PartName,
        /// Value where it occurs (1).
        found: f64,
        /// Value where it does not (0).
        missing: f64,
    }
    /// The final answer equals the row's, as a number.
    MathSection {
        /// The row's field with the expected answer (gt, else answer).
        field: String,
        /// Largest relative difference that is still equal (1e-6).
        tolerance: f64,
        /// Value of a right answer (1).
        right: f64,
        /// Value of a wrong one (0).
        wrong: f64,
    }
    /// A valid tool call with the expected arguments.
    JsonToolSection {
        /// The row's field with the expected call or calls (tool_calls).
        field: String,
        /// Value of the expected call (1).
        right: f64,
        /// Value of a valid call that is not the expected one (0.25).
        valid: f64,
        /// Value of anything else (0).
        wrong: f64,
    }
    /// The built-in world's verifier: the answer to the letter.
    SyntheticRewardSection {
        /// Value of a right answer (1).
        right: f64,
        /// Value of a wrong one (0).
        wrong: f64,
    }
    /// A reward model's score.
    ModelRewardSection {
        /// A reward stage above, a Hugging Face folder, or a weight file.
        from: String,
        /// The reward model's tokenizer folder (beside its weights).
        tokenizer: String,
        /// Share of the answer's own score; the rest is the whole completion's (1; minimind2 has 0.6).
        answer_share: f64,
        /// Scores are clipped to this and its negative (3).
        clip: f64,
        /// Conversations a forward pass (8).
        batch_size: i64,
        /// Longest conversation in tokens; a longer one loses its beginning (2048).
        max_seq_len: i64,
    }
    /// A reward service: gets {"rows": [...]}, answers {"scores": [...]}.
    HttpRewardSection {
        /// Its address.
        url: String,
        /// Seconds a request may take (60).
        timeout_secs: f64,
        /// Tries after the first (3).
        retries: i64,
        /// More headers.
        headers: BTreeMap<String, String>,
        /// The environment variable that holds the key, sent as a bearer token.
        api_key_env: String,
        /// Completions a request (64).
        batch_size: i64,
    }
    /// A program: reads a JSON line a completion, writes a line with its score.
    CommandRewardSection {
        /// Program and arguments; no shell reads them.
        command: Vec<Option<String>>,
        /// Seconds for a batch (60).
        timeout_secs: f64,
    }
}

/// Whose tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StyleName {
    /// minimind3: thinking closed by `</think>`.
    Think,
    /// minimind2: think and answer tags, each once.
    ThinkAnswer,
}

/// A part of a completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartName {
    /// All of it.
    Completion,
    /// What stands before `</think>`.
    Thinking,
    /// What follows it, or the inside of `<answer>`.
    Answer,
}
