//! The tokens that carry loss beside transformers: its masks of templates with `{% generation %}` blocks, and masks
//! computed in Python of what each turn adds, in templates of other families.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::{python, script};
use common::succeed;

common::needs::tests! {
    masks_are_those_of_transformers: [Python("transformers, jinja2")],
}

fn masks_are_those_of_transformers() {
    let python = python();
    let folder = tempfile::tempdir().expect("a folder");
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
    let mut command = Command::new(python);
    command
        .arg(script("masks.py"))
        .arg(env!("CARGO_BIN_EXE_minimind"))
        .arg(own)
        .arg(folder.path().join("made"));
    let told = String::from_utf8_lossy(&succeed(&mut command).stdout).into_owned();
    assert!(told.contains("equal 560 rows"), "{told}");
}
