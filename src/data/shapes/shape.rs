//! The shapes that rows come in, with their names.

use crate::data::config::DataFormat;

/// A shape of rows, by the keys that public data sets and training programs use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
#[value(rename_all = "kebab-case")]
pub enum Shape {
    /// `{text}`; also read: `content`, `raw_content`, `document`, `article`, `code`.
    Text,
    /// MiniMind's `{conversations: [{role, content}]}`.
    Conversations,
    /// OpenAI's `{messages: [{role, content}]}`.
    Messages,
    /// ShareGPT's `{conversations: [{from, value}]}`, with LLaMA-Factory's `system` and `tools`.
    #[value(name = "sharegpt")]
    ShareGpt,
    /// `{instruction, input, output, system, history}`.
    Alpaca,
    /// trl's `{prompt, completion}`.
    PromptCompletion,
    /// `{prompt, response}`.
    PromptResponse,
    /// `{question, answer}`; also read: `problem` and `solution`, `input` and `output`.
    QuestionAnswer,
    /// `{query, response}`; also read: `question` and `response`.
    QueryResponse,
    /// `{prompt}`, a question that waits for its answer; also read: `question`, `query`, `problem`, `instruction`.
    Prompt,
    /// MiniMind's `{chosen, rejected}`, each a whole conversation: trl's preference with an implicit prompt.
    Preference,
    /// trl's preference with an explicit prompt: `{prompt, chosen, rejected}`, texts or messages.
    PromptPreference,
    /// LLaMA-Factory's `{conversations, chosen, rejected}`: turns of `from` and `value`, two answers.
    #[value(name = "sharegpt-preference")]
    ShareGptPreference,
    /// LLaMA-Factory's `{instruction, input, chosen, rejected}`.
    AlpacaPreference,
    /// `{chosen, rejected}` as texts that begin alike; Anthropic's have `\n\nHuman: ` and `\n\nAssistant: ` in them.
    TextPreference,
    /// trl's `{prompt, completion, label}`: an answer and whether it is wanted.
    Unpaired,
}

impl Shape {
    /// Every shape.
    pub const ALL: [Self; 16] = [
        Self::Text,
        Self::Conversations,
        Self::Messages,
        Self::ShareGpt,
        Self::Alpaca,
        Self::PromptCompletion,
        Self::PromptResponse,
        Self::QuestionAnswer,
        Self::QueryResponse,
        Self::Prompt,
        Self::Preference,
        Self::PromptPreference,
        Self::ShareGptPreference,
        Self::AlpacaPreference,
        Self::TextPreference,
        Self::Unpaired,
    ];

    /// The name for people and for `--to`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Conversations => "conversations",
            Self::Messages => "messages",
            Self::ShareGpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
            Self::PromptResponse => "prompt-response",
            Self::QuestionAnswer => "question-answer",
            Self::QueryResponse => "query-response",
            Self::Prompt => "prompt",
            Self::Preference => "preference",
            Self::PromptPreference => "prompt-preference",
            Self::ShareGptPreference => "sharegpt-preference",
            Self::AlpacaPreference => "alpaca-preference",
            Self::TextPreference => "text-preference",
            Self::Unpaired => "unpaired",
        }
    }

    /// The format whose rows (in MiniMind's keys) hold all that the shape holds.
    pub fn format(self) -> DataFormat {
        match self {
            Self::Text => DataFormat::Text,
            Self::Prompt => DataFormat::Prompts,
            Self::Preference
            | Self::PromptPreference
            | Self::ShareGptPreference
            | Self::AlpacaPreference
            | Self::TextPreference => DataFormat::Preference,
            _ => DataFormat::Chat,
        }
    }
}
