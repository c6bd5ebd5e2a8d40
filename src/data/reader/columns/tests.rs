//! Values of every type against what pyarrow reads (recorded by `scripts/golden/columns.py`), and files that are damaged.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::data::config::ReadOptions;
use crate::data::reader;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data")
}

/// The rows of a file, numbered from 1.
fn rows(path: &Path) -> Vec<Value> {
    let lines: Vec<_> = reader::open(path, &ReadOptions::default()).unwrap().map(Result::unwrap).collect();
    assert!(lines.iter().enumerate().all(|(i, line)| line.number == i + 1));
    assert!(lines.iter().all(|line| !line.bytes.contains(&b'\n')));
    lines.iter().map(|line| serde_json::from_slice(&line.bytes).unwrap()).collect()
}

/// Whole files, each with what pyarrow reads in it.
fn recorded() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "parquet" || e == "arrow"));
    files.sort();
    assert_eq!(files.len(), 9);
    files
}

/// Numbers as numbers: 1.0 and 1 are one.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b)))
        }
        _ => a == b,
    }
}

#[test]
fn every_type_is_what_pyarrow_reads() {
    for path in recorded() {
        let wanted = std::fs::read_to_string(format!("{}.jsonl", path.display())).unwrap();
        let wanted: Vec<Value> = wanted.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let found = rows(&path);
        assert_eq!(found.len(), wanted.len(), "{}", path.display());
        for (found, wanted) in found.iter().zip(&wanted) {
            for (key, value) in wanted.as_object().unwrap() {
                assert!(same(&found[key], value), "{}: {key}: {} for {value}", path.display(), found[key]);
            }
            assert!(same(found, wanted), "{}: {found} for {wanted}", path.display());
        }
    }
}

#[test]
fn columns_may_be_packed_as_a_whole() {
    let temporary = tempfile::tempdir().unwrap();
    for name in ["types.parquet", "stream.arrow", "types.arrow"] {
        let path = folder().join(name);
        let packed = zstd::encode_all(Cursor::new(std::fs::read(&path).unwrap()), 1).unwrap();
        let place = temporary.path().join(format!("{name}.zst"));
        std::fs::write(&place, packed).unwrap();
        assert_eq!(rows(&place), rows(&path));
    }
}

#[test]
fn a_damaged_file_is_a_fault_with_its_name() {
    let temporary = tempfile::tempdir().unwrap();
    for path in recorded() {
        let bytes = std::fs::read(&path).unwrap();
        let place = temporary.path().join(path.file_name().unwrap());
        assert!(bytes.len() > 50);
        let is_stream = path.ends_with("stream.arrow");
        for length in (0..bytes.len()).step_by(bytes.len() / 50) {
            std::fs::write(&place, &bytes[..length]).unwrap();
            let read = reader::open(&place, &ReadOptions::default())
                .and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
            match read {
                Err(error) => {
                    assert_eq!(error.exit_code(), 2, "{error}");
                    assert!(error.to_string().contains(&place.display().to_string()), "{error}");
                }
                // A stream may end between two messages; after a file's last row comes what only seeking readers want.
                Ok(found) if is_stream => assert!(found.len() < 3),
                Ok(found) => assert_eq!(found.len(), 3, "{} of {length} bytes", path.display()),
            }
        }
    }
}

#[test]
fn lengths_that_lie_take_no_memory() {
    let temporary = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(folder().join("stream.arrow")).unwrap();
    let place = temporary.path().join("a.arrow");
    let why = |bytes: &[u8]| {
        std::fs::write(&place, bytes).unwrap();
        let read = reader::open(&place, &ReadOptions::default())
            .and_then(|rows| rows.collect::<Result<Vec<_>, _>>());
        read.unwrap_err().to_string()
    };
    let mut long = bytes.clone();
    long[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(why(&long).contains("claims 4294967295 bytes"));
    // The unpacked length of each packed column, in turn.
    let packed: Vec<usize> =
        (8..bytes.len() - 4).filter(|at| bytes[*at..].starts_with(&[0x28, 0xb5, 0x2f, 0xfd])).collect();
    assert!(packed.len() > 10, "{packed:?}");
    for at in packed {
        let mut long = bytes.clone();
        long[at - 8..at].copy_from_slice(&(1i64 << 45).to_le_bytes());
        assert!(why(&long).contains("claim to be"), "{}", why(&long));
    }
    let mut text = std::fs::read(folder().join("types.parquet")).unwrap();
    let end = text.len();
    text[end - 8..end - 4].copy_from_slice(&u32::MAX.to_le_bytes());
    let place = temporary.path().join("a.parquet");
    std::fs::write(&place, &text).unwrap();
    let error = reader::open(&place, &ReadOptions::default()).err().unwrap().to_string();
    assert!(error.contains("its footer claims 4294967295 bytes"), "{error}");
}
