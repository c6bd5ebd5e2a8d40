//! Calls to the operating system.

/// Lets a write that cannot be done fail as an error, where the system would end the process: to a reader that went
/// away, and beyond the size that files may have (`ulimit -f`).
pub fn faults_of_writing_are_errors() {
    // SAFETY: ignoring a signal installs no handler and touches no memory.
    #[cfg(unix)]
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Ends this process with SIGTERM when the one that started it ends, however it ends; Linux alone can.
pub fn die_with_parent() {
    // SAFETY: sets a number in the kernel's record of this process.
    #[cfg(target_os = "linux")]
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
    }
}

/// Ends this process at once; nothing is taken down in order.
pub fn leave(code: u8) -> ! {
    // What was not written to a closed output is no loss.
    let _ = std::io::Write::flush(&mut std::io::stdout());
    // SAFETY: does not come back, and runs nothing of this process.
    unsafe { libc::_exit(i32::from(code)) }
}

/// Ends a process group that this process made, whatever is left of it.
pub fn kill_group(leader: u32) {
    // SAFETY: touches no memory of ours; -1 and 0 name other groups than one of our making.
    #[cfg(unix)]
    if let Ok(leader @ 2..) = libc::pid_t::try_from(leader) {
        unsafe {
            libc::kill(-leader, libc::SIGKILL);
        }
    }
}

/// Files that this process may have open at once; the soft limit is raised to the hard one first.
pub fn most_open_files() -> Option<usize> {
    // SAFETY: `limit` is a plain struct that the first call fills and the second reads.
    #[cfg(unix)]
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 {
            let wanted = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
            if libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) == 0 {
                limit = wanted;
            }
            return Some(usize::try_from(limit.rlim_cur).unwrap_or(usize::MAX));
        }
    }
    None
}

/// Sends a signal to a process that this one started and has not waited for yet.
pub fn send_signal(process: u32, signal: i32) {
    // SAFETY: touches no memory of ours; a process that has ended but was not waited for keeps its number.
    #[cfg(unix)]
    unsafe {
        libc::kill(process as libc::pid_t, signal);
    }
}

/// Most memory this process has held at once, in bytes; `None` where the system does not tell.
pub fn peak_memory_bytes() -> Option<u64> {
    // SAFETY: `usage` is a plain struct that the call fills; zeroed is a valid value for it.
    #[cfg(unix)]
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0 {
            let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
            return u64::try_from(usage.ru_maxrss).ok().map(|n| n * unit);
        }
    }
    None
}

/// Processor seconds that this process has used, all threads together; `None` where the system does not tell.
pub fn processor_seconds() -> Option<f64> {
    // SAFETY: `usage` is a plain struct that the call fills; zeroed is a valid value for it.
    #[cfg(unix)]
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        if libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0 {
            let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
            return Some(seconds(usage.ru_utime) + seconds(usage.ru_stime));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #[test]
    fn peak_memory_is_at_least_what_we_hold() {
        let held = vec![1u8; 64 << 20];
        let peak = super::peak_memory_bytes().expect("this system tells");
        assert!(peak > held.len() as u64 / 2 && held[held.len() - 1] == 1);
    }
}
