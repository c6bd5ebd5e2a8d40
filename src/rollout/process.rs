//! A program of the user's that is spoken to by lines, with a time limit on every exchange.
//!
//! For the `command` reward (one program, many lines) and `command` tools (one program a call). Reading and
//! writing have threads of their own, so that a program that neither reads nor writes cannot hang the run.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Lines of the program's stderr that an error shows.
const LAST_WORDS: usize = 5;
/// The longest line, and the most output of a call, that is read.
const MAX_BYTES: u64 = 16 << 20;

/// A running program.
#[derive(Debug)]
pub struct Program {
    shown: String,
    child: Child,
    input: Option<Sender<String>>,
    output: Receiver<String>,
    words: Arc<Mutex<VecDeque<String>>>,
}

/// A command line for messages.
pub fn shown(command: &[String]) -> String {
    command.join(" ")
}

impl Program {
    /// Starts `command[0]` with the other arguments; no shell is involved.
    pub fn start(command: &[String]) -> Result<Self> {
        let (name, arguments) =
            command.split_first().ok_or_else(|| Error::input("`command` is empty").hint("name a program"))?;
        let mut child = Command::new(name)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| {
                Error::input(format!("cannot start `{}`", shown(command)))
                    .because(e)
                    .hint("check `command`: a list of program and arguments; no shell reads it")
            })?;
        let (input, lines) = channel::<String>();
        let (send, output) = channel();
        let mut stdin = child.stdin.take().expect("stdin is piped");
        std::thread::spawn(move || {
            // A program may end without reading; that is its error, not the end of this process.
            crate::native::hold_broken_pipe();
            for line in lines {
                if stdin.write_all(line.as_bytes()).and_then(|()| stdin.flush()).is_err() {
                    break;
                }
            }
        });
        let stdout = child.stdout.take().expect("stdout is piped");
        std::thread::spawn(move || {
            for line in lines_of(stdout) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let words = Arc::new(Mutex::new(VecDeque::new()));
        let (stderr, kept) = (child.stderr.take().expect("stderr is piped"), words.clone());
        std::thread::spawn(move || {
            for line in lines_of(stderr) {
                tracing::debug!("{line}");
                let mut kept = kept.lock().expect("the holder does not panic");
                kept.push_back(line);
                if kept.len() > LAST_WORDS {
                    kept.pop_front();
                }
            }
        });
        Ok(Self { shown: shown(command), child, input: Some(input), output, words })
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
    pub fn line(&mut self, until: Instant) -> Result<Option<String>> {
        match self.output.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(Some(line)),
            Err(RecvTimeoutError::Timeout) => {
                let fault = Error::failed(format!("`{}` did not answer in time", self.shown));
                Err(self
                    .with_words(fault)
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
    pub fn dead(&mut self) -> Error {
        // The output is closed; the end of the process follows it, but need not be there yet.
        let until = Instant::now() + Duration::from_secs(1);
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                Ok(Some(status)) => break status.to_string(),
                _ => break "it closed its output".to_owned(),
            }
        };
        let fault = Error::failed(format!("`{}` ended: {status}", self.shown));
        self.with_words(fault)
    }

    /// The exit status, once its output is closed; `None` where it goes on for longer than `until`.
    pub fn success(&mut self, until: Instant) -> Option<bool> {
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status.success()),
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(5)),
                _ => return None,
            }
        }
    }

    /// The last lines of its stderr.
    pub fn last_words(&self) -> String {
        let words = self.words.lock().expect("the holder does not panic");
        words.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    fn with_words(&self, fault: Error) -> Error {
        let words = self.last_words();
        if words.is_empty() { fault } else { fault.because(words) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Lines in bounded memory; bytes that are no text show as U+FFFD.
fn lines_of(source: impl Read) -> impl Iterator<Item = String> {
    let mut reader = BufReader::new(source);
    std::iter::from_fn(move || {
        let mut bytes = Vec::new();
        match (&mut reader).take(MAX_BYTES).read_until(b'\n', &mut bytes) {
            Ok(0) | Err(_) => None,
            Ok(_) => {
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
        // As the program itself does; a write to a dead program must end nothing but its thread.
        crate::native::die_on_broken_pipe();
        let mut dead = sh("exec 0<&-; echo why >&2; exit 3");
        (0..2000).for_each(|_| dead.send("a line that nobody reads\n".repeat(50)));
        assert_eq!(dead.line(soon(5000)).unwrap(), None);
        let text = dead.dead().to_string();
        assert!(text.contains("exit status: 3") && text.contains("why"), "{text}");
        let none = Program::start(&["/no/such/program".into()]).unwrap_err();
        assert!(none.to_string().contains("cannot start"));
        assert!(Program::start(&[]).is_err());
    }
}
