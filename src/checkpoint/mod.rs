//! What is kept on disk: PyTorch's `.pth` and `.safetensors`, read without running anything they hold.
//!
//! [`value`] is the tree both hold, [`bridge`] the way to and from libtorch, [`pth`] and [`safetensors`] the
//! formats, [`atomic`] how any file is replaced, [`load`] how a file or folder becomes a model.
//! Nothing here trains; `engine::resume` decides what a resume file holds.

pub mod about;
pub mod adapter;
pub mod architecture;
pub mod atomic;
pub mod bridge;
pub mod contradiction;
pub mod critic;
pub mod ends;
pub mod folder;
pub mod gguf;
mod internlm2;
pub mod load;
pub mod pth;
pub mod resolve;
pub mod reward;
pub mod safetensors;
pub mod value;

pub use critic::load_critic;
pub use load::{LoadedModel, load_into, load_model, named_tensors};
pub use resolve::resolve_model_path;
pub use value::{DType, HostTensor, Value};

/// The weight's own name, without what data-parallel and compiled modules put before it.
pub fn strip_prefix(name: &str) -> &str {
    let mut rest = name;
    while let Some(shorter) = rest.strip_prefix("module.").or_else(|| rest.strip_prefix("_orig_mod.")) {
        rest = shorter;
    }
    rest
}

#[cfg(test)]
mod tests {
    #[test]
    fn prefixes_go_in_any_order() {
        for name in ["a.module.b", "module.a.module.b", "_orig_mod.module.a.module.b"] {
            assert_eq!(super::strip_prefix(name), "a.module.b");
        }
    }
}
