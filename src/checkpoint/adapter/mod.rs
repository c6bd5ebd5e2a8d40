//! LoRA adapters as files (arXiv 2106.09685): upstream's `.pth`, and PEFT's folders.
//!
//! [`lora`] is an adapter in memory, [`mod@read`] reads one of either form, [`peft`] PEFT's folders, [`detect`] distinguishes
//! adapters from models. `apply` adds an adapter to weights in memory, [`merge`] to a weight file; [`adapter_file`] is
//! a file of ours with the base it names, [`attach`] any adapter on any base. The layers that train one live in `model`.

pub mod adapter_file;
mod apply;
pub mod attach;
pub mod detect;
pub mod lora;
pub mod merge;
pub mod peft;
pub mod read;

#[cfg(test)]
mod tests;

pub use lora::{Adapter, LoraPair};
