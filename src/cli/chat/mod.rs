//! `minimind chat`: a conversation in the terminal, or line by line through a pipe.
//!
//! Answers go to stdout, everything else to stderr. Next: `commands` (what `/` lines do), `terminal`
//! (where lines come from and how answers look).

mod commands;
mod terminal;

use std::io::IsTerminal;

use serde_json::{Map, Value, json};

use super::open::{OpenArgs, Opened, SamplingArgs, open, stream};
use super::tokenizer::template_kwargs;
use crate::data::tokenizer::{RenderOptions, StreamDecoder};
use crate::error::{Error, Result};
use crate::rollout::{FinishReason, GenerateConfig, Generator};
use commands::{Command, HELP};
use terminal::{Input, Interrupts, Printer};

/// The model, and how its answers are drawn.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    open: OpenArgs,
    /// A system message.
    #[arg(long)]
    system: Option<String>,
    /// Let the model think first.
    #[arg(long)]
    thinking: bool,
    /// Variables for the chat template, a JSON object: '{"enable_thinking": false}'.
    #[arg(long, value_name = "JSON")]
    chat_template_kwargs: Option<String>,
    /// Most new tokens an answer.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
}

/// A conversation and the settings of its next answer.
#[derive(Debug)]
struct Session<'m> {
    opened: &'m Opened,
    generator: Generator<'m>,
    config: GenerateConfig,
    thinking: bool,
    kwargs: Map<String, Value>,
    system: Option<String>,
    turns: Vec<Value>,
}

/// Chats until `/quit` or the end of the input.
///
/// # Errors
/// The model or its tokenizer cannot be read. Answers that fail end a script's conversation, and are printed to a person.
pub fn run(args: Args) -> Result<()> {
    let config = GenerateConfig {
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.sampling()?,
        stop_ids: Vec::new(),
    };
    let kwargs = template_kwargs(args.chat_template_kwargs.as_deref())?;
    let opened = open(&args.open)?;
    opened.tokenizer()?;
    let config = GenerateConfig { stop_ids: opened.ends.clone(), ..config };
    let generator = opened.generator(None)?;
    let mut session = Session {
        opened: &opened,
        generator,
        config,
        thinking: args.thinking,
        kwargs,
        system: args.system,
        turns: Vec::new(),
    };
    let interrupts = Interrupts::install()?;
    let mut input = Input::open()?;
    if input.is_terminal() {
        eprintln!("{HELP}");
    }
    while let Some(line) = input.line()? {
        // An answer that fails does not end the conversation of a person; a script's does.
        let done = session.take(&line, &interrupts);
        match done {
            Ok(true) => break,
            Ok(false) => {}
            Err(error) if input.is_terminal() => eprintln!("{error}"),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

impl Session<'_> {
    /// Does what a line says; whether the conversation is over.
    fn take(&mut self, line: &str, interrupts: &Interrupts) -> Result<bool> {
        match Command::read(line) {
            Command::Nothing => {}
            Command::Quit => return Ok(true),
            Command::Help => eprintln!("{HELP}"),
            Command::Unknown(word) => eprintln!("unknown command {word}; {HELP}"),
            Command::Reset => self.turns.clear(),
            Command::System(text) => self.system = (!text.is_empty()).then(|| text.to_owned()),
            Command::Params(text) => commands::obey(commands::params(self, text)),
            Command::Save(path) => commands::obey(commands::save(self, path)),
            Command::Load(path) => commands::obey(commands::load(self, path)),
            Command::Retry => {
                while self.turns.last().is_some_and(|t| t["role"] == "assistant") {
                    self.turns.pop();
                }
                if self.turns.is_empty() {
                    eprintln!("[there is nothing to answer again]");
                } else {
                    // The same seed would give the same answer.
                    self.config.sampling.seed = self.config.sampling.seed.wrapping_add(1);
                    self.answer(interrupts)?;
                }
            }
            Command::Say(text) => {
                self.turns.push(json!({"role": "user", "content": text}));
                if let Err(error) = self.answer(interrupts) {
                    self.turns.pop();
                    return Err(error);
                }
            }
        }
        Ok(false)
    }

    /// Ids of the conversation; its oldest turns are forgotten where it no longer fits the model.
    fn prompt_ids(&mut self) -> Result<Vec<u32>> {
        let tokenizer = self.opened.tokenizer()?;
        let options = RenderOptions { open_thinking: self.thinking, ..RenderOptions::prompt() }
            .with_kwargs(self.kwargs.clone());
        loop {
            let mut messages = Vec::new();
            messages.extend(self.system.as_ref().map(|text| json!({"role": "system", "content": text})));
            messages.extend(self.turns.iter().cloned());
            let ids = tokenizer.encode(&tokenizer.apply_chat_template(
                &json!(messages),
                None,
                options.clone(),
            )?)?;
            if self.turns.len() < 3 || (ids.len() as i64) < self.opened.model.config().max_position_embeddings
            {
                return Ok(ids);
            }
            eprintln!("[the conversation no longer fits the model: its oldest turns are forgotten]");
            self.turns.drain(..2);
        }
    }

    fn answer(&mut self, interrupts: &Interrupts) -> Result<()> {
        let prompt = self.prompt_ids()?;
        let tokenizer = self.opened.tokenizer()?;
        let mut decoder = StreamDecoder::new(true);
        let mut printer = Printer::new(self.thinking);
        let held = interrupts.hold();
        let made = stream(&mut self.generator, &prompt, &self.config, None, &mut |id| {
            if held.asked() {
                return Ok(false);
            }
            printer.show(&decoder.push(tokenizer, id)?)?;
            Ok(true)
        })?;
        printer.show(&decoder.finish(tokenizer)?)?;
        let content = printer.finish()?;
        if std::io::stderr().is_terminal() {
            let end = match made.finish {
                FinishReason::Stop => "",
                FinishReason::Length => ", cut at the limit: /params max_new_tokens=N",
                FinishReason::Cancelled => ", stopped",
            };
            eprintln!("[{} tokens, {:.0} tokens/s{end}]", made.ids.len(), made.decode_tokens_per_s());
        }
        self.turns.push(json!({"role": "assistant", "content": content}));
        Ok(())
    }
}

/// A fault of what was typed after a command.
fn usage(what: impl Into<String>, hint: &str) -> Error {
    Error::input(what).hint(hint)
}
