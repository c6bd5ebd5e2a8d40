//! `minimind data`: check a file row by row, count it, look at it, convert or divide it, or write the built-in world; one file a command.
//!
//! Results go to stdout; the faults of `check` come back as one error, exit code 2.

mod check;
mod clean;
mod convert;
pub(super) mod rows_in;
mod rows_of;
mod show;
mod split;
mod stats;
mod synth;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde::Serialize;

use crate::data::source::SourceLines;
use crate::data::{DataFormat, ReadOptions, TextSplit, reader};
use crate::error::{Error, Result};
use crate::plan::Machine;

/// What `minimind data` was asked to do.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Name every row that cannot be used (exit 2 if there is one), and find repeats, overlap, odd characters, lengths
    Check(check::Args),
    /// Count rows, bytes and (with a tokenizer) tokens
    Stats(stats::Args),
    /// Print the first rows; with a tokenizer, which of their tokens carry loss
    Show(show::Args),
    /// Write rows into a file of another kind
    Convert(convert::Args),
    /// Divide rows into a part to train on and parts to validate and test on
    Split(split::Args),
    /// Write the rows that are worth keeping: no repeats, no overlap with held-out files, no odd characters
    Clean(clean::Args),
    /// Write rows of the built-in world
    Synth(synth::Args),
}

/// Checks, counts, shows or writes a data file.
///
/// # Errors
/// A file cannot be read or written. `check` returns every bad row as one input error (exit code 2).
pub fn run(args: Args) -> Result<()> {
    match args.command {
        Command::Check(args) => check::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Show(args) => show::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Split(args) => split::run(args),
        Command::Clean(args) => clean::run(&args),
        Command::Synth(args) => synth::run(args),
    }
}

/// How files are read.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ReadArgs {
    /// The file's own names of columns, by what they are: prompt=Frage,response=Antwort
    #[arg(long, value_name = "NAME=OWN", value_delimiter = ',', value_parser = column)]
    columns: Vec<(String, String)>,
    /// The encoding of the files, such as gbk; default: UTF-8, or UTF-16 by its byte order mark
    #[arg(long, value_name = "NAME")]
    encoding: Option<String>,
    /// Where documents of text files end: line, paragraph, marker (<|endoftext|>) or marker=TEXT; default: a file is one
    #[arg(long, value_name = "HOW")]
    split: Option<String>,
}

fn column(text: &str) -> Result<(String, String), String> {
    let (name, own) = text.split_once('=').ok_or("write NAME=OWN, such as prompt=Frage")?;
    if !crate::data::shapes::is_column(name) {
        return Err(format!("unknown column {name}; known: {}", crate::data::shapes::COLUMNS.join(", ")));
    }
    Ok((name.to_owned(), own.to_owned()))
}

impl ReadArgs {
    pub(super) fn options(&self) -> Result<ReadOptions> {
        let by_word = |word: &str| match word.strip_prefix("marker=").filter(|text| !text.is_empty()) {
            Some(text) => Some(TextSplit::Marker(text.to_owned())),
            None => TextSplit::by_word(word),
        };
        let split = self.split.as_deref().map(|word| {
            by_word(word).ok_or_else(|| {
                Error::input(format!("--split is `{word}`")).hint("line, paragraph, marker or marker=TEXT")
            })
        });
        self.encoding.as_deref().map(reader::bytes::encoding).transpose()?;
        Ok(ReadOptions {
            columns: self.columns.iter().cloned().collect(),
            encoding: self.encoding.clone(),
            split: split.transpose()?,
        })
    }
}

/// The data files behind a name: a file, a folder's, a pattern's, a data set's on a hub, or standard input (`-`); what
/// is left out is said.
///
/// # Errors
/// There is none, it cannot be downloaded, or standard input cannot be kept.
fn files(name: &Path) -> Result<Vec<PathBuf>> {
    if name == Path::new(reader::STANDARD_INPUT) {
        return Ok(vec![reader::keep_standard_input(&Machine::detect().cache_dir)?]);
    }
    if let Some(files) = super::pull::data_set(name)? {
        return Ok(files);
    }
    let found = reader::find(name)?;
    if let Some(names) = found.left_out() {
        tracing::info!("{}: left out, as no data: {names}", name.display());
    }
    Ok(found.files)
}

/// The data files behind several names.
///
/// # Errors
/// As [`files`].
fn all_files(names: &[PathBuf]) -> Result<Vec<PathBuf>> {
    Ok(names.iter().map(|name| files(name)).collect::<Result<Vec<_>>>()?.concat())
}

/// The rows of the data files behind a name.
///
/// # Errors
/// As [`files`], and the first one cannot be opened.
fn rows(name: &Path, options: &ReadOptions) -> Result<SourceLines> {
    let files = files(name)?;
    if let Some(first) = files.first() {
        drop(reader::open(first, options)?);
    }
    Ok(rows_in::lines(&files, options))
}

/// Prints one indented JSON value to stdout.
///
/// # Errors
/// The value cannot be written as JSON.
fn print_json(value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_string_pretty(value).map_err(|e| Error::failed("cannot write JSON").because(e))?;
    println!("{text}");
    Ok(())
}

/// Whether a file holds token ids (`.safetensors`) and not JSON rows.
fn is_tokens(file: &Path) -> bool {
    file.extension().is_some_and(|e| e == "safetensors")
}

/// A format's name for people; `text` where no row has told the format yet.
fn kind_of(format: Option<DataFormat>) -> &'static str {
    match format {
        Some(DataFormat::Chat) => "chat",
        Some(DataFormat::Preference) => "preference",
        Some(DataFormat::Prompts) => "prompts",
        Some(DataFormat::Agent) => "agent",
        Some(DataFormat::Tokens) => "tokens",
        Some(DataFormat::Text) | None => "text",
    }
}
