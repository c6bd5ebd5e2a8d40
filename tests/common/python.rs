//! The other side of interop tests: a Python with the packages a test needs, and its scripts.

use std::path::PathBuf;
use std::process::Command;

/// A Python (MINIMIND_PYTHON, else python3) that can import `packages`; says so and gives none otherwise.
pub fn python(packages: &str) -> Option<String> {
    let python = std::env::var("MINIMIND_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", &format!("import {packages}")]).output();
    if probe.is_ok_and(|output| output.status.success()) {
        return Some(python);
    }
    println!("skipped: {python} lacks one of {packages}; set MINIMIND_PYTHON (scripts/python-env makes one)");
    None
}

/// `tests/interop/NAME`.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}
