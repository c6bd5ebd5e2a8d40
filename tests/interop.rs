//! Our files in PyTorch. Needs a Python that has torch (MINIMIND_PYTHON, else python3), which building and running do not.

mod common;

use std::process::Command;

use common::python::python;
use common::{minimind, succeed};

common::needs::tests! {
    pytorch_reads_every_file_we_write: [Python("torch")],
}

fn pytorch_reads_every_file_we_write() {
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
    let output = succeed(Command::new(python()).arg(script).arg(folder.path().join("run")));
    print!("{}", String::from_utf8_lossy(&output.stdout));
}
