//! Runs that learn from rewards, killed at any moment, in a rollout too, end with the bits of one that was not.
//!
//! `MINIMIND_KILLS=50 cargo test --test kill_policy` is the full form.

mod common;

use std::path::{Path, PathBuf};

use common::kill::{kills, through, timeless};
use common::{minimind, succeed};

const KINDS: [&str; 4] = ["grpo", "ppo", "spo", "agent"];

fn recipe(folder: &Path) -> PathBuf {
    let path = folder.join("kill.yaml");
    let shared = "init: sft, data: {synthetic: {rows: 24}}, heldout: {synthetic: {rows: 6}}, learning_rate: 1.0e-3, save_interval: 2,\n\
         \x20     thinking_ratio: 0, rollout: {max_new_tokens: 10}, rewards: [{regex: {pattern: '[aeo]'}}, {length: {min: 5, max: 20}}]";
    let text = format!(
        "name: kill\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 400}}}}, vocab_size: 400}}\n\
         \x20 - sft: {{init: scratch, data: {{synthetic: {{rows: 160}}, format: chat}}, epochs: 1, batch_size: 8, max_seq_len: 96, learning_rate: 1.0e-3}}\n\
         \x20 - grpo: {{{shared}, batch_size: 2, num_generations: 3, dynamic_sampling: true}}\n\
         \x20 - ppo: {{{shared}, batch_size: 4, mini_batch_size: 2, accumulation_steps: 3, critic_learning_rate: 1.0e-3}}\n\
         \x20 - spo: {{{shared}, batch_size: 2, accumulation_steps: 4}}\n\
         \x20 - agent: {{init: sft, data: {{synthetic: {{rows: 8}}}}, heldout: {{synthetic: {{rows: 2}}}}, learning_rate: 1.0e-3, save_interval: 2, batch_size: 2,\n\
         \x20     num_generations: 2, max_turns: 2, rollout: {{max_new_tokens: 12}}, tools: [{{calculator: {{}}}}], rewards: [{{json_tool: {{on_error: 0}}}}, {{regex: {{pattern: '[aeo]'}}}}]}}\n"
    );
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

#[test]
fn killed_policies_end_with_the_same_bits() {
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = recipe(folder.path());
    let (whole, killed) = (folder.path().join("whole"), folder.path().join("killed"));
    let run = |output: &Path| {
        let mut command = minimind();
        command.arg("run").arg(&recipe).arg("--output").arg(output);
        command
    };
    let started = std::time::Instant::now();
    succeed(&mut run(&whole));
    let length = started.elapsed();
    // Later ones come sooner, since less is left to do.
    let share = |kill: u64| 0.5 / (kill + 1) as f64 + 0.1 * (kill as f64 * 0.618_033_988_7).fract();
    through("policies", || run(&killed), kills(5), length, share);
    for kind in KINDS {
        let bytes = |run: &Path| std::fs::read(run.join(format!("{kind}_64.pth"))).expect("weights");
        assert!(bytes(&whole) == bytes(&killed), "{kind}: the weights differ");
        let table =
            |run: &Path| std::fs::read(run.join(kind).join("completions.jsonl")).expect("completions");
        assert!(table(&whole) == table(&killed), "{kind}: the completions differ");
        let rows = |run: &Path| {
            timeless(run, kind, |key| {
                key.ends_with("_s") || key.ends_with("_peak_mb") || key == "rollout_share"
            })
        };
        let all = rows(&whole);
        assert_eq!(all, rows(&killed));
        assert!(all.iter().any(|row| row["step"] == 0 && row["heldout_reward"].is_number()), "{kind}");
        for row in all.iter().filter(|row| row["step"] != 0) {
            assert!(row["logprob_gap"].as_f64().expect("a gap") < 1e-4, "{row}");
        }
    }
}
