//! `.pth` and `.safetensors`: upstream's state dict in one file, with our metadata.

use std::collections::HashMap;
use std::path::Path;

use super::options::Precision;
use super::source::Source;
use crate::checkpoint::{METADATA, Value, pth, safetensors};
use crate::engine::resume::weights_value;
use crate::error::Result;

/// Writes a plain dict of tensors; tied weights stay one storage.
///
/// # Errors
/// A file cannot be written, or read back.
pub fn pth(source: &Source, precision: Precision, path: &Path) -> Result<()> {
    let value = weights_value(&source.model, precision.kind())?;
    pth::write(path, &value, &[(METADATA, source.describe(path).to_string().as_bytes())])
}

/// Writes the tensors without a tied output layer: the format cannot tell it from a copy, and readers restore it.
///
/// # Errors
/// A file cannot be written, or read back.
pub fn safetensors(source: &Source, precision: Precision, path: &Path) -> Result<()> {
    let tied = source.model.config().tie_word_embeddings;
    let value = weights_value(&source.model, precision.kind())?;
    let named =
        |(name, tensor): &(Value, Value)| Some((name.as_str()?.to_owned(), tensor.as_tensor()?.clone()));
    let mut tensors: Vec<_> = value.entries().iter().filter_map(named).collect();
    tensors.retain(|(name, _)| !(tied && name == "lm_head.weight"));
    let about = [
        // Hugging Face's readers ask for the framework.
        ("format".to_owned(), "pt".to_owned()),
        (METADATA.to_owned(), source.describe(path).to_string()),
    ];
    safetensors::write(path, &tensors, HashMap::from(about))
}
