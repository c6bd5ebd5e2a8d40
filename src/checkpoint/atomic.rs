//! Replacing a file whole: written beside its place, flushed to the disk, renamed.
//!
//! Whoever reads the path sees the old contents or the new, never a part, also after a crash. A fault on
//! the way removes what was begun and leaves the old file. Only files are replaced: a device or a pipe is not.

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Place, Result};

/// Replaces `path` with what `write` writes.
pub fn write_atomic(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    replace(path, |out| write(out))
}

/// Replaces `path` with `bytes`.
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, |out| out.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// Refuses a place where a device, a pipe or a socket stands: the rename would put a plain file there instead of
/// writing to it.
///
/// # Errors
/// There is one, itself or at the end of a link.
pub fn check_place(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            Err(Error::input("this is a device, a pipe or a socket, which a file would replace")
                .at(Place::file(path))
                .hint("name a file"))
        }
        // What is not there yet is what is wanted; any other fault shows when it is written.
        _ => Ok(()),
    }
}

/// [`write_atomic`] for formats that seek.
pub(super) fn replace(path: &Path, write: impl FnOnce(&mut BufWriter<File>) -> Result<()>) -> Result<()> {
    replace_keeping(path, None, write)
}

/// The same; what `path` held is `previous` afterwards. At every moment one of the two is whole, and where the disk
/// has hard links `path` is never missing.
pub(super) fn replace_keeping(
    path: &Path,
    previous: Option<&Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let part = beside(path);
    check_place(path)?;
    check_place(&part)?;
    let done = fill(path, &part, previous, write);
    if done.is_err() {
        // What was begun is of no use; the fault itself is what matters.
        let _ = fs::remove_file(&part);
    }
    done
}

fn fill(
    path: &Path,
    part: &Path,
    previous: Option<&Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let fault = |e| Error::io("write", path, e);
    let mut out = BufWriter::with_capacity(1 << 20, File::create(part).map_err(fault)?);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| fault(e.into_error()))?;
    file.sync_all().map_err(fault)?;
    drop(file);
    if let Some(previous) = previous {
        keep(path, previous)?;
    }
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

/// Gives what lies at `path`, if anything does, the name `previous` too, in place of what had it.
fn keep(path: &Path, previous: &Path) -> Result<()> {
    let fault = |e| Error::io("keep the file before", previous, e);
    if !path.exists() {
        return Ok(());
    }
    let link = beside(previous);
    if link.exists() {
        fs::remove_file(&link).map_err(fault)?;
    }
    match fs::hard_link(path, &link) {
        Ok(()) => {
            fs::rename(&link, previous).map_err(fault)?;
            // Two names of one file: a rename between them does nothing and would leave the link.
            if link.exists() { fs::remove_file(&link).map_err(fault) } else { Ok(()) }
        }
        // A disk without hard links.
        Err(_) => fs::rename(path, previous).map_err(fault),
    }
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

    #[test]
    fn the_file_before_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let (path, before) = (folder.path().join("a.bin"), folder.path().join("a.prev.bin"));
        let write = |text: &str| {
            replace_keeping(&path, Some(&before), |out| {
                out.write_all(text.as_bytes()).map_err(|e| Error::io("write", &path, e))
            })
        };
        let text = |path: &Path| fs::read_to_string(path).ok();
        write("1").unwrap();
        assert_eq!((text(&path), text(&before)), (Some("1".into()), None));
        write("2").unwrap();
        assert_eq!((text(&path), text(&before)), (Some("2".into()), Some("1".into())));
        // What a kill leaves: a link half made, and the same file under both names.
        fs::hard_link(&path, folder.path().join("a.prev.bin.part")).unwrap();
        fs::remove_file(&before).unwrap();
        fs::hard_link(&path, &before).unwrap();
        write("3").unwrap();
        assert_eq!((text(&path), text(&before)), (Some("3".into()), Some("2".into())));
        // A fault keeps both.
        let fault = replace_keeping(&path, Some(&before), |_| Err(Error::failed("no"))).unwrap_err();
        assert_eq!(fault.what(), "no");
        assert_eq!((text(&path), text(&before)), (Some("3".into()), Some("2".into())));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_is_not_replaced() {
        use std::os::unix::fs::FileTypeExt;
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link) = (folder.path().join("pipe"), folder.path().join("link"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        std::os::unix::fs::symlink(&pipe, &link).unwrap();
        for place in [&pipe, &link] {
            let fault = write_bytes(place, b"new").unwrap_err();
            assert_eq!((fault.exit_code(), fault.place().unwrap().file.as_path()), (2, place.as_path()));
        }
        assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        // Also where the part would be written.
        let at = folder.path().join("a");
        fs::rename(&pipe, folder.path().join("a.part")).unwrap();
        assert_eq!(write_bytes(&at, b"new").unwrap_err().exit_code(), 2);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
