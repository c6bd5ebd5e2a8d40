//! The only reader of the environment and the machine; everything else gets a [`Machine`].
//!
//! Asks files and the standard library alone: no tensor library is loaded for it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::hub::Settings;

/// What this process may use, and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores this process may use.
    pub cores: usize,
    /// Bytes of memory; `None` where the system does not say.
    pub memory_total: Option<u64>,
    /// Bytes that a new process can have without swapping.
    pub memory_available: Option<u64>,
    /// Whether a CUDA device may be there (its device file is).
    pub gpu_seen: bool,
    /// Columns of the terminal; 100 where there is none.
    pub width: usize,
    /// Whether stdout is a terminal.
    pub stdout_is_terminal: bool,
    /// Whether stderr is a terminal.
    pub stderr_is_terminal: bool,
    /// Where downloads and caches go.
    pub cache_dir: PathBuf,
    /// `MINIMIND_*` variables.
    pub variables: BTreeMap<String, String>,
}

impl Machine {
    /// Looks at this machine.
    pub fn detect() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let limit = cgroup_limit();
        let capped = |bytes: u64| limit.map_or(bytes, |limit| bytes.min(limit));
        let cache = std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|p| p.is_absolute())
            .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir);
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_total: meminfo(&memory, "MemTotal").map(capped),
            memory_available: meminfo(&memory, "MemAvailable").map(capped),
            gpu_seen: Path::new("/dev/nvidia0").exists() || Path::new("/dev/dxg").exists(),
            width: std::env::var("COLUMNS")
                .ok()
                .and_then(|c| c.parse().ok())
                .filter(|c| *c >= 40)
                .unwrap_or(100),
            stdout_is_terminal: std::io::stdout().is_terminal(),
            stderr_is_terminal: std::io::stderr().is_terminal(),
            cache_dir: cache.join("minimind"),
            variables: std::env::vars_os()
                .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
                .filter(|(k, _)| k.starts_with("MINIMIND_"))
                .collect(),
        }
    }

    /// A `MINIMIND_*` variable by its name without the prefix.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(&format!("MINIMIND_{name}")).map(String::as_str)
    }
}

/// Where the hubs are, by the variables that their own tools read.
pub fn hubs() -> Settings {
    let text = |name: &str| std::env::var(name).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let folder = |name: &str| text(name).map(PathBuf::from);
    let ours = Machine::detect().cache_dir;
    let home = folder("HF_HOME").unwrap_or_else(|| ours.with_file_name("huggingface"));
    let token_file = folder("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
    let kept =
        || std::fs::read_to_string(token_file).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty());
    let endpoint = |given: Option<String>, usual: &str| {
        let url = given.unwrap_or_else(|| usual.to_owned());
        let url = if url.contains("://") { url } else { format!("https://{url}") };
        url.trim_end_matches('/').to_owned()
    };
    Settings {
        hf_endpoint: endpoint(text("HF_ENDPOINT"), "https://huggingface.co"),
        hf_token: text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(kept),
        hf_cache: folder("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
        ms_endpoint: endpoint(text("MODELSCOPE_DOMAIN"), "https://www.modelscope.cn"),
        ms_token: text("MODELSCOPE_API_TOKEN"),
        ms_cache: ours.join("modelscope"),
        offline: text("HF_HUB_OFFLINE")
            .is_some_and(|on| !["0", "false", "no", "off"].contains(&on.to_lowercase().as_str())),
    }
}

/// A key that the recipe names by its variable, so that it stands in no file.
pub fn secret(variable: &str) -> Option<String> {
    std::env::var(variable).ok().filter(|key| !key.is_empty())
}

fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// A container's memory limit, if it has one.
fn cgroup_limit() -> Option<u64> {
    ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok())
}
