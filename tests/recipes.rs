//! Every recipe that comes with the program: it plans, its header says how to run it, and the quick one runs
//! and is skipped the second time.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use common::{minimind, rows, signal, succeed};

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recipes");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("recipes")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    found.sort();
    assert!(found.len() >= 3);
    found
}

/// What the user brings to a recipe: a file, and what is said where it is missing.
const BROUGHT: [(&str, &str, &str); 5] = [
    (
        "pretrain-sft-64m",
        "model/tokenizer.json",
        "`tokenizer: model` is no tokenizer stage above and no folder with tokenizer.json",
    ),
    ("pretrain-sft-64m", "dataset/pretrain_t2t_mini.jsonl", "no file dataset/pretrain_t2t_mini.jsonl"),
    ("pretrain-sft-64m", "dataset/sft_t2t_mini.jsonl", "no file dataset/sft_t2t_mini.jsonl"),
    ("real-text", "../shared/data/pretrain_mini.jsonl", "no file ../shared/data/pretrain_mini.jsonl"),
    ("real-text", "../shared/data/sft_mini.jsonl", "no file ../shared/data/sft_mini.jsonl"),
];

#[test]
fn every_recipe_plans_and_says_how_to_run_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for recipe in recipes() {
        let text = std::fs::read_to_string(&recipe).expect("a recipe");
        let name = recipe.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(text.contains(&format!("# Run:     minimind run recipes/{name}")), "{name}: no command");
        assert!(text.contains("# Needs:") && text.contains("# Expect:"), "{name}: header");
        let output = minimind()
            .current_dir(root)
            .arg("plan")
            .arg(format!("recipes/{name}"))
            .arg("--json")
            .output()
            .expect("runs");
        let faults = String::from_utf8_lossy(&output.stderr).into_owned();
        let stem = name.trim_end_matches(".yaml");
        let wanted: BTreeSet<&str> = BROUGHT
            .iter()
            .filter(|(recipe, file, _)| *recipe == stem && !root.join(file).exists())
            .map(|(_, _, fault)| *fault)
            .collect();
        // A place, then what is missing; nothing else may be wrong.
        let place = format!("error: recipes/{name}:");
        let found: BTreeSet<&str> = faults
            .lines()
            .filter(|line| line.starts_with("error: "))
            .map(|line| line.strip_prefix(&place).and_then(|l| Some(l.split_once(": ")?.1)).unwrap_or(line))
            .collect();
        assert_eq!(found, wanted, "{name}:\n{faults}");
        assert_eq!(output.status.success(), wanted.is_empty(), "{name}:\n{faults}");
        if wanted.is_empty() {
            let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one JSON value");
            assert!(plan["costs"].as_array().is_some_and(|c| !c.is_empty()), "{name}");
        }
    }
}

#[test]
fn the_quickstart_runs_in_small_and_is_skipped_the_second_time() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let run = || {
        let small = [
            "stages.pretrain.max_steps=8",
            "stages.sft.max_steps=8",
            "stages.eval.limit=10",
            "stages.dpo.max_steps=8",
            "stages.grpo.max_steps=8",
            "stages.grpo.heldout_limit=10",
            "stages.after.limit=10",
        ];
        let mut command = minimind();
        command.current_dir(root).args(["run", "recipes/quickstart.yaml", "--output"]).arg(folder.path());
        for set in small {
            command.args(["--set", set]);
        }
        succeed(&mut command)
    };
    let first = run();
    let table = String::from_utf8_lossy(&first.stdout).into_owned();
    assert!(table.contains("exact_match") && table.contains("minimind chat --model"), "{table}");
    for stage in ["pretrain", "sft", "dpo", "grpo"] {
        let last = rows(&folder.path().join(stage).join("metrics.jsonl")).pop().expect("a row");
        assert_eq!(last["step"], 8);
        assert!(folder.path().join(format!("{stage}_128.pth")).exists());
    }
    let page = std::fs::read_to_string(folder.path().join("report.html")).expect("a report");
    assert!(page.contains("<svg") && !page.contains("src=\"http"));
    let second = run();
    let log = String::from_utf8_lossy(&second.stderr).into_owned();
    assert_eq!(log.matches("done already, skipped").count(), 7, "{log}");
}

#[test]
fn two_runs_in_one_folder_are_refused_and_a_signal_saves() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let command = || {
        let mut command = minimind();
        command.current_dir(root).args(["run", "recipes/quickstart.yaml", "--output"]).arg(folder.path());
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        command
    };
    let first = command().spawn().expect("starts");
    // Until it is training; generous, for a busy machine.
    for _ in 0..600 {
        if folder.path().join("pretrain/events.out.tfevents.0.minimind").exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    let second = command().output().expect("runs");
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another run is using this folder"));
    signal(first.id(), "TERM");
    let ended = first.wait_with_output().expect("ends");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(143), "{said}");
    assert!(said.contains("saved at micro-batch"), "{said}");
    assert!(folder.path().join("pretrain_128_resume.pth").exists());
}

#[test]
fn a_second_signal_stops_at_once() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = minimind();
    command.current_dir(root).args(["run", "recipes/quickstart.yaml", "--output"]).arg(folder.path());
    // An update that never comes: the first signal waits for one to save after.
    command.args([
        "--set",
        "stages.pretrain.accumulation_steps=1000000",
        "--set",
        "stages.pretrain.epochs=1000",
    ]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let run = command.spawn().expect("starts");
    let metrics = folder.path().join("pretrain/metrics.jsonl");
    for _ in 0..1200 {
        if std::fs::metadata(&metrics).is_ok_and(|m| m.len() > 0) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    for _ in 0..2 {
        signal(run.id(), "INT");
        std::thread::sleep(std::time::Duration::from_millis(300));
    }
    let ended = run.wait_with_output().expect("ends");
    assert_eq!(ended.status.code(), Some(130));
    assert!(!String::from_utf8_lossy(&ended.stderr).contains("saved at micro-batch"));
    assert!(!folder.path().join("pretrain_128_resume.pth").exists());
}
