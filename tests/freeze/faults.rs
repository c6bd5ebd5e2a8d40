//! What `validate` says of bad recipes. A fault's place, file with line and column or the flag, and the key that it names
//! are strict; how it is worded is a snapshot.
//!
//! `tests/fixtures/freeze/faults/ROOM.txt` holds cases: `## case: NAME`, `## set: KEY=VALUE` for each flag, the recipe,
//! `## places` with a line a fault, `## says` with the whole text.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use super::{overwrites, program, recorder, records};

#[derive(Debug, Default, Clone)]
struct Case {
    name: String,
    sets: Vec<String>,
    recipe: String,
    places: String,
    says: String,
}

fn read(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut part = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("## case: ") {
            cases.push(Case { name: name.to_owned(), ..Case::default() });
            part = "recipe";
            continue;
        }
        let case = cases.last_mut().expect("a file begins with a case");
        match line {
            "## places" => part = "places",
            "## says" => part = "says",
            _ => match (line.strip_prefix("## set: "), part) {
                (Some(set), _) => case.sets.push(set.to_owned()),
                (None, "recipe") => case.recipe += &format!("{line}\n"),
                (None, "places") => case.places += &format!("{line}\n"),
                (None, _) if !line.is_empty() => case.says += &format!("{line}\n"),
                _ => (),
            },
        }
    }
    cases
}

fn written(cases: &[Case]) -> String {
    let mut text = String::new();
    for case in cases {
        let sets: String = case.sets.iter().map(|set| format!("## set: {set}\n")).collect();
        let Case { name, recipe, places, says, .. } = case;
        writeln!(text, "## case: {name}\n{sets}{recipe}## places\n{places}## says\n{says}").expect("text");
    }
    text
}

/// The recipe of a case, in a folder of its own so that its name says nothing.
fn file(folder: &Path, index: usize) -> PathBuf {
    folder.join(format!("{index}.yaml"))
}

/// What the program says of each case: those without flags in one call, with an empty recipe between two.
fn heard(cases: &[Case], recording: bool) -> Vec<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let empty = folder.path().join("between.yaml");
    std::fs::write(&empty, "").expect("written");
    let start = || if recording { recorder() } else { program() };
    let mut told = vec![String::new(); cases.len()];
    let mut together = start();
    together.arg("validate").arg(&empty);
    let mut order = Vec::new();
    for (index, case) in cases.iter().enumerate() {
        let path = file(folder.path(), index);
        std::fs::write(&path, &case.recipe).expect("a recipe is written");
        if case.sets.is_empty() {
            together.arg(&path).arg(&empty);
            order.push(index);
            continue;
        }
        let mut alone = start();
        alone.arg("validate").arg(&path);
        for set in &case.sets {
            alone.args(["--set", set]);
        }
        let output = alone.output().expect("the program starts");
        told[index] = faults_of(&String::from_utf8_lossy(&output.stderr), &path);
    }
    let output = together.output().expect("the program starts");
    assert!(output.status.code().is_some(), "{}", output.status);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mark = format!("error: {}", empty.display());
    // Before the first mark are only lines of the log; a mark's own line ends at the next fault.
    let parts: Vec<&str> = text.split(&mark).skip(1).collect();
    assert_eq!(parts.len(), order.len() + 1, "{text}");
    for (part, index) in parts.iter().zip(&order) {
        told[*index] = faults_of(part, &file(folder.path(), *index));
    }
    told
}

/// From the first fault on, with the recipe called `r.yaml`.
fn faults_of(text: &str, recipe: &Path) -> String {
    let lines = text.lines().skip_while(|line| !line.starts_with("error: "));
    lines.map(|line| line.replace(&*recipe.to_string_lossy(), "r.yaml") + "\n").collect()
}

/// A line a fault: where it stands and which key it names first; `none` where the recipe is sound.
fn places(says: &str) -> String {
    if says.is_empty() {
        return "none\n".to_owned();
    }
    says.lines()
        .filter_map(|line| line.strip_prefix("error: "))
        .map(|fault| {
            let (place, rest) = match fault.split_once(": ") {
                Some((place, rest)) if place.starts_with("--set") || !place.contains(' ') => (place, rest),
                _ => ("-", fault),
            };
            let ticked = rest.split('`').nth(1).unwrap_or("-");
            let key = ticked.split_once(": ").map_or(ticked, |(key, _)| key);
            format!("{place} | {key}\n")
        })
        .collect()
}

/// Places as recorded: the same in the same order, and each key named in the words of a fault there.
fn stay(case: &Case, says: &str) -> Result<(), String> {
    let place = |line: &str| line.split(" | ").next().unwrap_or_default().to_owned();
    let wanted: Vec<String> = case.places.lines().map(place).collect();
    let found: Vec<String> = places(says).lines().map(place).collect();
    if wanted != found {
        return Err(format!("places were\n{}and are\n{}", case.places, places(says)));
    }
    for line in case.places.lines() {
        let Some((at, key)) = line.split_once(" | ") else { continue };
        let mut there =
            says.split("error: ").filter(|fault| at == "-" || fault.starts_with(&format!("{at}: ")));
        if key != "-" && !there.any(|fault| fault.contains(key)) {
            return Err(format!("no fault at {at} names `{key}`:\n{says}"));
        }
    }
    Ok(())
}

/// One room's file.
fn check(room: &str) {
    let path = records().join("faults").join(format!("{room}.txt"));
    let mut cases = read(&std::fs::read_to_string(&path).expect("cases"));
    assert!(cases.len() >= 5, "{room}: {} cases", cases.len());
    if overwrites() && cases.iter().any(|case| case.places.is_empty()) {
        let said = heard(&cases, true);
        for (case, says) in cases.iter_mut().zip(said).filter(|(case, _)| case.places.is_empty()) {
            case.places = places(&says);
            case.says = says;
        }
    }
    let now = heard(&cases, false);
    let mut moved = Vec::new();
    let mut reworded = Vec::new();
    for (case, says) in cases.iter_mut().zip(now) {
        assert!(!case.places.is_empty(), "{room}, {}: nothing is recorded", case.name);
        if let Err(why) = stay(case, &says) {
            moved.push(format!("{}: {why}\n{}", case.name, case.recipe));
        }
        if says != case.says {
            reworded.push(format!("{}: said\n{}and says\n{says}", case.name, case.says));
            case.says = says;
        }
    }
    assert!(moved.is_empty(), "{room}: faults are not where they were\n{}", moved.join("\n"));
    if overwrites() {
        std::fs::write(&path, written(&cases)).expect("the wording is written");
    } else {
        let hint = "MINIMIND_FREEZE=overwrite takes the new words; read the diff";
        assert!(reworded.is_empty(), "{room}: faults are worded otherwise ({hint})\n{}", reworded.join("\n"));
    }
}

macro_rules! rooms {
    ($($test:ident: $room:literal),* $(,)?) => { $(#[test] fn $test() { check($room); })* };
}

rooms! {
    faults_of_yaml_stay: "yaml",
    faults_at_the_top_stay: "top",
    faults_of_flags_stay: "flags",
    faults_of_variables_stay: "environment",
    faults_of_models_stay: "model",
    faults_of_data_stay: "data",
    faults_of_training_stay: "training",
    faults_of_references_stay: "references",
    faults_of_policies_stay: "policy",
    faults_of_rollouts_stay: "rollout",
    faults_of_rewards_stay: "rewards",
    faults_of_tools_stay: "tools",
    faults_of_the_last_stages_stay: "ends",
    faults_of_upstreams_names_stay: "upstream",
}
