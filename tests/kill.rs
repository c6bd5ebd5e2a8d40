//! A run killed at any moment goes on to the same bits as one that was not: every kind of stage that learns from rows
//! (those that learn from rewards: `kill_policy`).
//!
//! Short in the suite; `MINIMIND_KILLS=50 cargo test --test kill` is the full form.

mod common;

use std::path::{Path, PathBuf};

use common::kill::{kills, through, timeless};
use common::{minimind, succeed};

const MODEL: &str = "model: {preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, \
                     num_key_value_heads: 1}";

/// A recipe beside the folder it writes to, which it names from there: weight files hold their recipe's hash.
fn recipe(folder: &Path, tokenizer: &str, stages: &str) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder");
    let path = folder.join("kill.yaml");
    let text = format!(
        "name: kill\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: run\ntokenizer: {tokenizer}\n\
         {MODEL}\nstages:\n{stages}"
    );
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

/// Runs the stages whole and with kills; the weights and rows of `stage` must be the same.
fn survives(folder: &Path, tokenizer: &str, stages: &str, stage: &str, kills: u64) {
    let run = |recipe: &Path| {
        let mut command = minimind();
        command.current_dir(recipe.parent().expect("a folder")).arg("run").arg(recipe);
        command
    };
    let whole_recipe = recipe(&folder.join("whole"), tokenizer, stages);
    let started = std::time::Instant::now();
    succeed(&mut run(&whole_recipe));
    let length = started.elapsed();

    let killed_recipe = recipe(&folder.join("killed"), tokenizer, stages);
    let (whole, killed) = (folder.join("whole/run"), folder.join("killed/run"));
    // Moments spread over the run by the golden ratio; how far each gets does not matter to the result.
    let share = |kill: u64| 0.1 + 0.8 * (kill as f64 * 0.618_033_988_7).fract();
    through(stage, || run(&killed_recipe), kills, length, share);
    let bytes = |run: &Path| std::fs::read(run.join(format!("{stage}_64.pth"))).expect("weights");
    assert!(bytes(&whole) == bytes(&killed), "the weights differ");
    let rows = |run: &Path| timeless(run, stage, |key| key.ends_with("_s") || key.ends_with("_peak_mb"));
    assert_eq!(rows(&whole), rows(&killed));
}

#[test]
fn killed_runs_end_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let stages = "  - tokenizer: {name: tok, data: {synthetic: {rows: 400}}, vocab_size: 400}\n\
                  \x20 - pretrain: {init: scratch, data: {synthetic: {rows: 600}, validation: 0.05}, epochs: 2, batch_size: 8,\n\
                  \x20     accumulation_steps: 4, max_seq_len: 64, learning_rate: 1.0e-3, log_interval: 5, save_interval: 6,\n\
                  \x20     dropout: 0.1, keep_last: 2}\n";
    survives(folder.path(), "tok", stages, "pretrain", kills(4));
}

#[test]
fn killed_adapters_and_preferences_end_with_the_same_bits() {
    kinds_survive(&[
        ("lora", "rank: 4, dropout: 0.1, data: {synthetic: {rows: 400}, validation: 0.05}"),
        ("dpo", "beta: 0.5, data: {synthetic: {rows: 200}, validation: 0.05}"),
    ]);
}

#[test]
fn every_other_kind_ends_with_the_same_bits() {
    let chats = "data: {synthetic: {rows: 300}, format: chat, validation: 0.05}";
    kinds_survive(&[
        ("sft", chats),
        ("reason", chats),
        ("distill", &format!("teacher: \"INIT\", {chats}")),
        ("reward", "data: {synthetic: {rows: 200}, validation: 0.05}"),
    ]);
}

/// Kinds of stages with their own settings (`INIT`: weights to start from), each run whole and with kills.
fn kinds_survive(kinds: &[(&str, &str)]) {
    let prepared = tempfile::tempdir().expect("a folder");
    let start = "  - tokenizer: {name: tok, data: {synthetic: {rows: 400}}, vocab_size: 400}\n\
                 \x20 - pretrain: {init: scratch, data: {synthetic: {rows: 64}}, epochs: 1, batch_size: 8}\n";
    let recipe = recipe(prepared.path(), "tok", start);
    succeed(minimind().current_dir(prepared.path()).arg("run").arg(recipe));
    let run = prepared.path().join("run");
    let (tokenizer, init) = (run.join("tok"), format!("{}:pretrain", run.display()));
    for (stage, own) in kinds {
        let own = own.replace("INIT", &init);
        let folder = tempfile::tempdir().expect("a folder");
        let stages = format!(
            "  - {stage}: {{init: \"{init}\", {own}, epochs: 2, batch_size: 8, accumulation_steps: 2, max_seq_len: 64,\n\
             \x20     learning_rate: 1.0e-3, log_interval: 5, save_interval: 6}}\n"
        );
        survives(folder.path(), &tokenizer.to_string_lossy(), &stages, stage, kills(2));
    }
}
