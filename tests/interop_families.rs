//! Models of other families, made by the transformers library, loaded here: the same logits, fp32, 2e-5.

mod common;

use std::process::Command;

use common::python::{python, script};
use common::{minimind, succeed};
use minimind::checkpoint::load::{load_model, named_tensors};
use minimind::model::Mask;
use tch::{Device, Kind, Tensor};

common::needs::tests! {
    every_family_computes_as_its_library_does: [Python("torch, transformers, safetensors")],
}

const TOLERANCE: f64 = 2e-5;

fn logits(folder: &std::path::Path, ids: &Tensor) -> Tensor {
    let loaded = load_model(folder, None, Device::Cpu, Kind::Float).expect("the folder loads");
    let _no_grad = tch::no_grad_guard();
    loaded.model.logits(&loaded.model.hidden(ids, Mask::Causal, false).0)
}

fn every_family_computes_as_its_library_does() {
    let python = python();
    let made = tempfile::tempdir().expect("a folder");
    succeed(Command::new(&python).arg(script("make_models.py")).arg(made.path()));
    let mut seen = Vec::new();
    let mut faults = Vec::new();
    for entry in std::fs::read_dir(made.path()).expect("models") {
        let folder = entry.expect("an entry").path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let check = named_tensors(&made.path().join(format!("{name}.check.safetensors"))).expect("a check");
        let far = (logits(&folder, &check["ids"]) - &check["logits"]).abs().max().double_value(&[]);
        println!("{name}: {far:.1e}");
        if far > TOLERANCE {
            faults.push(format!("{name}: {far:.1e}"));
        }
        seen.push(name);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(seen.len(), 15, "{seen:?}");
    // The command line knows them too.
    let output = succeed(
        minimind()
            .args([
                "generate",
                "--ids",
                "1,2,3",
                "--greedy",
                "--max-new-tokens",
                "4",
                "--device",
                "cpu",
                "--model",
            ])
            .arg(made.path().join("qwen2")),
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).split_whitespace().count(), 4);
}
