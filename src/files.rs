//! Files that a user names, opened so that none can hang the program or fill its memory.
//!
//! A named pipe without a writer waits for ever, and a device such as `/dev/zero` never ends: only regular files are
//! opened (a folder too, whose reader says what it wants). Next: `error`, which words what is refused.

use std::fs::{File, FileType};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::{Component, Path, PathBuf};

/// The largest file that is read as a whole (texts: JSON, YAML, templates); data and weights are not.
pub const MOST_BYTES: u64 = 1 << 30;

/// Opens a file to read it.
///
/// # Errors
/// As the system says, and [`ErrorKind::InvalidInput`] for a pipe, a device or a socket.
pub fn open(path: &Path) -> Result<File> {
    // Looked at before it is opened: opening a pipe already waits.
    match odd(std::fs::metadata(path)?.file_type()) {
        Some(what) => Err(Error::new(ErrorKind::InvalidInput, format!("it is {what}, not a file"))),
        None => File::open(path),
    }
}

/// Reads a whole file.
///
/// # Errors
/// As [`open`], and the same beyond [`MOST_BYTES`].
pub fn read(path: &Path) -> Result<Vec<u8>> {
    read_most(path, MOST_BYTES)
}

/// The same with a bound of its own.
///
/// # Errors
/// As [`read`].
pub fn read_most(path: &Path, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let size = file.metadata()?.len();
    let mut bytes = Vec::new();
    if size <= most {
        bytes.try_reserve_exact(size as usize).map_err(|_| Error::from(ErrorKind::OutOfMemory))?;
        file.take(most + 1).read_to_end(&mut bytes)?;
    }
    if size > most || bytes.len() as u64 > most {
        let text = format!("it has more than {most} bytes, which is too large for a file of its kind");
        return Err(Error::new(ErrorKind::InvalidInput, text));
    }
    Ok(bytes)
}

/// Reads a whole text.
///
/// # Errors
/// As [`read`], and [`ErrorKind::InvalidData`] where it is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String> {
    String::from_utf8(read(path)?).map_err(|e| Error::new(ErrorKind::InvalidData, e.utf8_error().to_string()))
}

/// The relative path from folder `from` to `to`, for files that name each other and may be moved together; `None` where
/// they share no folder but the root: such a path would tell where on this machine they are.
pub fn relative_path(from: &Path, to: &Path) -> Option<PathBuf> {
    let whole = |path: &Path| path.canonicalize().ok();
    let (from, to) = (whole(if from.as_os_str().is_empty() { Path::new(".") } else { from })?, whole(to)?);
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    if common < 2 {
        return None;
    }
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(common)).collect();
    Some(if path.as_os_str().is_empty() { PathBuf::from(".") } else { path })
}

/// What a thing is that is no file and no folder.
fn odd(kind: FileType) -> Option<&'static str> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::FileTypeExt;
        if kind.is_fifo() {
            return Some("a named pipe");
        } else if kind.is_char_device() || kind.is_block_device() {
            return Some("a device");
        } else if kind.is_socket() {
            return Some("a socket");
        }
    }
    let _ = kind;
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_way_is_relative_or_none() {
        let root = tempfile::tempdir().unwrap();
        let (a, b) = (root.path().join("x/a"), root.path().join("x/b/c"));
        std::fs::create_dir_all(&a).unwrap();
        std::fs::create_dir_all(&b).unwrap();
        assert_eq!(relative_path(&a, &b), Some("../b/c".into()));
        assert_eq!(relative_path(&b, &b), Some(".".into()));
        assert_eq!(relative_path(&root.path().join("x"), &b), Some("b/c".into()));
        assert_eq!(relative_path(&b, Path::new("/")), None);
        assert_eq!(relative_path(&b, &root.path().join("gone")), None);
        assert!(relative_path(Path::new(""), Path::new("src")).is_some_and(|way| way.is_relative()));
    }

    #[test]
    #[cfg(unix)]
    fn pipes_and_devices_are_refused_and_size_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        for (path, word) in [(pipe.as_path(), "named pipe"), (Path::new("/dev/zero"), "device")] {
            let error = read(path).unwrap_err();
            assert!(error.kind() == ErrorKind::InvalidInput && error.to_string().contains(word), "{error}");
            let error = crate::Error::io("read", path, error);
            assert_eq!(error.exit_code(), 2);
        }
        let file = folder.path().join("text");
        std::fs::write(&file, "ab\u{e9}").unwrap();
        assert_eq!(read_to_string(&file).unwrap(), "abé");
        assert_eq!(read_most(&file, 4).unwrap().len(), 4);
        assert_eq!(read_most(&file, 3).unwrap_err().kind(), ErrorKind::InvalidInput);
        File::options().write(true).open(&file).unwrap().set_len(MOST_BYTES + 1).unwrap();
        assert_eq!(read(&file).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
