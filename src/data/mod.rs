//! Bytes to batches.

pub mod batch;
pub mod config;
pub mod tokenizer;

pub use batch::{Batch, IGNORE};
pub use config::*;
pub use tokenizer::Tokenizer;
