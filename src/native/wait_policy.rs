//! How threads wait for each other beside other busy processes (`wait_policy.cpp`): a thread watches how long this
//! process's threads are runnable without a core, and lets them sleep instead of spin while that is long.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::ffi;

/// Time between two measurements.
const LOOK: Duration = Duration::from_millis(50);
/// Where the system tells of each thread.
const TASKS: &str = "/proc/self/task";
/// A core's share that all threads together stood ready without one, from which on waits are short: beside one busy process
/// it is about a half, beside small matters less than a tenth.
const BUSY: f64 = 0.3;
/// For each thread of a large team, which meets more.
const BUSY_A_THREAD: f64 = 0.01;
/// Below this the neighbours have gone.
const QUIET: f64 = 0.1;
/// What a new look weighs in the share.
const WEIGHT: f64 = 0.25;
/// Looks for which waits stay short at least; twice as many each time that they were long for no longer than this, up to the
/// second.
const STAY: u32 = 20;
const STAY_MOST: u32 = 200;

/// How threads of this process wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitPolicy {
    /// As the OpenMP library does by itself, or as the user's environment says.
    Unwatched,
    /// Watched; the machine is quiet: threads spin.
    Spin,
    /// Watched; other processes take our cores: threads sleep soon.
    Sleep,
}

static STATE: AtomicU8 = AtomicU8::new(0);

/// How threads wait at this moment.
pub fn wait_policy() -> WaitPolicy {
    match STATE.load(Ordering::Relaxed) {
        0 => WaitPolicy::Unwatched,
        1 => WaitPolicy::Spin,
        _ => WaitPolicy::Sleep,
    }
}

/// Lets libtorch work with `threads`, and where `watch` says so sees to it that they do not spin for each other beside other
/// busy processes. Changes no number: the team stays the same.
pub fn set_threads(threads: usize, watch: bool) {
    let threads = threads.clamp(1, 4096);
    tch::set_num_threads(threads as i32);
    static STARTED: Once = Once::new();
    if watch && threads > 1 && Times::look(Path::new(TASKS)).is_some() {
        STARTED.call_once(|| {
            STATE.store(1, Ordering::Relaxed);
            // Without a thread for it nothing is watched.
            if thread::Builder::new().name("waits".into()).spawn(move || watch_loop(threads)).is_err() {
                STATE.store(0, Ordering::Relaxed);
            }
        });
    }
}

/// Makes waits short, or long again, for teams of `threads`; whether that is how they are now. For tests: [`set_threads`]
/// sees to it.
pub fn set_short_waits(on: bool, threads: usize) -> bool {
    // SAFETY: begins or ends threads of its own under a lock, and touches nothing of the teams that work.
    unsafe { ffi::mm_set_short_waits(i32::from(on), threads as i32) != 0 }
}

fn watch_loop(threads: usize) {
    let tasks = Path::new(TASKS);
    let mut crowd = Crowd::new(threads);
    let (mut before, mut at) = (Times::look(tasks).unwrap_or_default(), Instant::now());
    loop {
        thread::sleep(LOOK);
        let Some(now) = Times::look(tasks) else { continue };
        let seconds = at.elapsed().as_secs_f64();
        at = Instant::now();
        if let Some(short) = crowd.look(now.stood_ready(&before) / seconds) {
            let done = set_short_waits(short, threads);
            STATE.store(if short { 2 } else { 1 }, Ordering::Relaxed);
            tracing::debug!(
                done,
                "{}",
                if short { "a busy machine: waits are short" } else { "a quiet machine" }
            );
        }
        before = now;
    }
}

/// Of each thread: nanoseconds that it stood ready without a core.
#[derive(Debug, Default, PartialEq)]
struct Times(HashMap<u64, u64>);

impl Times {
    /// `None` where the system does not tell.
    fn look(tasks: &Path) -> Option<Self> {
        let all: HashMap<u64, u64> = std::fs::read_dir(tasks)
            .ok()?
            .flatten()
            .filter_map(|task| {
                let number = task.file_name().to_str()?.parse().ok()?;
                // A thread may end meanwhile.
                Some((number, stood_ready(&std::fs::read_to_string(task.path().join("schedstat")).ok()?)?))
            })
            .collect();
        (!all.is_empty()).then_some(Self(all))
    }

    /// Seconds that threads which were there before stood ready since.
    fn stood_ready(&self, before: &Self) -> f64 {
        let since = |thread, ns: u64| Some(ns.saturating_sub(*before.0.get(thread)?));
        self.0.iter().filter_map(|(thread, ns)| since(thread, *ns)).sum::<u64>() as f64 * 1e-9
    }
}

/// The second of a thread's three numbers.
fn stood_ready(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().nth(1)?.parse().ok()
}

/// Whether others take our cores, from look to look.
#[derive(Debug)]
struct Crowd {
    busy: f64,
    share: f64,
    short: bool,
    looks: u32,
    stay: u32,
}

impl Crowd {
    fn new(threads: usize) -> Self {
        Self {
            busy: BUSY.max(BUSY_A_THREAD * threads as f64),
            share: 0.0,
            short: false,
            looks: u32::MAX,
            stay: STAY,
        }
    }

    /// `share` of a core's time was waited for since the last look. Gives what is to change, if anything.
    fn look(&mut self, share: f64) -> Option<bool> {
        self.share += WEIGHT * (share - self.share);
        self.looks = self.looks.saturating_add(1);
        let turn =
            if self.short { self.share < QUIET && self.looks > self.stay } else { self.share > self.busy };
        turn.then(|| {
            self.short = !self.short;
            if self.short {
                // Threads that take turns on one core do not see who has the other.
                self.stay = if self.looks > STAY { STAY } else { (2 * self.stay).min(STAY_MOST) };
            }
            self.looks = 0;
            self.short
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_neighbour_is_seen_soon_and_a_short_one_is_not_worth_it() {
        let mut crowd = Crowd::new(2);
        assert!((0..100).all(|_| crowd.look(0.01).is_none()));
        // One look of half a core is a passer-by.
        assert_eq!(crowd.look(0.5), None);
        assert!((0..20).all(|_| crowd.look(0.0).is_none()));
        // A busy process: some looks.
        let seen = (0..10).position(|_| crowd.look(0.5) == Some(true));
        assert!(seen.is_some_and(|n| n <= 4), "{seen:?}");
        // It stays so while that one is there, and for a moment after.
        assert!((0..100).all(|_| crowd.look(0.3).is_none()));
        let gone = (0..100).position(|_| crowd.look(0.0) == Some(false));
        assert!(gone.is_some_and(|n| (2..20).contains(&n)), "{gone:?}");
    }

    #[test]
    fn a_moment_of_it_holds_for_a_second() {
        let mut crowd = Crowd::new(2);
        assert_eq!(crowd.look(2.0), Some(true));
        let gone = |crowd: &mut Crowd| (0..1000).position(|_| crowd.look(0.0) == Some(false));
        assert_eq!(gone(&mut crowd), Some(STAY as usize));
        // Neighbours that are seen only while waits are long keep them short for longer and longer.
        for times in [2, 4, 8, 10, 10] {
            assert_eq!(crowd.look(2.0), Some(true));
            assert_eq!(gone(&mut crowd), Some((times * STAY) as usize));
        }
        assert!((0..100).all(|_| crowd.look(0.0).is_none()));
        assert_eq!(crowd.look(2.0), Some(true));
        assert_eq!(gone(&mut crowd), Some(STAY as usize));
    }

    #[test]
    fn what_the_system_tells_is_read() {
        assert_eq!(stood_ready("4711 1234567 89\n"), Some(1_234_567));
        assert_eq!(["", "1", "1 x 3"].map(stood_ready), [None; 3]);
        let map = |all: &[(u64, u64)]| Times(all.iter().copied().collect());
        // A new thread's past does not count, one that ended neither.
        let (before, now) = (map(&[(1, 10), (2, 5)]), map(&[(1, 25), (3, 1000)]));
        assert_eq!((now.stood_ready(&before) * 1e9).round(), 15.0);
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Times::look(folder.path()), None);
        std::fs::create_dir(folder.path().join("12")).unwrap();
        assert_eq!(Times::look(folder.path()), None);
        std::fs::write(folder.path().join("12/schedstat"), "1 7 1").unwrap();
        assert_eq!(Times::look(folder.path()), Some(map(&[(12, 7)])));
    }
}
