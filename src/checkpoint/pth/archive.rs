//! The zip around a `.pth`: every record is stored uncompressed, so that storages can be mapped.
//!
//! A record's checksum is verified before its bytes are used. Records never overlap, so what a file can make us read is
//! bounded by its size. Names never become paths: they are looked up in the archive's own directory.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufWriter, Cursor, Read, Write};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;

use flate2::read::DeflateDecoder;
use memmap2::Mmap;
use rayon::prelude::*;
use zip::read::{ArchiveOffset, Config, ZipFile};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipArchive, ZipWriter};

use super::pickler::Pickled;
use crate::checkpoint::dtype::DType;
use crate::checkpoint::host_tensor::Storage;
use crate::error::{Error, Result};
use crate::native;

/// The folder inside the zip that our files use; PyTorch takes the file's name, readers take any.
const ROOT: &str = "archive";

/// Bytes of a checksum's step.
const CHUNK: usize = 8 << 20;

/// Place and checksum of a record in the file.
#[derive(Debug, Clone, Copy)]
struct Record {
    start: usize,
    len: usize,
    crc: u32,
    /// Size once inflated; `None` for what is stored as it is.
    inflated: Option<usize>,
}

impl Record {
    /// Compares a checksum with the directory's.
    fn check_crc(&self, name: &str, found: u32) -> Result<()> {
        if found == self.crc {
            return Ok(());
        }
        Err(damaged(format!("record `{name}` has checksum {found:08x}, expected {:08x}", self.crc)))
    }
}

/// An open file.
#[derive(Debug)]
pub struct Archive {
    map: Arc<Mmap>,
    root: String,
    records: HashMap<String, Record>,
    /// Whether its numbers are big-endian.
    big_endian: bool,
}

fn damaged(why: impl std::fmt::Display) -> Error {
    Error::failed("this checkpoint is damaged")
        .because(why)
        .hint("copy or download it again; a file cut short cannot be repaired")
}

impl Archive {
    /// Maps a checkpoint and reads its directory.
    ///
    /// # Errors
    /// As [`Self::open`]; it is a TorchScript program.
    pub fn open_checkpoint(path: &Path) -> Result<Self> {
        let archive = Self::open(path)?;
        if archive.is_script() {
            return Err(Error::failed("this is a TorchScript program, not a checkpoint")
                .hint("as --model or `init` it gives its weights, unless it is frozen"));
        }
        Ok(archive)
    }

    /// Whether it is a TorchScript program, as `torch.jit.save` writes.
    pub fn is_script(&self) -> bool {
        self.has("constants.pkl")
    }

    /// Maps a checkpoint or a TorchScript program and reads its directory.
    ///
    /// # Errors
    /// The file cannot be read, is no zip of PyTorch's, or its directory is damaged.
    pub fn open(path: &Path) -> Result<Self> {
        let file = crate::files::open(path).map_err(|e| Error::io("read the checkpoint", path, e))?;
        let map = Arc::new(native::map_file(&file).map_err(|e| Error::io("read the checkpoint", path, e))?);
        if !map.starts_with(b"PK") {
            return Err(not_a_zip(&map));
        }
        // PyTorch's archives begin at the file's first byte. Left to guess, the zip crate takes the second
        // entry for the first where that one is as long as the records that follow the directory (76 bytes).
        let start = Config { archive_offset: ArchiveOffset::Known(0) };
        let mut zip = ZipArchive::with_config(start, Cursor::new(&map[..])).map_err(damaged)?;
        check_directory(&map, usize::try_from(zip.central_directory_start()).unwrap_or(usize::MAX))?;
        let (records, root) = read_directory(&mut zip, map.len())?;
        let mut archive = Self { map, root, records, big_endian: false };
        if archive.has("byteorder") {
            archive.big_endian = match archive.bytes("byteorder")? {
                b"little" => false,
                b"big" => true,
                _ => return Err(damaged("its `byteorder` is neither little nor big")),
            };
        }
        Ok(archive)
    }

    /// Whether there is a record of this name.
    pub fn has(&self, name: &str) -> bool {
        self.records.contains_key(&format!("{}{name}", self.root))
    }

    /// The file's size in bytes.
    pub fn size(&self) -> usize {
        self.map.len()
    }

    fn find(&self, name: &str) -> Result<Record> {
        let record = self.records.get(&format!("{}{name}", self.root)).copied();
        let record = record.ok_or_else(|| damaged(format!("record `{}` is missing", name.escape_debug())))?;
        if record.inflated.is_some() {
            return Err(damaged(format!("record `{name}` is compressed")));
        }
        Ok(record)
    }

    /// Verifies the checksums of storages on all cores, a chunk at a time. Pages are given back at once, so that a file of
    /// any size needs little memory.
    ///
    /// # Errors
    /// A storage is missing or damaged.
    pub fn verify<'k>(&self, within: &str, keys: impl Iterator<Item = &'k str>) -> Result<()> {
        let name = |key: &str| format!("{within}/{key}");
        let records = keys.map(|key| Ok((key, self.find(&name(key))?))).collect::<Result<Vec<_>>>()?;
        records.into_par_iter().try_for_each(|(key, record)| {
            let mut hasher = crc32fast::Hasher::new();
            let (mut at, end) = (record.start, record.start + record.len);
            while at < end {
                let chunk = CHUNK.min(end - at);
                hasher.update(&self.map[at..at + chunk]);
                native::release_mapped(&self.map, at, chunk);
                at += chunk;
            }
            record.check_crc(&name(key), hasher.finalize())
        })
    }

    /// A record's bytes, whose checksum is verified.
    ///
    /// # Errors
    /// It is missing, compressed or damaged.
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let record = self.find(name)?;
        let bytes = &self.map[record.start..record.start + record.len];
        record.check_crc(name, crc32fast::hash(bytes))?;
        Ok(bytes)
    }

    /// A record's bytes; `None` where the file has no such record.
    ///
    /// # Errors
    /// It is damaged.
    pub fn extra(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.has(name).then(|| self.bytes(name).map(<[u8]>::to_vec)).transpose()
    }

    /// The source texts of a TorchScript program, at most `limit` bytes together.
    ///
    /// # Errors
    /// They are longer, damaged, or not UTF-8.
    pub fn sources(&self, limit: usize) -> Result<Vec<String>> {
        let code = format!("{}code/", self.root);
        let mut names: Vec<_> =
            self.records.keys().filter(|name| name.starts_with(&code) && name.ends_with(".py")).collect();
        names.sort();
        let mut left = limit;
        let mut texts = Vec::new();
        for name in names {
            let record = self.records[name];
            let raw = &self.map[record.start..record.start + record.len];
            let mut bytes = Vec::new();
            let read = match record.inflated {
                None => raw.take(left as u64 + 1).read_to_end(&mut bytes),
                Some(_) => DeflateDecoder::new(raw).take(left as u64 + 1).read_to_end(&mut bytes),
            };
            read.map_err(damaged)?;
            left = left.checked_sub(bytes.len()).ok_or_else(|| damaged("its source text is too long"))?;
            if crc32fast::hash(&bytes) != record.crc {
                return Err(damaged(format!("record `{}` has a wrong checksum", name.escape_debug())));
            }
            texts.push(String::from_utf8(bytes).map_err(|_| damaged("its source text is not UTF-8"))?);
        }
        Ok(texts)
    }

    /// A record of the folder `within` as a storage; [`Self::verify`] checks it.
    ///
    /// # Errors
    /// It is missing or compressed.
    pub fn storage(&self, within: &str, key: &str, dtype: DType) -> Result<Arc<Storage>> {
        let record = self.find(&format!("{within}/{key}"))?;
        if self.big_endian {
            let parts = if [DType::C64, DType::C128].contains(&dtype) { 2 } else { 1 };
            let mut bytes = self.map[record.start..record.start + record.len].to_vec();
            bytes.chunks_exact_mut(dtype.size() / parts).for_each(<[u8]>::reverse);
            return Ok(Storage::owned(bytes));
        }
        Storage::mapped(&self.map, record.start, record.len)
            .ok_or_else(|| damaged("a storage reaches past the end"))
    }
}

/// The records of an archive by name, and the folder of its `data.pkl` (with its slash).
fn read_directory(
    zip: &mut ZipArchive<Cursor<&[u8]>>,
    size: usize,
) -> Result<(HashMap<String, Record>, String)> {
    let mut records = HashMap::new();
    let mut extents = Vec::new();
    let mut root = None;
    for i in 0..zip.len() {
        let entry = zip.by_index_raw(i).map_err(damaged)?;
        let name = entry.name().map_err(damaged)?.into_owned();
        if name.starts_with('/') || name.contains('\\') || name.split('/').any(|part| part == "..") {
            return Err(damaged(format!("a record is called `{}`", name.escape_debug())));
        }
        if name.ends_with('/') {
            continue;
        }
        let record = record_of(&entry, &name, size)?;
        let header = usize::try_from(entry.header_start()).unwrap_or(record.start);
        extents.push((header.min(record.start), record.start + record.len, name.clone()));
        if let Some(folder) = name.strip_suffix("data.pkl").filter(|f| f.matches('/').count() <= 1)
            && (folder.is_empty() || folder.ends_with('/'))
        {
            if root.is_some() {
                return Err(damaged("two of its records are the `data.pkl`"));
            }
            root = Some(folder.to_owned());
        }
        if records.insert(name.clone(), record).is_some() {
            return Err(damaged(format!("two records are called `{name}`")));
        }
    }
    check_no_overlap(extents)?;
    let root = root.ok_or_else(|| {
        Error::failed("this zip is not a PyTorch checkpoint").because("it holds no `data.pkl`")
    })?;
    Ok((records, root))
}

/// The place of an entry in a file of `size` bytes. Source text of TorchScript (`code/`) alone may be compressed.
fn record_of<R: Read>(entry: &ZipFile<'_, R>, name: &str, size: usize) -> Result<Record> {
    let deflated = entry.compression() == CompressionMethod::DEFLATE && name.contains("/code/");
    if entry.encrypted() || (entry.compression() != CompressionMethod::Stored && !deflated) {
        return Err(damaged(format!("`{name}` is compressed or encrypted, which PyTorch never does")));
    }
    let start = entry.data_start().and_then(|n| usize::try_from(n).ok());
    let len = usize::try_from(entry.compressed_size()).ok();
    let inflated = deflated.then_some(usize::try_from(entry.size()).unwrap_or(usize::MAX));
    let (Some(start), Some(len)) = (start, len) else {
        return Err(damaged(format!("`{name}` has no place")));
    };
    if (!deflated && entry.size() != entry.compressed_size())
        || start.checked_add(len).is_none_or(|end| end > size)
    {
        return Err(damaged(format!("`{name}` reaches past the end of the file")));
    }
    Ok(Record { start, len, crc: entry.crc32(), inflated })
}

/// Demands that no name occurs twice in the zip's directory: readers differ in which of the two they take, and the zip
/// crate silently keeps the last.
fn check_directory(map: &[u8], start: usize) -> Result<()> {
    let number =
        |entry: &[u8], at: usize| entry.get(at..at + 2).map(|b| usize::from(b[0]) | usize::from(b[1]) << 8);
    let mut rest = map.get(start..).unwrap_or_default();
    let mut names = HashSet::new();
    while rest.starts_with(b"PK\x01\x02") {
        // The fixed part of an entry has 46 bytes; the lengths of name, extra field and comment follow from byte 28 on.
        let (Some(name), Some(extra), Some(comment)) = (number(rest, 28), number(rest, 30), number(rest, 32))
        else {
            break;
        };
        let Some(called) = rest.get(46..46 + name) else { break };
        if !names.insert(called) {
            let called = String::from_utf8_lossy(called).escape_debug().to_string();
            return Err(damaged(format!("two records are called `{called}`")));
        }
        rest = rest.get(46 + name + extra + comment..).unwrap_or_default();
    }
    Ok(())
}

/// Demands that no record (start, end, name) overlaps another: a small file could otherwise be read as a very large one.
fn check_no_overlap(mut extents: Vec<(usize, usize, String)>) -> Result<()> {
    extents.sort();
    match extents.windows(2).find(|pair| pair[0].1 > pair[1].0) {
        Some(pair) => Err(damaged(format!("records `{}` and `{}` overlap", pair[0].2, pair[1].2))),
        None => Ok(()),
    }
}

fn not_a_zip(bytes: &[u8]) -> Error {
    if bytes.first() == Some(&0x80) {
        return Error::failed("this is a pickle, but not one of torch.save")
            .hint("in Python: torch.save({name: torch.as_tensor(x) for name, x in DATA.items()}, NEW)");
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Error::failed("this checkpoint is a tar, as PyTorch wrote before version 0.1.11")
            .because("torch.load(weights_only=True) does not read it either");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Error::failed("this is a Git LFS pointer, not the checkpoint itself")
            .hint("run `git lfs pull`");
    }
    Error::failed("this file is not a PyTorch checkpoint").because(if bytes.is_empty() {
        "it is empty"
    } else {
        "it is not a zip"
    })
}

/// Writes an archive: the pickle, its storages, and records of our own (name, bytes). `path` is for messages.
///
/// # Errors
/// The disk fails; a tensor changed its size while it was saved.
pub fn write(
    out: &mut BufWriter<File>,
    path: &Path,
    pickled: &Pickled,
    extra: &[(&str, &[u8])],
) -> Result<()> {
    let fault = |e: zip::result::ZipError| match e {
        zip::result::ZipError::Io(e) => Error::io("write the checkpoint", path, e),
        other => Error::failed("cannot write the checkpoint").because(other),
    };
    // Dropped unfinished (a full disk), it would write on and complain on stderr by itself; what this leaks then is its
    // list of names.
    let mut zip = ManuallyDrop::new(ZipWriter::new(out));
    let mut put = |name: &str, bytes: &[u8]| -> Result<()> {
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(DateTime::default())
            .unix_permissions(0o644)
            .with_alignment(64)
            .large_file(bytes.len() >= u32::MAX as usize);
        zip.start_file(format!("{ROOT}/{name}"), options).map_err(fault)?;
        zip.write_all(bytes).map_err(|e| Error::io("write the checkpoint", path, e))
    };
    put("data.pkl", &pickled.bytes)?;
    put("byteorder", b"little")?;
    for (key, (storage, len)) in pickled.storages.iter().enumerate() {
        let bytes = storage.bytes().get(..*len);
        put(
            &format!("data/{key}"),
            bytes.ok_or_else(|| Error::failed("a tensor changed while it was saved"))?,
        )?;
    }
    put("version", b"3\n")?;
    for (name, bytes) in extra {
        put(name, bytes)?;
    }
    ManuallyDrop::into_inner(zip).finish().map_err(fault)?;
    Ok(())
}
