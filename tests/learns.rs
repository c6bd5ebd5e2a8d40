//! Reinforcement learning raises what it is rewarded for, at a fixed seed, by the built-in generator.

mod common;

use common::{minimind, rows, succeed};

/// Mean of `reward` over some rows.
fn mean(rows: &[serde_json::Value]) -> f64 {
    rows.iter().map(|row| row["reward"].as_f64().expect("a reward")).sum::<f64>() / rows.len() as f64
}

#[test]
fn every_method_raises_its_reward() {
    let folder = tempfile::tempdir().expect("a folder");
    let shared = "init: sft, data: {synthetic: {rows: 64}}, max_seq_len: 96, thinking_ratio: 0, log_interval: 1, save_interval: 1000, rollout: {max_new_tokens: 6}";
    // What fine-tuning on a few rows hardly says, and a policy easily finds.
    let rewards = "rewards: [{regex: {pattern: '[aeiou]', found: 1, missing: -1}}]";
    let text = format!(
        "name: learns\nseed: 5\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {}\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 400}}}}, vocab_size: 400}}\n\
         \x20 - sft: {{init: scratch, data: {{synthetic: {{rows: 160}}, format: chat}}, epochs: 1, batch_size: 8, max_seq_len: 96, learning_rate: 1.0e-3}}\n\
         \x20 - grpo: {{{shared}, {rewards}, epochs: 4, batch_size: 4, num_generations: 4, learning_rate: 2.0e-3}}\n\
         \x20 - ppo: {{{shared}, {rewards}, epochs: 8, batch_size: 8, learning_rate: 2.0e-3, critic_learning_rate: 2.0e-3}}\n\
         \x20 - spo: {{{shared}, {rewards}, epochs: 6, batch_size: 8, accumulation_steps: 1, learning_rate: 2.0e-3}}\n",
        folder.path().join("run").display()
    );
    let recipe = folder.path().join("learns.yaml");
    std::fs::write(&recipe, text).expect("a recipe is written");
    succeed(minimind().arg("run").arg(&recipe));
    for kind in ["grpo", "ppo", "spo"] {
        let rows = rows(&folder.path().join("run").join(kind).join("metrics.jsonl"));
        let (first, last) = (mean(&rows[..6]), mean(&rows[rows.len() - 6..]));
        println!("{kind}: reward {first:.3} -> {last:.3}");
        assert!(last > first + 0.3, "{kind}: {first:.3} -> {last:.3}");
    }
}
