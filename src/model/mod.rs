//! The network, in the order a paper would tell it: config (and what other families' configs state), params,
//! lora, linear, rope, norm, attention, mlp, moe, block, causal_lm, value_head; step is its short form for one token on a GPU.

pub mod attention;
pub mod block;
pub mod causal_lm;
pub mod config;
pub mod kv_cache;
pub mod linear;
pub mod lora;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod packing;
pub mod params;
pub mod rope;
pub mod rope_scaling;
pub mod stated;
pub mod step;
pub mod value_head;

pub use attention::Mask;
pub use causal_lm::{CausalLm, SCORE, padded_causal_mask};
pub use config::{Era, ModelConfig, ModelOverrides, MoeConfig};
pub use kv_cache::KvCache;
pub use lora::Adapter;
pub use packing::Packing;
pub use params::Params;
pub use step::{RecordedStep, StepWeights};
pub use value_head::ValueModel;
