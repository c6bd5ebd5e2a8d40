//! Exports from outside: every fixture through every format with the reference's greedy tokens, the recipe's
//! stage, and what TorchScript's readers do with a module (here, in C++, in Python where it has torch).

mod common;

use std::path::Path;
use std::process::Command;

use common::{fixtures, json, minimind, succeed, variants};
use minimind::checkpoint::load::named_tensors;
use serde_json::Value;
use tch::{CModule, IValue, Tensor};

common::needs::tests! {
    every_format_takes_the_references_greedy_tokens: [],
    torchscript_computes_what_the_reference_recorded: [],
    an_export_stage_writes_checks_and_is_skipped_the_second_time: [],
    pytorch_uses_a_module_as_its_own: [Python("torch")],
    cpp_reads_a_module_with_libtorch_alone: [Compiler],
}

const TOLERANCE: f64 = 2e-5;

fn export(format: &str, fixture: &Path, out: &Path, more: &[&str]) -> Value {
    let mut command = minimind();
    command.args(["export", format, "--json", "--model"]).arg(fixture.join("weights_fp32.pth"));
    let output = succeed(command.arg("--out").arg(out).args(more));
    serde_json::from_slice(&output.stdout).expect("one JSON value")
}

fn ids_of(value: &Value) -> Vec<i64> {
    serde_json::from_value(value.clone()).expect("ids")
}

fn farthest(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    (a - b).abs().max().double_value(&[])
}

/// The completion's tokens that a module takes at temperature 0.
fn greedy(module: &CModule, recorded: &Value) -> Vec<i64> {
    let prompt = Tensor::from_slice(&ids_of(&recorded["greedy_prompt"])).unsqueeze(0);
    let new = ids_of(&recorded["greedy_completion"]).len() as i64;
    let (_, t) = prompt.size2().expect("[1, T]");
    let given =
        [IValue::Tensor(prompt), IValue::Int(new), IValue::Double(0.0), IValue::Int(0), IValue::Double(1.0)];
    let IValue::Tensor(all) = module.method_is("generate", &given).expect("ids") else { panic!("no tensor") };
    Vec::<i64>::try_from(all.view([-1]).narrow(0, t, new)).expect("ids")
}

fn every_format_takes_the_references_greedy_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    for fixture in variants("forward.json") {
        let recorded = json(&fixture.join("forward.json"));
        let want = ids_of(&recorded["greedy_completion"]);
        let ids: Vec<String> = ids_of(&recorded["greedy_prompt"]).iter().map(i64::to_string).collect();
        for format in ["pth", "safetensors"] {
            let out = folder.path().join(format!("model.{format}"));
            let report = export(format, &fixture, &out, &[]);
            assert_eq!(report["check"]["largest_difference"], 0.0, "{report}");
            let mut command = minimind();
            command.args(["generate", "--greedy", "--ignore-eos", "--json", "--max-new-tokens"]);
            command.arg(want.len().to_string()).arg("--ids").arg(ids.join(",")).arg("--model").arg(&out);
            let made: Value = serde_json::from_slice(&succeed(&mut command).stdout).expect("JSON");
            assert_eq!(ids_of(&made["ids"]), want, "{format} of {}", fixture.display());
        }
    }
}

fn torchscript_computes_what_the_reference_recorded() {
    let folder = tempfile::tempdir().expect("a folder");
    let _no_grad = tch::no_grad_guard();
    for fixture in variants("forward.safetensors") {
        let recorded = json(&fixture.join("forward.json"));
        let tensors = named_tensors(&fixture.join("forward.safetensors")).expect("tensors");
        for more in [&[][..], &["--freeze"]] {
            let out = folder.path().join("model.pt");
            let report = export("torchscript", &fixture, &out, more);
            assert!(
                report["check"]["largest_difference"].as_f64().expect("a number") <= TOLERANCE,
                "{report}"
            );
            let module = CModule::load(&out).expect("loads");
            let far =
                farthest(&module.forward_ts(&[&tensors["input_ids"]]).expect("logits"), &tensors["logits"]);
            println!("{} {more:?}: {far:.1e}, {} bytes", fixture.display(), report["bytes"]);
            assert!(far <= TOLERANCE);
            assert_eq!(greedy(&module, &recorded), ids_of(&recorded["greedy_completion"]));
        }
        let yarn = folder.path().join("yarn.pt");
        export("torchscript", &fixture, &yarn, &["--yarn"]);
        let tensors = named_tensors(&fixture.join("yarn.safetensors")).expect("tensors");
        let (_, t) = tensors["input_ids"].size2().expect("[B, T]");
        let logits =
            CModule::load(&yarn).expect("loads").forward_ts(&[&tensors["input_ids"]]).expect("logits");
        let far = farthest(&logits.narrow(1, t - 8, 8), &tensors["logits_last8"]);
        println!("{} yarn: {far:.1e}", fixture.display());
        assert!(far <= TOLERANCE);
        for precision in ["fp16", "bf16"] {
            let report = export("torchscript", &fixture, &yarn, &["--precision", precision]);
            println!("{} {precision}: {}", fixture.display(), report["check"]);
            let module = CModule::load(&yarn).expect("loads");
            assert_eq!(greedy(&module, &recorded).len(), ids_of(&recorded["greedy_completion"]).len());
        }
    }
}

fn an_export_stage_writes_checks_and_is_skipped_the_second_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let fixture = fixtures().join("minimind3/dense");
    let recipe = folder.path().join("leave.yaml");
    let text = format!(
        "name: leave\nruntime: {{device: cpu, precision: fp32}}\noutput: {out}\n\
         model: {{config: {fixture}/config.json}}\nstages:\n\
         \x20 - pretrain: {{init: {fixture}/weights_fp32.pth, data: {{path: {fixture}/train_batches.safetensors, format: tokens}}, max_steps: 2, log_interval: 1}}\n\
         \x20 - export: {{from: pretrain, formats: [torchscript, safetensors, pth], precision: fp32}}\n",
        out = folder.path().join("run").display(),
        fixture = fixture.display(),
    );
    std::fs::write(&recipe, &text).expect("a recipe is written");
    succeed(minimind().arg("run").arg(&recipe));
    let made = folder.path().join("run/export");
    for file in ["pretrain_32.pt", "pretrain_32.safetensors", "pretrain_32.pth"] {
        assert!(made.join(file).is_file(), "{file}");
    }
    let summary = json(&made.join("summary.json"));
    assert!(
        summary["metrics"]["torchscript_difference"].as_f64().expect("a number") <= TOLERANCE,
        "{summary}"
    );
    assert_eq!(summary["exports"].as_array().map(Vec::len), Some(3));
    let again = succeed(minimind().arg("run").arg(&recipe));
    let log = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(log.contains("export: done already, skipped"), "{log}");
    std::fs::write(&recipe, text.replace(", pth]", "]")).expect("a recipe is written");
    let changed = succeed(minimind().arg("run").arg(&recipe));
    let log = String::from_utf8_lossy(&changed.stderr).into_owned();
    assert!(log.contains("export: runs (changed since it was done: formats [\"torchscript\",\"safetensors\",\"pth\"] -> [\"torchscript\",\"safetensors\"])"), "{log}");
    assert!(made.with_extension("old").join("pretrain_32.pth").is_file(), "the old files are kept");
}

fn pytorch_uses_a_module_as_its_own() {
    let python = common::python::python();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let (module, frozen) = (folder.path().join("model.pt"), folder.path().join("frozen.pt"));
    for fixture in variants("forward.safetensors") {
        export("torchscript", &fixture, &module, &[]);
        export("torchscript", &fixture, &frozen, &["--freeze"]);
        let script = root.join("tests/interop/torchscript.py");
        let mut command = Command::new(&python);
        let output = succeed(command.arg(script).args([&module, &frozen, &fixture]));
        print!("{}", String::from_utf8_lossy(&output.stdout));
        let example = root.join("docs/examples/torchscript.py");
        continues(Command::new(&python).arg(example), &module, &fixture);
    }
}

/// The program of the docs gives the fixture's completion.
fn continues(command: &mut Command, module: &Path, fixture: &Path) {
    let recorded = json(&fixture.join("forward.json"));
    let want: Vec<String> = ids_of(&recorded["greedy_completion"]).iter().map(i64::to_string).collect();
    let prompt = ids_of(&recorded["greedy_prompt"]);
    command.arg(module).arg(want.len().to_string()).args(prompt.iter().map(i64::to_string));
    let output = succeed(command);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), want.join(" "), "{}", fixture.display());
}

fn cpp_reads_a_module_with_libtorch_alone() {
    let compiler = common::needs::compiler().expect("asked for before");
    let lib = minimind::native::libtorch_dir();
    let include = lib.join("../include");
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("torchscript");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/torchscript.cpp");
    let mut command = Command::new(compiler);
    command.args(["-std=c++17", "-O0"]).arg(source).arg("-o").arg(&program);
    command.arg("-I").arg(&include).arg("-I").arg(include.join("torch/csrc/api/include"));
    command.arg("-L").arg(&lib).args(["-ltorch_cpu", "-lc10"]).arg(format!("-Wl,-rpath,{}", lib.display()));
    succeed(&mut command);
    let module = folder.path().join("model.pt");
    for fixture in variants("forward.json") {
        for more in [&[][..], &["--freeze"]] {
            export("torchscript", &fixture, &module, more);
            continues(&mut Command::new(&program), &module, &fixture);
        }
    }
}
