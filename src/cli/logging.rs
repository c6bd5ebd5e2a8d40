//! Where `tracing` events go: stderr, as short lines or as JSON.
//!
//! A log that cannot be written ends nothing, and a server's waits for nobody: its lines go through a queue to a
//! thread of their own, so that a reader who stopped reading holds up no request and no signal. Lines beyond the
//! queue are counted, and said when there is room again.

use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use tracing::Level;

use crate::terminal;

/// Lines that wait for a slow reader.
const QUEUE: usize = 4096;
/// How long the end waits for lines that are not out yet.
const FLUSH: Duration = Duration::from_millis(500);

/// Lines that are in the queue.
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Short lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Starts logging, through a queue where `apart`; later calls change nothing.
pub fn start(verbose: u8, format: LogFormat, apart: bool) {
    let level = match verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let queue = apart.then(|| thread(format)).flatten();
    if queue.is_some() {
        // A panic's message must not wait for the reader either.
        std::panic::set_hook(Box::new(|info| tracing::error!("{info}")));
    }
    let writer = move || Event { queue: queue.clone(), format };
    let base = tracing_subscriber::fmt().with_max_level(level).log_internal_errors(false).with_writer(writer);
    // A second start (tests) finds the first one in place, which is fine.
    let _ = match format {
        LogFormat::Json => base.json().try_init(),
        LogFormat::Text => {
            base.with_target(false).with_level(verbose > 0).with_ansi(false).without_time().try_init()
        }
    };
}

/// Waits a little for lines that are not out yet.
pub fn flush() {
    let until = Instant::now() + FLUSH;
    while WAITING.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The thread that writes; `None` where it cannot be started, and lines are then written where they arise.
fn thread(format: LogFormat) -> Option<SyncSender<Vec<u8>>> {
    let (queue, lines) = sync_channel::<Vec<u8>>(QUEUE);
    let mut log = stderr().ok()?;
    let write = move || {
        for line in lines {
            if let Err(error) = terminal::put(&mut log, &line, format == LogFormat::Json) {
                terminal::say_once(&error);
            }
            WAITING.fetch_sub(1, Ordering::SeqCst);
        }
    };
    std::thread::Builder::new().name("log".to_owned()).spawn(write).ok()?;
    Some(queue)
}

/// Stderr without the lock of the standard library's handle, which would hold up whoever else has something to say.
#[cfg(unix)]
fn stderr() -> io::Result<std::fs::File> {
    use std::os::fd::AsFd;
    Ok(io::stderr().as_fd().try_clone_to_owned()?.into())
}

#[cfg(not(unix))]
fn stderr() -> io::Result<io::Stderr> {
    Ok(io::stderr())
}

/// Takes the text of one event.
struct Event {
    queue: Option<SyncSender<Vec<u8>>>,
    format: LogFormat,
}

impl Write for Event {
    /// The subscriber writes an event as a whole.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        let line = match self.format {
            LogFormat::Text => terminal::visible(&text).into_owned(),
            LogFormat::Json => json_visible(&text),
        };
        match &self.queue {
            Some(queue) => {
                WAITING.fetch_add(1, Ordering::SeqCst);
                match queue.try_send(line.into_bytes()) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                        WAITING.fetch_sub(1, Ordering::SeqCst);
                        terminal::lose(1);
                    }
                }
            }
            None => {
                let json = self.format == LogFormat::Json;
                let done = terminal::put(&mut io::stderr().lock(), line.as_bytes(), json);
                if let Err(error) = done {
                    terminal::say_once(&error);
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// JSON escapes the lower controls itself; the others are written as JSON writes them.
fn json_visible(text: &str) -> String {
    let escape = |c: char| c != '\n' && terminal::visible(c.encode_utf8(&mut [0; 4])).len() > c.len_utf8();
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if escape(c) {
            out.push_str(&format!("\\u{:04x}", c as u32))
        } else {
            out.push(c)
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json() {
        let line = json_visible("{\"a\":\"x\u{202e}y\u{9b}z\"}\n");
        assert_eq!(line, "{\"a\":\"x\\u202ey\\u009bz\"}\n");
        let value: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["a"], "x\u{202e}y\u{9b}z");
    }
}
