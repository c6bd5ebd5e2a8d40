//! A user's program that exchanges lines of text with this process, with a time limit on every exchange.
//!
//! For the `command` reward (one program, many lines) and `command` tools (one program a call). Reading and
//! writing have threads of their own, so that a program that neither reads nor writes cannot hang the run. What it
//! starts ends with it, and it ends with this process ([`super::reaper`]). What it prints is bounded and cut.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::reaper;
use crate::error::{Error, Result};
use crate::terminal::visible;

/// Lines of the program's stderr that an error shows.
const STDERR_LINES: usize = 5;
/// Bytes of such a line; the rest of a longer one is read and dropped.
const STDERR_LINE_BYTES: u64 = 400;
/// The longest line of its output that is read in one piece, and lines that wait to be read.
const LINE_BYTES: u64 = 1 << 20;
const LINES: usize = 64;

/// A running program.
#[derive(Debug)]
pub struct Program {
    shown: String,
    child: Child,
    input: Option<Sender<String>>,
    output: Receiver<String>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    /// Whether its process group was ended.
    ended: bool,
}

/// A command line for messages.
pub fn shown(command: &[String]) -> String {
    command.join(" ")
}

impl Program {
    /// Starts `command[0]` with the other arguments; no shell is involved.
    ///
    /// # Errors
    /// An empty command, a program that cannot be started.
    pub fn start(command: &[String]) -> Result<Self> {
        let (name, arguments) =
            command.split_first().ok_or_else(|| Error::input("`command` is empty").hint("name a program"))?;
        let mut program = Command::new(name);
        program.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A group of its own: all that it starts can be ended with it. A terminal's Ctrl-C reaches this process alone,
        // which ends its step first.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut program, 0);
        let mut child = program.spawn().map_err(|e| {
            Error::input(format!("cannot start `{}`", shown(command)))
                .because(e)
                .hint("check `command`: a list of program and arguments; no shell reads it")
        })?;
        reaper::add(child.id());
        let (input, lines) = channel::<String>();
        let (send, output) = sync_channel(LINES);
        let mut stdin = child.stdin.take().expect("stdin is piped");
        std::thread::spawn(move || {
            // A program may end without reading; that is its error, and shows when its answer is read.
            for line in lines {
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    break;
                }
            }
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            for line in lines_of(stdout, LINE_BYTES, true) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let lines = Arc::new(Mutex::new(VecDeque::new()));
        let (stderr, kept) = (child.stderr.take().expect("stderr is piped"), lines.clone());
        std::thread::spawn(move || {
            for line in lines_of(stderr, STDERR_LINE_BYTES, false) {
                tracing::debug!("{line}");
                let mut kept = kept.lock().unwrap_or_else(|e| e.into_inner());
                kept.push_back(visible(&line).into_owned());
                if kept.len() > STDERR_LINES {
                    kept.pop_front();
                }
            }
        });
        Ok(Self { shown: shown(command), child, input: Some(input), output, stderr: lines, ended: false })
    }

    /// Sends text; the program's death shows when its answer is read.
    pub fn send(&self, text: String) {
        if let Some(input) = &self.input {
            let _ = input.send(text);
        }
    }

    /// Tells the program that nothing more comes.
    pub fn close(&mut self) {
        self.input = None;
    }

    /// The next line, without its end; `None` where the program has closed its output.
    ///
    /// # Errors
    /// No line by `until`.
    pub fn line(&mut self, until: Instant) -> Result<Option<String>> {
        match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => {
                let fault = Error::failed(format!("`{}` did not answer in time", self.shown));
                Err(self
                    .with_stderr(fault)
                    .hint("raise `timeout_secs`; does it flush its output after each line?"))
            }
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        }
    }

    /// A line that is there already, if any.
    pub fn unread(&mut self) -> Option<String> {
        self.output.try_recv().ok()
    }

    /// Why it is dead, as an error.
    pub fn exit_error(&mut self) -> Error {
        // The output is closed; the end of the process follows it, but need not be there yet.
        let until = Instant::now() + Duration::from_secs(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) => {
                    self.end();
                    break status.to_string();
                }
                _ => break "it closed its output".to_owned(),
            }
        };
        let fault = Error::failed(format!("`{}` ended: {status}", self.shown));
        self.with_stderr(fault)
    }

    /// The exit status, once its output is closed; `None` where it still runs at `until`.
    pub fn success(&mut self, until: Instant) -> Option<bool> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => {
                    self.end();
                    return Some(status.success());
                }
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// The last lines of its stderr.
    pub fn stderr_tail(&self) -> String {
        let lines = self.stderr.lock().unwrap_or_else(|e| e.into_inner());
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// Ends what is left of its process group.
    fn end(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            crate::native::kill_group(self.child.id());
            reaper::remove(self.child.id());
        }
    }

    fn with_stderr(&self, fault: Error) -> Error {
        let tail = self.stderr_tail();
        if tail.is_empty() { fault } else { fault.because(tail) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input = None;
        self.end();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines in bounded memory; bytes that are no text show as U+FFFD. A line longer than `most` comes in pieces, or
/// without its rest where that is not `wanted`.
fn lines_of(source: impl Read, most: u64, wanted: bool) -> impl Iterator<Item = String> {
    let mut reader = BufReader::new(source);
    std::iter::from_fn(move || {
        let mut bytes = Vec::new();
        match (&mut reader).take(most).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => None,
            Ok(_) => {
                if !wanted && bytes.last() != Some(&b'\n') && bytes.len() as u64 == most {
                    // What cannot be read is no loss.
                    let _ = reader.skip_until(b'\n');
                }
                while matches!(bytes.last(), Some(b'\n' | b'\r')) {
                    bytes.pop();
                }
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Program {
        Program::start(&["sh".into(), "-c".into(), script.into()]).unwrap()
    }

    fn soon(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn lines_go_and_come() {
        let mut program = sh("while read line; do echo \"got $line\"; done");
        program.send("one\ntwo\n".into());
        assert_eq!(program.line(soon(5000)).unwrap().as_deref(), Some("got one"));
        program.close();
        assert_eq!(program.line(soon(5000)).unwrap().as_deref(), Some("got two"));
        assert_eq!(program.line(soon(5000)).unwrap(), None);
        assert_eq!(program.success(soon(5000)), Some(true));
    }

    #[test]
    fn silence_death_and_absence_are_told_apart() {
        let slow = sh("sleep 20").line(soon(50)).unwrap_err().to_string();
        assert!(slow.contains("in time") && slow.contains("timeout_secs"), "{slow}");
        // A write to a dead program must end nothing but its thread.
        let mut dead = sh("exec 0<&-; echo why >&2; exit 3");
        (0..2000).for_each(|_| dead.send("a line that nobody reads\n".repeat(50)));
        assert_eq!(dead.line(soon(5000)).unwrap(), None);
        let text = dead.exit_error().to_string();
        assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
        let none = Program::start(&["/no/such/program".into()]).unwrap_err();
        assert!(none.to_string().contains("cannot start"));
        assert!(Program::start(&[]).is_err());
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_program_starts_ends_with_it() {
        let alive = |id: &str| {
            std::fs::read_to_string(format!("/proc/{id}/stat"))
                .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
        };
        let gone = |id: &str| {
            let until = soon(5000);
            while alive(id) && Instant::now() < until {
                std::thread::sleep(Duration::from_millis(5));
            }
            !alive(id)
        };
        // One that waits for its child, and one that has ended before it.
        let mut waits = sh("(sleep 300; true) & echo $!; wait");
        let child = waits.line(soon(5000)).unwrap().unwrap();
        assert!(alive(&child));
        drop(waits);
        assert!(gone(&child), "{child}");
        let mut ended = sh("sleep 300 >/dev/null 2>&1 & echo $!");
        let child = ended.line(soon(5000)).unwrap().unwrap();
        assert_eq!((ended.line(soon(5000)).unwrap(), ended.success(soon(5000))), (None, Some(true)));
        assert!(gone(&child), "{child}");
    }

    #[test]
    fn a_flood_of_words_is_cut_and_steers_nothing() {
        let mut program =
            sh("head -c 20000000 /dev/zero | tr '\\0' x >&2; echo >&2; printf '\\033[2J\\n' >&2; exit 3");
        assert_eq!(program.line(soon(20_000)).unwrap(), None);
        let text = program.exit_error().to_string();
        assert!(text.len() < 3000 && text.contains("exit status: 3"), "{}", text.len());
        // The end of its stderr may come after its output is closed.
        let until = soon(5000);
        while !program.stderr_tail().ends_with("\\x1b[2J") && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(program.stderr_tail().ends_with("\\x1b[2J"), "{}", program.stderr_tail());
    }
}
