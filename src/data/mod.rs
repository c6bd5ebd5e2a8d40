//! Bytes to batches.
//!
//! In reading order: `config` (what is asked for), `jsonl` (lines), `text`, `chat` and `preference` (a row to ids),
//! `cache` and `tokens` (where ids lie), `rows`, `prepare` (all of it together), `loader` (batches); `prompts` (what RL
//! asks), `episode` (rollouts).

pub mod batch;
pub mod cache;
pub mod chat;
pub mod check;
pub mod choices;
pub mod config;
pub mod episode;
pub mod head;
pub mod jsonl;
pub mod loader;
pub mod pack;
pub mod preference;
pub mod prepare;
pub mod prompts;
pub mod random;
pub mod rows;
pub mod source;
pub mod synthetic;
pub mod text;
pub mod tokenizer;
pub mod tokens;
pub mod tool_specs;

#[cfg(test)]
mod tests;

pub use batch::{Batch, IGNORE};
pub use check::RowCheck;
pub use config::*;
pub use episode::{Episode, Recorded};
pub use loader::{Loader, LoaderConfig, PaddingStats};
pub use preference::{Pair, PairBatch};
pub use prepare::{DataFacts, PrepareContext, Prepared, QuickFacts, prepare, quick_facts};
pub use prompts::{Prompt, PromptOptions, PromptRow, Prompts};
pub use rows::{Row, Rows};
pub use tokenizer::Tokenizer;
