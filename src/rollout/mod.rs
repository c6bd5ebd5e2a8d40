//! Tokens out of a model. Ids in, ids out; text is the caller's affair.
//!
//! `sample` turns logits into a choice; `batcher` runs many requests together over `lanes` (what rows have seen:
//! `pages` and packed weights from `decoder` on the CPU, libtorch and `recorded` steps elsewhere). Over it stand `generator` (one prompt
//! after another), `generate`, and `complete` (many prompts, with log-probabilities). `grammar` constrains answers.

pub mod batcher;
pub mod complete;
pub mod decoder;
pub mod generate;
pub mod generator;
pub mod grammar;
mod grouped;
pub mod http;
pub mod keeper;
pub mod lanes;
pub mod number;
pub mod pages;
pub mod process;
mod recorded;
pub mod request;
pub mod rewards;
mod row;
pub mod sample;
pub mod schema;
pub mod service;
pub mod tools;

#[cfg(test)]
mod batcher_tests;
#[cfg(test)]
mod decoder_tests;

pub use batcher::{Batcher, BatcherConfig};
pub use complete::{CompleteConfig, Completion, complete};
pub use generate::{Finish, GenerateConfig, Generation, generate, generate_batch};
pub use generator::Generator;
pub use grammar::Grammars;
pub use lanes::{Decoder, DecoderConfig};
pub use request::{Constraint, Event, Request, TokenLogprob};
pub use sample::{Chosen, Sampler, Sampling};
