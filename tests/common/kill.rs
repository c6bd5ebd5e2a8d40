//! Runs that are killed on their way and go on.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// How many kills: `MINIMIND_KILLS`, else `short`.
pub fn kills(short: u64) -> u64 {
    std::env::var("MINIMIND_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(short)
}

/// Rows of a stage's metrics without the columns that hold time.
pub fn timeless(output: &Path, stage: &str, holds_time: impl Fn(&str) -> bool) -> Vec<serde_json::Value> {
    let mut rows = super::rows(&output.join(stage).join("metrics.jsonl"));
    for row in &mut rows {
        row.as_object_mut().expect("a row is a map").retain(|key, _| !holds_time(key));
    }
    rows
}

/// Starts `run` and kills it, `kills` times, the i-th after `share(i)` of `length`; then lets it end. Some kill must
/// have come before the end.
pub fn through(
    what: &str,
    run: impl Fn() -> Command,
    kills: u64,
    length: Duration,
    share: impl Fn(u64) -> f64,
) {
    let mut ended_early = 0;
    for kill in 0..kills {
        let mut child =
            run().stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
        std::thread::sleep(length.mul_f64(share(kill)));
        child.kill().expect("killed");
        ended_early += u64::from(!child.wait().expect("ended").success());
    }
    super::succeed(&mut run());
    println!("{what}: {ended_early} of {kills} kills came before the end");
    assert!(ended_early > 0, "no kill came in time: the test tried nothing");
}
