//! The hash that a hub states for a file, and the check of what was downloaded against it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use crate::error::{Error, Result};
use crate::hash::hex;

/// The hash of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Digest {
    /// SHA-256, of large files (Git LFS) and of all files of ModelScope.
    Sha256(String),
    /// Git's blob id, of small files: SHA-1 over `blob SIZE\0` and the bytes.
    Git(String),
}

impl Digest {
    /// From an ETag or a field of a listing; `None` for a tag that is no hash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        if !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        match text.len() {
            64 => Some(Self::Sha256(text)),
            40 => Some(Self::Git(text)),
            _ => None,
        }
    }

    /// The hash in hexadecimal.
    pub(super) fn text(&self) -> &str {
        match self {
            Self::Sha256(text) | Self::Git(text) => text,
        }
    }

    /// The same kind of hash of a file of `size` bytes, in hexadecimal.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn of_file(&self, file: &mut File, size: u64) -> Result<String> {
        let read = |e| Error::failed("cannot read a download back").because(e);
        file.seek(SeekFrom::Start(0)).map_err(read)?;
        let mut sha256 = Sha256::new();
        let mut git = Sha1::new();
        git.update(format!("blob {size}\0"));
        let mut buffer = vec![0; 1 << 20];
        loop {
            let n = file.read(&mut buffer).map_err(read)?;
            if n == 0 {
                break;
            }
            match self {
                Self::Sha256(_) => sha256.update(&buffer[..n]),
                Self::Git(_) => git.update(&buffer[..n]),
            }
        }
        Ok(match self {
            Self::Sha256(_) => hex(&sha256.finalize()),
            Self::Git(_) => hex(&git.finalize()),
        })
    }
}
