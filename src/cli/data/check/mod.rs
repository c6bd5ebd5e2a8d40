//! `minimind data check`: names every row that cannot be used, and what is odd about those that can.
//!
//! Rows that cannot be used are faults (exit code 2); findings are for people to judge (exit code 0). Next: `print` and `page`.

mod page;
mod print;

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::rows_of::{self, HeldOutFiles};
use super::{ReadArgs, is_tokens, kind_of, print_json};
use crate::atomic;
use crate::cli::vocabulary;
use crate::data::hygiene::survey::{Findings, Look};
use crate::data::hygiene::{Survey, SurveyOptions};
use crate::data::token_file::TokenFile;
use crate::data::{ReadOptions, RowCheck, source};
use crate::error::{Error, Place, Result};

/// Faults shown in full; more are only counted.
const SHOWN_FAULTS: usize = 1000;

/// Which files are checked, and against what.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data files, folders of them, patterns, - for standard input; or one .safetensors file of tokens
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// Folder with tokenizer.json, whose chat template rows must pass, and which counts tokens; default: this program's own
    /// template, and characters
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Held-out and benchmark files: rows that share 13 words (20 Chinese characters) with one of theirs are counted
    #[arg(long, value_name = "FILE", num_args = 1..)]
    against: Vec<PathBuf>,
    /// Where rows would be cut, in tokens
    #[arg(long, default_value_t = 340, value_parser = clap::value_parser!(u32).range(1..))]
    max_seq_len: u32,
    /// Rows of a micro-batch, for what batching pads
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
    /// Write a page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// What came out, as one value.
#[derive(Debug, Serialize)]
struct Report {
    /// The format of the last file, which is that of all in most cases.
    kind: &'static str,
    files: Vec<PathBuf>,
    /// Rows that can be used.
    rows: usize,
    /// Rows that cannot.
    faults: usize,
    #[serde(flatten)]
    findings: Findings,
}

/// Checks files row by row.
///
/// # Errors
/// A file cannot be read; or every bad row, as one input error (exit code 2).
pub fn run(args: &Args) -> Result<()> {
    if let Some(file) = args.files.iter().find(|file| is_tokens(file)) {
        if args.files.len() > 1 || args.html.is_some() || !args.against.is_empty() {
            return Err(Error::input("a file of tokens is checked alone, for its form")
                .at(Place::file(file))
                .hint("leave out --html, --against and the other files"));
        }
        return tokens(file, args.json);
    }
    let look = RowCheck::new(args.tokenizer.as_deref().map(vocabulary::load).transpose()?)?;
    let (files, read) = (super::all_files(&args.files)?, args.read.options()?);
    let mut held = HeldOutFiles::read(&super::all_files(&args.against)?, &read)?;
    let options = SurveyOptions {
        max_seq_len: args.max_seq_len as usize,
        batch_size: args.batch_size as usize,
        held_out: std::mem::take(&mut held.rows),
    };
    let mut checked = Checked::default();
    for (at, file) in files.iter().enumerate() {
        checked.file(at, file, &read, |row| {
            Ok((row.shape(&read), Look::at(&row.row, row.format, &look, &options)?))
        })?;
    }
    let place = |number: usize| {
        let (file, line) = source::file_and_number(number);
        format!("{}:{line}", files[file].display())
    };
    let report = Report {
        kind: checked.kind,
        files: files.clone(),
        rows: checked.good,
        faults: checked.bad,
        findings: checked.survey.findings(&options, &place, &|row| held.place(row)),
    };
    if let Some(path) = &args.html {
        let page = page::page(&report).into_string();
        atomic::write_or_stream(path, |out| {
            out.write_all(page.as_bytes()).map_err(|e| Error::io("write", path, e))
        })?;
    }
    if args.json {
        print_json(&report)?;
    } else {
        println!("{}", print::text(&report));
    }
    Error::all(checked.all_faults(&files)).map_or(Ok(()), Err)
}

fn tokens(file: &Path, json: bool) -> Result<()> {
    let tokens = TokenFile::open(file)?;
    if json {
        return print_json(&serde_json::json!({"kind": "tokens", "rows": tokens.rows, "faults": 0}));
    }
    println!("{} rows of {} tokens, no fault", tokens.rows, tokens.row_len);
    Ok(())
}

/// What is known so far.
#[derive(Debug, Default)]
struct Checked {
    good: usize,
    bad: usize,
    kind: &'static str,
    faults: Vec<Error>,
    survey: Survey,
}

impl Checked {
    fn file(
        &mut self,
        at: usize,
        path: &Path,
        read: &ReadOptions,
        look: impl Fn(&rows_of::ReadRow) -> Result<(&'static str, Look), crate::data::jsonl::RowError> + Sync,
    ) -> Result<()> {
        let before = self.good + self.bad;
        let format = rows_of::each(path, read, look, |line, seen| {
            match seen {
                Ok((shape, look)) => {
                    self.good += 1;
                    self.survey.add(source::number_of(at, line.number), shape, look);
                }
                Err(error) => {
                    let fault = error.bad()?;
                    self.bad += 1;
                    if self.faults.len() < SHOWN_FAULTS {
                        self.faults.push(fault.at(path, line.number));
                    }
                }
            }
            Ok(())
        })?;
        self.kind = kind_of(format);
        if self.good + self.bad == before {
            self.faults.push(Error::input("no rows").at(Place::file(path)).hint("one JSON object a line"));
        }
        Ok(())
    }

    fn all_faults(mut self, files: &[PathBuf]) -> Vec<Error> {
        if self.bad > SHOWN_FAULTS {
            let more = self.bad - SHOWN_FAULTS;
            self.faults
                .push(Error::input(format!("{more} more rows cannot be used")).at(Place::file(&files[0])));
        }
        self.faults
    }
}
