//! What is kept on disk: PyTorch's `.pth` and `.safetensors`, read without running anything they hold.
//!
//! [`value`] is the tree both hold, [`bridge`] the way to and from libtorch, [`pth`] and [`safetensors`] the
//! formats, [`load`] how a file or folder becomes a model.
//! Nothing here trains; `engine::resume` decides what a resume file holds.

pub mod about;
pub mod adapter;
pub mod architecture;
pub mod bridge;
pub mod contradiction;
pub mod critic;
pub mod ends;
pub mod folder;
pub mod gguf;
mod internlm2;
pub mod load;
pub mod names;
pub mod pth;
pub mod resolve;
pub mod reward;
pub mod safetensors;
pub mod value;
pub mod weight_file;

pub use critic::load_critic;
pub use load::{LoadedModel, load_into, load_model, named_tensors};
pub use resolve::resolve_model_path;
pub use value::{DType, HostTensor, Value};
pub use weight_file::WeightFile;
