//! Losses as pure functions of tensors.

pub mod cross_entropy;
