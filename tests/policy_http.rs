//! Reinforcement learning whose rollouts come from a server: ours, which takes each step's policy.

mod common;

use common::served::{Server, model};
use common::{minimind, rows, succeed};

#[test]
fn a_server_writes_with_the_policy_of_each_step() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = model();
    // What the server serves is what the stage writes to.
    let policy = folder.path().join("run/grpo/policy");
    std::fs::create_dir_all(policy.parent().expect("a parent")).expect("folders");
    succeed(
        minimind()
            .args(["export", "huggingface", "--precision", "fp32", "--model"])
            .arg(run)
            .arg("--out")
            .arg(&policy),
    );
    let server = Server::start_with(&["--precision", "fp32", "--model", &policy.display().to_string()]);
    let recipe = |protocol: &str| {
        let path = folder.path().join("r.yaml");
        let text = format!(
            "name: r\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: {out}\ntokenizer: {tok}\nstages:\n\
             \x20 - grpo: {{init: {weights}, data: {{path: {data}, format: prompts}}, batch_size: 2, num_generations: 3, max_steps: 3, learning_rate: 1.0e-3,\n\
             \x20     max_seq_len: 800, thinking_ratio: 0, rewards: [{{length: {{min: 5, max: 9}}}}, {{regex: {{pattern: '[a-f]'}}}}],\n\
             \x20     rollout: {{engine: http, url: 'http://{address}', protocol: {protocol}, update: reload, max_new_tokens: 16, batch_size: 4, retries: 0}}}}\n",
            out = folder.path().join("run").display(),
            tok = run.join("tok").display(),
            weights = run.join("sft_64.pth").display(),
            data = run.parent().expect("a parent").join("chats.jsonl").display(),
            address = server.address,
        );
        std::fs::write(&path, text).expect("a recipe is written");
        path
    };
    // Our server does not speak SGLang, and the error says whom was asked for what.
    let refused = minimind().arg("run").arg(recipe("sglang")).output().expect("it runs");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains(&server.address) && said.contains("404"), "{said}");
    succeed(minimind().arg("run").arg(recipe("openai")));
    let rows = rows(&folder.path().join("run/grpo/metrics.jsonl"));
    assert_eq!(rows.len(), 3);
    for row in &rows {
        // The trainer finds the log-probabilities that the server gave, also after the policy has moved.
        assert!(row["logprob_gap"].as_f64().expect("a gap") < 1e-4, "{row}");
    }
    assert!(rows.iter().any(|row| row["grad_norm"].as_f64().expect("a norm") > 0.0), "nothing was learnt");
}
