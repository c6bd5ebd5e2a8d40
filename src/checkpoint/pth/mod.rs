//! PyTorch's `.pth`: a zip of stored records, one of which is a pickle that names the others.
//!
//! Reading runs nothing: `unpickler` is a small machine with a list of what it may build. Storages are mapped, not read.
//! Writing gives the same bytes for the same contents, and every file can be read by
//! `torch.load(path, weights_only=True)`. Format: `torch/serialization.py` of PyTorch 2.11, which reads it.
//! Next: `archive` (the zip), `legacy` (the format before it), `pickler`, `torchscript`.

mod allowed_globals;
mod archive;
mod budget;
mod input;
mod items;
mod legacy;
mod opcode;
mod pickler;
mod rebuild;
mod storages;
mod torchscript;
mod tree;
mod unpickler;

#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod tests;

use std::path::Path;

use super::value::Value;
use crate::atomic;
use crate::error::{Error, Place, Result};
use archive::Archive;
pub use torchscript::{ScriptContents, is_script, read_script};

/// Reads a checkpoint's tree; its tensors are views of the mapped file.
///
/// # Errors
/// The file cannot be read, is a TorchScript program, is damaged, or holds what is no plain data (classes, code).
pub fn read(path: &Path) -> Result<Value> {
    let at = |e: Error| e.at(Place::file(path));
    if legacy::is_legacy(path) {
        return legacy::read(path).map_err(at);
    }
    let archive = Archive::open_checkpoint(path).map_err(at)?;
    unpickler::unpickle(&archive).map_err(at)
}

/// The contents of one of PyTorch's files.
#[derive(Debug)]
pub enum Contents {
    /// A checkpoint: its tree, and the record that was asked for beside it.
    Tree(Value, Option<Vec<u8>>),
    /// A program with weights.
    Script(ScriptContents),
}

/// Reads a checkpoint with its record `extra`, or a TorchScript program; the file is opened once.
///
/// # Errors
/// As [`read`], but for TorchScript programs.
pub fn read_either(path: &Path, extra: &str) -> Result<Contents> {
    let at = |e: Error| e.at(Place::file(path));
    if legacy::is_legacy(path) {
        return Ok(Contents::Tree(legacy::read(path).map_err(at)?, None));
    }
    let archive = Archive::open(path).map_err(at)?;
    if archive.is_script() {
        return torchscript::contents(&archive).map(Contents::Script).map_err(at);
    }
    let value = unpickler::unpickle(&archive).map_err(at)?;
    Ok(Contents::Tree(value, archive.extra(extra).map_err(at)?))
}

/// A record that [`write()`] put beside the tree; `None` where the file has no such record.
///
/// # Errors
/// The file is no checkpoint, or is damaged.
pub fn read_extra(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let at = |e: Error| e.at(Place::file(path));
    if legacy::is_legacy(path) {
        return Ok(None);
    }
    let archive = Archive::open_checkpoint(path).map_err(at)?;
    archive.extra(name).map_err(at)
}

/// [`read_extra`] of a checkpoint or of a TorchScript program.
///
/// # Errors
/// As [`read_extra`].
pub fn read_record(path: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let at = |e: Error| e.at(Place::file(path));
    if legacy::is_legacy(path) {
        return Ok(None);
    }
    let archive = Archive::open(path).map_err(at)?;
    let extra = format!("extra/{name}");
    archive.extra(if archive.is_script() { &extra } else { name }).map_err(at)
}

/// Replaces the file with `value` and records of our own (name, bytes), which PyTorch ignores.
///
/// # Errors
/// A value of a kind that is read but not written; a name that cannot be a record; the disk fails.
pub fn write(path: &Path, value: &Value, extra: &[(&str, &[u8])]) -> Result<()> {
    put(path, value, extra, None)
}

/// [`write()`]; the old file is kept as `previous`.
///
/// # Errors
/// As [`write()`].
pub fn write_keeping(path: &Path, value: &Value, extra: &[(&str, &[u8])], previous: &Path) -> Result<()> {
    put(path, value, extra, Some(previous))
}

fn put(path: &Path, value: &Value, extra: &[(&str, &[u8])], previous: Option<&Path>) -> Result<()> {
    let pickled = pickler::pickle(value)?;
    let fixed = ["data.pkl", "byteorder", "version"];
    for (name, _) in extra {
        let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !plain || name.is_empty() || name.contains("..") || fixed.contains(name) {
            return Err(Error::failed(format!("`{name}` cannot be a record of a checkpoint")));
        }
    }
    atomic::replace(path, previous, |out| archive::write(out, path, &pickled, extra))
}
