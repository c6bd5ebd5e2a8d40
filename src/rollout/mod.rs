//! Tokens out of a model: `sample` turns logits into a choice, `generate` runs the loop. Ids in, ids out;
//! text is the caller's affair.

pub mod generate;
pub mod sample;

pub use generate::{Finish, GenerateConfig, Generation, generate, generate_batch};
pub use sample::{Sampler, Sampling};
