//! Atomic replacement of files: written beside the target (`NAME.part`), fsynced, then renamed.
//!
//! A reader of the path sees the old contents or the new, never a part of them, also after a crash. A fault removes the
//! part and leaves the old file. Only regular files are replaced: a device or a pipe is refused, because the rename
//! would put a plain file in its place. Everything a user keeps is written through here. Next: `files` (reading).

use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Place, Result};

/// Bytes that are buffered between two writes to the disk.
const BUFFER_BYTES: usize = 1 << 20;

/// Replaces `path` with what `write` writes.
///
/// # Errors
/// What `write` returns; there is a device or a pipe at `path`; the disk fails or is full.
pub fn write_with(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    replace(path, None, |out| write(out))
}

/// Replaces `path` with `bytes`.
///
/// # Errors
/// As [`write_with`].
pub fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, None, |out| out.write_all(bytes).map_err(|e| Error::io("write", path, e)))
}

/// Replaces `path` like [`write_with`] if it is a regular file or absent. Anything else (a device, a pipe, a link such
/// as `/dev/stdout`) is opened and written to directly.
///
/// # Errors
/// What `write` returns; the disk fails or is full.
pub fn write_or_stream(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
        let fault = |e| Error::io("write", path, e);
        let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create(path).map_err(fault)?);
        write(&mut out)?;
        return out.flush().map_err(fault);
    }
    write_with(path, write)
}

/// Moves a finished file to its path: fsyncs `from`, renames it to `to` and fsyncs the folder of `to`. Both must be on
/// one file system.
///
/// # Errors
/// `from` cannot be opened; the disk fails.
pub fn rename_synced(from: &Path, to: &Path) -> Result<()> {
    let fault = |e| Error::io("write", to, e);
    File::open(from).and_then(|file| file.sync_all()).map_err(fault)?;
    fs::rename(from, to).map_err(fault)?;
    sync_folder_of(to)
}

/// Refuses the path of a device, a pipe or a socket: the rename would put a plain file there instead of
/// writing to it.
///
/// # Errors
/// There is one, itself or at the end of a link.
pub fn check_replaceable(path: &Path) -> Result<()> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() && !found.is_dir() => {
            Err(Error::input("this is a device, a pipe or a socket, which a file would replace")
                .at(Place::file(path))
                .hint("name a file"))
        }
        // An absent file is the usual case; any other fault shows when the file is written.
        _ => Ok(()),
    }
}

/// Replaces `path` with what `write` writes; for formats that seek. The old contents of `path`, if there are any, are
/// kept as `backup`. At every moment one of the two is whole, and on a disk with hard links `path` is never missing.
///
/// # Errors
/// As [`write_with`]; both files are then as they were.
pub fn replace(
    path: &Path,
    backup: Option<&Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let part = part_path(path);
    check_replaceable(path)?;
    check_replaceable(&part)?;
    let done = write_part(path, &part, backup, write);
    if done.is_err() {
        // The fault itself matters more than a part that could not be removed.
        let _ = fs::remove_file(&part);
    }
    done
}

fn write_part(
    path: &Path,
    part: &Path,
    backup: Option<&Path>,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<()>,
) -> Result<()> {
    let fault = |e| Error::io("write", path, e);
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, File::create(part).map_err(fault)?);
    write(&mut out)?;
    let file = out.into_inner().map_err(|e| fault(e.into_error()))?;
    file.sync_all().map_err(fault)?;
    drop(file);
    if let Some(backup) = backup {
        back_up(path, backup)?;
    }
    fs::rename(part, path).map_err(fault)?;
    sync_folder_of(path)
}

/// Makes a rename durable. Systems other than Unix have no such call.
fn sync_folder_of(path: &Path) -> Result<()> {
    #[cfg(unix)]
    {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder)
            .and_then(|f| f.sync_all())
            .map_err(|e| Error::io("flush the folder", folder, e))?;
    }
    let _ = path;
    Ok(())
}

/// Gives the file at `path`, if there is one, the second name `backup`, in place of the file that had it.
fn back_up(path: &Path, backup: &Path) -> Result<()> {
    let fault = |e| Error::io("keep the file before", backup, e);
    if !path.exists() {
        return Ok(());
    }
    let link = part_path(backup);
    if link.exists() {
        fs::remove_file(&link).map_err(fault)?;
    }
    match fs::hard_link(path, &link) {
        Ok(()) => {
            fs::rename(&link, backup).map_err(fault)?;
            // Renaming one name of a file to another name of it does nothing and leaves the link.
            if link.exists() { fs::remove_file(&link).map_err(fault) } else { Ok(()) }
        }
        // A disk without hard links.
        Err(_) => fs::rename(path, backup).map_err(fault),
    }
}

/// `NAME.part` beside `NAME`.
fn part_path(path: &Path) -> PathBuf {
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
        let fault = write_with(&path, |out| {
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
            replace(&path, Some(&before), |out| {
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
        let fault = replace(&path, Some(&before), |_| Err(Error::failed("no"))).unwrap_err();
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

    #[test]
    fn a_link_is_written_through_and_a_finished_file_is_renamed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, other) = (folder.path().join("a"), folder.path().join("b"));
        let put = |path: &Path, text: &'static str| {
            write_or_stream(path, |out| {
                out.write_all(text.as_bytes()).map_err(|e| Error::io("write", path, e))
            })
        };
        put(&file, "1").unwrap();
        #[cfg(unix)]
        {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(&file, &link).unwrap();
            put(&link, "2").unwrap();
            assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs::read_to_string(&file).unwrap(), "2");
        }
        rename_synced(&file, &other).unwrap();
        assert!(!file.exists() && other.exists());
        assert!(rename_synced(&file, &other).is_err() && other.exists());
    }
}
