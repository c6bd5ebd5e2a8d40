//! The format from before PyTorch 1.6 (`_use_new_zipfile_serialization=False`): pickles one after the other, then the
//! storages' numbers.
//!
//! The third-last pickle is the tree; it names storages that follow it, so it is read twice: once to learn their
//! types, and again when their places are known. There are no checksums. Layout: `_legacy_save` of torch's
//! `serialization.py`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::allowed_globals::broken;
use super::storages::{StorageId, Storages};
use super::unpickler;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::Storage;
use crate::checkpoint::value::Value;
use crate::error::{Error, Result};
use crate::native;

/// The first pickle: a number of ten bytes.
pub const MAGIC: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.";
/// The second pickle's number.
const PROTOCOL: i64 = 1001;

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::failed("this checkpoint is damaged")
        .because(why)
        .hint("copy or download it again; a file cut short cannot be repaired")
}

/// First reading: only the types and sizes of the storages are collected.
#[derive(Debug)]
struct StorageTypes {
    size: usize,
    seen: RefCell<HashMap<String, (DType, usize)>>,
}

impl Storages for StorageTypes {
    fn size(&self) -> usize {
        self.size
    }

    fn find(&self, id: &StorageId) -> Result<Option<Arc<Storage>>> {
        let mut seen = self.seen.borrow_mut();
        let new = (id.dtype, id.numel);
        let known = *seen.entry(id.key.to_string()).or_insert(new);
        if known != new {
            return Err(broken(&format!("storage {} is described in two ways", id.key.escape_debug())));
        }
        Ok(None)
    }
}

/// Second reading: the storages at their places in the file.
#[derive(Debug)]
struct StorageOffsets<'a> {
    map: &'a Arc<Mmap>,
    starts: HashMap<String, usize>,
}

impl Storages for StorageOffsets<'_> {
    fn size(&self) -> usize {
        self.map.len()
    }

    fn find(&self, id: &StorageId) -> Result<Option<Arc<Storage>>> {
        let size = id.dtype.size();
        let start = self.starts.get(&*id.key).copied();
        let start = start.ok_or_else(|| damaged("a storage's numbers are missing"))?;
        let (from, numel) = id.view.as_ref().map_or((0, id.numel), |(_, from, numel)| (*from, *numel));
        let inside = from.checked_add(numel).is_some_and(|end| end <= id.numel);
        let place =
            from.checked_mul(size).and_then(|skip| start.checked_add(skip)).zip(numel.checked_mul(size));
        let storage = place.filter(|_| inside).and_then(|(start, len)| Storage::mapped(self.map, start, len));
        storage.map(Some).ok_or_else(|| damaged("a storage reaches past the end"))
    }
}

/// Whether a file begins as this format does.
pub fn is_legacy(path: &Path) -> bool {
    let mut head = vec![0; MAGIC.len()];
    let read = File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut head));
    read.is_ok() && head == MAGIC
}

/// Reads a checkpoint's tree.
///
/// # Errors
/// The file is cut short or damaged, holds what is no plain data, or was written on a big-endian machine.
pub fn read(path: &Path) -> Result<Value> {
    let io = |e| Error::io("read the checkpoint", path, e);
    let map = Arc::new(native::map_file(&File::open(path).map_err(io)?).map_err(io)?);
    let types = StorageTypes { size: map.len(), seen: RefCell::default() };
    let mut at = MAGIC.len();
    let next = |end: &mut usize| {
        let from = *end;
        let (value, used) = unpickler::unpickle_prefix(&map[from..], &types)?;
        *end = from + used;
        Ok::<_, Error>((value, from))
    };
    let (protocol, _) = next(&mut at)?;
    if protocol.as_i64() != Some(PROTOCOL) {
        return Err(damaged("its protocol is not 1001"));
    }
    let (system, _) = next(&mut at)?;
    if matches!(system.get("little_endian"), Some(Value::Bool(false))) {
        return Err(Error::failed("this checkpoint was written on a big-endian machine")
            .hint("in Python: torch.save(torch.load(OLD, weights_only=True), NEW)"));
    }
    let (_, tree) = next(&mut at)?;
    let tree = tree..at;
    let (keys, _) = next(&mut at)?;
    let Value::List(keys) = keys else { return Err(damaged("it has no list of its storages")) };
    let seen = types.seen.into_inner();
    let mut starts = HashMap::new();
    for key in keys {
        let key = key.as_str().ok_or_else(|| damaged("a storage's name is no text"))?;
        let (dtype, numel) = seen.get(key).ok_or_else(|| damaged("it has a storage that no tensor uses"))?;
        let count = map.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        let count = count.ok_or_else(|| damaged("it ends before its storages do"))?;
        if count != *numel as u64 {
            return Err(damaged(format!("a storage has {count} elements, expected {numel}")));
        }
        let end = numel.checked_mul(dtype.size()).and_then(|len| len.checked_add(at + 8));
        let end =
            end.filter(|end| *end <= map.len()).ok_or_else(|| damaged("it ends before its storages do"))?;
        if starts.insert(key.to_owned(), at + 8).is_some() {
            return Err(damaged("two storages have one name"));
        }
        at = end;
    }
    let (value, _) = unpickler::unpickle_prefix(&map[tree], &StorageOffsets { map: &map, starts })?;
    Ok(value)
}
