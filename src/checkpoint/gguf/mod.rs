//! llama.cpp's GGUF: metadata with the tokenizer inside, then tensors, aligned and mappable.
//!
//! Format: version 3 of the specification in ggml's `docs/gguf.md`. Reading trusts nothing: every length is
//! checked against the file's size before memory is allocated for it. Weights get upstream's names here, and those of a
//! quantised file become f32. Next: `reader`, `ggml_type` (element types), `tensor_names`, `arch` and `metadata` (the
//! architecture), `vocabulary` (the tokenizer).

mod arch;
mod dequantize;
mod ggml_type;
mod metadata;
mod reader;
mod rope_freqs;
mod split;
mod tensor_names;
mod vocabulary;
mod writer;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use super::host_tensor::HostTensor;
use super::weights::Weights;
use crate::error::{Error, Place, Result};
use crate::model::ModelConfig;
use arch::Arch;

pub use ggml_type::{FileType, GgmlType};
pub use reader::{Gguf, MetaValue, TensorInfo};
pub use tensor_names::rounded;
pub use vocabulary::{TokenKind, Vocabulary};

/// The first bytes of the format.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// llama.cpp's end of a text, of a turn and of a message; each of them ends an answer there.
pub const EOS_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Opens a file: its metadata and the table of its tensors.
///
/// # Errors
/// The file cannot be read, is no GGUF of version 2 or 3, or is damaged; a part of a split model is missing.
pub fn open(path: &Path) -> Result<Gguf> {
    split::open_model(path).map_err(|e| e.at(Place::file(path)))
}

/// The architecture as a Hugging Face `config.json` would state it.
///
/// # Errors
/// An architecture or rope scaling that is not read here; a key that is missing.
pub fn config_json(file: &Gguf) -> Result<serde_json::Value> {
    metadata::config_json(file)
}

/// Every tensor under upstream's name, and the architecture; quantised tensors are dequantised to f32, the others are
/// views of the mapped file.
///
/// # Errors
/// An architecture or an element type that is not read here.
pub fn read_weights(path: &Path) -> Result<Weights> {
    let at = |e: Error| e.at(Place::file(path));
    let file = open(path)?;
    let arch = Arch::of(&file).map_err(at)?;
    let heads = arch::heads(&file, arch).map_err(at)?;
    let config = metadata::config_json(&file).map_err(at)?;
    let tensors = tensor_names::from_file(&file, arch, heads).map_err(at)?;
    Ok(Weights { tensors, metadata: Some(serde_json::json!({"config": config})), state_dict_key: None })
}

/// Whether a file begins as this format does.
pub fn is_gguf(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = crate::files::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && head == *MAGIC
}

/// Writes EOS ids beside the tokenizer's own: llama.cpp has keys for two more.
fn put_eos_ids(head: &mut writer::MetadataWriter, eos: Option<u32>, ends: &[u32]) -> Result<()> {
    let more: Vec<u32> = ends.iter().copied().filter(|id| Some(*id) != eos).collect();
    let keys = if eos.is_some() { &EOS_KEYS[1..] } else { &EOS_KEYS[..] };
    for (key, id) in keys.iter().zip(&more) {
        head.int(key, i64::from(*id))?;
    }
    for id in more.iter().skip(keys.len()) {
        tracing::warn!("a GGUF has no key for another EOS token: {id} is left out");
    }
    Ok(())
}

/// The contents of a GGUF beside the weights.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The architecture.
    pub config: &'a ModelConfig,
    /// The tokenizer; llama.cpp needs one to take text.
    pub vocabulary: Option<&'a Vocabulary>,
    /// The EOS token ids.
    pub eos_token_ids: &'a [u32],
    /// A name for people.
    pub name: &'a str,
    /// The type that weights are stored in.
    pub file_type: FileType,
}

/// Replaces the file with a model that llama.cpp loads.
///
/// # Errors
/// An architecture that llama.cpp does not have (minimind2's mixture of experts), weights that are missing or do not fit
/// the file type, a tokenizer with more tokens than the embedding has rows.
pub fn write(path: &Path, contents: &Contents<'_>, weights: &HashMap<String, HostTensor>) -> Result<()> {
    let arch = Arch::for_config(contents.config)?;
    let mut plan = tensor_names::to_file(contents.config, arch, weights, contents.file_type)?;
    let factors = rope_freqs::tensor(contents.config)?;
    plan.extend(factors.as_ref().map(|tensor| tensor_names::unchanged(rope_freqs::FACTORS, tensor)));
    let mut head = writer::MetadataWriter::default();
    metadata::put(&mut head, contents.config, arch, contents.name, contents.file_type)?;
    if let Some(vocabulary) = contents.vocabulary {
        vocabulary.put(&mut head, contents.config.vocab_size)?;
        put_eos_ids(&mut head, vocabulary.eos, contents.eos_token_ids)?;
    }
    writer::write(path, head, &plan).map_err(|e: Error| e.at(Place::file(path)))
}
