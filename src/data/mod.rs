//! Bytes to batches.
//!
//! In reading order: `config` (what is asked for), `reader` (files to rows), `jsonl` (lines), `shapes` (other people's keys), `text`, `chat` and `preference` (a row to tokens),
//! `token_cache` and `token_file` (where tokens are stored), `dataset`, `prepare` (all of it together), `progress`, `selection` (which rows), `mixture` (several sources), `packing` and `loader`
//! (batches); `convert`, `split` and `writer` (rows into files); `prompts` (for reinforcement learning), `episode` (rollouts), `multiple_choice` (benchmarks).

pub mod batch;
pub mod chat;
pub mod check;
pub mod config;
pub mod convert;
pub mod dataset;
pub mod episode;
pub mod facts;
pub mod hygiene;
pub mod jsonl;
pub mod language;
pub mod loader;
pub mod mixture;
pub mod multiple_choice;
pub mod packing;
pub mod preference;
pub mod prepare;
pub mod preview;
pub mod progress;
pub mod prompts;
pub mod random;
pub mod reader;
pub mod selection;
pub mod shapes;
pub mod source;
pub mod split;
pub mod synthetic;
pub mod text;
pub mod token_cache;
pub mod token_file;
pub mod tokenizer;
pub mod tool_specs;
pub mod writer;

#[cfg(test)]
mod tests;

pub use batch::{Batch, IGNORE_INDEX};
pub use check::RowCheck;
pub use config::*;
pub use dataset::{Dataset, Row};
pub use episode::{Episode, Recorded};
pub use facts::{DataFacts, QuickFacts, quick_facts};
pub use loader::{DataLoader, DataLoaderConfig, PaddingStats};
pub use mixture::{MixturePart, PartFacts};
pub use preference::{Pair, PreferenceBatch};
pub use prepare::{PrepareContext, PreparedData, prepare};
pub use prompts::{Prompt, PromptOptions, PromptRow, Prompts};
pub use selection::{RowFilter, RowSelection, Sample};
pub use tokenizer::Tokenizer;
