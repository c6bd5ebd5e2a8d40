//! The map of the house: who may import whom. Data flows recipe -> plan -> stage -> leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Lines of a file at most.
const LONGEST: usize = 400;

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

/// The files below a folder whose ending is one of `endings`.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, endings));
        } else if path.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)) {
            found.push(path);
        }
    }
    found
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    files(folder, &["rs"])
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

/// The module of a file: `src/room/a/b.rs` is `[room, a, b]`, a `mod.rs` its folder, `lib.rs` the root.
fn module(path: &Path) -> Vec<String> {
    let inside = path.strip_prefix(source()).unwrap_or(path).with_extension("");
    let mut steps: Vec<String> = inside.iter().map(|step| step.to_string_lossy().into_owned()).collect();
    steps.pop_if(|last| ["mod", "lib", "main"].contains(&last.as_str()));
    steps
}

/// `a::{b, c::{d, e}}` as `a::b`, `a::c::d`, `a::c::e`.
fn spread(path: &str) -> Vec<String> {
    let Some((start, rest)) = path.split_once('{') else {
        return vec![path.split(" as ").next().unwrap_or_default().trim().to_owned()];
    };
    let inner = rest.trim_end().strip_suffix('}').unwrap_or(rest);
    let (mut parts, mut depth, mut from) = (Vec::new(), 0, 0);
    for (at, letter) in inner.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&inner[from..at]);
                from = at + 1;
            }
            _ => (),
        }
    }
    parts.push(&inner[from..]);
    let parts = parts.into_iter().map(str::trim).filter(|part| !part.is_empty());
    parts.flat_map(|part| spread(&format!("{}{part}", start.trim_start()))).collect()
}

/// The rooms that a file's code names: by `crate::`, by enough `super::`, alone or in a group of imports.
fn rooms_named(module: &[String], code: &str) -> BTreeSet<String> {
    let mut paths: Vec<String> = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            // The first step of a path alone: what stands before is no word and no `::`.
            if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &code[at..];
            let end = match rest.find('{').filter(|brace| {
                rest[..*brace].bytes().all(|b| b.is_ascii_alphanumeric() || b"_:".contains(&b))
            }) {
                Some(_) => rest.find(';').unwrap_or(rest.len()),
                None => {
                    rest.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(rest.len())
                }
            };
            paths.extend(spread(&rest[..end]));
        }
    }
    let mut rooms = BTreeSet::new();
    for path in paths {
        let mut steps: Vec<&str> = path.split("::").collect();
        let up = steps.iter().take_while(|step| **step == "super").count();
        let root = if steps[0] == "crate" {
            steps.remove(0);
            true
        } else {
            up == module.len()
        };
        if let Some(room) = steps.get(if up > 0 { up } else { 0 }).filter(|_| root) {
            rooms.insert((*room).to_owned());
        }
    }
    rooms
}

#[test]
fn every_way_to_name_a_room_is_seen() {
    let named = |code: &str| {
        let module = ["stage", "runner"].map(str::to_owned);
        rooms_named(&module, code).into_iter().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(named("use crate::model::{A, b::C};"), "model");
    assert_eq!(named("use crate::{loss::{a, b}, model, plan as p};"), "loss model plan");
    assert_eq!(named("pub(crate) use crate::{\n    engine::x,\n};"), "engine");
    assert_eq!(named("use super::super::{report, hub::y};"), "hub report");
    assert_eq!(named("let x = super::super::serve::z(1);"), "serve");
    assert_eq!(named("use super::context; mycrate::model::x(); self::super_::y();"), "");
    assert_eq!(named("match x { crate::data::Y => crate::optim::z() }"), "data optim");
}

#[test]
fn no_arrow_points_upward() {
    let table = allowed();
    let mut seen = 0;
    let mut faults = Vec::new();
    for (room, may) in &table {
        let alone = source().join(room).with_extension("rs");
        let files = rust_files(&source().join(room)).into_iter().chain(alone.exists().then_some(alone));
        for file in files {
            seen += 1;
            for other in rooms_named(&module(&file), &code(&file)) {
                if table.contains_key(other.as_str()) && other != *room && !may.contains(&other.as_str()) {
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

/// What a run depends on beside its recipe is read in one place, so that it can be shown and recorded.
#[test]
fn the_environment_is_read_in_plan_alone() {
    let reads =
        |text: &str| ["env::var", "env::vars", "option_env!", "getenv("].iter().any(|way| text.contains(way));
    let (inside, outside): (Vec<_>, Vec<_>) =
        rust_files(&source()).into_iter().partition(|file| file.starts_with(source().join("plan")));
    assert!(inside.iter().any(|file| reads(&code(file))), "the search would not find a read where it is");
    let faults: Vec<_> = outside.iter().filter(|file| reads(&code(file))).collect();
    assert!(faults.is_empty(), "{faults:?}");
    // gloo's own variable, which PyTorch reads in the same way.
    let own = source().join("native/collectives/c10d.cpp");
    let text = |file: &PathBuf| std::fs::read_to_string(file).expect("a source file");
    let faults: Vec<_> = files(&source(), &["cpp", "h"])
        .into_iter()
        .filter(|file| *file != own && reads(&text(file)))
        .collect();
    assert!(faults.is_empty(), "{faults:?}");
}

#[test]
fn every_file_says_what_it_is_for_and_is_not_too_long() {
    let mut files_of_ours = files(&source(), &["rs", "cpp", "h", "js"]);
    files_of_ours.extend(rust_files(&source().with_file_name("tests")));
    assert!(files_of_ours.len() > 200);
    let mut faults = Vec::new();
    for file in files_of_ours {
        let text = std::fs::read_to_string(&file).expect("a source file");
        let rust = file.extension().is_some_and(|e| e == "rs");
        if !text.starts_with(if rust { "//!" } else { "/" }) {
            faults.push(format!("{} has no header", file.display()));
        }
        let lines = text.lines().count();
        if lines > LONGEST {
            faults.push(format!("{} has {lines} lines: split it", file.display()));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn kernels_are_chosen_in_model_ops_alone() {
    let names = |file: &PathBuf| {
        let code = code(file);
        code.contains("cpu_ops") || code.contains("cuda_ops")
    };
    // A step of decoding on a GPU is made of its kernels.
    let own = ["native", "model/ops", "model/step.rs"].map(|place| source().join(place));
    let (inside, outside): (Vec<_>, Vec<_>) = rust_files(&source())
        .into_iter()
        .filter(names)
        .partition(|file| own.iter().any(|place| file.starts_with(place)));
    assert!(inside.len() > 5);
    assert!(outside.is_empty(), "{outside:?}");
}
