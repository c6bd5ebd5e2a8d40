//! Scripts beside the program, in a short form: they run and print what they promise. No speed is judged.

mod common;

use std::path::Path;
use std::process::Command;

use common::python::python;
use common::succeed;

common::needs::tests! {
    gpu_check_runs_on_a_cpu: [Python("torch")],
    the_benchmarks_run_in_small: [Python("torch")],
    the_gpu_s_kernels_compile_for_gpus: [Nvrtc],
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(name)
}

/// What a script prints.
fn printed(name: &str, args: &[&str]) -> String {
    let mut command = Command::new(python());
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(script(name)).args(args);
    let output = succeed(command.args(["--binary", env!("CARGO_BIN_EXE_minimind")]));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{table}");
    table
}

fn gpu_check_runs_on_a_cpu() {
    let table = printed("gpu_check", &["--device", "cpu", "--quick"]);
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

fn the_benchmarks_run_in_small() {
    let size = ["--hidden-size", "64", "--num-hidden-layers", "2"];
    let wants: [(&str, &[&str], &[&str]); 5] = [
        (
            "bench_data",
            &["--rows", "20", "--rounds", "1", "--only", "text-jsonl", "--only", "chat-parquet"],
            &["text-jsonl", "chat-parquet", "datasets.map"],
        ),
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
        let sized = if ["bench_train", "bench_busy", "bench_data"].contains(&name) {
            args.to_vec()
        } else {
            [args, &size].concat()
        };
        let table = printed(name, &sized);
        for row in rows {
            assert!(table.contains(row), "{name}:\n{table}");
        }
    }
}

fn the_gpu_s_kernels_compile_for_gpus() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/compile_kernels.py");
    let output = succeed(Command::new(python()).env("PYTHONDONTWRITEBYTECODE", "1").arg(script));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(said.trim(), "compiled 50 kernels");
    println!("{said}");
}
