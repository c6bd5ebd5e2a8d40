//! `plan --json` of every recipe of ours and of the recipes that the tests use: every key, in its order, with its value.
//!
//! Of this machine, and masked, are the measured speed and the seconds that follow from it, and the cache folder. The
//! device is set to `cpu`: what `auto` takes is the machine's.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::common::succeed;
use super::{cache, program, recorded, records, root, same_lines};

/// Recipes that ask for the user's files, and what they get here.
const FILES: [(&str, &[&str]); 2] = [
    (
        "pretrain-sft-64m",
        &[
            "tokenizer=tests/fixtures/tokenizer",
            "stages.pretrain.data.path=tests/fixtures/freeze/data/text.jsonl",
            "stages.sft.data.path=tests/fixtures/freeze/data/chat.jsonl",
        ],
    ),
    (
        "real-text",
        &[
            "stages.tok.data.path=tests/fixtures/freeze/data/text.jsonl",
            "stages.pretrain.data.path=tests/fixtures/freeze/data/text.jsonl",
            "stages.sft.data.path=tests/fixtures/freeze/data/chat.jsonl",
        ],
    ),
];

/// The recipes of a folder, relative to the root.
fn recipes(folder: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(root().join(folder))
        .expect("a folder of recipes")
        .map(|entry| Path::new(folder).join(entry.expect("an entry").file_name()))
        .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
        .collect();
    found.sort();
    found
}

/// The plan as lines: its head, a line a stage, a line a cost, the rest.
fn planned(mut command: Command, recipe: &Path, sets: &[String]) -> String {
    command.arg("plan").arg(recipe).arg("--json").args(["--set", "runtime.device=cpu"]);
    for set in sets {
        command.args(["--set", set]);
    }
    let output = succeed(&mut command);
    let text = String::from_utf8(output.stdout).expect("text");
    let text = text.replace(&*cache().to_string_lossy(), "CACHE");
    let mut all: Value = serde_json::from_str(&text).expect("one JSON value");
    let keys: Vec<String> = all.as_object().expect("a map").keys().cloned().collect();
    let stages = std::mem::take(&mut all["plan"]["stages"]);
    let mut lines = vec![json!(keys), std::mem::take(&mut all["plan"])];
    lines.extend(stages.as_array().expect("stages").iter().cloned());
    for cost in all["costs"].as_array_mut().expect("costs") {
        if cost["seconds"].is_number() {
            cost["seconds"] = json!("masked");
        }
        lines.push(std::mem::take(cost));
    }
    lines.push(std::mem::take(&mut all["notes"]));
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// Leaves that differ, for people.
fn differences(path: &str, before: &Value, now: &Value, found: &mut Vec<String>) {
    match (before, now) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let none = json!("(not there)");
                let (a, b) = (a.get(key).unwrap_or(&none), b.get(key).unwrap_or(&none));
                differences(&format!("{path}.{key}"), a, b, found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (a, b)) in a.iter().zip(b).enumerate() {
                differences(&format!("{path}.{i}"), a, b, found);
            }
        }
        _ if before != now => found.push(format!("{path}: {before} -> {now}")),
        _ => (),
    }
}

fn compare(recipe: &Path, record: &Path, sets: &[String]) {
    let now = planned(program(), recipe, sets);
    let before = recorded(record, |recorder| planned(recorder, recipe, sets));
    let mut found = Vec::new();
    for (i, (a, b)) in before.lines().zip(now.lines()).enumerate() {
        let value = |line: &str| serde_json::from_str::<Value>(line).expect("a line of JSON");
        differences(&format!("line {}", i + 1), &value(a), &value(b), &mut found);
    }
    assert!(found.is_empty(), "the plan of {} changed:\n{}", recipe.display(), found.join("\n"));
    same_lines(&format!("the plan of {}", recipe.display()), &before, &now);
}

#[test]
fn plans_of_our_recipes_stay() {
    let found = recipes("recipes");
    assert!(found.len() >= 11);
    for recipe in found {
        let name = recipe.file_stem().expect("a name").to_string_lossy().into_owned();
        let sets = FILES.iter().find(|(file, _)| *file == name).map_or(&[][..], |(_, sets)| *sets);
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        compare(&recipe, &records().join(format!("plans/recipes/{name}.jsonl")), &sets);
    }
}

#[test]
fn plans_of_the_tests_recipes_stay() {
    let found = recipes("tests/fixtures/freeze/plans");
    assert!(found.len() >= 16);
    for recipe in found {
        let text = std::fs::read_to_string(root().join(&recipe)).expect("a recipe");
        let sets: Vec<String> =
            text.lines().filter_map(|line| line.strip_prefix("# --set ")).map(str::to_owned).collect();
        compare(&recipe, &root().join(&recipe).with_extension("jsonl"), &sets);
    }
}
