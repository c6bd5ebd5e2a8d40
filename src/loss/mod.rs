//! Losses as pure functions of tensors.

pub mod cross_entropy;
pub mod distill;
pub mod dpo;
pub mod logprob;
pub mod reward;
