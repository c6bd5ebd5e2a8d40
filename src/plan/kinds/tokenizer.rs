//! `tokenizer` stages.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::data::tokenizer::Normalizer;
use crate::plan::changes::Kinds;
use crate::plan::resolve::Resolver;
use crate::plan::schema::DataSection;
use crate::plan::types::{DataConfig, DataFormat, StageConfig};
use crate::recipe::Section;

/// Learns a byte-level BPE tokenizer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct TokenizerConfig {
    /// Text to learn from.
    #[serde(skip_deserializing)]
    #[schemars(!skip_deserializing, with = "DataSection")]
    pub data: DataConfig,
    /// Entries, the 36 reserved ones included.
    #[schemars(range(min = 300), extend("default" = 6400))]
    pub vocab_size: usize,
    /// Most bytes of text to read (all).
    #[schemars(range(min = 1))]
    pub max_bytes: Option<u64>,
    /// Special tokens beside the 36 reserved ones; their ids come after those.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("default" = []))]
    pub special_tokens: Vec<String>,
    /// Pairs that come fewer times are not merged.
    #[serde(skip_serializing_if = "is_zero")]
    #[schemars(extend("default" = 0))]
    pub min_frequency: u64,
    /// What is done to text first, in training and after: Unicode's normal form, or none.
    #[serde(skip_serializing_if = "Normalizer::is_none")]
    #[schemars(extend("default" = "none"))]
    pub normalizer: Normalizer,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl TokenizerConfig {
    /// A change of any other setting changes the result.
    pub const KINDS: Kinds = &[];
}

impl Resolver<'_> {
    pub(in crate::plan) fn tokenizer(&mut self, s: &Section<'_>) -> Option<StageConfig> {
        let mut config: TokenizerConfig = self.read(s, &[])?;
        config.data = self.stage_data(s);
        if config.data.format == DataFormat::Tokens {
            let hint = "give a .jsonl file";
            self.fault(&s.at("data"), "a tokenizer learns from text, not from tokens", hint);
        }
        Some(StageConfig::Tokenizer(config))
    }
}
