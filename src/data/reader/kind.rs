//! What kind a data file is: by its ending, else by its first bytes.
//!
//! Next: `bytes`, which unpacks what is compressed.

use std::ffi::OsStr;
use std::io::Read;
use std::path::Path;

use super::super::config::ReadOptions;
use super::bytes;
use crate::error::{Error, Place, Result};

/// Kinds of files that hold rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A JSON object a line.
    JsonLines,
    /// A JSON list, an object that holds one, or values behind each other.
    Json,
    /// Documents of plain text.
    Text,
    /// A document of Markdown, which stays as it is.
    Markdown,
    /// Cells between commas.
    Csv,
    /// Cells between tabs.
    Tsv,
    /// Columns in Parquet.
    Parquet,
    /// Columns in Arrow's file or stream form.
    Arrow,
}

/// Endings and what they mean.
const ENDINGS: [(&str, FileKind); 10] = [
    ("jsonl", FileKind::JsonLines),
    ("ndjson", FileKind::JsonLines),
    ("json", FileKind::Json),
    ("txt", FileKind::Text),
    ("text", FileKind::Text),
    ("md", FileKind::Markdown),
    ("markdown", FileKind::Markdown),
    ("csv", FileKind::Csv),
    ("tsv", FileKind::Tsv),
    ("parquet", FileKind::Parquet),
];
const ARROW: &str = "arrow";
/// Endings of compressed files.
const PACKED: [&str; 4] = ["gz", "zst", "xz", "bz2"];
/// What a fault says of them all.
pub const KNOWN_ENDINGS: &str =
    ".jsonl, .ndjson, .json, .txt, .md, .csv, .tsv, .parquet, .arrow (each also with .gz, .zst, .xz or .bz2)";

/// How many first bytes tell the kind of a file without a known ending.
const LOOKED_AT: u64 = 64 << 10;

impl FileKind {
    /// A file's name without its endings: `a` of `a.csv.gz`.
    pub fn stem(path: &Path) -> String {
        let mut name = path.to_owned();
        let is_packing = |ending: &OsStr| PACKED.iter().any(|packed| ending.eq_ignore_ascii_case(packed));
        if Self::by_name(path).is_some() && path.extension().is_some_and(is_packing) {
            name.set_extension("");
        }
        name.file_stem().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The kind that a file's ending names; `None` for others.
    pub fn by_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy().to_ascii_lowercase();
        let (rest, last) = name.rsplit_once('.')?;
        let ending = if PACKED.contains(&last) { rest.rsplit_once('.')?.1 } else { last };
        if ending == ARROW {
            return Some(Self::Arrow);
        }
        ENDINGS.iter().find(|(known, _)| *known == ending).map(|(_, kind)| *kind)
    }

    /// The kind that the first bytes of an unpacked file show; `None` where they show none.
    fn by_bytes(head: &[u8]) -> Option<Self> {
        if head.starts_with(b"PAR1") {
            return Some(Self::Parquet);
        }
        if head.starts_with(b"ARROW1") || head.starts_with(b"\xff\xff\xff\xff") {
            return Some(Self::Arrow);
        }
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
        match head.first() {
            // Nothing but space: a file without rows.
            None => Some(Self::JsonLines),
            Some(b'[') => Some(Self::Json),
            Some(b'{') => {
                // An object that goes on after its brace's line is written over several lines.
                let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
                let alone = first.len() < head.len() && first[1..].trim_ascii().is_empty();
                Some(if alone { Self::Json } else { Self::JsonLines })
            }
            Some(_) => None,
        }
    }
}

/// The kind of a file: by its ending, else by its content.
///
/// # Errors
/// The file cannot be opened, or neither tells.
pub fn kind_of(path: &Path, options: &ReadOptions) -> Result<FileKind> {
    if let Some(kind) = FileKind::by_name(path) {
        return Ok(kind);
    }
    let head = |encoding: Option<&str>| -> Result<Vec<u8>> {
        let mut head = Vec::new();
        let reader = bytes::open(path, encoding)?;
        reader.take(LOOKED_AT).read_to_end(&mut head).map_err(|e| bytes::fault(Place::file(path), e))?;
        Ok(head)
    };
    // Columns are bytes, whatever the encoding of texts is.
    let mut found = FileKind::by_bytes(&head(None)?);
    if found.is_none() && options.encoding.is_some() {
        found = FileKind::by_bytes(&head(options.encoding.as_deref())?);
    }
    match found {
        Some(kind) => Ok(kind),
        // Only text is divided.
        None if options.split.is_some() => Ok(FileKind::Text),
        None => Err(Error::input("the file's ending tells no kind of data, and its content is no JSON")
            .at(Place::file(path))
            .hint(format!("known endings: {KNOWN_ENDINGS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_and_first_bytes_tell_the_kind() {
        let by_name = |name: &str| FileKind::by_name(Path::new(name));
        assert_eq!(by_name("a/b.JSONL"), Some(FileKind::JsonLines));
        assert_eq!(by_name("b.json.zst"), Some(FileKind::Json));
        assert_eq!(by_name("b.tar.gz"), None);
        assert_eq!(by_name("gz"), None);
        assert_eq!(by_name("x.arrow.bz2"), Some(FileKind::Arrow));
        assert_eq!(by_name("README.md"), Some(FileKind::Markdown));
        let stem = |name: &str| FileKind::stem(Path::new(name));
        assert_eq!(
            (stem("x/a.b.csv.GZ"), stem("a.csv"), stem("a.tar.gz")),
            ("a.b".into(), "a".into(), "a.tar".into())
        );
        for (bytes, kind) in [
            (&b"{\"text\": 1}\n"[..], Some(FileKind::JsonLines)),
            (b"\xef\xbb\xbf\n {\n  \"data\": []}", Some(FileKind::Json)),
            (b" [1]", Some(FileKind::Json)),
            (b"PAR1xx", Some(FileKind::Parquet)),
            (b"ARROW1\0\0", Some(FileKind::Arrow)),
            (b"", Some(FileKind::JsonLines)),
            (b"{", Some(FileKind::JsonLines)),
            (b"once", None),
        ] {
            assert_eq!(FileKind::by_bytes(bytes), kind, "{bytes:?}");
        }
    }
}
