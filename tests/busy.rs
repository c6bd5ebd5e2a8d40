//! Beside other busy processes: threads that wait for each other sleep soon, no number changes by it, and what the environment
//! says of it wins. No speed is judged: `scripts/bench_busy` measures.

mod common;

use std::process::{Command, Stdio};
use std::time::Duration;

use common::succeed;
use minimind::native::{self, WaitPolicy};
use minimind::plan::Machine;
use tch::{Device, Kind, Tensor};

common::needs::tests! {
    short_waits_are_short_and_change_no_number: [Cores],
    the_environment_wins_and_doctor_says_how_threads_wait: [],
    more_threads_than_cores_are_said: [],
}

/// Processor seconds that 40 short parallel stretches take, each followed by a moment of nothing.
fn processor_seconds(x: &Tensor) -> f64 {
    let before = native::processor_seconds().unwrap();
    for _ in 0..40 {
        let _ = x.exp();
        std::thread::sleep(Duration::from_millis(8));
    }
    native::processor_seconds().unwrap() - before
}

fn short_waits_are_short_and_change_no_number() {
    native::set_threads(2, false);
    assert_eq!(native::wait_policy(), WaitPolicy::Unwatched);
    tch::manual_seed(1);
    let x = Tensor::randn([300, 200], (Kind::Float, Device::Cpu));
    let sums = || x.matmul(&x.transpose(0, 1)).softmax(-1, Kind::Float).sum(Kind::Float);
    let (before, long) = (sums(), processor_seconds(&x));
    assert!(native::set_short_waits(true, 2));
    let (during, short) = (sums(), processor_seconds(&x));
    // Spinning is counted in turns, so that a busy machine does not make it less.
    assert!(short < long / 2.0, "{short} s of processor time in place of {long}");
    assert!(native::set_short_waits(true, 2));
    assert!(native::set_short_waits(false, 2));
    let (after, again) = (sums(), processor_seconds(&x));
    assert!(again > 2.0 * short, "{again} s of processor time in place of {long}");
    assert_eq!([&during, &after].map(|t| t.double_value(&[])), [before.double_value(&[]); 2]);
    for round in 0..20 {
        assert!(native::set_short_waits(round % 2 == 0, 2));
    }
    assert!(native::set_short_waits(false, 2));
    assert_eq!(sums().double_value(&[]), before.double_value(&[]));
}

fn minimind() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_minimind"));
    command.stdin(Stdio::null()).env_remove("OMP_WAIT_POLICY").env_remove("GOMP_SPINCOUNT");
    command
}

fn the_environment_wins_and_doctor_says_how_threads_wait() {
    let told = |name: &str, value: &str| {
        let output = succeed(minimind().args(["doctor", "--json"]).env(name, value));
        let facts: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        facts["waits"].as_str().unwrap().to_owned()
    };
    assert_eq!(told("OMP_WAIT_POLICY", "passive"), "as the environment says: OMP_WAIT_POLICY=passive");
    assert_eq!(told("GOMP_SPINCOUNT", "100"), "as the environment says: GOMP_SPINCOUNT=100");
    let usual = told("MINIMIND_NOTHING", "");
    if Machine::detect().cores > 1 && std::path::Path::new("/proc/self/schedstat").exists() {
        assert!(usual.starts_with("spinning; sleeping soon"), "{usual}");
    }
}

fn more_threads_than_cores_are_said() {
    let cores = Machine::detect().cores;
    let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/recipes/quickstart.yaml");
    let said = |set: &str| {
        let output = succeed(minimind().args(["plan", recipe, "--set", set]));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let many = cores + 2;
    assert!(said(&format!("runtime.threads={many}")).contains(&format!("{many} threads share ")));
    assert!(!said("runtime.threads=auto").contains("share "));
}
