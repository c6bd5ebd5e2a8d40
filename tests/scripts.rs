//! Scripts beside the program, in a short form: they run and print what they promise. No speed is judged.

mod common;

use std::path::Path;
use std::process::Command;

use common::succeed;

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

#[test]
fn gpu_check_runs_on_a_cpu() {
    let Some(python) = std::env::var_os("MINIMIND_PYTHON") else {
        println!("scripts/gpu_check is not tried: no MINIMIND_PYTHON");
        return;
    };
    let mut command = Command::new(python);
    command.arg(script("gpu_check")).args([
        "--device",
        "cpu",
        "--quick",
        "--binary",
        env!("CARGO_BIN_EXE_minimind"),
    ]);
    let output = succeed(&mut command);
    let table = String::from_utf8_lossy(&output.stdout);
    println!("{table}");
    for row in [
        "training, dense, fp32",
        "training, experts, bf16",
        "greedy tokens, dense",
        "PyTorch eager",
        "decoding one row",
        "quickstart",
    ] {
        assert!(table.contains(row), "{table}");
    }
    assert!(!table.contains("FAILED"));
}
