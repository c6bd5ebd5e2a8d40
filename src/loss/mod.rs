//! Losses as pure functions of tensors.

pub mod cross_entropy;
pub mod grpo;
pub mod logprob;
pub mod policy;
pub mod ppo;
pub mod spo;
