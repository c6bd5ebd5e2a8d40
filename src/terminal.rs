//! What is said on stdout and stderr: results, progress, logs.
//!
//! A reader that is gone, a full disk behind a redirection and a terminal that hung up end no work: the macros below
//! stand in for the standard library's, which panic. What could not be written of the results is an error when the
//! command ends ([`finish`]); of progress and logs it is said once, and how many lines are missing when there is room
//! again. And no byte that came from elsewhere (a program's words, a file's name, a model's text) steers the
//! terminal: [`visible`]. Next: `cli::logging`, which sends `tracing` here.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::{Error, Result};

/// Writes a line of results to stdout, as the standard macro does, and panics in no case.
#[cfg(not(test))]
macro_rules! println {
    () => { $crate::terminal::print(format_args!("\n")) };
    ($($text:tt)*) => { $crate::terminal::print(format_args!("{}\n", format_args!($($text)*))) };
}

/// Writes results to stdout, as the standard macro does, and panics in no case.
#[cfg(not(test))]
macro_rules! print {
    ($($text:tt)*) => { $crate::terminal::print(format_args!($($text)*)) };
}

/// Writes a line for people to stderr, as the standard macro does, and panics in no case.
#[cfg(not(test))]
macro_rules! eprintln {
    () => { $crate::terminal::tell(format_args!("")) };
    ($($text:tt)*) => { $crate::terminal::tell(format_args!($($text)*)) };
}

/// The exit code of a command whose reader went away, as shells show it for Unix's own tools: 128 + SIGPIPE.
const READER_GONE: u8 = 141;

/// The first fault of stdout. It is one for the whole process, as stdout itself is.
static FAULT: Mutex<Option<(io::ErrorKind, String)>> = Mutex::new(None);
/// Whether the work is worth more than what is printed of it.
static KEEPS_GOING: AtomicBool = AtomicBool::new(false);
/// Lines for stderr that could not be written since the last one that was.
static LOST: AtomicUsize = AtomicUsize::new(0);
/// Whether it was said on stdout that stderr cannot be written.
static SAID: AtomicBool = AtomicBool::new(false);

/// From now on a reader that goes away ends nothing: for a run and a server, whose work is not what they print.
pub fn keep_going() {
    KEEPS_GOING.store(true, Ordering::SeqCst);
}

/// Writes results to stdout; a fault is remembered for [`finish`].
pub fn print(text: fmt::Arguments<'_>) {
    if fault().is_none() {
        let mut out = io::stdout().lock();
        let text = text.to_string();
        let shown = if out.is_terminal() { with_colours(&text) } else { text.into() };
        if let Err(error) = out.write_all(shown.as_bytes()) {
            drop(out);
            remember(&error);
        }
    }
}

/// Writes a piece of an answer to stdout at once. On a terminal its control characters are shown; a pipe or a file
/// gets it byte for byte.
///
/// # Errors
/// It could not be written.
pub fn answer(text: &str) -> Result<()> {
    let shown = if io::stdout().is_terminal() { visible(text) } else { text.into() };
    raw(&shown)
}

/// The same as it stands, colours and all.
///
/// # Errors
/// It could not be written.
pub fn raw(text: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    let done = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    drop(out);
    done.map_err(|error| {
        remember(&error);
        unwritten(&error.to_string())
    })
}

/// The end of a command: whether all of its results reached stdout. Where the reader left by itself it wants no more.
///
/// # Errors
/// Something could not be written.
pub fn finish() -> Result<()> {
    if fault().is_none()
        && let Err(error) = io::stdout().flush()
    {
        remember(&error);
    }
    match fault() {
        Some((kind, why)) if kind != io::ErrorKind::BrokenPipe => Err(unwritten(&why)),
        _ => Ok(()),
    }
}

fn unwritten(why: &str) -> Error {
    Error::failed("cannot write to standard output").because(why)
}

fn fault() -> Option<(io::ErrorKind, String)> {
    FAULT.lock().unwrap_or_else(|e| e.into_inner()).clone()
}

fn remember(error: &io::Error) {
    if error.kind() == io::ErrorKind::BrokenPipe && !KEEPS_GOING.load(Ordering::SeqCst) {
        crate::native::leave(READER_GONE);
    }
    let mut fault = FAULT.lock().unwrap_or_else(|e| e.into_inner());
    fault.get_or_insert_with(|| (error.kind(), error.to_string()));
}

/// Writes a line for people to stderr.
pub fn tell(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let mut err = io::stderr().lock();
    let shown = if err.is_terminal() { with_colours(&text) } else { visible(&text) };
    let done = put(&mut err, format!("{shown}\n").as_bytes(), false);
    drop(err);
    if let Err(error) = done {
        say_once(&error);
    }
}

/// Writes a whole line to `err`, and before it how many were lost, as a log in JSON says it or not; or counts it among
/// them.
///
/// # Errors
/// It could not be written.
pub fn put(err: &mut impl Write, line: &[u8], json: bool) -> io::Result<()> {
    let lost = LOST.swap(0, Ordering::SeqCst);
    let mut whole = Vec::new();
    if lost > 0 {
        // The last of them may have been cut.
        let note = format!("{lost} lines before this could not be written");
        let note = if json {
            format!("\n{{\"level\":\"WARN\",\"fields\":{{\"message\":\"{note}\"}}}}\n")
        } else {
            format!("\n({note})\n")
        };
        whole.extend_from_slice(note.as_bytes());
    }
    whole.extend_from_slice(line);
    let done = err.write_all(&whole).and_then(|()| err.flush());
    if done.is_err() {
        lose(lost + 1);
    }
    done
}

/// Counts lines that were not written.
pub fn lose(lines: usize) {
    LOST.fetch_add(lines, Ordering::SeqCst);
}

/// Says on stdout that the log cannot be written: once, and only for what goes on all the same.
pub fn say_once(error: &io::Error) {
    if KEEPS_GOING.load(Ordering::SeqCst) && !SAID.swap(true, Ordering::SeqCst) {
        print(format_args!("note: the log on stderr cannot be written ({error}); the work goes on\n"));
        let _ = io::stdout().flush();
    }
}

/// Text from elsewhere so that it steers no terminal: control characters (but line ends and tabs) and what turns the
/// direction of writing around are shown as escapes.
pub fn visible(text: &str) -> Cow<'_, str> {
    shown(text, |c| c == '\n' || c == '\t', false)
}

/// The same for what must stay in one line, such as a file's name.
pub fn in_line(text: &str) -> Cow<'_, str> {
    shown(text, |_| false, false)
}

/// The same, but for colours: this program's own output has some.
fn with_colours(text: &str) -> Cow<'_, str> {
    shown(text, |c| c == '\n' || c == '\t', true)
}

/// Controls (C0, DEL, C1), and the marks by which text is made to read in another order than it stands
/// (<https://trojansource.codes>).
fn steers(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn shown(text: &str, keep: fn(char) -> bool, colours: bool) -> Cow<'_, str> {
    if !text.chars().any(|c| steers(c) && !keep(c)) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = if colours && c == '\x1b' { colour_len(rest) } else { 0 };
        let taken = colour.max(c.len_utf8());
        // A carriage return before a line's end moves nothing.
        if colour > 0 || !steers(c) || keep(c) || (keep('\n') && rest.starts_with("\r\n")) {
            out.push_str(&rest[..taken]);
        } else {
            out.push_str(&escaped(c));
        }
        rest = &rest[taken..];
    }
    out.into()
}

fn escaped(c: char) -> String {
    match c {
        '\n' | '\r' | '\t' => c.escape_default().to_string(),
        c if (c as u32) < 0x100 => format!("\\x{:02x}", c as u32),
        c => c.escape_unicode().to_string(),
    }
}

/// The length of a sequence that sets colour or weight; 0 where it is another, or would hide text.
fn colour_len(text: &str) -> usize {
    let Some(codes) = text.strip_prefix("\x1b[").and_then(|rest| rest.split('m').next()) else { return 0 };
    let plain = codes.len() < 16 && codes.bytes().all(|b| b.is_ascii_digit() || b == b';');
    let end = 2 + codes.len();
    if plain && text.as_bytes().get(end) == Some(&b'm') && codes.split(';').all(|code| code != "8") {
        end + 1
    } else {
        0
    }
}

/// At most `lines` lines of at most `chars` characters each; what is left out is said.
pub fn cut(text: &str, lines: usize, chars: usize) -> Cow<'_, str> {
    let fits = |line: &str| line.len() <= chars || line.chars().nth(chars).is_none();
    if text.lines().nth(lines).is_none() && text.lines().all(fits) {
        return text.into();
    }
    let mut out = Vec::new();
    for line in text.lines().take(lines) {
        match line.char_indices().nth(chars) {
            None => out.push(line.to_owned()),
            Some((at, _)) => out.push(format!("{} ... ({} bytes more)", &line[..at], line.len() - at)),
        }
    }
    let left = text.lines().skip(lines).count();
    if left > 0 {
        out.push(format!("... ({left} lines more)"));
    }
    out.join("\n").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown() {
        for (text, want) in [
            ("plain: é 你 \u{200d} 👩\u{200d}🚀", "plain: é 你 \u{200d} 👩\u{200d}🚀"),
            ("a\nb\tc\r\nd", "a\nb\tc\r\nd"),
            ("\x1b[2Jx", "\\x1b[2Jx"),
            ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
            ("over\rwritten", "over\\rwritten"),
            ("\u{9b}31m\u{7f}\0", "\\x9b31m\\x7f\\x00"),
            ("a\u{202e}b\u{2066}", "a\\u{202e}b\\u{2066}"),
        ] {
            assert_eq!(visible(text), want);
        }
        assert_eq!(in_line("a\nb\tc\r\n"), "a\\nb\\tc\\r\\n");
        assert_eq!(in_line("\x1b[31m"), "\\x1b[31m");
    }

    #[test]
    fn colours_of_our_own_pass_and_nothing_else() {
        for kept in ["\x1b[2mthinking\x1b[0m", "\x1b[1;38;5;82mx\x1b[m"] {
            assert_eq!(with_colours(kept), kept);
        }
        for (text, want) in [
            ("\x1b[8mhidden", "\\x1b[8mhidden"),
            ("\x1b[1;8mhidden", "\\x1b[1;8mhidden"),
            ("\x1b[2Jm", "\\x1b[2Jm"),
            ("\x1b[31", "\\x1b[31"),
            ("\x1b", "\\x1b"),
        ] {
            assert_eq!(with_colours(text), want);
        }
    }

    #[test]
    fn floods_are_cut_and_short_texts_are_not() {
        assert!(matches!(cut("a\nb", 2, 1), Cow::Borrowed("a\nb")));
        assert_eq!(cut("ääää\nb\nc", 2, 2), "ää ... (4 bytes more)\nb\n... (1 lines more)");
    }

    /// Takes `room` bytes and no more.
    struct Small(Vec<u8>, usize);

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0.len() + bytes.len() > self.1 {
                return Err(io::Error::from_raw_os_error(28));
            }
            self.0.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_were_lost_are_counted_and_said() {
        let mut log = Small(Vec::new(), 4);
        assert!(put(&mut log, b"one\n", false).is_ok());
        assert!(put(&mut log, b"two\n", false).is_err() && put(&mut log, b"three\n", false).is_err());
        log.1 = 1000;
        assert!(put(&mut log, b"four\n", false).is_ok());
        let text = String::from_utf8(log.0).unwrap();
        assert!(text.starts_with("one\n\n(2 lines before this could not be written)\nfour\n"), "{text}");
        lose(3);
        let mut log = Small(Vec::new(), 1000);
        assert!(put(&mut log, b"{}\n", true).is_ok());
        let text = String::from_utf8(log.0).unwrap();
        let values: Vec<serde_json::Value> =
            text.lines().filter(|l| !l.is_empty()).map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(values[0]["fields"]["message"], "3 lines before this could not be written");
    }
}
