//! What `torch.load(weights_only=True)` reads, we read, with the same numbers; what we refuse is named.
//!
//! Needs a Python (MINIMIND_PYTHON, else python3) with torch and safetensors.

mod common;

use std::process::Command;

use common::python::{python, script};
use common::{minimind, succeed};
use minimind::checkpoint::load::named_tensors;
use minimind::checkpoint::pth;
use serde_json::Value;
use tch::Kind;

common::needs::tests! {
    files_of_torch_are_read_as_torch_reads_them: [Python("torch, safetensors")],
}

fn files_of_torch_are_read_as_torch_reads_them() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    succeed(Command::new(&python).arg(script("pickles.py")).arg(root.path()));
    let cases: Value =
        serde_json::from_slice(&std::fs::read(path("cases.json")).expect("cases")).expect("JSON");
    let expected = named_tensors(&path("weights.safetensors")).expect("weights");
    let mut faults = Vec::new();
    for file in cases["read"].as_array().expect("a list") {
        let file = file.as_str().expect("a name");
        let found = match named_tensors(&path(file)) {
            Ok(found) => found,
            Err(fault) => {
                faults.push(format!("{file}: {fault}"));
                continue;
            }
        };
        let names =
            expected.iter().filter_map(|(name, t)| Some((name.strip_prefix(file)?.strip_prefix('/')?, t)));
        let wanted: Vec<_> = names.collect();
        assert!(!wanted.is_empty(), "{file}");
        if found.len() != wanted.len() {
            faults.push(format!("{file}: {:?}", found.keys()));
        }
        for (name, want) in wanted {
            let same = found.get(name).is_some_and(|t| t.to_kind(Kind::Float).equal(want));
            if !same {
                faults.push(format!("{file}: {name} is {:?}", found.get(name)));
            }
        }
        let output = minimind().arg("inspect").arg(path(file)).output().expect("starts");
        if !output.status.success() {
            faults.push(format!("inspect {file}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    for (file, what) in cases["refused"].as_object().expect("a map") {
        let what = what.as_str().or_else(|| what[0].as_str()).expect("a text");
        match pth::read(&path(file)) {
            Err(fault) if fault.to_string().contains(what) => {}
            other => faults.push(format!("{file}, expected `{what}`: {other:?}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    println!("{} files", cases["read"].as_array().map_or(0, Vec::len));
}
