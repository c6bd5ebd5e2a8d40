//! A loss that leaps or is no number, in whole runs: skipped, rolled back or stopped, as the recipe says.

mod common;

use std::path::Path;
use std::process::Output;

use common::{minimind, number, rows};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// Micro-batches of rows; the one at `POISON` is unlike all others.
const STEPS: usize = 40;
const POISON: usize = 30;
const B: usize = 2;
const T: usize = 16;

fn data(path: &Path) {
    let ids: Vec<i64> = (0..STEPS * B * T)
        .map(|i| if i / (B * T) == POISON - 1 { (i * i % 29 + 2) as i64 } else { 7 })
        .collect();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let view = || TensorView::new(Dtype::I64, vec![STEPS, B, T], &bytes).expect("a view");
    serialize_to_file([("input_ids", view()), ("labels", view())], None, path).expect("data is written");
}

fn run(folder: &Path, settings: &str) -> Output {
    data(&folder.join("rows.safetensors"));
    let recipe = folder.join("leap.yaml");
    let text = format!(
        "name: leap\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {}\n\
         model: {{preset: minimind3, hidden_size: 32, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1, vocab_size: 32}}\n\
         stages:\n  - pretrain: {{init: scratch, data: {{path: {}, shuffle: false}}, epochs: 1, batch_size: 1, accumulation_steps: 1,\n\
         \x20     schedule: constant, log_interval: 1, save_interval: 10, {settings}}}\n",
        folder.join("run").display(),
        folder.join("rows.safetensors").display()
    );
    std::fs::write(&recipe, text).expect("a recipe is written");
    minimind().arg("run").arg(&recipe).output().expect("runs")
}

fn summary(folder: &Path) -> serde_json::Value {
    common::json(&folder.join("run/pretrain/summary.json"))
}

#[test]
fn a_leap_is_skipped_or_rolled_back_and_the_run_goes_on() {
    for (policy, said, updates) in
        [("skip", "this update is skipped", 39), ("rollback", "rolled back to the last", 39)]
    {
        let folder = tempfile::tempdir().expect("a folder");
        let ended =
            run(folder.path(), &format!("learning_rate: 1.0e-2, spike_factor: 4.0, on_spike: {policy}"));
        let log = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.success(), "{log}");
        let summary = summary(folder.path());
        let notes = summary["notes"].to_string();
        assert!(notes.contains(said) && notes.contains(&format!("micro-batch {POISON}")), "{notes}");
        assert!(log.contains(said), "{log}");
        assert_eq!(summary["updates"], updates);
        let rows = rows(&folder.path().join("run/pretrain/metrics.jsonl"));
        let loss = |step: usize| number(&rows[step - 1], "loss");
        assert!(loss(POISON) > 4.0 * loss(POISON - 1), "the leap is in the rows");
        // Skipping keeps the weights, so the next loss is as good; rolling back returns to micro-batch 20's.
        let next = loss(POISON + 1);
        if policy == "skip" {
            assert!(next <= loss(POISON - 1), "{next}");
        } else {
            assert!((next - loss(21)).abs() < 1e-6, "{next} is not {}", loss(21));
        }
    }
}

#[test]
fn a_leap_stops_the_run_where_asked_and_the_last_checkpoint_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let ended = run(folder.path(), "learning_rate: 1.0e-2, spike_factor: 4.0, on_spike: stop");
    let log = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(1), "{log}");
    assert!(
        log.contains("micro-batch 30: the loss is") && log.contains("hint: lower learning_rate"),
        "{log}"
    );
    let kept = folder.path().join("run/pretrain_32.pth");
    let model = minimind().args(["inspect", "--json"]).arg(kept).output().expect("runs");
    assert!(model.status.success());
}

#[test]
fn numbers_that_are_none_end_a_run_whatever_the_patience() {
    for policy in ["stop", "skip", "rollback"] {
        let folder = tempfile::tempdir().expect("a folder");
        let ended = run(folder.path(), &format!("learning_rate: 1.0e+30, grad_clip: 0, on_nan: {policy}"));
        let log = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(1), "{policy}: {log}");
        assert!(log.contains("the loss or its gradient is not finite"), "{policy}: {log}");
        assert!(!folder.path().join("run/pretrain/done.json").exists());
    }
}

/// A fault of the input, found before the first step, costs a finished stage nothing.
#[test]
fn a_finished_stage_keeps_its_rows_when_another_run_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = "learning_rate: 1.0e-3, max_steps: 6";
    assert!(run(folder.path(), settings).status.success());
    let metrics = folder.path().join("run/pretrain/metrics.jsonl");
    let before = std::fs::read(&metrics).expect("rows");
    assert_eq!(rows(&metrics).len(), 6);
    let recipe = folder.path().join("leap.yaml");
    let missing = format!("stages.pretrain.data.path={}", recipe.display());
    let stray = folder.path().join("stray.safetensors");
    let bytes: Vec<u8> = (0..32i64).map(|i| i * 3).flat_map(i64::to_le_bytes).collect();
    let ids = TensorView::new(Dtype::I64, vec![1, B, T], &bytes).expect("a view");
    serialize_to_file([("input_ids", ids)], None, &stray).expect("data is written");
    let stray = format!("stages.pretrain.data.validation={}", stray.display());
    for refused in [
        vec!["--set", &missing, "--set", "stages.pretrain.data.format=tokens"],
        vec!["--set", "stages.pretrain.learning_rate=0.5", "--resume", "must"],
        vec!["--set", &stray],
        // Found by the stage itself, when the old files are aside already.
        vec!["--set", &stray, "--from", "pretrain"],
    ] {
        let output = minimind().arg("run").arg(&recipe).args(&refused).output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{refused:?}: {said}");
    }
    let again = run(folder.path(), settings);
    assert!(again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("done already, skipped"));
    assert_eq!(std::fs::read(&metrics).expect("rows"), before);
}
