//! `minimind data convert`: rows into a file of another kind.

use std::path::{Path, PathBuf};

use super::{ReadArgs, rows_in};
use crate::data::convert::Converter;
use crate::data::shapes::Shape;
use crate::data::writer::{self, OutRow, WriteOptions};
use crate::error::{Error, Result};
use crate::terminal;

/// What is read, and what is written.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders or patterns to read, one after another; - is standard input
    #[arg(value_name = "IN", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// The file to write, its kind by its ending: .jsonl, .json, .csv, .tsv, .txt, .parquet, .arrow, each but .parquet also
    /// with .gz, .zst, .xz or .bz2; - prints JSON lines
    #[arg(value_name = "OUT", required = true)]
    out: PathBuf,
    /// The shape of rows to write; without it they stay as they are
    #[arg(long, value_enum, value_name = "SHAPE")]
    to: Option<Shape>,
    #[command(flatten)]
    read: ReadArgs,
    /// Leave rows out that cannot be used, and count them
    #[arg(long)]
    skip_bad: bool,
    /// Replace OUT if it is there
    #[arg(long)]
    force: bool,
}

/// Writes the rows.
///
/// # Errors
/// A file cannot be read or written, OUT is there already, or it cannot hold a row.
pub fn run(args: Args) -> Result<()> {
    let read = args.read.options()?;
    let prints = args.out == Path::new("-");
    if !prints {
        writer::Target::of(&args.out)?;
        writer::check_free(&args.out, args.force)?;
    }
    if args.to.is_none() && !read.columns.is_empty() {
        return Err(Error::input("--columns names what a shape is made of, and rows stay as they are")
            .hint("say which shape to write: --to conversations, --to text, ..."));
    }
    let converter = Converter { to: args.to, read: read.clone() };
    let mut source = rows_in::lines(&rows_in::files(&args.files)?, &read);
    let mut skipped = 0;
    let mut rows = std::iter::from_fn(|| {
        loop {
            let line = match source.lines.next()? {
                Ok(line) => line,
                Err(error) => return Some(Err(error)),
            };
            let place = source.place(line.number);
            match converter.convert(&line) {
                Ok(bytes) => return Some(Ok(OutRow { place, bytes })),
                Err(_) if args.skip_bad => skipped += 1,
                Err(fault) => return Some(Err(fault.into_error().at(place))),
            }
        }
    });
    if prints {
        for row in rows {
            let text = String::from_utf8_lossy(&row?.bytes).replace(['\n', '\r'], " ");
            terminal::raw(&(text + "\n"))?;
        }
    } else {
        let options = WriteOptions { split: read.split.clone(), replace: args.force };
        let written = writer::write(&args.out, &mut rows, &options)?;
        written.notes.iter().for_each(|note| eprintln!("note: {note}"));
        println!("{} rows in {}", written.rows, args.out.display());
    }
    if skipped > 0 {
        eprintln!("note: {skipped} rows cannot be used and are left out");
    }
    Ok(())
}
