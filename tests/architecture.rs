//! The map of the house: who may import whom. Data flows recipe -> plan -> stage -> leaves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Room -> rooms it may name (`error`, `atomic`, `files`, `hash` and `terminal` are free to all).
fn allowed() -> BTreeMap<&'static str, Vec<&'static str>> {
    let leaves = "hub native model loss optim data checkpoint rollout report engine export";
    let table = [
        ("recipe", ""),
        ("hub", ""),
        ("native", ""),
        ("model", "native"),
        ("loss", "model native"),
        ("optim", "native"),
        ("data", "native checkpoint"),
        ("checkpoint", "native model"),
        ("rollout", "native model data checkpoint"),
        ("report", ""),
        ("engine", "native model optim checkpoint"),
        ("export", "native model data checkpoint rollout engine"),
        ("serve", "data model native report rollout"),
        ("plan", "recipe hub model loss data engine optim export rollout"),
        ("stage", &format!("plan {leaves}")),
        ("cli", &format!("recipe plan serve stage {leaves}")),
    ];
    table
        .iter()
        .map(|(room, may)| (*room, may.split_whitespace().map(|m| &*m.to_owned().leak()).collect()))
        .collect()
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            files.push(path);
        }
    }
    files
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The code of a file: no comments, and nothing from its tests on; a file of tests has none.
fn code(path: &Path) -> String {
    if path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests")) {
        return String::new();
    }
    let text = std::fs::read_to_string(path).expect("a source file");
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_arrow_points_upward() {
    let table = allowed();
    let mut seen = 0;
    let mut faults = Vec::new();
    for (room, may) in &table {
        for file in rust_files(&source().join(room)) {
            seen += 1;
            let code = code(&file);
            for other in table.keys().filter(|other| *other != room && !may.contains(*other)) {
                if code.contains(&format!("crate::{other}::")) || code.contains(&format!("crate::{other};")) {
                    faults.push(format!("{} names crate::{other}", file.display()));
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} files were read");
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn unsafe_lives_in_native_alone() {
    let (inside, outside): (Vec<_>, Vec<_>) =
        rust_files(&source()).into_iter().partition(|file| file.starts_with(source().join("native")));
    let uses = |file: &PathBuf| code(file).contains("unsafe {") || code(file).contains("unsafe fn");
    assert!(inside.iter().any(uses), "the search would not find unsafe where it is");
    assert!(!outside.iter().any(uses));
}

#[test]
fn every_file_says_what_it_is_for_and_is_not_too_long() {
    let files = rust_files(&source());
    assert!(files.len() > 50);
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a source file");
        assert!(text.starts_with("//!"), "{} has no header", file.display());
        let lines = text.lines().count();
        assert!(lines <= 480, "{} has {lines} lines: split it", file.display());
    }
}
