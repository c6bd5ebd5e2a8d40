//! Weights on disk: PyTorch's `.pth`, safetensors, GGUF and Hugging Face folders, read without running what they hold.
//!
//! From the ground up: [`value`] is the tree a checkpoint holds, [`host_tensor`] a tensor in it ([`mod@dtype`] its type),
//! [`convert`] the way to and from libtorch. [`pth`], [`safetensors`] and [`gguf`] are the formats. [`mod@read`] gives the
//! [`weights`] of a file or folder, [`state_dict`] their names, [`architecture`] their config; [`load`] makes a model of
//! them, [`critic`] and [`reward_model`] one with another head, [`adapter`] one with a low-rank adapter.
//! Nothing here trains; `engine::resume` decides what a resume file holds.

pub mod adapter;
pub mod architecture;
pub mod config_conflicts;
pub mod convert;
pub mod critic;
pub mod dtype;
pub mod eos;
mod fused_experts;
pub mod gguf;
pub mod host_tensor;
pub mod infer_shapes;
mod internlm2;
pub mod load;
pub mod metadata;
pub mod pth;
pub mod read;
pub mod resolve;
pub mod reward_model;
pub mod safetensors;
pub mod state_dict;
mod strict_check;
pub mod tokenizer_folder;
pub mod value;
pub mod weight_file;
pub mod weights;

pub use critic::load_critic;
pub use dtype::DType;
pub use host_tensor::HostTensor;
pub use load::{LoadedModel, load_into, load_model, named_tensors};
pub use read::read_weights;
pub use resolve::resolve_model_path;
pub use value::Value;
pub use weight_file::WeightFile;
pub use weights::{METADATA, Weights};
