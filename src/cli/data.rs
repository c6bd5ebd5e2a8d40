//! `minimind data`: check a file row by row, count it, look at it, or write the built-in world.
//!
//! Results go to stdout; the faults of `check` come back as one error, exit code 2.

use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};
use serde::Serialize;

use super::vocabulary;
use crate::atomic;
use crate::data::jsonl::{self, RowError};
use crate::data::synthetic::{self, SyntheticKind};
use crate::data::token_file::TokenFile;
use crate::data::{
    DataFormat, ReadOptions, RowCheck, SyntheticConfig, SyntheticSplit, SyntheticTask, reader, shapes, source,
};
use crate::error::{Error, Place, Result};

/// Faults shown in full; more are only counted.
const SHOWN_FAULTS: usize = 1000;

/// What `minimind data` was asked to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name every row that cannot be used; exit 2 if there is one
    Check {
        /// A .jsonl or .safetensors file
        file: PathBuf,
        /// Folder with tokenizer.json, whose chat template rows must pass; default: this program's own template
        #[arg(long, value_name = "DIR")]
        tokenizer: Option<PathBuf>,
        /// Print one JSON value
        #[arg(long)]
        json: bool,
    },
    /// Count rows, bytes and (with a tokenizer) tokens
    Stats {
        /// A .jsonl or .safetensors file
        file: PathBuf,
        /// Folder with tokenizer.json
        #[arg(long, value_name = "DIR")]
        tokenizer: Option<PathBuf>,
        /// Print one JSON value
        #[arg(long)]
        json: bool,
    },
    /// Print the first rows; with a tokenizer, which of their tokens carry loss
    Show(super::data_show::Args),
    /// Write rows of the built-in world
    Synth {
        /// The file to write
        #[arg(value_name = "FILE", required_unless_present = "out", conflicts_with = "out")]
        file: Option<PathBuf>,
        /// Shape of rows
        #[arg(long, default_value = "chat")]
        kind: KindArg,
        /// The same as FILE
        #[arg(long, value_name = "FILE", hide = true)]
        out: Option<PathBuf>,
        /// Rows; default: 12000 for train, 200 for heldout
        #[arg(long)]
        rows: Option<usize>,
        /// The same seed makes the same world
        #[arg(long, default_value_t = 42)]
        seed: u64,
        /// Questions of one split never occur in the other
        #[arg(long, default_value = "train")]
        split: SplitArg,
    },
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum KindArg {
    Text,
    Chat,
    Preference,
    Prompts,
    Agent,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SplitArg {
    Train,
    Heldout,
}

/// Checks, counts, shows or writes a data file.
///
/// # Errors
/// A file cannot be read or written. `check` returns every bad row as one input error (exit code 2).
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Check { file, tokenizer, json } => check(&file, tokenizer.as_deref(), json),
        Command::Stats { file, tokenizer, json } => stats(&file, tokenizer.as_deref(), json),
        Command::Show(args) => super::data_show::run(args),
        Command::Synth { file, kind, out, rows, seed, split } => {
            let out = file.or(out).ok_or_else(|| Error::input("name the file to write"))?;
            synth(kind, &out, rows, seed, split)
        }
    }
}

/// Prints one indented JSON value to stdout.
///
/// # Errors
/// The value cannot be written as JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Error::failed("cannot write JSON").because(e))?;
    println!("{text}");
    Ok(())
}

/// Whether a file holds token ids (`.safetensors`) and not JSON rows.
pub(super) fn is_tokens(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "safetensors")
}

/// A format's name for people; `text` where no row has told the format yet.
pub(super) fn kind_of(format: Option<DataFormat>) -> &'static str {
    match format {
        Some(DataFormat::Chat) => "chat",
        Some(DataFormat::Preference) => "preference",
        Some(DataFormat::Prompts) => "prompts",
        Some(DataFormat::Agent) => "agent",
        Some(DataFormat::Tokens) => "tokens",
        Some(DataFormat::Text) | None => "text",
    }
}

fn check(file: &Path, tokenizer: Option<&Path>, json: bool) -> Result<()> {
    if is_tokens(file) {
        let tokens = TokenFile::open(file)?;
        if json {
            return print_json(&serde_json::json!({"kind": "tokens", "rows": tokens.rows, "faults": 0}));
        }
        println!("{} rows of {} tokens, no fault", tokens.rows, tokens.row_len);
        return Ok(());
    }
    let look = RowCheck::new(tokenizer.map(vocabulary::load).transpose()?)?;
    let (mut good, mut bad, mut faults, mut format) = (0usize, 0usize, Vec::new(), None);
    let options = ReadOptions::default();
    for line in reader::open(file, &options)? {
        let line = line?;
        let usable = jsonl::parse(&line.bytes).map_err(RowError::Bad).and_then(|row| {
            // A file's first row that tells decides for all.
            format = format.or(source::format_of_row(&row));
            let known = format.unwrap_or(DataFormat::Text);
            look.check(&shapes::convert(row, known, &options)?, known)
        });
        match usable {
            Ok(()) => good += 1,
            Err(error) => {
                let fault = error.bad()?;
                bad += 1;
                if faults.len() < SHOWN_FAULTS {
                    faults.push(fault.at(file, line.number));
                }
            }
        }
    }
    let kind = kind_of(format);
    if json {
        print_json(&serde_json::json!({"kind": kind, "rows": good, "faults": bad}))?;
    } else {
        println!("{good} {kind} rows can be used, {bad} cannot");
    }
    if bad > faults.len() {
        faults.push(
            Error::input(format!("{} more rows cannot be used", bad - faults.len())).at(Place::file(file)),
        );
    }
    if good + bad == 0 {
        faults.push(Error::input("no rows").at(Place::file(file)).hint("one JSON object a line"));
    }
    Error::all(faults).map_or(Ok(()), Err)
}

#[derive(Debug, Default, Serialize)]
struct Stats {
    kind: &'static str,
    rows: usize,
    bad_rows: usize,
    bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    longest_tokens: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_tokens: Option<f64>,
}

fn stats(file: &Path, tokenizer: Option<&Path>, json: bool) -> Result<()> {
    let found = if is_tokens(file) { token_stats(file)? } else { row_stats(file, tokenizer)? };
    if json {
        return print_json(&found);
    }
    println!(
        "kind      {}\nrows      {}\nbad rows  {}\nbytes     {}",
        found.kind, found.rows, found.bad_rows, found.bytes
    );
    if let (Some(tokens), Some(longest), Some(mean)) = (found.tokens, found.longest_tokens, found.mean_tokens)
    {
        println!("tokens    {tokens}\nlongest   {longest}\nmean      {mean:.1}");
    }
    Ok(())
}

fn token_stats(file: &Path) -> Result<Stats> {
    let tokens = TokenFile::open(file)?;
    let bytes = std::fs::metadata(file).map_err(|e| Error::io("read", file, e))?.len();
    Ok(Stats {
        kind: "tokens",
        rows: tokens.rows,
        bytes,
        tokens: Some(tokens.rows * tokens.row_len),
        longest_tokens: Some(tokens.row_len),
        mean_tokens: Some(tokens.row_len as f64),
        ..Stats::default()
    })
}

fn row_stats(file: &Path, tokenizer: Option<&Path>) -> Result<Stats> {
    let look = RowCheck::new(tokenizer.map(vocabulary::load).transpose()?)?;
    let mut found = Stats { kind: "text", ..Stats::default() };
    let (mut format, mut tokens, mut longest) = (None, 0, 0);
    let options = ReadOptions::default();
    for line in reader::open(file, &options)? {
        let line = line?;
        found.bytes += line.bytes.len() as u64 + 1;
        let length = jsonl::parse(&line.bytes).map_err(RowError::Bad).and_then(|row| {
            format = format.or(source::format_of_row(&row));
            let known = format.unwrap_or(DataFormat::Text);
            look.length(&shapes::convert(row, known, &options)?, known)
        });
        match length {
            Ok(len) => {
                found.rows += 1;
                tokens += len;
                longest = longest.max(len);
            }
            Err(RowError::Bad(_)) => found.bad_rows += 1,
            Err(RowError::Failed(error)) => return Err(error),
        }
    }
    found.kind = kind_of(format);
    if tokenizer.is_some() {
        found.tokens = Some(tokens);
        found.longest_tokens = Some(longest);
        found.mean_tokens = Some(tokens as f64 / found.rows.max(1) as f64);
    }
    Ok(found)
}

fn synth(kind: KindArg, out: &Path, rows: Option<usize>, seed: u64, split: SplitArg) -> Result<()> {
    let split = match split {
        SplitArg::Train => SyntheticSplit::Train,
        SplitArg::Heldout => SyntheticSplit::Heldout,
    };
    let task = if matches!(kind, KindArg::Agent) { SyntheticTask::Tools } else { SyntheticTask::World };
    let kind = match kind {
        KindArg::Text => SyntheticKind::Text,
        KindArg::Chat | KindArg::Prompts | KindArg::Agent => SyntheticKind::Chat,
        KindArg::Preference => SyntheticKind::Preference,
    };
    let io = |e| Error::io("write", out, e);
    if let Some(folder) = out.parent() {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let mut count = 0usize;
    atomic::write_or_stream(out, |file| {
        for row in synthetic::rows(&SyntheticConfig { rows, seed, split, task }, kind) {
            writeln!(file, "{row}").map_err(io)?;
            count += 1;
        }
        Ok(())
    })?;
    println!("{count} rows in {}", out.display());
    Ok(())
}
