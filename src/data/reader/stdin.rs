//! Standard input as a file: rows are read more than once, and a run that goes on must find them again.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use sha2::{Digest, Sha256};

use crate::error::{Error, Place, Result};
use crate::hash::hex;

/// The name that stands for standard input.
pub const STANDARD_INPUT: &str = "-";

/// What standard input was kept as: it can be read once.
static KEPT: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Copies standard input into a file of the cache, named by the hash of its content; the same file when asked again.
///
/// # Errors
/// It is a terminal or empty (input); the file cannot be written.
pub fn keep_standard_input(cache_dir: &Path) -> Result<PathBuf> {
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(path) = &*kept {
        return Ok(path.clone());
    }
    let input = std::io::stdin();
    if input.is_terminal() {
        return Err(
            Error::input("standard input is a terminal").hint("send rows: `... < FILE`, `zcat F | ...`")
        );
    }
    let path = keep(input.lock(), &cache_dir.join("stdin"))?;
    Ok(kept.insert(path).clone())
}

fn keep(mut input: impl Read, folder: &Path) -> Result<PathBuf> {
    let write = |e| Error::io("write", folder, e);
    std::fs::create_dir_all(folder).map_err(write)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(write)?;
    let (mut hash, mut buffer, mut bytes) = (Sha256::new(), vec![0u8; 1 << 18], 0);
    loop {
        let read = match input.read(&mut buffer) {
            Ok(read) => read,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::failed("cannot read standard input").because(e)),
        };
        if read == 0 {
            break;
        }
        bytes += read;
        hash.update(&buffer[..read]);
        file.write_all(&buffer[..read]).map_err(write)?;
    }
    if bytes == 0 {
        return Err(Error::input("standard input is empty")
            .at(Place::file(STANDARD_INPUT))
            .hint("send rows to it; several processes cannot share it, give those a file"));
    }
    let path = folder.join(&hex(&hash.finalize())[..32]);
    let (_, temporary) = file.keep().map_err(|e| write(e.error))?;
    crate::atomic::rename_synced(&temporary, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let one = keep(&b"{\"text\": \"a\"}\n"[..], folder.path()).unwrap();
        assert_eq!(keep(&b"{\"text\": \"a\"}\n"[..], folder.path()).unwrap(), one);
        assert_ne!(keep(&b"{\"text\": \"b\"}\n"[..], folder.path()).unwrap(), one);
        assert_eq!(std::fs::read(&one).unwrap(), b"{\"text\": \"a\"}\n");
        assert!(keep(&b""[..], folder.path()).unwrap_err().to_string().contains("is empty"));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside");
    }
}
