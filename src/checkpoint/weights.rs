//! Weights as they are read from disk, before they are a model, and the names that every reader of them shares.
//!
//! Next: `read`, which makes them from a file or folder, and `load`, which makes a model of them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use tch::Kind;

use super::host_tensor::HostTensor;
use crate::error::{Error, Place, Result};

/// Name of the record in our `.pth` files, and key in the metadata of our safetensors, that holds
/// `{"config": {...}, "tokenizer": ..., "eos_token_id": ...}`.
pub const METADATA: &str = "minimind.json";

/// Weight files of a Hugging Face folder, in the order of preference. A `.json` is the index of a sharded checkpoint.
pub const FOLDER_WEIGHTS: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

/// The input embedding `[V, D]`, and the output layer `[V, D]`, which may be tied to it.
pub const EMBEDDING: &str = "model.embed_tokens.weight";
/// See [`EMBEDDING`].
pub const LM_HEAD: &str = "lm_head.weight";

/// The weights of a file or folder before they are a model.
#[derive(Debug)]
pub struct Weights {
    /// Tensors by upstream's names; the prefixes that module wrappers add are taken off.
    pub tensors: HashMap<String, HostTensor>,
    /// The file's own metadata ([`METADATA`]), if it has any.
    pub metadata: Option<Json>,
    /// The dotted keys under which a training checkpoint keeps its state dict, such as `state_dict`; `None` where the
    /// weights are at the top.
    pub state_dict_key: Option<String>,
}

impl Weights {
    /// An entry of the file's own metadata.
    pub fn entry(&self, key: &str) -> Option<&Json> {
        self.metadata.as_ref()?.get(key)
    }

    /// The type that most of the numbers are stored in; fp32 where there are none.
    pub fn majority_kind(&self) -> Kind {
        let mut kinds: HashMap<Kind, usize> = HashMap::new();
        for tensor in self.tensors.values() {
            *kinds.entry(tensor.dtype().kind()).or_default() += tensor.numel();
        }
        kinds.into_iter().max_by_key(|(_, n)| *n).map_or(Kind::Float, |(kind, _)| kind)
    }

    /// Gives the embedding the output layer's tensor where the file has that alone: formats without shared storages may
    /// keep tied weights under `lm_head.weight` only.
    pub(super) fn fill_tied_embedding(&mut self) {
        if !self.tensors.contains_key(EMBEDDING)
            && let Some(head) = self.tensors.get(LM_HEAD).cloned()
        {
            self.tensors.insert(EMBEDDING.to_owned(), head);
        }
    }
}

/// The weight file of a Hugging Face folder, or the index of its shards; `None` where there is neither.
pub(super) fn folder_weights(folder: &Path) -> Option<PathBuf> {
    FOLDER_WEIGHTS.iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

/// Parses the JSON that was read from `path`.
///
/// # Errors
/// It is no JSON.
pub(super) fn parse_json(path: &Path, bytes: &[u8]) -> Result<Json> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::failed("this JSON cannot be read").at(Place::file(path)).because(e))
}

/// Reads a JSON file.
///
/// # Errors
/// The file cannot be read, or is no JSON.
pub(super) fn read_json(path: &Path) -> Result<Json> {
    parse_json(path, &crate::files::read(path).map_err(|e| Error::io("read", path, e))?)
}
