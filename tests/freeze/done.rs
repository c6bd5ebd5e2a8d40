//! A run's folder that the older program made is done already to this one: records, settings and hashes of inputs agree.
//!
//! `tests/fixtures/freeze/run` holds what `kinds.yaml` left: each stage's `done.json`, and the files that others were
//! made from, whose hashes are compared. Files that only have to be there are made empty here.

use std::path::Path;
use std::process::Command;

use super::common::{json, succeed};
use super::{program, records};

const STAGES: usize = 16;

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-r").args([from, to]).status().expect("cp runs").success());
}

#[test]
fn a_run_of_the_older_program_is_done_already() {
    let folder = tempfile::tempdir().expect("a folder");
    copy(&records().join("run"), folder.path());
    copy(&records().join("kinds.yaml"), folder.path());
    let run = folder.path().join("run");
    let mut stages = 0;
    for entry in std::fs::read_dir(&run).expect("a run") {
        let file = entry.expect("an entry").path().join("done.json");
        if !file.exists() {
            continue;
        }
        stages += 1;
        for output in json(&file)["outputs"].as_array().expect("outputs") {
            let path = run.join(output.as_str().expect("a path"));
            if !path.exists() {
                std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
                std::fs::write(&path, "").expect("written");
            }
        }
    }
    assert_eq!(stages, STAGES);
    let output = succeed(program().args(["run", "kinds.yaml"]).current_dir(folder.path()));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(said.matches("done already, skipped").count(), STAGES, "{said}");
}
