//! What the tests share: the program, the fixtures, rows of metrics.
#![allow(dead_code)]

pub mod python;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The program under test.
pub fn minimind() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minimind"));
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Runs it and demands success.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// The full fixtures beside the checkout, else the small copy in the repository.
pub fn fixtures() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let full = root.join("../shared/fixtures");
    if full.is_dir() {
        return full;
    }
    println!("the full fixtures are not here; the copy in tests/fixtures is used");
    root.join("tests/fixtures")
}

/// Folders `<era>/<variant>` that hold `file`.
pub fn variants(file: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for era in ["minimind2", "minimind3"] {
        for variant in ["dense", "moe"] {
            let folder = fixtures().join(era).join(variant);
            if folder.join(file).exists() {
                found.push(folder);
            }
        }
    }
    assert!(!found.is_empty(), "no fixture has {file}");
    found
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("JSON")
}

/// Rows of a metrics file.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// A row's number.
pub fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{row} has no number `{key}`"))
}
