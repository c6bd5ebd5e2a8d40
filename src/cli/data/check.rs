//! `minimind data check`: names every row that cannot be used.

use std::path::{Path, PathBuf};

use super::{is_tokens, kind_of, print_json};
use crate::cli::vocabulary;
use crate::data::jsonl::{self, RowError};
use crate::data::token_file::TokenFile;
use crate::data::{DataFormat, ReadOptions, RowCheck, reader, shapes};
use crate::error::{Error, Place, Result};

/// Faults shown in full; more are only counted.
const SHOWN_FAULTS: usize = 1000;

/// Which file is checked, and against what tokenizer.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A .jsonl or .safetensors file
    file: PathBuf,
    /// Folder with tokenizer.json, whose chat template rows must pass; default: this program's own template
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

/// Checks a file row by row.
///
/// # Errors
/// The file cannot be read; or every bad row, as one input error (exit code 2).
pub fn run(args: &Args) -> Result<()> {
    check(&args.file, args.tokenizer.as_deref(), args.json)
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
            format = format.or(shapes::format_of(&row, &options));
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
