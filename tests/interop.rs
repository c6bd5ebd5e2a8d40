//! Our files in PyTorch. Needs a Python that has torch (MINIMIND_PYTHON, else python3); says so and passes
//! where there is none, because libtorch alone is enough to build and run.

mod common;

use std::process::Command;

use common::{minimind, succeed};

#[test]
fn pytorch_reads_every_file_we_write() {
    let python = std::env::var("MINIMIND_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import torch"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return println!("skipped: {python} has no torch; set MINIMIND_PYTHON to one that has");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let recipe = folder.path().join("interop.yaml");
    let text = format!(
        "name: interop\nruntime: {{device: cpu, precision: fp32}}\noutput: {}\ntokenizer: tok\n\
         model: {{preset: minimind3-moe, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n  - tokenizer: {{name: tok, data: {{synthetic: {{rows: 200}}}}, vocab_size: 400}}\n\
         \x20 - pretrain: {{init: scratch, data: {{synthetic: {{rows: 64}}, validation: 0.1}}, epochs: 1, batch_size: 8, accumulation_steps: 2, max_seq_len: 64, save_interval: 4, keep_last: 1}}\n",
        folder.path().join("run").display()
    );
    std::fs::write(&recipe, text).expect("a recipe is written");
    succeed(minimind().arg("run").arg(&recipe));
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/interop/load.py");
    let output = succeed(Command::new(&python).arg(script).arg(folder.path().join("run")));
    print!("{}", String::from_utf8_lossy(&output.stdout));
}
