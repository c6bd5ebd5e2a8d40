//! Tokens out of a model: `sample` turns logits into a choice, `generate` runs the loop for one prompt,
//! `complete` for many with log-probabilities. Ids in, ids out; text is the caller's affair.

pub mod batcher;
pub mod complete;
pub mod decoder;
pub mod generate;
pub mod http;
pub mod lanes;
pub mod number;
pub mod pages;
pub mod process;
pub mod request;
pub mod rewards;
pub mod sample;
pub mod service;
pub mod tools;

#[cfg(test)]
mod batcher_tests;
#[cfg(test)]
mod decoder_tests;

pub use batcher::{Batcher, BatcherConfig};
pub use complete::{CompleteConfig, Completion, complete};
pub use generate::{Finish, GenerateConfig, Generation, generate, generate_batch};
pub use lanes::{Decoder, DecoderConfig};
pub use request::{Constraint, Event, Request, TokenLogprob};
pub use sample::{Chosen, Sampler, Sampling};
