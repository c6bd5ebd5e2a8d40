//! llama.cpp's GGUF: metadata with the tokenizer inside, then tensors, aligned and mappable.
//!
//! Format: version 3 of the specification in ggml's `docs/gguf.md`. Reading trusts nothing: every length is
//! held against the file's size before anything is made of it. Weights become upstream's names here, and
//! those of a quantised file numbers of 32 bits. Next: `reader`, `blocks` (element types), `names`
//! (which tensor is which), `metadata` (the architecture), `vocabulary` (the tokenizer).

mod blocks;
mod metadata;
mod names;
mod quants;
mod reader;
mod rope;
mod split;
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

pub use blocks::{Element, Precision};
pub use names::rounded;
pub use reader::{Entry, Gguf, Meta};
pub use vocabulary::{TokenKind, Vocabulary};

/// How a file of this format begins.
pub const MAGIC: &[u8; 4] = b"GGUF";

/// llama.cpp's end of a text, of a turn and of a message; each of them ends an answer there.
pub const EOS_KEYS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];

/// Opens a file: its metadata and where its tensors lie.
///
/// # Errors
/// Whatever is not a GGUF of version 2 or 3 with honest lengths.
pub fn open(path: &Path) -> Result<Gguf> {
    Gguf::open(path).map_err(|e| e.at(Place::file(path)))
}

/// The architecture as a `config.json` of Hugging Face's would state it.
pub fn config_json(file: &Gguf) -> Result<serde_json::Value> {
    metadata::config_json(file)
}

/// Every tensor under upstream's name, and the architecture; quantised ones come as f32, the others lie
/// where they lay in the file.
///
/// # Errors
/// An architecture or an element type that is not read here.
pub fn read_weights(path: &Path) -> Result<Weights> {
    let at = |e: Error| e.at(Place::file(path));
    let file = Gguf::open(path).map_err(at)?;
    let arch = metadata::Arch::of(&file).map_err(at)?;
    let heads = metadata::heads(&file, arch).map_err(at)?;
    let config = metadata::config_json(&file).map_err(at)?;
    let tensors = names::from_file(&file, arch, heads).map_err(at)?;
    Ok(Weights { tensors, metadata: Some(serde_json::json!({"config": config})), state_dict_key: None })
}

/// Whether a file begins as this format does.
pub fn is_gguf(path: &Path) -> bool {
    let mut head = [0; 4];
    let read = crate::files::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && head == *MAGIC
}

/// End marks beside the tokenizer's own: llama.cpp has keys for two more.
fn put_ends(head: &mut writer::Head, eos: Option<u32>, ends: &[u32]) -> Result<()> {
    let more: Vec<u32> = ends.iter().copied().filter(|id| Some(*id) != eos).collect();
    let keys = if eos.is_some() { &EOS_KEYS[1..] } else { &EOS_KEYS[..] };
    for (key, id) in keys.iter().zip(&more) {
        head.int(key, i64::from(*id))?;
    }
    for id in more.iter().skip(keys.len()) {
        tracing::warn!("a GGUF has no key for another end mark: token {id} is left out");
    }
    Ok(())
}

/// What a GGUF is made of beside the weights.
#[derive(Debug)]
pub struct Contents<'a> {
    /// The architecture.
    pub config: &'a ModelConfig,
    /// The tokenizer; llama.cpp needs one to take text.
    pub vocabulary: Option<&'a Vocabulary>,
    /// The tokens that end an answer.
    pub ends: &'a [u32],
    /// A name for people.
    pub name: &'a str,
    /// How weights are stored.
    pub precision: Precision,
}

/// Replaces the file with a model that llama.cpp loads.
///
/// # Errors
/// An architecture without a twin in llama.cpp (minimind2's mixture of experts), weights that are missing
/// or do not fit the precision, a tokenizer with more tokens than the embedding has rows.
pub fn write(path: &Path, contents: &Contents<'_>, weights: &HashMap<String, HostTensor>) -> Result<()> {
    let arch = metadata::Arch::for_config(contents.config)?;
    let mut plan = names::to_file(contents.config, arch, weights, contents.precision)?;
    let factors = rope::tensor(contents.config)?;
    plan.extend(factors.as_ref().map(|tensor| names::plain(rope::FACTORS, tensor)));
    let mut head = writer::Head::default();
    metadata::put(&mut head, contents, arch)?;
    if let Some(vocabulary) = contents.vocabulary {
        vocabulary.put(&mut head, contents.config.vocab_size)?;
        put_ends(&mut head, vocabulary.eos, contents.ends)?;
    }
    writer::write(path, head, &plan).map_err(|e: Error| e.at(Place::file(path)))
}
