//! `minimind tokenizer`: trains a tokenizer, or shows what one does with a text, ids or messages.
//!
//! `render` and `decode` print the exact text; `encode` prints ids with spaces between, or JSON.
//! The work is in [`crate::data::tokenizer`].

mod compare;
mod train;

use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use super::vocabulary;
use crate::data::tokenizer::{RenderOptions, parse_kwargs};
use crate::error::{Error, Place, Result};

/// What `minimind tokenizer` was asked to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Train a byte-level BPE tokenizer on rows of any shape
    Train(train::Args),
    /// Compare tokenizers on the same texts: tokens by language and domain, unused ids, time
    Compare(compare::Args),
    /// Print the ids of a text
    Encode {
        /// A folder with tokenizer.json
        #[arg(long)]
        tokenizer: PathBuf,
        /// The text; standard input without it
        #[arg(long)]
        text: Option<String>,
        /// Print `{"ids": [...]}`
        #[arg(long)]
        json: bool,
    },
    /// Print the text of ids
    Decode {
        /// A folder with tokenizer.json
        #[arg(long)]
        tokenizer: PathBuf,
        /// Ids, with commas between
        #[arg(long, value_delimiter = ',', required = true)]
        ids: Vec<u32>,
        /// Leave special tokens out
        #[arg(long)]
        skip_special: bool,
        /// Print `{"text": "..."}`
        #[arg(long)]
        json: bool,
    },
    /// Print the prompt of a conversation, exactly and nothing more
    Render {
        /// A folder with tokenizer.json and a chat template
        #[arg(long)]
        tokenizer: PathBuf,
        /// A JSON file: the list of messages
        #[arg(long)]
        messages: PathBuf,
        /// A JSON file: the list of tools
        #[arg(long)]
        tools: Option<PathBuf>,
        /// Open an assistant turn at the end
        #[arg(long)]
        add_generation_prompt: bool,
        /// Open a think block in that turn
        #[arg(long)]
        thinking: bool,
        /// Variables for the template, a JSON object: '{"enable_thinking": false}'
        #[arg(long, value_name = "JSON")]
        chat_template_kwargs: Option<String>,
    },
}

/// Trains a tokenizer, or prints what one makes of a text, ids or messages.
///
/// # Errors
/// A file or the tokenizer cannot be read or written, or the messages do not fit the chat template.
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Train(args) => train::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Encode { tokenizer, text, json } => {
            let tokenizer = vocabulary::load(&tokenizer)?;
            let text = text.map_or_else(stdin, Ok)?;
            let ids = tokenizer.encode(&text)?;
            if json {
                return print(&format!("{}\n", json!({ "ids": ids })));
            }
            print(&(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ") + "\n"))
        }
        Command::Decode { tokenizer, ids, skip_special, json } => {
            let text = vocabulary::load(&tokenizer)?.decode(&ids, skip_special)?;
            if json {
                return print(&format!("{}\n", json!({ "text": text })));
            }
            print(&text)
        }
        Command::Render {
            tokenizer,
            messages,
            tools,
            add_generation_prompt,
            thinking,
            chat_template_kwargs,
        } => {
            let tokenizer = vocabulary::load(&tokenizer)?;
            let messages = read_json(&messages)?;
            let tools = tools.as_deref().map(read_json).transpose()?;
            let kwargs = template_kwargs(chat_template_kwargs.as_deref())?;
            let options = RenderOptions { add_generation_prompt, open_thinking: thinking, kwargs };
            print(&tokenizer.apply_chat_template(&messages, tools.as_ref(), options)?)
        }
    }
}

/// The variables of `--chat-template-kwargs`; empty without the flag.
///
/// # Errors
/// The text is not a JSON object.
pub(super) fn template_kwargs(text: Option<&str>) -> Result<Map<String, Value>> {
    text.map(parse_kwargs).transpose().map(Option::unwrap_or_default)
}

/// A pipe or a file gets the text byte for byte.
fn print(text: &str) -> Result<()> {
    crate::terminal::answer(text)
}

fn stdin() -> Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Error::input("standard input is not UTF-8 text").because(error))?;
    Ok(text)
}

fn read_json(path: &Path) -> Result<Value> {
    let bytes = crate::files::read(path).map_err(|error| Error::io("read the file", path, error))?;
    serde_json::from_slice(&bytes).map_err(|error| {
        Error::input("this is not JSON")
            .at(Place::line_column(path, error.line(), error.column()))
            .because(error)
    })
}
