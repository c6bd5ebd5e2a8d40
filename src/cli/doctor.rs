//! `minimind doctor`: what was found on this machine, and what is wrong with it.

use std::time::Instant;

use serde_json::{Value, json};
use tch::{Cuda, Device, Kind, Tensor};

use super::threads;
use crate::engine::device;
use crate::error::Result;
use crate::native::{HAS_COLLECTIVES, WaitPolicy, libtorch_dir, nccl_version, wait_policy};
use crate::plan::machine::Machine;

/// How `minimind doctor` prints its findings.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Side of the square matrices that are multiplied.
const SIDE: i64 = 1024;

/// Floating-point operations a second of fp32 matrix products of 1024 x 1024 on `device`: the median of five.
pub fn matrix_speed(device: Device) -> f64 {
    let x = Tensor::ones([SIDE, SIDE], (Kind::Float, device));
    let _ = x.matmul(&x);
    let mut speeds: Vec<f64> = (0..5)
        .map(|_| {
            let started = Instant::now();
            // Reading a number waits for the device.
            let _ = x.matmul(&x).double_value(&[0, 0]);
            2.0 * (SIDE as f64).powi(3) / started.elapsed().as_secs_f64()
        })
        .collect();
    speeds.sort_by(f64::total_cmp);
    speeds[2]
}

/// What was found on this machine.
struct Findings {
    machine: Machine,
    device: Device,
    /// Speed of fp32 matrix products on `device`, in GFLOP/s.
    gflops: f64,
    /// CUDA devices that libtorch sees.
    gpus: i64,
    nccl: Option<String>,
    /// How idle threads wait for work.
    waits: String,
    /// Everything that keeps the machine from being used well.
    wrong: Vec<String>,
}

/// Measures the machine and prints what was found, and what is wrong with it.
///
/// # Errors
/// None: what cannot be used is among the findings.
pub fn run(args: Args) -> Result<()> {
    let found = find();
    if args.json {
        println!("{}", to_json(&found));
    } else {
        print(&found);
    }
    Ok(())
}

fn find() -> Findings {
    let machine = Machine::detect();
    threads::use_threads(&machine, machine.cores);
    let mut wrong = Vec::new();
    let device = match device::resolve(device::Wanted::Auto, &libtorch_dir(), machine.gpu_seen) {
        Ok(device) => device,
        Err(error) => {
            wrong.push(error.to_string());
            Device::Cpu
        }
    };
    if machine.gpu_seen && device == Device::Cpu {
        wrong.push("there is a GPU, but this libtorch cannot use it: install PyTorch's CUDA build, then scripts/setup".into());
    }
    if let Some(free) = machine.memory_available.filter(|&free| free < 2 << 30) {
        wrong.push(format!("only {:.1} GB of memory are free", free as f64 / 1e9));
    }
    Findings {
        device,
        gflops: matrix_speed(device) / 1e9,
        gpus: if device.is_cuda() { Cuda::device_count() } else { 0 },
        nccl: nccl_version().map(|[major, minor, patch]| format!("{major}.{minor}.{patch}")),
        waits: waiting(&machine),
        machine,
        wrong,
    }
}

/// How idle threads wait for work, in words.
fn waiting(machine: &Machine) -> String {
    match (&machine.wait_policy, wait_policy()) {
        (Some(set), _) => format!("as the environment says: {set}"),
        (None, WaitPolicy::Unwatched) if machine.cores == 1 => "for nothing: there is one".to_owned(),
        (None, WaitPolicy::Unwatched) => {
            "as the OpenMP library does: this system does not tell when cores are busy".to_owned()
        }
        (None, WaitPolicy::Spin) => {
            "spinning; sleeping soon while other processes take the cores (now they do not)".to_owned()
        }
        (None, WaitPolicy::Sleep) => {
            "spinning; sleeping soon while other processes take the cores (now they do)".to_owned()
        }
    }
}

fn to_json(found: &Findings) -> Value {
    let machine = &found.machine;
    json!({
        "minimind": env!("CARGO_PKG_VERSION"),
        "libtorch": {"version": "2.11.0", "path": libtorch_dir()},
        "device": device::name(found.device),
        "gpu": machine.gpu_seen,
        "threads": machine.cores,
        "cpu_quota": machine.cpu_quota,
        "waits": found.waits,
        "memory_bytes": machine.memory_total,
        "memory_available_bytes": machine.memory_available,
        "matrix_gflops": found.gflops,
        "ranks": HAS_COLLECTIVES,
        "gpus": found.gpus,
        "nccl": found.nccl,
        "cache": machine.cache_dir,
        "wrong": found.wrong,
    })
}

fn print(found: &Findings) {
    let machine = &found.machine;
    println!("minimind  {}", env!("CARGO_PKG_VERSION"));
    println!("libtorch  2.11.0 in {}", libtorch_dir().display());
    let seen = if machine.gpu_seen { "seen" } else { "not seen" };
    println!("device    {} (GPU {seen})", device::name(found.device));
    match machine.cpu_quota {
        Some(quota) => println!("threads   {} (a CPU quota of {quota:.1})", machine.cores),
        None => println!("threads   {}", machine.cores),
    }
    println!("waits     {}", found.waits);
    let gb = |bytes: Option<u64>| bytes.unwrap_or(0) as f64 / 1e9;
    println!("memory    {:.1} GB, {:.1} free", gb(machine.memory_total), gb(machine.memory_available));
    println!("matrix    {:.0} GFLOP/s in fp32 (median of five {SIDE} x {SIDE} products)", found.gflops);
    let ranks = match (HAS_COLLECTIVES, &found.nccl) {
        (false, _) => "no: built without gloo's headers".to_owned(),
        (true, None) => "yes: run --nproc, torchrun".to_owned(),
        (true, Some(nccl)) => {
            format!("yes: run --nproc, torchrun; {} CUDA devices, NCCL {nccl}", found.gpus)
        }
    };
    println!("ranks     {ranks}");
    println!("cache     {}", machine.cache_dir.display());
    for fault in &found.wrong {
        println!("wrong     {fault}");
    }
    if found.wrong.is_empty() {
        println!("wrong     nothing");
    }
}
