//! `minimind run --nproc N`: starts N processes of this command on this machine and watches over them.
//!
//! What `torchrun` does, for one machine and without Python. When one rank ends badly the others are stopped; a
//! signal is passed on to all, which save and stop together.

use std::io::Read;
use std::net::TcpListener;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::engine::Signals;
use crate::engine::ranks::LOST;
use crate::engine::signals::forwarded;
use crate::error::{Error, Result};
use crate::native;
use crate::plan::environment;

/// How long the others may take to end by themselves once one has failed.
const GRACE: Duration = Duration::from_secs(10);
/// Between looks at the processes.
const LOOK: Duration = Duration::from_millis(50);
/// Says to a process that its launcher watches over it.
const WATCHED: &str = "MINIMIND_LAUNCHED";

/// Whether this process is one of several already.
pub fn is_rank() -> bool {
    let world = environment::variable("WORLD_SIZE").and_then(|n| n.parse::<usize>().ok());
    environment::variable(WATCHED).is_some() || world.is_some_and(|n| n > 1)
}

/// To be called by a rank: it ends with its launcher, even when that is killed.
pub fn follow() {
    if environment::variable(WATCHED).is_some() {
        native::die_with_parent();
    }
}

struct Rank {
    number: usize,
    child: Child,
    /// What it said, where that is not shown at once.
    said: Option<JoinHandle<String>>,
    status: Option<ExitStatus>,
    /// Whether this process killed it.
    stopped: bool,
}

/// Runs this very command `count` times and waits for all; ends this process as the first rank ended.
///
/// # Errors
/// A rank that was killed or failed on its own.
pub fn launch(count: usize) -> Result<()> {
    if !native::HAS_COLLECTIVES {
        return Err(Error::input("--nproc needs gloo, and this program was built without its headers")
            .hint("install libgloo-dev, run scripts/setup, then cargo build"));
    }
    let fault = |e| Error::failed("cannot start the ranks").because(e);
    let port = free_port().map_err(fault)?;
    let program = std::env::current_exe().map_err(fault)?;
    let signals = Signals::install()?;
    let _held = signals.defer();
    let mut ranks = Vec::new();
    for number in 0..count {
        match start(&program, number, count, port) {
            Ok(rank) => ranks.push(rank),
            Err(error) => {
                stop(&mut ranks);
                return Err(fault(error));
            }
        }
    }
    watch(&mut ranks, &signals)
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn start(program: &std::path::Path, number: usize, count: usize, port: u16) -> std::io::Result<Rank> {
    let mut command = Command::new(program);
    command.args(std::env::args_os().skip(1)).env(WATCHED, "1");
    command.env("RANK", number.to_string()).env("LOCAL_RANK", number.to_string());
    command.env("WORLD_SIZE", count.to_string()).env("LOCAL_WORLD_SIZE", count.to_string());
    command.env("MASTER_ADDR", "127.0.0.1").env("MASTER_PORT", port.to_string());
    // A terminal's Ctrl-C reaches this process alone, which passes it on once.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    if number > 0 {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    }
    let mut child = command.spawn()?;
    let said = child.stderr.take().map(|mut stderr| {
        thread::spawn(move || {
            let mut said = Vec::new();
            // What cannot be read was not said.
            let _ = stderr.read_to_end(&mut said);
            String::from_utf8_lossy(&said).into_owned()
        })
    });
    Ok(Rank { number, child, said, status: None, stopped: false })
}

fn watch(ranks: &mut [Rank], signals: &Signals) -> Result<()> {
    let (mut asked, mut stopped, mut failed) = (false, false, None::<(usize, Instant)>);
    loop {
        match signals.take() {
            Some(_) if asked => stop(ranks),
            Some(signal) => {
                asked = true;
                let word = forwarded(signal);
                let at_work = ranks.iter().filter(|rank| rank.status.is_none());
                at_work.for_each(|rank| native::send_signal(rank.child.id(), word));
            }
            None => {}
        }
        for rank in ranks.iter_mut().filter(|rank| rank.status.is_none()) {
            rank.status =
                rank.child.try_wait().map_err(|e| Error::failed("cannot watch a rank").because(e))?;
            if rank.status.is_some_and(|status| !status.success()) {
                failed.get_or_insert((rank.number, Instant::now()));
            }
        }
        if ranks.iter().all(|rank| rank.status.is_some()) {
            break;
        }
        if !stopped && failed.is_some_and(|(_, since)| since.elapsed() > GRACE) {
            // Those that were killed before this are those to blame.
            stopped = true;
            stop(ranks);
        }
        thread::sleep(LOOK);
    }
    for rank in ranks.iter_mut().filter(|rank| rank.status.is_some_and(|status| !status.success())) {
        let said = rank.said.take().and_then(|said| said.join().ok()).unwrap_or_default();
        let first = failed.is_some_and(|(first, _)| first == rank.number);
        if !said.trim().is_empty() && (first || !said.contains(LOST)) && !asked {
            eprintln!("rank {}: {}", rank.number, said.trim_end());
        }
    }
    let Some((first, _)) = failed else { return Ok(()) };
    // One that was killed could not speak: it comes before those that lost it. NCCL aborts a process whose peer is gone.
    let killed = ranks
        .iter()
        .filter(|rank| !rank.stopped && (rank.number == first || !aborted(rank)))
        .find(|rank| rank.status.is_some_and(|s| s.code().is_none()));
    let number = killed.map_or(first, |rank| rank.number);
    let status = ranks[number].status.unwrap_or_default();
    if let Some(code) = status.code() {
        // The rank has said why.
        std::process::exit(code);
    }
    Err(Error::failed(format!("rank {number} was killed ({status}); the other ranks were stopped"))
        .hint("the same command resumes from the last checkpoint, with the same number of ranks or another"))
}

#[cfg(unix)]
fn aborted(rank: &Rank) -> bool {
    const SIGABRT: i32 = 6;
    rank.status.and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)) == Some(SIGABRT)
}

#[cfg(not(unix))]
fn aborted(_: &Rank) -> bool {
    false
}

fn stop(ranks: &mut [Rank]) {
    for rank in ranks.iter_mut().filter(|rank| rank.status.is_none()) {
        // It may have ended just now.
        let _ = rank.child.kill();
        rank.stopped = true;
    }
}
