//! Replacing a file whole: written beside its place, flushed to the disk, renamed.
//!
//! Whoever reads the path sees the old contents or the new, never a part, also after a crash. A fault on
//! the way removes what was begun and leaves the old file.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Replaces `path` with what `write` writes.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    replace(path, |out| write(out))
}

/// Replaces `path` with `bytes`.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |out| out.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// [`write_atomic`] for formats that seek.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let part = beside(path);
    let done = fill(path, &part, write);
    if done.is_err() {
        // What was begun is of no use; the fault itself is what matters.
        let _ = fs::remove_file(&part);
    }
    done
}

fn fill(path: &Path, part: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    let fault = |e| Error::io("write", path, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(part).map_err(fault)?);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| fault(e.into_error()))?;
    file.sync_all().map_err(fault)?;
    drop(file);
    fs::rename(part, path).map_err(fault)?;
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|e| Error::io("flush the folder", folder, e))?;
    }
    Ok(())
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.bin");
        write_bytes(&path, b"old").unwrap();
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let fault = write_atomic(&path, |out| {
            out.write_all(b"new").unwrap();
            Err(Error::io("write", &path, full()))
        })
        .unwrap_err();
        assert!(fault.hint_text().unwrap().contains("free some space"));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        write_bytes(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(write_bytes(&folder.path().join("none/a"), b"").is_err());
    }
}
