//! Where lines come from and how answers look: a terminal with editing and history, or a pipe.

use std::io::{BufRead, IsTerminal};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::error::{Error, Result};
use crate::plan::machine::Machine;
use crate::serve::api::output_parser::{OutputParser, OutputPart, ToolCallMode, ToolSyntax};
use crate::terminal::{answer, raw, visible};

/// Where lines come from.
#[derive(Debug)]
pub(super) enum Input {
    /// A person; what was typed is kept for the next time.
    Terminal { editor: Box<DefaultEditor>, history: PathBuf },
    /// A script.
    Pipe,
}

impl Input {
    /// A line editor where stdin is a terminal, else a pipe.
    ///
    /// # Errors
    /// The terminal cannot be set up.
    pub(super) fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Pipe);
        }
        let mut editor =
            DefaultEditor::new().map_err(|e| Error::failed("cannot read the terminal").because(e))?;
        let folder = Machine::detect().cache_dir;
        let history = folder.join("chat-history");
        // Without a history there is still a conversation.
        let _ = std::fs::create_dir_all(&folder);
        let _ = editor.load_history(&history);
        Ok(Input::Terminal { editor: Box::new(editor), history })
    }

    /// Whether a person types.
    pub(super) fn is_terminal(&self) -> bool {
        matches!(self, Input::Terminal { .. })
    }

    /// The next line; `None` at the end of the input.
    ///
    /// # Errors
    /// The input cannot be read or is not UTF-8.
    pub(super) fn line(&mut self) -> Result<Option<String>> {
        match self {
            Input::Terminal { editor, history } => match editor.readline("you> ") {
                Ok(line) => {
                    // A line that is not kept in the history is still answered.
                    let _ = editor.add_history_entry(&line);
                    let _ = editor.append_history(history);
                    Ok(Some(line))
                }
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(Error::failed("cannot read the terminal").because(error)),
            },
            Input::Pipe => {
                let mut line = String::new();
                let read = std::io::stdin().lock().read_line(&mut line);
                match read.map_err(|e| Error::failed("cannot read the input").because(e))? {
                    0 => Ok(None),
                    _ => Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned())),
                }
            }
        }
    }
}

/// Ctrl-C: ends the program while it waits, and an answer while one comes.
#[derive(Debug)]
pub(super) struct Interrupts {
    asked: Arc<AtomicBool>,
    idle: Arc<AtomicBool>,
}

impl Interrupts {
    /// Installs the signal handlers; call once a process.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub(super) fn install() -> Result<Self> {
        let (asked, idle) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(true)));
        flag::register_conditional_default(SIGINT, Arc::clone(&idle))
            .and_then(|_| flag::register(SIGINT, Arc::clone(&asked)))
            .map_err(|e| Error::failed("cannot install a signal handler").because(e))?;
        Ok(Self { asked, idle })
    }

    /// From now until the guard is dropped, Ctrl-C is only remembered.
    pub(super) fn hold(&self) -> Held<'_> {
        self.asked.store(false, Ordering::SeqCst);
        self.idle.store(false, Ordering::SeqCst);
        Held(self)
    }
}

/// While it lives, Ctrl-C ends no more than the answer.
#[derive(Debug)]
pub(super) struct Held<'a>(&'a Interrupts);

impl Held<'_> {
    /// Whether Ctrl-C was pressed.
    pub(super) fn asked(&self) -> bool {
        self.0.asked.load(Ordering::SeqCst)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.idle.store(true, Ordering::SeqCst);
    }
}

/// Streams an answer. On a terminal thinking is dimmed, its tags are left out and control
/// characters are shown; a pipe gets the text as it is.
#[derive(Debug)]
pub(super) struct Printer {
    parser: OutputParser,
    pretty: bool,
    reasoned: bool,
    content: String,
}

impl Printer {
    /// A printer for an answer that begins inside a think block (`thinking`) or not.
    pub(super) fn new(thinking: bool) -> Self {
        let pretty = std::io::stdout().is_terminal();
        let parser = OutputParser::new(ToolCallMode::None, ToolSyntax::default());
        Self {
            parser: if thinking { parser.in_thinking() } else { parser },
            pretty,
            reasoned: false,
            content: String::new(),
        }
    }

    /// Prints a piece of the answer.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub(super) fn show(&mut self, text: &str) -> Result<()> {
        let parts = self.parser.push(text);
        self.print_parts(parts)?;
        if self.pretty { Ok(()) } else { raw(text) }
    }

    fn print_parts(&mut self, parts: Vec<OutputPart>) -> Result<()> {
        for part in parts {
            match part {
                OutputPart::Reasoning(text) => {
                    self.reasoned = true;
                    if self.pretty {
                        raw(&format!("\x1b[2m{}\x1b[0m", visible(&text)))?;
                    }
                }
                OutputPart::Content(text) => {
                    if self.pretty && std::mem::take(&mut self.reasoned) {
                        raw("\n\n")?;
                    }
                    if self.pretty {
                        answer(&text)?;
                    }
                    self.content.push_str(&text);
                }
                // No tool is offered here, so none is looked for.
                OutputPart::Call(_) => {}
            }
        }
        Ok(())
    }

    /// Ends the answer's line; returns the answer without its thinking.
    ///
    /// # Errors
    /// Stdout cannot be written.
    pub(super) fn finish(mut self) -> Result<String> {
        let parts = self.parser.finish(false);
        self.print_parts(parts)?;
        raw("\n")?;
        Ok(self.content.trim().to_owned())
    }
}
