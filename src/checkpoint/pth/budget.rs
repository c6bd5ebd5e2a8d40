//! Bounds on what a pickle may cost in memory, by the size of its file.
//!
//! A byte can make a value of a hundred bytes, and a few bytes can name all that was made before once more. So values
//! are counted while they are made and once more when the tree is copied out. Next: `unpickler`, which pays.

use super::allowed_globals::broken;
use super::pickler::MAX_DEPTH;
use crate::error::{Error, Result};

/// Values that a file of any size may make: settings, a vocabulary beside the weights, a model of ten thousand tensors.
const FREE_VALUES: usize = 1 << 18;

/// Bytes of the file for each value above that. A tensor is some 25 values, and never less than 300 bytes: its part of
/// the pickle, and its record's heading, padding and entry in the zip's directory.
const BYTES_A_VALUE: usize = 8;

/// What a pickle may still make.
#[derive(Debug)]
pub struct Budget {
    file: usize,
    most: usize,
    values: usize,
    nodes: usize,
    text: usize,
    tensors: usize,
}

impl Budget {
    /// For a pickle of `code` bytes in a file of `file` bytes.
    pub fn new(file: usize, code: usize) -> Self {
        let most = (file / BYTES_A_VALUE).saturating_add(FREE_VALUES);
        Self {
            file,
            most,
            values: most,
            nodes: most,
            // Keys that recur are named by a few bytes each.
            text: code.saturating_mul(16).saturating_add(1 << 16),
            // Views may overlap (ties, expanded tensors), but not blow a small file up.
            tensors: file.saturating_mul(16).saturating_add(1 << 20),
        }
    }

    /// Pays for a value that an opcode pushes.
    ///
    /// # Errors
    /// The file made too many.
    pub fn value(&mut self) -> Result<()> {
        self.values = self.values.checked_sub(1).ok_or_else(|| self.too_many())?;
        Ok(())
    }

    /// Checks the memo, which holds `held` entries.
    ///
    /// # Errors
    /// There are too many.
    pub fn memo(&self, held: usize) -> Result<()> {
        if held > self.most { Err(self.too_many()) } else { Ok(()) }
    }

    /// Pays for `nodes` values and `text` bytes that are copied from what the file holds once.
    ///
    /// # Errors
    /// The contents are repeated too often.
    pub fn charge(&mut self, nodes: usize, text: usize) -> Result<()> {
        let spent = || broken("it repeats its contents too often");
        self.nodes = self.nodes.checked_sub(nodes).ok_or_else(spent)?;
        self.text = self.text.checked_sub(text).ok_or_else(spent)?;
        Ok(())
    }

    /// Pays for a tensor of the finished tree, of `bytes` bytes.
    ///
    /// # Errors
    /// The tensors are far larger than the file.
    pub fn tensor(&mut self, bytes: usize) -> Result<()> {
        let left = self.tensors.checked_sub(bytes);
        self.tensors = left.ok_or_else(|| broken("its tensors are far larger than the file"))?;
        Ok(())
    }

    fn too_many(&self) -> Error {
        let (most, file) = (self.most, self.file);
        broken(&format!("it makes more than {most} values, which no checkpoint of {file} bytes does"))
    }
}

/// The fault of a tree deeper than any that is written.
pub fn too_deep() -> Error {
    broken(&format!("it is nested deeper than {MAX_DEPTH}"))
}
