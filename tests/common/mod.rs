//! What the tests share: the program, the fixtures, rows of metrics.
#![allow(dead_code)]

pub mod dice;
pub mod ground;
pub mod home;
pub mod http;
pub mod kill;
pub mod needs;
pub mod python;
pub mod served;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

use minimind::checkpoint::load::named_tensors;
use minimind::export::huggingface::{FolderContents, SpecialIds, write_model};
use minimind::model::config::preset;
use minimind::model::{CausalLm, Params};
use serde_json::Value;
use tch::{Device, Kind, Tensor};

/// The program under test.
pub fn minimind() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minimind"));
    command.env("RUST_BACKTRACE", "0");
    command
}

/// Runs it and demands success.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().expect("the program starts");
    assert!(
        output.status.success(),
        "{command:?}\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// A Hugging Face folder of random weights, with the fixtures' tokenizer and, where one is given, another chat template.
pub fn random_folder(folder: &Path, template: Option<&str>) {
    let mut stated = preset("minimind3").expect("a preset");
    (stated.hidden_size, stated.num_hidden_layers, stated.num_attention_heads) = (Some(64), Some(2), Some(4));
    (stated.num_key_value_heads, stated.vocab_size) = (Some(2), Some(6400));
    stated.max_position_embeddings = Some(2048);
    let config = stated.resolve().expect("a model");
    tch::manual_seed(3);
    let model = CausalLm::new(&config, Params::init(&config, Device::Cpu).expect("weights"));
    let contents = FolderContents {
        kind: Kind::Float,
        ids: &SpecialIds::default(),
        max_shard_bytes: u64::MAX,
        metadata: &serde_json::json!({}),
    };
    write_model(&model, &contents, folder).expect("a folder");
    let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(tokenizer.join(name), folder.join(name)).expect("copied");
    }
    if let Some(template) = template {
        std::fs::write(folder.join("chat_template.jinja"), template).expect("written");
    }
}

/// The full fixtures beside the checkout, else the small copy in the repository.
pub fn fixtures() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let full = root.join("../shared/fixtures");
    if full.is_dir() {
        return full;
    }
    println!("the full fixtures are not here; the copy in tests/fixtures is used");
    root.join("tests/fixtures")
}

/// Folders that hold `file` of a stage's fixture: those of the reference where they are at hand, and in every clone the tiny
/// ones of `scripts/golden/tiny_stages.py`.
pub fn stage_variants(file: &str) -> Vec<PathBuf> {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let all = ["minimind2", "minimind3"].iter().flat_map(|era| {
        let tiny = tiny.join(era).join("tiny");
        ["dense", "moe"].map(|variant| fixtures().join(era).join(variant)).into_iter().chain([tiny])
    });
    let found: Vec<PathBuf> = all.filter(|folder| folder.join(file).exists()).collect();
    assert!(!found.is_empty(), "no fixture has {file}");
    found
}

/// Folders `<era>/<variant>` that hold `file`.
pub fn variants(file: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for era in ["minimind2", "minimind3"] {
        for variant in ["dense", "moe"] {
            let folder = fixtures().join(era).join(variant);
            if folder.join(file).exists() {
                found.push(folder);
            }
        }
    }
    assert!(!found.is_empty(), "no fixture has {file}");
    found
}

/// A JSON file.
pub fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).expect("a fixture")).expect("JSON")
}

/// Rows of a metrics file.
pub fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("metrics");
    text.lines().map(|line| serde_json::from_str(line).expect("a row")).collect()
}

/// A row's number.
pub fn number(row: &Value, key: &str) -> f64 {
    row[key].as_f64().unwrap_or_else(|| panic!("{row} has no number `{key}`"))
}

/// The weight file that a run's folder holds.
pub fn weight_file(output: &Path) -> PathBuf {
    std::fs::read_dir(output)
        .expect("the run's folder")
        .map(|e| e.expect("an entry").path())
        .find(|p| p.to_string_lossy().ends_with(".pth") && !p.to_string_lossy().contains("_resume"))
        .expect("a weight file")
}

/// Its weights.
pub fn weights(output: &Path) -> HashMap<String, Tensor> {
    named_tensors(&weight_file(output)).expect("it reads")
}

/// What a process that must end by itself left; one that hangs is killed after ten minutes. No speed is judged.
pub fn ended(child: Child) -> Output {
    let id = child.id();
    let (done, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    end.recv_timeout(HANG)
        .unwrap_or_else(|_| {
            signal(id, "KILL");
            panic!("process {id} does not end");
        })
        .expect("it is waited for")
}

/// Waits for a file that another process writes; one that never comes is no matter of speed.
pub fn wait_for(file: &Path) {
    let began = Instant::now();
    while !file.exists() {
        assert!(began.elapsed() < HANG, "{} does not come", file.display());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// After this long a process hangs: far beyond what the slowest machine takes.
const HANG: Duration = Duration::from_secs(600);

/// Sends a process a signal: `TERM`, `INT`, `KILL`, `HUP`.
pub fn signal(process: u32, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

/// Share of elements farther than `near` from those in `file`, and the farthest.
pub fn distance(ours: &HashMap<String, Tensor>, file: &Path, near: f64) -> (f64, f64) {
    distance_of(ours, named_tensors(file).expect("the recorded weights"), near)
}

/// The same from tensors that were read.
pub fn distance_of(
    ours: &HashMap<String, Tensor>,
    recorded: HashMap<String, Tensor>,
    near: f64,
) -> (f64, f64) {
    let (mut beyond, mut all, mut most) = (0.0, 0.0, 0.0f64);
    assert!(recorded.len() > 10);
    for (name, want) in recorded {
        let Some(got) = ours.get(&name) else { panic!("our file has no {name}") };
        let far = (got.to_kind(Kind::Float) - want).abs();
        most = most.max(far.max().double_value(&[]));
        beyond += far.gt(near).sum(Kind::Double).double_value(&[]);
        all += far.numel() as f64;
    }
    (beyond / all, most)
}
