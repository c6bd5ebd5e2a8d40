//! `minimind chat`: a conversation in the terminal, or line by line through a pipe.

use std::io::{BufRead, IsTerminal, Write};
use std::ops::ControlFlow;

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};

use super::open::{OpenArgs, Opened, SamplingArgs, open};
use crate::data::tokenizer::{RenderOptions, StreamDecoder};
use crate::error::{Error, Result};
use crate::rollout::{GenerateConfig, generate};

/// Arguments.
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
    /// Most new tokens an answer.
    #[arg(long, default_value_t = 512)]
    max_new_tokens: usize,
    #[command(flatten)]
    sampling: SamplingArgs,
}

const HELP: &str = "/reset forgets the conversation, /system TEXT sets the system message, /retry answers again, /exit leaves";

/// Where lines come from.
enum Input {
    Terminal(Box<DefaultEditor>),
    Pipe,
}

impl Input {
    fn open() -> Result<Self> {
        if !std::io::stdin().is_terminal() {
            return Ok(Input::Pipe);
        }
        let editor =
            DefaultEditor::new().map_err(|e| Error::failed("cannot read the terminal").because(e))?;
        Ok(Input::Terminal(Box::new(editor)))
    }

    /// The next line; `None` at the end.
    fn line(&mut self) -> Result<Option<String>> {
        match self {
            Input::Terminal(editor) => match editor.readline("you> ") {
                Ok(line) => {
                    // A line that is not kept in the history is still answered.
                    let _ = editor.add_history_entry(&line);
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

/// Carries the command out.
pub fn run(args: Args) -> Result<()> {
    let config = GenerateConfig {
        max_new_tokens: args.max_new_tokens,
        sampling: args.sampling.sampling()?,
        eos_id: None,
    };
    let opened = open(&args.open)?;
    let eos_id = Some(opened.tokenizer()?.eos_id());
    let config = GenerateConfig { eos_id, ..config };
    let mut input = Input::open()?;
    let mut system = args.system.clone();
    let mut turns: Vec<Value> = Vec::new();
    if matches!(input, Input::Terminal(_)) {
        eprintln!("{HELP}");
    }
    while let Some(line) = input.line()? {
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => break,
            "/help" => eprintln!("{HELP}"),
            "/reset" => turns.clear(),
            "/retry" => {
                while turns.last().is_some_and(|t| t["role"] == "assistant") {
                    turns.pop();
                }
                if !turns.is_empty() {
                    answer(&opened, &args, &config, system.as_deref(), &mut turns)?;
                }
            }
            text if text.split_whitespace().next() == Some("/system") => {
                let rest = text["/system".len()..].trim();
                system = (!rest.is_empty()).then(|| rest.to_owned());
            }
            text if text.starts_with('/') => eprintln!("unknown command {text}; {HELP}"),
            text => {
                turns.push(json!({"role": "user", "content": text}));
                answer(&opened, &args, &config, system.as_deref(), &mut turns)?;
            }
        }
    }
    Ok(())
}

/// Ids of the conversation; its oldest turns are forgotten where it no longer fits the model.
fn prompt_ids(
    opened: &Opened,
    thinking: bool,
    system: Option<&str>,
    turns: &mut Vec<Value>,
) -> Result<Vec<u32>> {
    let tokenizer = opened.tokenizer()?;
    let options = RenderOptions { add_generation_prompt: true, open_thinking: thinking };
    loop {
        let mut messages = Vec::new();
        messages.extend(system.map(|text| json!({"role": "system", "content": text})));
        messages.extend(turns.iter().cloned());
        let ids = tokenizer.encode(&tokenizer.render(&json!(messages), None, options)?)?;
        if turns.len() < 3 || (ids.len() as i64) < opened.model.config().max_position_embeddings {
            return Ok(ids);
        }
        eprintln!("[the conversation no longer fits the model: its oldest turns are forgotten]");
        turns.drain(..2);
    }
}

fn answer(
    opened: &Opened,
    args: &Args,
    config: &GenerateConfig,
    system: Option<&str>,
    turns: &mut Vec<Value>,
) -> Result<()> {
    let tokenizer = opened.tokenizer()?;
    let prompt = prompt_ids(opened, args.thinking, system, turns)?;
    let mut decoder = StreamDecoder::new(true);
    let mut printer =
        Printer { dim: std::io::stdout().is_terminal(), thinking: args.thinking, whole: String::new() };
    let mut fault = None;
    let made = generate(&opened.model, &prompt, config, &mut |id| match decoder
        .push(tokenizer, id)
        .and_then(|text| printer.show(&text))
    {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => {
            fault = Some(error);
            ControlFlow::Break(())
        }
    })?;
    if let Some(error) = fault {
        return Err(error);
    }
    printer.show(&decoder.finish(tokenizer)?)?;
    println!();
    if std::io::stderr().is_terminal() {
        eprintln!("[{} tokens, {:.0} tokens/s]", made.ids.len(), made.decode_tokens_per_s());
    }
    let content = printer.whole.rsplit("</think>").next().unwrap_or_default().trim().to_owned();
    turns.push(json!({"role": "assistant", "content": content}));
    Ok(())
}

/// Streams an answer; thinking is dimmed on a terminal.
struct Printer {
    dim: bool,
    thinking: bool,
    whole: String,
}

impl Printer {
    fn show(&mut self, text: &str) -> Result<()> {
        self.whole.push_str(text);
        let mut out = std::io::stdout();
        let written = if self.dim && self.thinking {
            write!(out, "\x1b[2m{text}\x1b[0m")
        } else {
            write!(out, "{text}")
        };
        self.thinking &= !self.whole.contains("</think>");
        written.and_then(|()| out.flush()).map_err(|e| Error::failed("cannot write").because(e))
    }
}
