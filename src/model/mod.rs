//! The network, in the order a paper would tell it.

pub mod config;

pub use config::{Era, ModelConfig, ModelOverrides, MoeConfig};
