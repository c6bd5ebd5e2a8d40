//! LoRA adapters and the peft library: its folders in, ours out, merges. The same logits, fp32, 2e-5.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::{minimind, succeed};
use minimind::checkpoint::load::{load_model, named_tensors};
use minimind::model::Mask;
use tch::{Device, Kind};

common::needs::tests! {
    adapters_pass_between_upstream_and_peft: [Python("torch, transformers, peft, safetensors")],
}

fn adapters_pass_between_upstream_and_peft() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    let peft = |args: &[&Path], mode: &str| {
        let mut command = Command::new(&python);
        succeed(command.arg(script("peft_adapter.py")).arg(mode).arg(root.path()).args(args))
    };
    peft(&[], "make");
    let names = ["plain", "scaled", "rslora", "patterns"];
    for name in names {
        // Their folder, merged here, computes what it computes there.
        let merged = path(&format!("{name}-merged.safetensors"));
        succeed(
            minimind()
                .args(["adapter", "merge", "--model"])
                .arg(path("base"))
                .arg("--adapter")
                .arg(path(name))
                .arg("--out")
                .arg(&merged),
        );
        let check = named_tensors(&path(&format!("{name}.check.safetensors"))).expect("a check");
        let model = load_model(&merged, None, Device::Cpu, Kind::Float).expect("loads").model;
        let _no_grad = tch::no_grad_guard();
        let logits = model.logits(&model.hidden(&check["ids"], Mask::Causal, false).0);
        let far = (logits - &check["logits"]).abs().max().double_value(&[]);
        println!("{name}: {far:.1e}");
        assert!(far < 2e-5, "{name}: {far:.1e}");
        // Through upstream's form and back, peft loads ours.
        let (file, back) = (path(&format!("lora_{name}_32.pth")), path(&format!("{name}-back")));
        for (from, to) in [(path(name), &file), (file.clone(), &back)] {
            succeed(minimind().args(["adapter", "convert"]).arg(from).arg("--out").arg(to));
        }
        peft(&[Path::new(name), &back], "check");
        // Merged once is enough.
        let again = minimind()
            .args(["adapter", "merge", "--model"])
            .arg(&merged)
            .arg("--adapter")
            .arg(path(name))
            .arg("--out")
            .arg(path("twice.pth"))
            .output()
            .expect("starts");
        assert_eq!(again.status.code(), Some(2), "{}", String::from_utf8_lossy(&again.stderr));
        assert!(!path("twice.pth").exists());
    }
}
