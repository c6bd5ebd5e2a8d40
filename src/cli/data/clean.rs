//! `minimind data clean`: writes the rows that are worth keeping, and says how many are left out for what.
//!
//! Rows stay as they were written. Each is looked at on its own, on any core; repeats are found in order, the first stays.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{SyncSender, sync_channel};

use clap::ValueEnum;

use super::rows_of::{self, HeldOutFiles, ReadRow};
use super::{ReadArgs, all_files, is_tokens, print_json};
use crate::cli::vocabulary;
use crate::data::hygiene::exact::{RowHash, row_hash};
use crate::data::hygiene::{ExactIndex, NearIndex, OddCharacters, Passages, Signature};
use crate::data::jsonl::RowError;
use crate::data::selection::{Filter, RowFilter};
use crate::data::writer::{self, OutRow, Target, WriteOptions, Written};
use crate::data::{ReadOptions, RowCheck, language};
use crate::error::{Error, Place, Result};

/// Rows that wait to be written.
const WAITING: usize = 256;

/// Which rows are left out, and where the others go.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data files, folders of them, patterns, - for standard input
    #[arg(value_name = "IN", required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    read: ReadArgs,
    /// The file to write; its ending names its kind
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Leave out rows that repeat an earlier one: exact (the same but for case and blanks) or near (also those that are
    /// almost the same)
    #[arg(long, value_name = "HOW", num_args = 0..=1, require_equals = true, default_missing_value = "near")]
    dedup: Option<Dedup>,
    /// Leave out rows that share 13 words (20 Chinese characters) with a row of this file; can be given again
    #[arg(long, value_name = "FILE")]
    drop_overlap: Vec<PathBuf>,
    /// Leave out rows with odd characters: control, U+FFFD, private use, zero width, mojibake
    #[arg(long)]
    drop_odd: bool,
    /// Leave out rows with fewer tokens
    #[arg(long, value_name = "N", requires = "tokenizer")]
    min_tokens: Option<usize>,
    /// Leave out rows with more tokens
    #[arg(long, value_name = "N", requires = "tokenizer")]
    max_tokens: Option<usize>,
    /// Leave out rows in other languages: zh, en, ... (can be given again)
    #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = code)]
    language: Vec<String>,
    /// Leave out rows in whose text this pattern is nowhere
    #[arg(long, value_name = "PATTERN")]
    regex: Option<String>,
    /// Folder with tokenizer.json, for counting tokens
    #[arg(long, value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Print one JSON value
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Dedup {
    Exact,
    Near,
}

fn code(name: &str) -> Result<String, String> {
    language::code_of(name).map(str::to_owned).ok_or_else(|| "a code such as zh, en, ja or deu".to_owned())
}

/// Rows left out, by reason, and those that are kept.
#[derive(Debug, Default)]
struct Counts {
    kept: usize,
    left_out: BTreeMap<&'static str, usize>,
}

/// What a row says of itself: why it is left out, or what repeats are found by.
enum Look {
    LeftOut(&'static str),
    Kept(RowHash, Option<Signature>),
}

/// Writes the rows that are kept.
///
/// # Errors
/// A file cannot be read or written; the file to write is there; a setting cannot be used.
pub fn run(args: &Args) -> Result<()> {
    check_arguments(args)?;
    let rules = Rules::new(args)?;
    let files = all_files(&args.files)?;
    let (written, counts) = write(args, &files, &rules)?;
    let all = counts.kept + counts.left_out.values().sum::<usize>();
    if args.json {
        return print_json(&serde_json::json!({
            "rows": all, "kept": counts.kept, "left_out": counts.left_out, "out": args.out,
        }));
    }
    println!("{} of {all} rows in {}", counts.kept, args.out.display());
    for (reason, rows) in &counts.left_out {
        println!("left out: {rows} {reason}");
    }
    for note in written.notes {
        println!("note: {note}");
    }
    Ok(())
}

/// Looks at rows in one thread and writes them in another, so that a file of any kind can take them as they come.
fn write(args: &Args, files: &[PathBuf], rules: &Rules) -> Result<(Written, Counts)> {
    let (send, rows) = sync_channel(WAITING);
    let options = WriteOptions { replace: args.force, ..WriteOptions::default() };
    std::thread::scope(|scope| {
        let look = scope.spawn(move || {
            let (mut counts, mut repeats) = (Counts::default(), Repeats::new(args.dedup));
            for file in files {
                if let Err(error) = rules.file(file, &mut repeats, &mut counts, &send) {
                    // The writer hands the error back; where it is gone, it has one of its own.
                    let _ = send.send(Err(error));
                    break;
                }
            }
            counts
        });
        let written = writer::write(&args.out, rows.into_iter(), &options);
        let counts = look.join().map_err(|_| Error::failed("looking at rows panicked"))?;
        Ok((written?, counts))
    })
}

fn check_arguments(args: &Args) -> Result<()> {
    Target::of(&args.out)?;
    writer::check_free(&args.out, args.force)?;
    if let Some(file) = args.files.iter().chain(&args.drop_overlap).find(|file| is_tokens(file)) {
        return Err(Error::input("a file of token ids holds no rows to look at").at(Place::file(file)));
    }
    Ok(())
}

/// What a row must be like.
struct Rules {
    look: RowCheck,
    filter: Filter,
    counts_tokens: bool,
    held: HeldOutFiles,
    drop_odd: bool,
    dedup: Option<Dedup>,
    read: ReadOptions,
}

impl Rules {
    fn new(args: &Args) -> Result<Self> {
        let filter = RowFilter {
            min_tokens: args.min_tokens,
            max_tokens: args.max_tokens,
            regex: args.regex.clone(),
            language: args.language.clone(),
        };
        let read = args.read.options()?;
        Ok(Self {
            look: RowCheck::new(args.tokenizer.as_deref().map(vocabulary::load).transpose()?)?,
            counts_tokens: filter.counts_tokens(),
            filter: Filter::new(&filter)?,
            held: HeldOutFiles::read(&all_files(&args.drop_overlap)?, &read)?,
            drop_odd: args.drop_odd,
            dedup: args.dedup,
            read,
        })
    }

    fn at(&self, read: &ReadRow) -> Result<Look, RowError> {
        self.look.check(&read.row, read.format)?;
        if let Some(reason) = self.filter.by_text(&read.row) {
            return Ok(Look::LeftOut(reason.name()));
        }
        if self.counts_tokens
            && let Some(reason) = self.filter.by_tokens(self.look.length(&read.row, read.format)?)
        {
            return Ok(Look::LeftOut(reason.name()));
        }
        let passages = Passages::of(&read.row);
        if self.drop_odd && OddCharacters::of(passages.all()).any() {
            return Ok(Look::LeftOut("odd characters"));
        }
        let near = self.dedup == Some(Dedup::Near);
        if !near && self.held.rows.is_empty() {
            return Ok(Look::Kept(row_hash(&passages), None));
        }
        let units = passages.units();
        if self.held.rows.overlap(&passages, &units).is_some() {
            return Ok(Look::LeftOut("overlap"));
        }
        Ok(Look::Kept(row_hash(&passages), if near { Signature::of(&units) } else { None }))
    }

    fn file(
        &self,
        file: &Path,
        repeats: &mut Repeats,
        counts: &mut Counts,
        out: &SyncSender<Result<OutRow>>,
    ) -> Result<()> {
        rows_of::each(
            file,
            &self.read,
            |row| self.at(row),
            |line, look| {
                let reason = match look {
                    Ok(Look::LeftOut(reason)) => Some(reason),
                    Ok(Look::Kept(hash, signature)) => repeats.add(hash, signature),
                    Err(error) => error.bad().map(|_| Some("cannot be used"))?,
                };
                match reason {
                    Some(reason) => *counts.left_out.entry(reason).or_default() += 1,
                    None => {
                        let row = OutRow { place: Place::line(file, line.number), bytes: line.bytes };
                        out.send(Ok(row)).map_err(|_| Error::failed("the rows cannot be written"))?;
                        counts.kept += 1;
                    }
                }
                Ok(())
            },
        )?;
        Ok(())
    }
}

/// The rows that are kept so far.
struct Repeats {
    dedup: Option<Dedup>,
    exact: ExactIndex,
    near: NearIndex,
    row: usize,
}

impl Repeats {
    fn new(dedup: Option<Dedup>) -> Self {
        Self { dedup, exact: ExactIndex::default(), near: NearIndex::default(), row: 0 }
    }

    /// Why a row is left out as a repeat.
    fn add(&mut self, hash: RowHash, signature: Option<Signature>) -> Option<&'static str> {
        self.dedup?;
        self.row += 1;
        if self.exact.add(self.row, hash).is_some() {
            return Some("exact duplicates");
        }
        let near = signature.and_then(|signature| self.near.add(self.row, &signature));
        near.map(|_| "near duplicates")
    }
}
