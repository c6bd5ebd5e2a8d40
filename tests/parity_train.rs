//! Pretraining through a recipe against what the reference recorded: from the start weights, and going on
//! from the file that the reference saved. fp32, CPU.

mod common;

use std::path::Path;

use common::{distance, json, minimind, number, rows, succeed, variants, weights};

/// Trains on a fixture's batches in `output`; `extra` goes to the command line.
fn train(fixture: &Path, output: &Path, extra: &[&str]) {
    let recorded = json(&fixture.join("train.json"));
    let recipe = output.join("recipe-under-test.yaml");
    let text = format!(
        "name: parity\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {out}\n\
         model: {{config: {fixture}/config.json}}\nstages:\n  - pretrain:\n      init: {fixture}/weights_fp32.pth\n\
         \x20     data: {{path: {fixture}/train_batches.safetensors, format: tokens, shuffle: false}}\n\
         \x20     epochs: 1\n      accumulation_steps: {acc}\n      learning_rate: {lr}\n      grad_clip: {clip}\n\
         \x20     max_seq_len: 24\n      log_interval: 1\n      save_dtype: fp32\n",
        out = output.display(),
        fixture = fixture.display(),
        acc = recorded["accumulation_steps"],
        lr = recorded["learning_rate"],
        clip = recorded["grad_clip"],
    );
    std::fs::write(&recipe, text).expect("a recipe is written");
    // One order of sums on every processor: a last bit that differs sends a token to another expert, and the losses
    // after it are another run's.
    succeed(minimind().env("MKL_CBWR", "COMPATIBLE").arg("run").arg(&recipe).args(extra));
}

/// A run's folder with the file that the reference saved on its way.
fn begun(fixture: &Path) -> tempfile::TempDir {
    let run = tempfile::tempdir().expect("a folder");
    for entry in std::fs::read_dir(fixture.join("resume")).expect("resume") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, run.path().join(path.file_name().expect("a name"))).expect("copied");
    }
    run
}

fn compare(got: &[serde_json::Value], want: &[serde_json::Value], tolerance: impl Fn(usize, &str) -> f64) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        for key in ["step", "loss", "aux_loss", "lr", "grad_norm"] {
            let Some(expected) = want.get(key).and_then(|v| v.as_f64()) else { continue };
            let far = (number(got, key) - expected).abs();
            let allowed = tolerance(i, key);
            assert!(far <= allowed, "row {i}, {key}: {got} against {want}: {far:e} > {allowed:e}");
        }
    }
}

#[test]
fn training_from_the_start_follows_the_reference() {
    for fixture in variants("train_batches.safetensors") {
        let run = tempfile::tempdir().expect("a folder");
        train(&fixture, run.path(), &[]);
        let recorded = json(&fixture.join("train.json"));
        let want = recorded["steps"].as_array().expect("steps");
        let got = rows(&run.path().join("pretrain/metrics.jsonl"));
        compare(&got, want, |i, key| match key {
            "grad_norm" if i < 2 => 2e-5,
            "grad_norm" => 5e-3,
            "lr" | "step" => 1e-12,
            _ if i < 2 => 2e-5,
            _ => 5e-4,
        });
        let (share, most) = distance(&weights(run.path()), &fixture.join("train_final.safetensors"), 1e-3);
        println!("{}: {share:.5} beyond 1e-3, farthest {most:.1e}", fixture.display());
        assert!(share <= 1e-3 && most <= 2e-2, "{share} {most}");
    }
}

#[test]
fn going_on_from_the_references_file_is_sharp() {
    for fixture in variants("train_resumed_final.safetensors") {
        let run = begun(&fixture);
        train(&fixture, run.path(), &["--resume", "must"]);
        let recorded = json(&fixture.join("train.json"));
        let want = recorded["resumed_from_file"].as_array().expect("steps");
        let got = rows(&run.path().join("pretrain/metrics.jsonl"));
        compare(&got, want, |_, key| if matches!(key, "lr" | "step") { 1e-12 } else { 5e-6 });
        let (_, most) =
            distance(&weights(run.path()), &fixture.join("train_resumed_final.safetensors"), 5e-6);
        println!("{}: farthest {most:.1e}", fixture.display());
        assert!(most <= 5e-6, "{most}");
    }
}

/// A `.pth` alone tells no heads, experts per token or loss weights; the recipe's `model` does.
#[test]
fn weights_without_a_config_beside_them_are_what_the_recipe_says() {
    for fixture in variants("train_batches.safetensors") {
        let run = tempfile::tempdir().expect("a folder");
        let alone = run.path().join("alone.pth");
        std::fs::copy(fixture.join("weights_fp32.pth"), &alone).expect("copied");
        let init = format!("stages.pretrain.init={}", alone.display());
        train(&fixture, run.path(), &["--set", &init, "--set", "stages.pretrain.max_steps=1"]);
        let recorded = json(&fixture.join("train.json"));
        let want = &recorded["steps"][0];
        let got = rows(&run.path().join("pretrain/metrics.jsonl"));
        for key in ["loss", "aux_loss"] {
            let (Some(expected), got) = (want[key].as_f64(), &got[0]) else { continue };
            assert!(
                (number(got, key) - expected).abs() <= 2e-5,
                "{}: {got} against {want}",
                fixture.display()
            );
        }
    }
}

/// Upstream's file may be saved inside a window of accumulation; updates stay where upstream makes them.
#[test]
fn a_file_from_inside_a_window_keeps_the_references_updates() {
    for fixture in variants("train_resumed_final.safetensors") {
        let run = begun(&fixture);
        train(&fixture, run.path(), &["--resume", "must", "--set", "stages.pretrain.accumulation_steps=4"]);
        let got = rows(&run.path().join("pretrain/metrics.jsonl"));
        let step = |row: &serde_json::Value| row["step"].as_u64().expect("a step");
        let last = step(got.last().expect("rows"));
        let updates: Vec<u64> = got.iter().filter(|row| row.get("grad_norm").is_some()).map(step).collect();
        let expected: Vec<u64> = got.iter().map(step).filter(|s| s % 4 == 0 || *s == last).collect();
        assert_eq!(updates, expected, "{}", fixture.display());
        assert!(updates.len() > 1);
    }
}
