//! How much processor time a control group (a container, a service, a batch job) may use: what the kernel's files say, in
//! both of their layouts.

use std::path::{Path, PathBuf};

/// Processors' worth of time that the process may use, by its control groups; `None` without a limit.
pub fn of_this_process() -> Option<f64> {
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    of_groups(&groups, Path::new("/sys/fs/cgroup"))
}

/// The least that one of `groups` (the text of `/proc/self/cgroup`) or of those above it allows; their folders lie under
/// `root`.
fn of_groups(groups: &str, root: &Path) -> Option<f64> {
    groups.lines().filter_map(|line| of_group(line, root)).min_by(f64::total_cmp)
}

/// `0::/path` is of the one hierarchy of version 2, `4:cpu,cpuacct:/path` of version 1.
fn of_group(line: &str, root: &Path) -> Option<f64> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?);
    let version = if controllers.is_empty() { 2 } else { 1 };
    let mounts: [PathBuf; 2] = match version {
        2 => [root.to_owned(), root.join("unified")],
        _ if controllers.split(',').any(|one| one == "cpu") => [root.join(controllers), root.join("cpu")],
        _ => return None,
    };
    let read = |folder: &Path, name: &str| std::fs::read_to_string(folder.join(name)).ok();
    let limit = |folder: &Path| match version {
        2 => version2(&read(folder, "cpu.max")?),
        _ => version1(&read(folder, "cpu.cfs_quota_us")?, &read(folder, "cpu.cfs_period_us")?),
    };
    // Seen from inside a container the path may be the host's, or lead out of what can be seen: the top counts then.
    let path = Path::new(path.trim_start_matches('/'));
    let plain = path.components().all(|part| matches!(part, std::path::Component::Normal(_)));
    let path = if plain { path } else { Path::new("") };
    let folders = mounts.iter().flat_map(|mount| path.ancestors().map(|group| mount.join(group)));
    folders.filter_map(|folder| limit(&folder)).min_by(f64::total_cmp)
}

/// `cpu.max`: `150000 100000`, or `max 100000` without a limit.
fn version2(text: &str) -> Option<f64> {
    let mut words = text.split_whitespace();
    version1(words.next()?, words.next().unwrap_or("100000"))
}

/// `cpu.cfs_quota_us` (-1 without a limit) of each `cpu.cfs_period_us`.
fn version1(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.trim().parse::<i64>().ok()?, period.trim().parse::<i64>().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        assert_eq!(version2("150000 100000\n"), Some(1.5));
        assert_eq!(version2("50000\n"), Some(0.5));
        assert_eq!(version1("400000\n", "100000\n"), Some(4.0));
        for none in ["max 100000", "", "0 100000", "x 1", "100 0"] {
            assert_eq!(version2(none), None, "{none}");
        }
        assert_eq!(version1("-1", "100000"), None);
    }

    #[test]
    fn the_least_of_a_group_and_those_above_it_counts() {
        let folder = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let quota = |groups: &str| of_groups(groups, folder.path());
        assert_eq!(quota("0::/user/job\n"), None);
        write("user/cpu.max", "200000 100000");
        write("user/job/cpu.max", "max 100000");
        assert_eq!(quota("0::/user/job\n"), Some(2.0));
        assert_eq!(quota("0::/other\n"), None);
        write("cpu.max", "350000 100000");
        assert_eq!(quota("0::/other\n"), Some(3.5));
        // Inside a container, where the path is not to be seen.
        assert_eq!(quota("0::/../../deep\n"), Some(3.5));
        // Version 1, beside others and under either name.
        write("cpu,cpuacct/docker/a/cpu.cfs_quota_us", "120000");
        write("cpu,cpuacct/docker/a/cpu.cfs_period_us", "50000");
        assert_eq!(quota("7:memory:/docker/a\n4:cpu,cpuacct:/docker/a\n0::/user/job\n"), Some(2.0));
        assert_eq!(quota("4:cpu,cpuacct:/docker/a\n"), Some(2.4));
        write("cpu/b/cpu.cfs_quota_us", "-1");
        write("cpu/b/cpu.cfs_period_us", "100000");
        assert_eq!(quota("1:cpu:/b\n"), None);
        assert_eq!(quota("nonsense\n::\n"), Some(3.5));
        assert_eq!(quota(""), None);
    }
}
