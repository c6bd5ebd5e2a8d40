//! The only reader of the environment and the machine; everything else gets a [`Machine`].
//!
//! Asks files and the standard library alone: no tensor library is loaded for it.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::quota;
use crate::hub::HubConfig;

/// What this process may use, and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Cores this process may use: those it may run on, or what whole cores' worth of time its control group has.
    pub cores: usize,
    /// Processors' worth of time that its control group has, where there is such a limit.
    pub cpu_quota: Option<f64>,
    /// What the environment says of how OpenMP threads wait: `OMP_WAIT_POLICY=passive`.
    pub wait_policy: Option<String>,
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
        let (seen, quota) =
            (std::thread::available_parallelism().map_or(1, usize::from), quota::of_this_process());
        Self {
            cores: within(seen, quota),
            cpu_quota: quota,
            wait_policy: ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"]
                .iter()
                .find_map(|name| Some(format!("{name}={}", std::env::var_os(name)?.to_string_lossy()))),
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

    /// What to say where `ranks` processes of `threads` each are more than this machine has room for.
    pub fn crowding(&self, threads: usize, ranks: usize) -> Option<String> {
        let all = threads.saturating_mul(ranks);
        if all <= self.cores {
            return None;
        }
        let what = match ranks {
            1 => format!("{threads} threads"),
            _ => format!(
                "{ranks} processes of {threads} {} each",
                if threads == 1 { "thread" } else { "threads" }
            ),
        };
        let room = match self.cpu_quota {
            Some(quota) => format!("time for {} (a CPU quota of {quota:.1})", cores(self.cores)),
            None => cores(self.cores),
        };
        let hint = match (ranks > self.cores, ranks) {
            (true, _) => format!("start at most {} processes", self.cores),
            (false, 1) => format!("`threads: auto` takes {}", self.cores),
            (false, _) => format!("`threads: auto` takes {} each", self.cores / ranks),
        };
        Some(format!("{what} share {room} and wait for each other: {hint}"))
    }

    /// A `MINIMIND_*` variable by its name without the prefix.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(&format!("MINIMIND_{name}")).map(String::as_str)
    }
}

/// Where the hubs are, by the variables that their own tools read.
pub fn hubs() -> HubConfig {
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
    HubConfig {
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

fn cores(n: usize) -> String {
    if n == 1 { "one core".to_owned() } else { format!("{n} cores") }
}

/// Whole cores of `seen` that a quota leaves.
fn within(seen: usize, quota: Option<f64>) -> usize {
    quota.map_or(seen, |quota| seen.min((quota as usize).max(1)))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_leaves_whole_cores_and_at_least_one() {
        let left = [None, Some(8.0), Some(2.5), Some(2.0), Some(0.3)].map(|quota| within(4, quota));
        assert_eq!(left, [4, 4, 2, 2, 1]);
    }

    #[test]
    fn more_than_there_is_room_for_is_said() {
        let mut machine = Machine { cores: 2, cpu_quota: None, ..Machine::detect() };
        assert_eq!(machine.crowding(2, 1), None);
        assert_eq!(machine.crowding(1, 2), None);
        let said = |machine: &Machine, threads, ranks| machine.crowding(threads, ranks).unwrap();
        assert_eq!(
            said(&machine, 4, 1),
            "4 threads share 2 cores and wait for each other: `threads: auto` takes 2"
        );
        assert_eq!(
            said(&machine, 2, 2),
            "2 processes of 2 threads each share 2 cores and wait for each other: `threads: auto` takes 1 each"
        );
        assert_eq!(
            said(&machine, 1, 4),
            "4 processes of 1 thread each share 2 cores and wait for each other: start at most 2 processes"
        );
        (machine.cores, machine.cpu_quota) = (1, Some(1.5));
        assert_eq!(
            said(&machine, 2, 1),
            "2 threads share time for one core (a CPU quota of 1.5) and wait for each other: `threads: auto` takes 1"
        );
    }
}
