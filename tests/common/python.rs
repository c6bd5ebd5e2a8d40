//! The other side of interop tests: a Python with the packages a test needs, and its scripts.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use minimind::native::{libtorch_dir, load_cuda};

/// The Python to ask: MINIMIND_PYTHON, else python3. What it must be able to import a test states as its needs.
pub fn python() -> String {
    std::env::var("MINIMIND_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// The one for lm-evaluation-harness, which some keep apart.
pub fn lm_eval() -> String {
    std::env::var("MINIMIND_LM_EVAL_PYTHON").unwrap_or_else(|_| python())
}

/// `tests/interop/NAME`.
pub fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
}

/// Loads libtorch's CUDA half, once: libtorch's own, or that of the Python's torch.
///
/// # Errors
/// Why neither can be loaded.
pub fn load_cuda_half() -> Result<(), String> {
    static LOADED: OnceLock<Result<(), String>> = OnceLock::new();
    LOADED.get_or_init(load).clone()
}

fn load() -> Result<(), String> {
    if load_cuda(&libtorch_dir()).is_ok() {
        return Ok(());
    }
    let ask = ["-c", "import os, torch; print(os.path.join(os.path.dirname(torch.__file__), 'lib'), end='')"];
    let output = Command::new(python()).args(ask).output();
    let folder = output.map(|output| output.stdout).unwrap_or_default();
    if folder.is_empty() {
        return Err(format!("{} has no torch: set MINIMIND_PYTHON (scripts/python-env makes one)", python()));
    }
    load_cuda(&PathBuf::from(String::from_utf8_lossy(&folder).into_owned()))
        .map_err(|fault| fault.to_string())
}
