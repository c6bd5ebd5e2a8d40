//! Writes the file in one pass: head, padding, tensors one by one.
//!
//! Layout and type numbers: ggml's `docs/gguf.md`.

use std::path::Path;

use super::MAGIC;
use super::tensor_names::PlannedTensor;
use crate::atomic;
use crate::error::{Error, Result};

/// The version that is written; llama.cpp reads it since August 2023.
const VERSION: u32 = 3;
/// Alignment of tensors in bytes, the format's default.
const ALIGN: usize = 32;

/// Types of metadata values, by the format's numbers.
const UINT32: u32 = 4;
const INT32: u32 = 5;
const FLOAT32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

/// Collects metadata, encoded as in the file.
#[derive(Debug, Default)]
pub struct MetadataWriter {
    bytes: Vec<u8>,
    count: u64,
}

impl MetadataWriter {
    /// Begins an entry of one of the value types below.
    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    /// Adds a text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key, STRING);
        text(&mut self.bytes, value);
    }

    /// Adds an unsigned 32-bit integer.
    ///
    /// # Errors
    /// It does not fit.
    pub fn int(&mut self, key: &str, value: i64) -> Result<()> {
        let n = u32::try_from(value);
        let n = n.map_err(|_| Error::failed(format!("`{key}` is {value}, which a GGUF cannot say")))?;
        self.key(key, UINT32);
        self.bytes.extend(n.to_le_bytes());
        Ok(())
    }

    /// Adds an f32.
    pub fn float(&mut self, key: &str, value: f64) {
        self.key(key, FLOAT32);
        self.bytes.extend((value as f32).to_le_bytes());
    }

    /// Adds a boolean.
    pub fn flag(&mut self, key: &str, on: bool) {
        self.key(key, BOOL);
        self.bytes.push(u8::from(on));
    }

    fn array(&mut self, key: &str, kind: u32, count: usize) {
        self.key(key, ARRAY);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((count as u64).to_le_bytes());
    }

    /// Adds an array of texts.
    pub fn texts(&mut self, key: &str, values: &[String]) {
        self.array(key, STRING, values.len());
        values.iter().for_each(|value| text(&mut self.bytes, value));
    }

    /// Adds an array of signed 32-bit integers.
    pub fn ints(&mut self, key: &str, values: &[i32]) {
        self.array(key, INT32, values.len());
        self.bytes.extend(values.iter().flat_map(|n| n.to_le_bytes()));
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// Replaces the file.
///
/// # Errors
/// A weight does not fit its type; the disk fails.
pub fn write(path: &Path, head: MetadataWriter, plan: &[PlannedTensor<'_>]) -> Result<()> {
    let mut start = Vec::from(*MAGIC);
    start.extend(VERSION.to_le_bytes());
    start.extend((plan.len() as u64).to_le_bytes());
    start.extend(head.count.to_le_bytes());
    start.extend(head.bytes);
    let mut offset = 0usize;
    for tensor in plan {
        text(&mut start, &tensor.name);
        start.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|n| start.extend((*n as u64).to_le_bytes()));
        start.extend(tensor.element.number().to_le_bytes());
        start.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGN);
    }
    start.resize(start.len().next_multiple_of(ALIGN), 0);
    atomic::write_with(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|e| Error::io("write the model", path, e));
        put(&start)?;
        for tensor in plan {
            tensor.encode(&mut put)?;
            put(&[0; ALIGN][..tensor.bytes().next_multiple_of(ALIGN) - tensor.bytes()])?;
        }
        Ok(())
    })
}
