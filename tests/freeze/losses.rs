//! Numbers of training: 30 steps of the quickstart's pretraining and fine-tuning, and one step of every kind of stage.
//! Against the record to 1e-6; against an older program that is named, to the bit.
//!
//! Dense models, fp32, one thread, sums in one order (`MKL_CBWR`) and a large `eps`: no rounding decides a step, so
//! processors with other instructions stay within the bound (1.7e-7 at most between AVX-512, AVX2 and neither).

use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value, json};

use super::common::{rows, succeed};
use super::{older, program, recorded, records, root};
use minimind::checkpoint::load::named_tensors;
use tch::Kind;

/// Numbers of rows that are no result: time, speed, memory.
fn of_this_machine(key: &str) -> bool {
    key.ends_with("_s") || key.ends_with("_mb") || key == "rollout_share"
}

/// The results of a stage: its rows, its measurements, and sums over its weights.
fn results(output: &Path, stage: &str) -> Vec<Value> {
    let folder = output.join(stage);
    let mut found: Vec<Value> = Vec::new();
    if folder.join("metrics.jsonl").exists() {
        found.extend(rows(&folder.join("metrics.jsonl")));
    }
    for row in &mut found {
        row.as_object_mut().expect("a row").retain(|key, _| !of_this_machine(key));
    }
    let summary = super::common::json(&folder.join("summary.json"));
    let measured = summary["metrics"].as_object().cloned().unwrap_or_default();
    let measured: Map<String, Value> =
        measured.into_iter().filter(|(key, _)| !of_this_machine(key)).collect();
    found.push(json!({"stage": stage, "measured": measured}));
    let weights =
        std::fs::read_dir(output).expect("a run").map(|e| e.expect("an entry").path()).find(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.starts_with(&format!("{stage}_")) && name.ends_with(".pth") && !name.contains("_resume")
        });
    if let Some(file) = weights {
        let mut tensors: Vec<_> = named_tensors(&file).expect("weights").into_iter().collect();
        tensors.sort_by(|a, b| a.0.cmp(&b.0));
        let (mut sum, mut size, mut square) = (0.0, 0.0, 0.0);
        for (_, tensor) in tensors {
            let tensor = tensor.to_kind(Kind::Double);
            sum += tensor.sum(Kind::Double).double_value(&[]);
            size += tensor.abs().sum(Kind::Double).double_value(&[]);
            square += (&tensor * &tensor).sum(Kind::Double).double_value(&[]);
        }
        // The plain sum cancels; beside the size of what was added it is as exact as the others.
        found.push(
            json!({"stage": stage, "weights": {"size": size, "square": square, "shifted_sum": sum + size}}),
        );
    }
    found
}

/// Fails where two results differ by more than `share` of them.
fn near(what: &str, before: &Value, now: &Value, share: f64) {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>(), "{what}");
            a.iter().for_each(|(key, a)| near(&format!("{what} {key}"), a, &b[key], share));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            // Means that cancel to nearly nothing have the rounding of what they were made of.
            let room = if share == 0.0 { 0.0 } else { share * a.abs() + 1e-7 };
            assert!((a - b).abs() <= room, "{what}: {a} was recorded, {b} is now");
        }
        _ => assert_eq!(before, now, "{what}"),
    }
}

fn all_near(what: &str, before: &[Value], now: &[Value], share: f64) {
    assert_eq!(before.len(), now.len(), "{what}: rows");
    for (i, (a, b)) in before.iter().zip(now).enumerate() {
        near(&format!("{what}, row {i} of {}:", a["stage"]), a, b, share);
    }
}

/// Runs `made` with the program and, where one is named, with the older one; compares both with the record.
fn compare(record: &str, made: impl Fn(Command, &Path) -> Vec<Value>) {
    let fresh = |command: Command| {
        let folder = tempfile::tempdir().expect("a folder");
        made(command, folder.path())
    };
    let now = fresh(program());
    if let Some(older) = older() {
        all_near(&format!("{record}, beside the older program"), &fresh(older), &now, 0.0);
    }
    let text = recorded(&records().join(record), |recorder| {
        fresh(recorder).iter().map(|row| format!("{row}\n")).collect()
    });
    let before: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect();
    all_near(record, &before, &now, 1e-6);
}

#[test]
fn thirty_steps_of_the_quickstart_stay() {
    let sets = [
        "runtime={device: cpu, precision: fp32, threads: 1}",
        "stages.pretrain.max_steps=30",
        "stages.pretrain.log_interval=1",
        "stages.pretrain.eps=1e-4",
        "stages.pretrain.save_dtype=fp32",
        "stages.sft.max_steps=30",
        "stages.sft.log_interval=1",
        "stages.sft.eps=1e-4",
        "stages.sft.save_dtype=fp32",
    ];
    compare("quickstart.jsonl", |mut command, output| {
        command.args(["run", "recipes/quickstart.yaml"]);
        for set in sets {
            command.args(["--set", set]);
        }
        // Each alone: what stands below them in the recipe takes minutes.
        let program = command.get_program().to_owned();
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        for stage in ["tok", "pretrain", "sft"] {
            let mut one = super::tame(Command::new(&program));
            succeed(one.args(&args).arg("--output").arg(output).args(["--only", stage]));
        }
        ["pretrain", "sft"].iter().flat_map(|stage| results(output, stage)).collect()
    });
}

#[test]
fn one_step_of_every_kind_stays() {
    let recipe = records().join("kinds.yaml");
    compare("kinds.jsonl", |mut command, folder| {
        let output = folder.join("run");
        succeed(command.arg("run").arg(&recipe).arg("--output").arg(&output).current_dir(root()));
        let stages = [
            "pretrain", "sft", "lora", "merge", "reason", "distill", "dpo", "reward", "ppo", "grpo", "cispo",
            "spo", "agent", "eval",
        ];
        stages.iter().flat_map(|stage| results(&output, stage)).collect()
    });
}
