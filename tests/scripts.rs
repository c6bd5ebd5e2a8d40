//! Scripts beside the program, in a short form: they run and print what they promise. No speed is judged.

mod common;

use std::path::Path;
use std::process::Command;

use common::succeed;

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// What a script prints, or nothing where no Python can run it.
fn printed(name: &str, args: &[&str]) -> Option<String> {
    let Some(python) = std::env::var_os("MINIMIND_PYTHON") else {
        println!("scripts/{name} is not tried: no MINIMIND_PYTHON");
        return None;
    };
    let mut command = Command::new(python);
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script(name)).args(args);
    let output = succeed(command.args(["--binary", env!("CARGO_BIN_EXE_minimind")]));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{table}");
    Some(table)
}

#[test]
fn gpu_check_runs_on_a_cpu() {
    let Some(table) = printed("gpu_check", &["--device", "cpu", "--quick"]) else { return };
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

#[test]
fn the_benchmarks_run_in_small() {
    let size = ["--hidden-size", "64", "--num-hidden-layers", "2"];
    let wants: [(&str, &[&str], &[&str]); 4] = [
        (
            "bench_train",
            &["--only", "small", "--only", "small-moe", "--rounds", "1", "--repeat", "1"],
            &["small-moe", "ratio"],
        ),
        ("bench_decode", &["--repeat", "1"], &["decode", "prefill", "rollout", "PyTorch"]),
        (
            "bench_busy",
            &[
                "--only=train-tiny",
                "--only=decode-tiny",
                "--only=serve-tiny",
                "--situation=alone",
                "--situation=busy",
                "--situation=two",
                "--rounds=1",
                "--seconds=0.5",
            ],
            &["train-tiny", "decode-tiny", "serve-tiny", "pytorch", "two"],
        ),
        (
            "bench_grpo",
            &["--rounds", "1", "--repeat", "2", "--new-tokens", "8"],
            &["ours", "pytorch", "a step:"],
        ),
    ];
    for (name, args, rows) in wants {
        let sized = if ["bench_train", "bench_busy"].contains(&name) {
            args.to_vec()
        } else {
            [args, &size].concat()
        };
        let Some(table) = printed(name, &sized) else { return };
        for row in rows {
            assert!(table.contains(row), "{name}:\n{table}");
        }
    }
}

#[test]
fn the_gpu_s_kernels_compile_for_gpus() {
    let Some(python) = std::env::var_os("MINIMIND_PYTHON") else {
        return println!("the GPU's kernels are not compiled: no MINIMIND_PYTHON");
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/compile_kernels.py");
    let output = succeed(Command::new(python).env("PYTHONDONTWRITEBYTECODE", "1").arg(script));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("compiled 50 kernels") || said.contains("skipped"), "{said}");
    println!("{said}");
}
