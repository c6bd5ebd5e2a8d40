//! What must stay while the program is rewritten: plans, the schema, the places of faults, losses, and records of runs.
//!
//! Everything is compared with what lies in `tests/fixtures/freeze`, which was recorded with the program as it stood at
//! 69342f5. A plan, a schema's key and a fault's place are strict; a fault's wording may become clearer:
//!
//! - `MINIMIND_FREEZE=overwrite` takes the wording of faults as it is now, and records what has no record yet (a new
//!   recipe, a new case, a new key of the schema). Read the diff. Nothing else is overwritten: to change a plan or a
//!   place on purpose, delete its record first.
//! - `MINIMIND_FREEZE_BINARY=FILE` names an older build: losses and weights are then compared with its own, to the bit,
//!   and what is recorded is recorded with it.
//!
//! Next: `plans`, `schema`, `faults`, `losses`, `done`.

#[path = "../common/mod.rs"]
mod common;
mod done;
mod faults;
mod losses;
mod plans;
mod schema;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the records lie.
fn records() -> PathBuf {
    root().join("tests/fixtures/freeze")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Whether records may be written.
fn overwrites() -> bool {
    std::env::var("MINIMIND_FREEZE").is_ok_and(|word| word == "overwrite")
}

/// The older program, where one is named.
fn older() -> Option<Command> {
    std::env::var_os("MINIMIND_FREEZE_BINARY").map(Command::new).map(tame)
}

/// The program under test.
fn program() -> Command {
    tame(common::minimind())
}

/// The program that records: the older one where it is named.
fn recorder() -> Command {
    older().unwrap_or_else(program)
}

/// Without what this machine's user has set, at the root of the repository, sums in one order on every processor.
fn tame(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["MINIMIND_", "HF_", "RUST_LOG"].iter().any(|start| text.starts_with(start)) {
            command.env_remove(&name);
        }
    }
    command.current_dir(root()).env("XDG_CACHE_HOME", cache()).env("MKL_CBWR", "COMPATIBLE");
    command.env("COLUMNS", "100").env("RUST_BACKTRACE", "0");
    command
}

/// Caches of these tests; the path stands in plans, where it is masked.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("freeze-cache")
}

/// What is recorded in `file`; where nothing is, what the recorder makes is recorded if that is allowed.
fn recorded(file: &Path, make: impl FnOnce(Command) -> String) -> String {
    if !file.exists() {
        assert!(overwrites(), "{} is not recorded: MINIMIND_FREEZE=overwrite records it", file.display());
        std::fs::write(file, make(recorder())).expect("a record is written");
    }
    std::fs::read_to_string(file).expect("a record")
}

/// Fails where `now` lacks lines of `before` or has others, and shows some of them.
fn same_lines(what: &str, before: &str, now: &str) {
    if before == now {
        return;
    }
    let of = |text: &str| text.lines().map(str::to_owned).collect::<BTreeSet<_>>();
    let (old, new) = (of(before), of(now));
    let show = |lines: Vec<&String>| lines.iter().take(12).map(|l| format!("  {l}\n")).collect::<String>();
    panic!(
        "{what} changed (order counts)\nwas:\n{}is:\n{}",
        show(old.difference(&new).collect()),
        show(new.difference(&old).collect())
    );
}
