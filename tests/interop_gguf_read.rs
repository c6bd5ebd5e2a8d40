//! GGUF files of other programs: every quantised type, Llama 3.1's factors, split files. Blocks must be those of the
//! gguf package to the last bit, logits those of transformers.
//!
//! Needs a Python (MINIMIND_PYTHON, else python3) with torch, transformers and gguf.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::{minimind, succeed};
use minimind::checkpoint::gguf;
use minimind::checkpoint::{load_model, named_tensors, read_weights};
use minimind::model::Mask;
use tch::{Device, Kind};

common::needs::tests! {
    files_of_other_programs_are_read: [Python("torch, transformers, gguf, safetensors")],
}

fn far(file: &Path, check: &Path) -> f64 {
    let check = named_tensors(check).expect("a check");
    let model = load_model(file, None, Device::Cpu, Kind::Float).unwrap_or_else(|e| panic!("{e}")).model;
    let _no_grad = tch::no_grad_guard();
    let logits = model.logits(&model.hidden(&check["ids"], Mask::Causal, false).0);
    (logits - &check["logits"]).abs().max().double_value(&[]) / check["logits"].abs().max().double_value(&[])
}

fn files_of_other_programs_are_read() {
    let python = python();
    let root = tempfile::tempdir().expect("a folder");
    let path = |name: &str| root.path().join(name);
    succeed(Command::new(&python).arg(script("gguf_foreign.py")).arg(root.path()));
    let (read, want) = (gguf::read_weights(&path("blocks.gguf")), named_tensors(&path("blocks.safetensors")));
    let read = read.unwrap_or_else(|e| panic!("{e}"));
    for (name, want) in want.expect("blocks") {
        let got = minimind::checkpoint::convert::to_tensor(&read.tensors[&name]).expect("a tensor");
        assert!(got.equal(&want), "{name}: {:.1e}", (got - want).abs().max().double_value(&[]));
    }
    let fault = gguf::read_weights(&path("unread.gguf")).expect_err("refused").to_string();
    assert!(fault.contains("iq2_xxs"), "{fault}");
    let mut faults = Vec::new();
    for name in ["llama31", "llama31_tied", "llama_odd_factors", "qwen2", "q4_1", "q5_0", "q5_1", "q8_0"] {
        let apart = far(&path(&format!("{name}.gguf")), &path(&format!("{name}.check.safetensors")));
        println!("{name}: {apart:.1e}");
        if apart > 1e-5 {
            faults.push(format!("{name}: {apart:.1e}"));
        }
    }
    for part in 1..=3 {
        let apart = far(&path(&format!("split-{part:05}-of-00003.gguf")), &path("split.check.safetensors"));
        assert!(apart < 1e-5, "part {part}: {apart:.1e}");
    }
    succeed(minimind().arg("inspect").arg(path("split-00002-of-00003.gguf")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // A folder with llama3's stretch and the GGUF that is made of it are one model.
    let out = path("out.gguf");
    let of = |file: &Path| load_model(file, None, Device::Cpu, Kind::Float).expect("loads").model;
    let folder = of(&path("folder"));
    let contents = gguf::Contents {
        config: folder.config(),
        vocabulary: None,
        eos_token_ids: &[],
        name: "folder",
        file_type: gguf::FileType::F32,
    };
    let weights = read_weights(&path("folder")).expect("weights").tensors;
    gguf::write(&out, &contents, &weights).expect("a GGUF");
    assert_eq!(of(&out).config().rope_scaling, folder.config().rope_scaling);
    let names = gguf::open(&out).expect("a GGUF");
    assert!(names.tensors().iter().any(|entry| entry.name == "rope_freqs.weight"));
    // A part that is missing is named.
    std::fs::remove_file(path("split-00003-of-00003.gguf")).expect("removed");
    let fault = gguf::open(&path("split-00001-of-00003.gguf")).expect_err("incomplete").to_string();
    assert!(fault.contains("split-00003-of-00003.gguf"), "{fault}");
}
