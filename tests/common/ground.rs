//! A run with a stage of every kind, for tests of what becomes of stages that were made before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use minimind::checkpoint::load::named_tensors;

use super::{minimind, signal, succeed, wait_for};

/// Every kind of training stage.
pub const KINDS: [&str; 11] =
    ["pretrain", "sft", "lora", "reason", "distill", "dpo", "reward", "ppo", "grpo", "spo", "agent"];

/// A recipe with a stage of every kind, all long enough to be stopped on their way.
pub fn recipe(folder: &Path) -> PathBuf {
    let path = folder.join("going on.yaml");
    let often = "learning_rate: 1.0e-3, log_interval: 1, save_interval: 2";
    let short = format!("batch_size: 4, max_seq_len: 96, {often}");
    let chat = format!("data: {{synthetic: {{rows: 240}}, format: chat}}, epochs: 1, {short}");
    let pairs = format!("data: {{synthetic: {{rows: 240}}, format: preference}}, epochs: 1, {short}");
    let drawn = format!(
        "init: sft, data: {{synthetic: {{rows: 40}}}}, epochs: 2, {often}, thinking_ratio: 0, heldout: {{synthetic: {{rows: 4}}}}"
    );
    let policy = format!(
        "{drawn}, max_seq_len: 96, rollout: {{max_new_tokens: 6}}, rewards: [{{regex: {{pattern: '[aeo]'}}}}, {{length: {{min: 5, max: 20}}}}]"
    );
    let text = format!(
        "name: going-on\nseed: 3\nruntime: {{device: cpu, precision: fp32, threads: 1}}\noutput: run\ntokenizer: tok\n\
         model: {{preset: minimind3, hidden_size: 64, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 1}}\n\
         stages:\n\
         \x20 - tokenizer: {{name: tok, data: {{synthetic: {{rows: 200}}}}, vocab_size: 400}}\n\
         \x20 - pretrain: {{init: scratch, data: {{synthetic: {{rows: 480}}, validation: 0.05}}, epochs: 1, accumulation_steps: 2, dropout: 0.1, schedule: constant, {short}}}\n\
         \x20 - sft: {{init: pretrain, {chat}, dropout: 0.1, schedule: constant}}\n\
         \x20 - lora: {{init: sft, rank: 4, dropout: 0.1, {chat}}}\n\
         \x20 - reason: {{init: sft, marker_token_ids: [5, 6], {chat}}}\n\
         \x20 - distill: {{init: sft, teacher: sft, {chat}}}\n\
         \x20 - dpo: {{init: sft, beta: 0.5, {pairs}}}\n\
         \x20 - reward: {{init: sft, {pairs}}}\n\
         \x20 - ppo: {{{policy}, batch_size: 4, mini_batch_size: 2, accumulation_steps: 3, critic_learning_rate: 1.0e-3}}\n\
         \x20 - grpo: {{{policy}, batch_size: 2, num_generations: 3}}\n\
         \x20 - spo: {{{policy}, batch_size: 2, accumulation_steps: 2}}\n\
         \x20 - agent: {{{drawn}, batch_size: 2, num_generations: 2, max_turns: 2, rollout: {{max_new_tokens: 8}}, tools: [{{calculator: {{}}}}], rewards: [{{json_tool: {{on_error: 0}}}}, {{regex: {{pattern: '[aeo]'}}}}]}}\n"
    );
    std::fs::write(&path, text).expect("a recipe is written");
    path
}

/// `minimind run` of a recipe into a folder.
pub fn run(recipe: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = minimind();
    command.arg("run").arg(recipe).arg("--output").arg(output).args(more);
    command
}

/// What it told on stderr.
pub fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs a stage alone and stops it as soon as it has a resume point and the one before it.
pub fn half(recipe: &Path, output: &Path, stage: &str, more: &[&str]) {
    let mut command = run(recipe, output, &[&["--only", stage], more].concat());
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let before = output.join(format!("{stage}_64_resume.prev.pth"));
    wait_for(&before);
    signal(child.id(), "TERM");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(143), "{stage} was not stopped on its way: {}", said(&ended));
}

/// A file or folder, copied.
pub fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().expect("cp runs").success());
}

/// Every file of a folder with its bytes, the lock aside.
pub fn contents(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else if !path.ends_with(".lock") {
            let bytes = std::fs::read(&path).expect("a file");
            found.insert(path, bytes);
        }
    }
    found
}

/// Whether two weight files hold the same bits.
pub fn same(a: &Path, b: &Path) -> bool {
    let (a, b) = (named_tensors(a).expect("weights"), named_tensors(b).expect("weights"));
    a.len() == b.len() && a.iter().all(|(name, tensor)| b.get(name).is_some_and(|other| other.equal(tensor)))
}

/// Runs it, which must be refused with exit code 2 and leave every file as it was; what it said.
pub fn refused(recipe: &Path, output: &Path, more: &[&str]) -> String {
    let before = contents(output);
    let ended = run(recipe, output, more).output().expect("it starts");
    let text = said(&ended);
    assert_eq!(ended.status.code(), Some(2), "{more:?}: {text}");
    assert!(contents(output) == before, "{more:?} wrote something: {text}");
    text
}

/// A run's folder with the tokenizer and the weights that the stage under test starts from, and the whole run.
pub struct Ground {
    folder: tempfile::TempDir,
    /// The recipe, with a stage of every kind.
    pub recipe: PathBuf,
}

impl Ground {
    /// With these stages done.
    pub fn new(stages: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let recipe = recipe(folder.path());
        for stage in stages {
            succeed(&mut run(&recipe, &folder.path().join("run"), &["--only", stage]));
        }
        Self { folder, recipe }
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}
