//! `minimind data stats`: counts rows, bytes and (with a tokenizer) tokens.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{ReadArgs, is_tokens, kind_of, print_json, rows};
use crate::cli::vocabulary;
use crate::data::jsonl::{self, RowError};
use crate::data::token_file::TokenFile;
use crate::data::{DataFormat, ReadOptions, RowCheck, shapes};
use crate::error::{Error, Result};

/// Which file is counted, and with what tokenizer.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A data file, a folder of them, a pattern, - for standard input, or a .safetensors file
    file: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    /// Folder with tokenizer.json
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// Counts a file.
///
/// # Errors
/// The file or the tokenizer cannot be read.
pub fn run(args: &Args) -> Result<()> {
    stats(&args.file, &args.read.options()?, args.tokenizer.as_deref(), args.json)
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

fn stats(file: &Path, options: &ReadOptions, tokenizer: Option<&Path>, json: bool) -> Result<()> {
    let found = if is_tokens(file) { token_stats(file)? } else { row_stats(file, options, tokenizer)? };
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

fn row_stats(file: &Path, options: &ReadOptions, tokenizer: Option<&Path>) -> Result<Stats> {
    let look = RowCheck::new(tokenizer.map(vocabulary::load).transpose()?)?;
    let mut found = Stats { kind: "text", ..Stats::default() };
    let (mut format, mut tokens, mut longest) = (None, 0, 0);
    for line in rows(file, options)?.lines {
        let line = line?;
        found.bytes += line.bytes.len() as u64 + 1;
        let length = jsonl::parse(&line.bytes).map_err(RowError::Bad).and_then(|row| {
            format = format.or(shapes::format_of(&row, options));
            let known = format.unwrap_or(DataFormat::Text);
            look.length(&shapes::convert(row, known, options)?, known)
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
