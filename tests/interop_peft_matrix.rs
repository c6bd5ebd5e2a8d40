//! Every key of PEFT's `LoraConfig` against the peft library: the logits and greedy tokens of `--adapter` and of the
//! merged file are those of `PeftModel.from_pretrained`, or the adapter is refused by the key's name.
//!
//! Needs a Python (MINIMIND_PYTHON, else python3) with torch, transformers and peft.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::{minimind, succeed};
use minimind::checkpoint::adapter::attach::load_with_adapter;
use minimind::checkpoint::load::{load_model, named_tensors};
use minimind::model::{CausalLm, Mask};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

common::needs::tests! {
    every_key_of_lora_config_is_computed_or_refused_by_name: [Python("torch, transformers, peft, safetensors")],
}

fn logits(model: &CausalLm, ids: &Tensor) -> Tensor {
    let _no_grad = tch::no_grad_guard();
    model.logits(&model.hidden(ids, Mask::Causal, false).0)
}

fn far(a: &Tensor, b: &Tensor) -> f64 {
    (a - b).abs().max().double_value(&[]) / b.abs().max().double_value(&[]).max(1.0)
}

fn every_key_of_lora_config_is_computed_or_refused_by_name() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    succeed(Command::new(&python).arg(script("peft_matrix.py")).arg(root.path()));
    let entries = std::fs::read(path("entries.json")).expect("entries");
    let entries: Value = serde_json::from_slice(&entries).expect("JSON");
    let mut faults = Vec::new();
    for (name, base) in entries["computed"].as_object().expect("a map") {
        let base = path("bases").join(base.as_str().expect("a name"));
        let check = named_tensors(&path(&format!("{name}.check.safetensors"))).expect("a check");
        let plain = load_model(&base, None, Device::Cpu, Kind::Float).expect("loads").model;
        let moved = far(&logits(&plain, &check["ids"]), &check["logits"]);
        let with = match load_with_adapter(&base, &path(name), None, Device::Cpu, Kind::Float) {
            Ok(loaded) => loaded.model,
            Err(fault) => {
                faults.push(format!("{name}: {fault}"));
                continue;
            }
        };
        let merged = path(&format!("{name}-merged.safetensors"));
        let mut merge = minimind();
        merge.args(["adapter", "merge", "--model"]).arg(&base).arg("--adapter").arg(path(name));
        let output = merge.arg("--out").arg(&merged).output().expect("starts");
        if !output.status.success() {
            faults.push(format!("{name}: {}", String::from_utf8_lossy(&output.stderr)));
            continue;
        }
        let file = load_model(&merged, None, Device::Cpu, Kind::Float).expect("loads").model;
        let (a, b) = (logits(&with, &check["ids"]), logits(&file, &check["ids"]));
        let (a, b) = (far(&a, &check["logits"]), far(&b, &check["logits"]));
        println!("{name}: {a:.1e}, merged {b:.1e}; without it {moved:.1e}");
        if a > 1e-5 || b > 1e-5 {
            faults.push(format!("{name}: {a:.1e}, merged {b:.1e}"));
        }
        let tokens = greedy(&base, &path(name), &check["ids"]);
        if tokens != check["greedy"] {
            faults.push(format!("{name}: greedy {tokens:?}, peft's {:?}", check["greedy"]));
        }
    }
    for (name, key) in entries["refused"].as_object().expect("a map") {
        let fault = load_with_adapter(&path("bases/llama"), &path(name), None, Device::Cpu, Kind::Float);
        let fault = fault.expect_err("it is refused").to_string();
        if !fault.contains(&format!("`{}`", key.as_str().expect("a key"))) {
            faults.push(format!("{name} is refused by {fault}"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The likeliest continuation through the command.
fn greedy(base: &Path, adapter: &Path, ids: &Tensor) -> Tensor {
    let prompt: Vec<i64> = Vec::try_from(ids.get(0).narrow(0, 0, 7)).expect("ids");
    let prompt: Vec<String> = prompt.iter().map(i64::to_string).collect();
    let mut command = minimind();
    command.args([
        "generate",
        "--greedy",
        "--ignore-eos",
        "--json",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]);
    command.args(["--max-new-tokens", "12", "--ids", &prompt.join(",")]);
    let output = succeed(command.arg("--model").arg(base).arg("--adapter").arg(adapter));
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let ids: Vec<i64> = said["ids"].as_array().expect("ids").iter().filter_map(Value::as_i64).collect();
    Tensor::from_slice(&ids)
}
