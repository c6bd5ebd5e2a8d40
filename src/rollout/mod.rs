//! Tokens out of a model: `sample` turns logits into a choice, `generate` runs the loop for one prompt,
//! `complete` for many with log-probabilities. Ids in, ids out; text is the caller's affair.

pub mod complete;
pub mod decoder;
pub mod generate;
pub mod pages;
pub mod sample;

#[cfg(test)]
mod decoder_tests;

pub use complete::{CompleteConfig, Completion, complete};
pub use generate::{Finish, GenerateConfig, Generation, generate, generate_batch};
pub use sample::{Chosen, Sampler, Sampling};
