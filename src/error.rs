//! The one error type: what happened, where, why, and what to do about it.
//!
//! Every message a user sees is built here, so that all of them have one shape:
//! `error: file:line:column: what` then `  cause: ...` and `hint: ...`.
//! Several faults of one input travel together in [`Error::and`].
//! Next: `recipe::faults`, the largest producer.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::terminal::{cut, in_line, visible};

/// Lines of a part of a message, and characters of a line: more of what a program or a file says helps nobody.
const MOST_LINES: usize = 60;
const MOST_CHARS: usize = 2000;

/// The result of anything that can fail for a reason the user should read.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose fault it was; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The user's input is wrong (recipe, data, flag): exit 2.
    Input,
    /// The work failed (disk, file contents, numerics): exit 1.
    Failed,
    /// A signal stopped the run after it saved: exit 128 + the signal's number.
    Interrupted(i32),
}

/// A position in a file; line and column count from 1, `None` where only the file is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: Option<usize>,
    /// Column in characters, from 1.
    pub column: Option<usize>,
}

impl Place {
    /// A whole file.
    pub fn file(file: impl Into<PathBuf>) -> Self {
        Self { file: file.into(), line: None, column: None }
    }

    /// A line of a file (from 1).
    pub fn line(file: impl Into<PathBuf>, line: usize) -> Self {
        Self { file: file.into(), line: Some(line), column: None }
    }

    /// A line and a column (both from 1).
    pub fn line_column(file: impl Into<PathBuf>, line: usize, column: usize) -> Self {
        Self { file: file.into(), line: Some(line), column: Some(column) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", in_line(&self.file.display().to_string()))?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
            if let Some(column) = self.column {
                write!(f, ":{column}")?;
            }
        }
        Ok(())
    }
}

/// One or more faults, each with its place, cause and hint.
#[derive(Debug, Clone)]
pub struct Error(Box<Inner>);

#[derive(Debug, Clone)]
struct Inner {
    kind: Kind,
    what: String,
    place: Option<Place>,
    cause: Option<String>,
    hint: Option<String>,
    others: Vec<Error>,
}

impl Error {
    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self(Box::new(Inner {
            kind,
            what: what.into(),
            place: None,
            cause: None,
            hint: None,
            others: Vec::new(),
        }))
    }

    /// The user's input is wrong: exit code 2.
    pub fn input(what: impl Into<String>) -> Self {
        Self::new(Kind::Input, what)
    }

    /// The work failed: exit code 1.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::new(Kind::Failed, what)
    }

    /// A signal ended the run after it saved: exit code 128 + `signal`.
    pub fn interrupted(signal: i32, what: impl Into<String>) -> Self {
        Self::new(Kind::Interrupted(signal), what)
    }

    /// An I/O fault on `path`; a full disk and a missing file get their own hint.
    pub fn io(doing: &str, path: &Path, error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidInput, NotFound};
        let hint = match error.kind() {
            NotFound => Some("check the path"),
            InvalidInput => {
                Some("name a file of its kind; what a pipe or a device gives, write into a file first")
            }
            std::io::ErrorKind::PermissionDenied => Some("check the permissions of the file and its folder"),
            std::io::ErrorKind::FileTooLarge => {
                Some("look at the system's limit (ulimit -f); what was saved before is untouched")
            }
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Some(
                "free some space; what was saved before is untouched, and the same command goes on from it",
            ),
            _ => None,
        };
        // A file that is not there, and a thing that is none, were named wrongly; all else is the machine's doing.
        let kind = if matches!(error.kind(), NotFound | InvalidInput) { Kind::Input } else { Kind::Failed };
        let fault = Self::new(kind, format!("cannot {doing}")).at(Place::file(path)).because(error);
        match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        }
    }

    /// Adds the place, unless one is known already (the innermost is the most exact).
    pub fn at(mut self, place: Place) -> Self {
        self.0.place.get_or_insert(place);
        self
    }

    /// The same fault where a file was read in place of another: places in `from` are places in `to`.
    pub fn moved(mut self, from: &Path, to: &Path) -> Self {
        if let Some(place) = self.0.place.as_mut().filter(|place| place.file == from) {
            place.file = to.to_owned();
        }
        self.0.others = self.0.others.into_iter().map(|other| other.moved(from, to)).collect();
        self
    }

    /// Adds the underlying cause.
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.0.cause = Some(cause.to_string());
        self
    }

    /// Adds a fix the user can apply.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds a second fault, shown after this one.
    pub fn and(mut self, other: Error) -> Self {
        self.0.others.push(other);
        self
    }

    /// Joins faults into one error; `None` where there is none.
    pub fn all(faults: impl IntoIterator<Item = Error>) -> Option<Self> {
        let mut faults = faults.into_iter();
        let first = faults.next()?;
        Some(faults.fold(first, Error::and))
    }

    /// Whose fault it was.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// What happened, in one line.
    pub fn what(&self) -> &str {
        &self.0.what
    }

    /// Where it happened.
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The underlying cause, if one is known.
    pub fn cause(&self) -> Option<&str> {
        self.0.cause.as_deref()
    }

    /// The fix, if one is known.
    pub fn hint_text(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// How many faults this error holds.
    pub fn count(&self) -> usize {
        1 + self.0.others.iter().map(Error::count).sum::<usize>()
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self.0.kind {
            Kind::Failed => 1,
            Kind::Input => 2,
            Kind::Interrupted(signal) => (128 + signal) as u8,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let label = if matches!(self.0.kind, Kind::Interrupted(_)) { "stopped" } else { "error" };
        write!(f, "{label}: ")?;
        if let Some(place) = &self.0.place {
            write!(f, "{place}: ")?;
        }
        // Much of it was written by others: it neither floods nor steers a terminal.
        let shown = |text: &str| visible(&cut(text, MOST_LINES, MOST_CHARS)).into_owned();
        write!(f, "{}", shown(&self.0.what))?;
        if let Some(cause) = &self.0.cause {
            write!(f, "\n  cause: {}", shown(cause))?;
        }
        if let Some(hint) = &self.0.hint {
            write!(f, "\nhint: {}", shown(hint))?;
        }
        for other in &self.0.others {
            write!(f, "\n{other}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// A libtorch call failed: out of memory, a bad device, a shape fault at an edge.
impl From<tch::TchError> for Error {
    fn from(error: tch::TchError) -> Self {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default().to_owned();
        let fault = Error::failed("libtorch refused an operation").because(first);
        if text.contains("out of memory") || text.contains("can't allocate memory") {
            fault.hint("lower batch_size or max_seq_len, and raise accumulation_steps by as much")
        } else {
            fault
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_reads_place_fact_fix() {
        let fault = Error::input("unknown key `grad_clpi` in stage `sft`")
            .at(Place::line_column("recipes/sft.yaml", 16, 7))
            .hint("did you mean `grad_clip`?")
            .and(Error::failed("second"));
        assert_eq!(
            fault.to_string(),
            "error: recipes/sft.yaml:16:7: unknown key `grad_clpi` in stage `sft`\n\
             hint: did you mean `grad_clip`?\nerror: second"
        );
        assert_eq!((fault.exit_code(), fault.count()), (2, 2));
        assert_eq!(Error::interrupted(2, "x").exit_code(), 130);
    }

    #[test]
    fn what_others_wrote_neither_floods_nor_steers() {
        let flood = "\x1b[2J\x07 and more of it\n".repeat(100_000);
        let fault = Error::failed(format!("a\u{202e}b {flood}"))
            .at(Place::line("odd\n\x1b]0;x\x07.jsonl", 3))
            .because(&flood)
            .hint("x".repeat(1 << 20));
        let text = fault.to_string();
        assert!(text.len() < 12_000, "{}", text.len());
        assert!(text.starts_with(r"error: odd\n\x1b]0;x\x07.jsonl:3: a\u{202e}b \x1b[2J\x07 and"), "{text}");
        assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
        assert!(text.contains("(99940 lines more)"), "{text}");
    }
}
