//! Tests that need a tool. Where it is missing they are *ignored*, and the reason stands below the summary; under
//! `MINIMIND_STRICT=1`, which `scripts/test` sets when its set-up succeeded, they fail.
//!
//! libtest cannot ignore a test while it runs, so these files have a harness of their own (`harness = false` in
//! Cargo.toml) and say which tests they hold: `common::needs::tests! { name: [Need, ...], ... }`.

use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use libtest_mimic::{Arguments, Conclusion, Failed, Trial};

/// What a test cannot run without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(dead_code)]
pub enum Need {
    /// A Python (MINIMIND_PYTHON, else python3) that can import these packages.
    Python(&'static str),
    /// The same with MINIMIND_LM_EVAL_PYTHON before both.
    LmEval,
    /// A program that answers `--version`.
    Program(&'static str),
    /// Chromium, or what MINIMIND_CHROMIUM names.
    Chromium,
    /// One of the usual C++ compilers.
    Compiler,
    /// A build with gloo's headers.
    Gloo,
    /// CUDA's libraries: libtorch's own or those of a Python's torch.
    Cuda,
    /// The compiler of GPU kernels that a Python's torch brings.
    Nvrtc,
    /// Two cores, and an environment that does not say how threads wait: a fact of the machine, never a fault.
    Cores,
    /// A part of another test, which starts it by name.
    Parent(&'static str),
}

impl Need {
    /// Why it is not met; `None` where it is.
    fn missing(self) -> Option<String> {
        match self {
            Self::Python(packages) => lacks(&super::python::python(), packages, "MINIMIND_PYTHON"),
            Self::LmEval => {
                lacks(&super::python::lm_eval(), "lm_eval.models.api_models", "MINIMIND_LM_EVAL_PYTHON")
            }
            Self::Nvrtc => lacks(&super::python::python(), "torch, nvidia", "MINIMIND_PYTHON"),
            Self::Program(name) => (!answers(name)).then(|| format!("there is no {name}")),
            Self::Chromium => (!answers(&chromium()))
                .then(|| format!("there is no {}: install it, or set MINIMIND_CHROMIUM", chromium())),
            Self::Compiler => compiler().is_none().then(|| "there is no C++ compiler".to_owned()),
            Self::Gloo => (!minimind::native::HAS_COLLECTIVES).then(|| {
                "the program was built without gloo's headers (scripts/setup fetches them)".to_owned()
            }),
            Self::Cuda => super::python::load_cuda_half().err(),
            Self::Cores => {
                let machine = minimind::plan::Machine::detect();
                (machine.cores < 2 || machine.wait_policy.is_some() || !cfg!(target_os = "linux"))
                    .then(|| "one core, or the environment says how threads wait".to_owned())
            }
            Self::Parent(name) => Some(format!("a part of {name}")),
        }
    }

    /// Whether set-up can meet it, so that its absence is a fault under MINIMIND_STRICT=1.
    fn is_a_tool(self) -> bool {
        match self {
            Self::Cores | Self::Parent(_) => false,
            // A torch from an index of the user's own may be one for CPUs.
            Self::Cuda | Self::Nvrtc => std::env::var_os("MINIMIND_TORCH_INDEX_URL").is_none(),
            _ => true,
        }
    }
}

/// Whether a program is there.
fn answers(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Why a Python will not do.
fn lacks(python: &str, packages: &str, variable: &str) -> Option<String> {
    let probe = Command::new(python).args(["-c", &format!("import {packages}")]).output();
    let why = format!("{python} lacks one of {packages}: set {variable} (scripts/python-env makes one)");
    (!probe.is_ok_and(|output| output.status.success())).then_some(why)
}

/// The browser's program.
pub fn chromium() -> String {
    std::env::var("MINIMIND_CHROMIUM").unwrap_or_else(|_| "chromium".to_owned())
}

/// The C++ compiler's.
pub fn compiler() -> Option<&'static str> {
    ["c++", "g++", "clang++"].into_iter().find(|name| answers(name))
}

/// A test: its name, its needs, itself.
pub type Test = (&'static str, Vec<Need>, fn());

/// Runs a file's tests by the arguments that libtest takes.
pub fn run(tests: Vec<Test>) -> ExitCode {
    let arguments = Arguments::from_args();
    let strict = std::env::var("MINIMIND_STRICT").is_ok_and(|on| on == "1");
    let named = |name: &str| match (&arguments.filter, arguments.exact) {
        (Some(filter), true) => name == filter,
        (Some(filter), false) => name.contains(filter.as_str()),
        (None, _) => true,
    };
    let absent = Arc::new(Mutex::new(Vec::new()));
    let mut trials = Vec::new();
    for (name, needs, test) in tests {
        // Asked only of tests that may run: a Python takes its time.
        let ask = !arguments.list && named(name);
        let missing = needs.into_iter().filter(|_| ask).find_map(|need| Some((need, need.missing()?)));
        trials.push(match missing {
            Some((need, why)) if need.is_a_tool() && strict => {
                Trial::test(name, move || Err(Failed::from(format!("MINIMIND_STRICT=1: {why}"))))
            }
            Some((need, why)) => {
                absent.lock().expect("a list").push(format!("{name}: {why}"));
                let part = matches!(need, Need::Parent(_));
                let started = move || if part { passes(test) } else { Err(Failed::from(why)) };
                Trial::test(name, started).with_ignored_flag(true)
            }
            None => Trial::test(name, move || passes(test)),
        });
    }
    let conclusion: Conclusion = libtest_mimic::run(&arguments, trials);
    for line in absent.lock().expect("a list").iter() {
        println!("ignored: {line}");
    }
    conclusion.exit_code()
}

/// Runs a test, which panics where it fails.
fn passes(test: fn()) -> Result<(), Failed> {
    test();
    Ok(())
}

/// The tests of a file and what each needs.
#[allow(unused_macros)]
macro_rules! tests {
    ($($name:ident: [$($need:expr),* $(,)?]),* $(,)?) => {
        fn main() -> std::process::ExitCode {
            #[allow(unused_imports)]
            use common::needs::Need::*;
            common::needs::run(vec![$((stringify!($name), vec![$($need),*], $name as fn())),*])
        }
    };
}
#[allow(unused_imports)]
pub(crate) use tests;
