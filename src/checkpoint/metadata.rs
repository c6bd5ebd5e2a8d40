//! Reads the metadata of a weight file (the record `minimind.json`) without its weights.
//!
//! Next: `tokenizer_folder`, which finds the tokenizer that it names, and `read`, which reads the weights.

use std::path::Path;

use serde_json::Value as Json;

use super::read::{head_of, is_safetensors};
use super::weights::{METADATA, folder_weights};
use super::{gguf, pth, safetensors};
use crate::error::Result;

/// The record `minimind.json` of a `.pth`, a `.safetensors` or a TorchScript program, or of a folder's one weight file;
/// `None` where there is none, or where it is no JSON.
///
/// # Errors
/// The file cannot be read, or is a damaged archive.
pub fn read(path: &Path) -> Result<Option<Json>> {
    if path.is_dir() {
        // As in `read_weights`: the shards of an index have no one record.
        let file = folder_weights(path).filter(|file| file.extension().is_none_or(|e| e != "json"));
        return file.map_or(Ok(None), |file| read(&file));
    }
    let head = head_of(path)?;
    if head.starts_with(gguf::MAGIC) {
        return Ok(None); // its byte 8 is a count and may be any
    }
    let text = if is_safetensors(path, &head) {
        safetensors::read(path)?.metadata.remove(METADATA).map(String::into_bytes)
    } else if head.starts_with(b"PK") {
        pth::read_record(path, METADATA)?
    } else {
        None
    };
    Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
}

/// Whether a weight file (no folder) states its own architecture, so that no config beside it is asked.
///
/// # Errors
/// As [`read`].
pub fn states_architecture(path: &Path) -> Result<bool> {
    Ok(gguf::is_gguf(path) || read(path)?.is_some_and(|metadata| metadata.get("config").is_some()))
}
