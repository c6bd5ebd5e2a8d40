//! How many threads work, and what to say where they are more than the machine has room for.

use crate::native;
use crate::plan::machine::Machine;

/// Lets libtorch work with `threads`; beside other busy processes they wait for each other asleep, unless the environment
/// says how they wait.
pub fn use_threads(machine: &Machine, threads: usize) {
    native::set_threads(threads, machine.wait_policy.is_none());
}

/// As [`use_threads`], for a command that is one of `ranks` processes on this machine; says where that is too much.
pub fn use_among(machine: &Machine, threads: usize, ranks: usize, speaks: bool) {
    if let Some(text) = machine.crowding(threads, ranks).filter(|_| speaks) {
        tracing::warn!("{text}");
    }
    use_threads(machine, threads);
}
