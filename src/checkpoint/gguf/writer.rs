//! The file, written in one go: head, padding, tensors one by one.

use std::path::Path;

use super::MAGIC;
use super::names::Planned;
use crate::atomic;
use crate::error::{Error, Result};

/// The version that is written; llama.cpp reads it since August 2023.
const VERSION: u32 = 3;
const ALIGN: usize = 32;

/// Metadata while it is put together.
#[derive(Debug, Default)]
pub struct Head {
    bytes: Vec<u8>,
    count: u64,
}

impl Head {
    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    /// A text.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        text(&mut self.bytes, value);
    }

    /// A whole number of 32 bits.
    pub fn int(&mut self, key: &str, value: i64) -> Result<()> {
        let n = u32::try_from(value);
        let n = n.map_err(|_| Error::failed(format!("`{key}` is {value}, which a GGUF cannot say")))?;
        self.key(key, 4);
        self.bytes.extend(n.to_le_bytes());
        Ok(())
    }

    /// A number of 32 bits.
    pub fn float(&mut self, key: &str, value: f64) {
        self.key(key, 6);
        self.bytes.extend((value as f32).to_le_bytes());
    }

    /// Yes or no.
    pub fn flag(&mut self, key: &str, on: bool) {
        self.key(key, 7);
        self.bytes.push(u8::from(on));
    }

    fn array(&mut self, key: &str, kind: u32, count: usize) {
        self.key(key, 9);
        self.bytes.extend(kind.to_le_bytes());
        self.bytes.extend((count as u64).to_le_bytes());
    }

    /// An array of texts.
    pub fn texts(&mut self, key: &str, values: &[String]) {
        self.array(key, 8, values.len());
        values.iter().for_each(|value| text(&mut self.bytes, value));
    }

    /// An array of signed numbers of 32 bits.
    pub fn ints(&mut self, key: &str, values: &[i32]) {
        self.array(key, 5, values.len());
        self.bytes.extend(values.iter().flat_map(|n| n.to_le_bytes()));
    }
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend_from_slice(value.as_bytes());
}

/// Replaces the file.
pub fn write(path: &Path, head: Head, plan: &[Planned<'_>]) -> Result<()> {
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
