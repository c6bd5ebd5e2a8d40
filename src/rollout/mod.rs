//! Generates tokens from a model: token ids in, token ids out. Text is the caller's business.
//!
//! `types` and `request` define the types that all parts use. `sample` turns logits into a token; `batcher` runs many requests
//! together (continuous batching) over `kv_slots`: `pages` and weights from `packing` on the CPU, libtorch and
//! `cuda_graphs` elsewhere. Over it stand `generator` (one prompt after another), `generate`, and `completions` (many
//! prompts, with log-probabilities). `grammar` constrains answers; `rewards` and `tools` serve reinforcement learning.

pub mod batcher;
pub mod completions;
mod cuda_graphs;
pub mod decoder;
pub mod generate;
pub mod generator;
pub mod grammar;
mod grammar_constraint;
pub mod http;
mod kv_slots;
pub mod number;
pub mod packing;
pub mod pages;
pub mod process;
pub mod reaper;
pub mod request;
pub mod rewards;
pub mod sample;
pub mod schema;
mod sequence;
pub mod service;
pub mod tools;
mod torch_batch;
pub mod types;

#[cfg(test)]
mod batcher_tests;
#[cfg(test)]
mod packing_tests;

pub use batcher::{Batcher, BatcherConfig};
pub use completions::generate_completions;
pub use decoder::{Decoder, DecoderConfig};
pub use generate::{generate, generate_batch};
pub use generator::Generator;
pub use grammar::Grammars;
pub use request::{Constraint, Finished, GenerateRequest, Logprobs, ScoredToken, TokenEvent};
pub use sample::{SampledToken, Sampler};
pub use types::{Completion, CompletionConfig, FinishReason, GenerateConfig, Generation, SamplingParams};
