//! Reads the head of one file: metadata by key and the table of tensors, all checked against the file's size.
//!
//! Arrays stay in the file and are read when asked for, so that a file which claims a billion elements costs nothing.
//! Layout: ggml's `docs/gguf.md`. Next: `split` (models of several files), `ggml_type`.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;
use serde_json::{Value as Json, json};

use super::MAGIC;
use super::ggml_type::GgmlType;
use crate::checkpoint::host_tensor::Storage;
use crate::error::{Error, Result};
use crate::native;

/// A metadata value; arrays are `(start, count)` in the file.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum MetaValue {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    Texts { start: usize, count: usize },
    Numbers { kind: NumberType, start: usize, count: usize },
}

/// The types a number has in a file, by the format's own numbering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum NumberType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    U64,
    I64,
    F64,
}

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

impl NumberType {
    fn of(kind: u32) -> Option<Self> {
        use NumberType::{Bool, F32, F64, I8, I16, I32, I64, U8, U16, U32, U64};
        Some(match kind {
            0 => U8,
            1 => I8,
            2 => U16,
            3 => I16,
            4 => U32,
            5 => I32,
            6 => F32,
            7 => Bool,
            10 => U64,
            11 => I64,
            12 => F64,
            _ => return None,
        })
    }

    fn size(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    fn read(self, bytes: &[u8]) -> Result<MetaValue> {
        let mut wide = [0u8; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let n = u64::from_le_bytes(wide);
        Ok(match self {
            Self::F32 => MetaValue::Float(shortest(f32::from_bits(n as u32))),
            Self::F64 => MetaValue::Float(f64::from_bits(n)),
            Self::Bool => MetaValue::Bool(n != 0),
            Self::I8 => MetaValue::Int(i64::from(n as i8)),
            Self::I16 => MetaValue::Int(i64::from(n as i16)),
            Self::I32 => MetaValue::Int(i64::from(n as i32)),
            Self::I64 => MetaValue::Int(n as i64),
            _ => MetaValue::Int(i64::try_from(n).map_err(|_| damaged(format!("a number is {n}")))?),
        })
    }
}

/// The decimal that people wrote: 1e-6 stored in 32 bits is 1e-6 again, not 9.99999997e-7.
fn shortest(x: f32) -> f64 {
    format!("{x:e}").parse().unwrap_or(f64::from(x))
}

/// A row of the table of tensors.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// llama.cpp's name.
    pub name: String,
    /// Sizes, outermost first, as PyTorch counts.
    pub shape: Vec<i64>,
    /// How its elements are stored.
    pub element: GgmlType,
    /// Index of the model's file that holds it.
    part: usize,
    start: usize,
    len: usize,
}

impl TensorInfo {
    /// Number of elements.
    pub fn numel(&self) -> u64 {
        self.shape.iter().map(|n| *n as u64).product()
    }
}

/// An open file.
#[derive(Debug)]
pub struct Gguf {
    /// One, or more where a model is split.
    maps: Vec<Arc<Mmap>>,
    keys: Vec<(String, MetaValue)>,
    entries: Vec<TensorInfo>,
}

pub(super) fn damaged(why: impl std::fmt::Display) -> Error {
    Error::failed("this GGUF file is damaged")
        .because(why)
        .hint("copy or download it again; a Git LFS pointer needs `git lfs pull`")
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| damaged("it ends in the middle of its head"))?;
        let bytes = &self.bytes[self.at..end];
        self.at = end;
        Ok(bytes)
    }

    fn u32(&mut self) -> Result<u32> {
        let bytes = self.take(4)?;
        Ok(bytes.iter().rev().fold(0, |n, b| n << 8 | u32::from(*b)))
    }

    /// A length or count; what the file cannot hold is refused where it is used.
    fn len(&mut self) -> Result<usize> {
        let bytes = self.take(8)?;
        let n = bytes.iter().rev().fold(0u64, |n, b| n << 8 | u64::from(*b));
        usize::try_from(n).map_err(|_| damaged(format!("it claims a length of {n}")))
    }

    fn text(&mut self) -> Result<&'a str> {
        let n = self.len()?;
        std::str::from_utf8(self.take(n)?).map_err(|_| damaged("a text is not UTF-8"))
    }

    fn value(&mut self) -> Result<MetaValue> {
        match self.u32()? {
            TEXT => Ok(MetaValue::Text(self.text()?.to_owned())),
            ARRAY => {
                let (kind, count) = (self.u32()?, self.len()?);
                let start = self.at;
                if kind == TEXT {
                    for _ in 0..count {
                        let n = self.len()?;
                        self.take(n)?;
                    }
                    return Ok(MetaValue::Texts { start, count });
                }
                let kind =
                    NumberType::of(kind).ok_or_else(|| damaged(format!("an array is of type {kind}")))?;
                let bytes = count.checked_mul(kind.size());
                self.take(bytes.ok_or_else(|| damaged(format!("an array claims {count} elements")))?)?;
                Ok(MetaValue::Numbers { kind, start, count })
            }
            kind => {
                let kind =
                    NumberType::of(kind).ok_or_else(|| damaged(format!("a value is of type {kind}")))?;
                kind.read(self.take(kind.size())?)
            }
        }
    }

    /// Name, shape, type and offset of a tensor.
    fn entry(&mut self) -> Result<(TensorInfo, usize)> {
        let name = self.text()?.to_owned();
        let wrong = |why: String| damaged(format!("tensor `{}` {why}", name.escape_debug()));
        let axes = self.u32()? as usize;
        if !(1..=4).contains(&axes) {
            return Err(wrong(format!("has {axes} dimensions")));
        }
        let mut shape = (0..axes).map(|_| self.len()).collect::<Result<Vec<_>>>()?;
        shape.reverse();
        let kind = self.u32()?;
        let offset = self.len()?;
        let element = GgmlType::of(kind).ok_or_else(|| wrong(format!("is of type {kind}")))?;
        let row = shape.last().copied().unwrap_or(0);
        let numel = shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d)).filter(|n| *n > 0);
        let len = numel.filter(|_| row % element.block() == 0).and_then(|n| {
            (n / element.block()).checked_mul(element.block_bytes()).filter(|n| i64::try_from(*n).is_ok())
        });
        let len = len.ok_or_else(|| wrong(format!("cannot have the shape {shape:?}")))?;
        let shape = shape.into_iter().map(|n| n as i64).collect();
        Ok((TensorInfo { name, shape, element, part: 0, start: 0, len }, offset))
    }
}

impl Gguf {
    /// Adds the tensors of another file of the same model.
    ///
    /// # Errors
    /// Two tensors have one name.
    pub(super) fn add(&mut self, other: Self) -> Result<()> {
        let part = self.maps.len();
        self.maps.extend(other.maps.into_iter().take(1));
        self.entries.extend(other.entries.into_iter().map(|entry| TensorInfo { part, ..entry }));
        unique(self.entries.iter().map(|e| e.name.as_str()), "tensors")
    }

    /// Opens one file.
    ///
    /// # Errors
    /// The file cannot be read, is no GGUF of version 2 or 3, or a length in it is larger than the file.
    pub(super) fn open_file(path: &Path) -> Result<Self> {
        let io = |e| Error::io("read the weights", path, e);
        let map = Arc::new(native::map_file(&crate::files::open(path).map_err(io)?).map_err(io)?);
        let mut cursor = Cursor { bytes: &map, at: 0 };
        if cursor.take(4).ok() != Some(MAGIC) {
            return Err(Error::failed("this file is not a GGUF"));
        }
        let version = cursor.u32()?;
        if version.swap_bytes() < 1 << 16 && version > 1 << 16 {
            return Err(Error::failed("this GGUF was written on a big-endian machine"));
        }
        if ![2, 3].contains(&version) {
            return Err(Error::failed(format!("this GGUF has version {version}; 2 and 3 are read"))
                .hint("convert the model again with a newer llama.cpp"));
        }
        let (tensors, values) = (cursor.len()?, cursor.len()?);
        let mut keys: Vec<(String, MetaValue)> = Vec::new();
        for _ in 0..values {
            let key = cursor.text()?.to_owned();
            keys.push((key, cursor.value()?));
        }
        unique(keys.iter().map(|(key, _)| key.as_str()), "keys")?;
        let mut entries = Vec::new();
        let mut offsets = Vec::new();
        for _ in 0..tensors {
            let (entry, offset) = cursor.entry()?;
            entries.push(entry);
            offsets.push(offset);
        }
        unique(entries.iter().map(|e| e.name.as_str()), "tensors")?;
        let head = cursor.at;
        let mut file = Self { keys, entries, maps: vec![Arc::clone(&map)] };
        file.place(&offsets, head)?;
        Ok(file)
    }

    /// Places the tensors: each inside the file, aligned, and none over another.
    fn place(&mut self, offsets: &[usize], head: usize) -> Result<()> {
        let align = self.int("general.alignment").unwrap_or(32);
        let align = usize::try_from(align).ok().filter(|n| n.is_power_of_two());
        let align = align.ok_or_else(|| damaged("its alignment is no power of two"))?;
        let data = head.checked_next_multiple_of(align).ok_or_else(|| damaged("its alignment is huge"))?;
        let size = self.maps[0].len();
        for (entry, offset) in self.entries.iter_mut().zip(offsets) {
            let start = data.checked_add(*offset);
            let end = start.and_then(|start| start.checked_add(entry.len));
            let (Some(start), Some(_)) = (start, end.filter(|end| *end <= size)) else {
                let name = entry.name.escape_debug();
                return Err(damaged(format!("tensor `{name}` reaches past the end of the file")));
            };
            if offset % align != 0 {
                return Err(damaged(format!("tensor `{}` is not aligned", entry.name.escape_debug())));
            }
            entry.start = start;
        }
        let mut order: Vec<&TensorInfo> = self.entries.iter().collect();
        order.sort_by_key(|e| e.start);
        match order.windows(2).find(|pair| pair[0].start + pair[0].len > pair[1].start) {
            Some(pair) => Err(damaged(format!(
                "tensors `{}` and `{}` overlap",
                pair[0].name.escape_debug(),
                pair[1].name.escape_debug()
            ))),
            None => Ok(()),
        }
    }

    /// The table of tensors, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.entries
    }

    /// A tensor's bytes as a storage mapped from the file.
    ///
    /// # Errors
    /// The table and the file disagree.
    pub(super) fn storage(&self, entry: &TensorInfo) -> Result<Arc<Storage>> {
        let map = self.maps.get(entry.part).ok_or_else(|| damaged("a tensor is in no file"))?;
        Storage::mapped(map, entry.start, entry.len).ok_or_else(|| damaged("a tensor is outside the file"))
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&MetaValue> {
        self.keys.iter().find(|(k, _)| k == key).map(|(_, v)| v)
    }

    /// The integer under a key; `None` where there is none.
    pub fn int(&self, key: &str) -> Option<i64> {
        if let Some(MetaValue::Int(n)) = self.get(key) { Some(*n) } else { None }
    }

    /// The number under a key; `None` where there is none.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.get(key) {
            Some(MetaValue::Float(x)) => Some(*x),
            Some(MetaValue::Int(n)) => Some(*n as f64),
            _ => None,
        }
    }

    /// The boolean under a key; `None` where there is none.
    pub fn flag(&self, key: &str) -> Option<bool> {
        if let Some(MetaValue::Bool(on)) = self.get(key) { Some(*on) } else { None }
    }

    /// The text under a key; `None` where there is none.
    pub fn text(&self, key: &str) -> Option<&str> {
        if let Some(MetaValue::Text(text)) = self.get(key) { Some(text) } else { None }
    }

    /// The array of texts under a key; `None` where there is none.
    ///
    /// # Errors
    /// A text is not UTF-8.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&str>>> {
        let Some(MetaValue::Texts { start, count }) = self.get(key) else { return Ok(None) };
        let mut cursor = Cursor { bytes: &self.maps[0], at: *start };
        (0..*count).map(|_| cursor.text()).collect::<Result<_>>().map(Some)
    }

    /// The array of integers under a key; `None` where there is none.
    ///
    /// # Errors
    /// It is an array of other numbers.
    pub fn ints(&self, key: &str) -> Result<Option<Vec<i64>>> {
        let Some(MetaValue::Numbers { kind, start, count }) = self.get(key) else { return Ok(None) };
        let whole = |bytes: &[u8]| match kind.read(bytes)? {
            MetaValue::Int(n) => Ok(n),
            _ => Err(damaged(format!("`{key}` holds no whole numbers"))),
        };
        let bytes = &self.maps[0][*start..*start + *count * kind.size()];
        bytes.chunks_exact(kind.size()).map(whole).collect::<Result<_>>().map(Some)
    }

    /// The metadata as JSON, for `inspect`; an array as its number of elements.
    pub fn to_json(&self) -> Json {
        let value = |meta: &MetaValue| match meta {
            MetaValue::Bool(on) => json!(on),
            MetaValue::Int(n) => json!(n),
            MetaValue::Float(x) => json!(x),
            MetaValue::Text(text) => json!(text),
            MetaValue::Texts { count, .. } | MetaValue::Numbers { count, .. } => json!({"elements": count}),
        };
        Json::Object(self.keys.iter().map(|(key, meta)| (key.clone(), value(meta))).collect())
    }
}

fn unique<'a>(names: impl Iterator<Item = &'a str>, what: &str) -> Result<()> {
    let mut seen = HashMap::new();
    for name in names {
        if seen.insert(name, ()).is_some() {
            return Err(damaged(format!("two {what} are called `{}`", name.escape_debug())));
        }
    }
    Ok(())
}
