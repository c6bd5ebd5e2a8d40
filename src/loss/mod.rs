//! Losses as pure functions of tensors.

pub mod cross_entropy;
pub mod distill;
pub mod dpo;
pub mod grpo;
pub mod logprob;
pub mod policy;
pub mod ppo;
pub mod reward;
pub mod spo;
