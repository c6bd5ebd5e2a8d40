//! The network, in the order a paper would tell it: config (hf_config: other families' configs), params, lora,
//! linear, rope, norm, mask, attention, mlp, moe, block, causal_lm, value_head. `ops` computes it on whatever
//! device; `step` is its short form for one token on a GPU.

pub mod attention;
pub mod block;
pub mod causal_lm;
pub mod config;
mod declare;
pub mod hf_config;
pub mod kv_cache;
pub mod linear;
pub mod lora;
pub mod mask;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod ops;
pub mod packing;
pub mod params;
pub mod rope;
pub mod rope_scaling;
pub mod step;
pub mod value_head;

/// A small model of a preset's kind on the CPU, for tests.
#[cfg(test)]
pub(crate) fn tiny(preset: &str, layers: i64, vocab: i64) -> CausalLm {
    let mut overrides = config::preset(preset).unwrap();
    (overrides.hidden_size, overrides.num_hidden_layers) = (Some(32), Some(layers));
    (overrides.vocab_size, overrides.num_attention_heads) = (Some(vocab), Some(4));
    let config = overrides.resolve().unwrap();
    CausalLm::new(&config, Params::init(&config, tch::Device::Cpu).unwrap())
}

pub use causal_lm::{CausalLm, SCORE};
pub use config::{Era, ModelConfig, ModelOverrides, MoeConfig};
pub use kv_cache::KvCache;
pub use lora::Adapter;
pub use mask::{Mask, padded_causal_mask};
pub use packing::Packing;
pub use params::Params;
pub use step::{StepGraph, StepWeights};
pub use value_head::ValueModel;
