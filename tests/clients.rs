//! Real clients against our server: the official `openai` package, and the curl calls that docs/serve.md shows.
//! Each says so and passes where its client is not installed.

mod common;

use std::path::Path;
use std::process::Command;

use common::served::{SCRIPT, shared};
use common::succeed;

#[test]
fn the_official_python_client_is_served() {
    let python = std::env::var("MINIMIND_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let probe = Command::new(&python).args(["-c", "import openai"]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        return println!("skipped: {python} has no openai; set MINIMIND_PYTHON to one that has");
    }
    let server = shared();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/openai_client.py");
    let url = format!("http://{}/v1", server.address);
    let output = succeed(Command::new(&python).args([script, &url, SCRIPT]));
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("16 checks passed"), "{text}");
}

#[test]
fn the_calls_of_the_documentation_work() {
    if Command::new("curl").arg("--version").output().is_err() {
        return println!("skipped: there is no curl");
    }
    let server = shared();
    let mut calls = 0;
    for page in ["docs/serve.md", "README.md"] {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(page)).expect("a page");
        for block in text.split("```").skip(1).step_by(2).filter(|b| b.contains("curl ")) {
            let script = block
                .trim_start_matches(|c: char| c != '\n')
                .replace("localhost:8998", &server.address)
                .replace("quickstart", "run");
            for call in script.split("\ncurl ").skip(1) {
                let output = succeed(
                    Command::new("sh")
                        .args(["-c", &format!("curl --silent --show-error --fail-with-body {call}")]),
                );
                assert!(!output.stdout.is_empty(), "{call}");
                calls += 1;
            }
        }
    }
    assert!(calls >= 8, "only {calls} calls are shown");
}
