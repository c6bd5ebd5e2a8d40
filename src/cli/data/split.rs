//! `minimind data split`: rows into files to train, validate and test on.

use std::path::{Path, PathBuf};

use super::{ReadArgs, rows_in};
use crate::data::convert::Converter;
use crate::data::reader::FileKind;
use crate::data::split::{Part, PartSize, Split, Splitter};
use crate::data::writer::{self, OutRow, WriteOptions, spool::Spool};
use crate::error::{Error, Place, Result};

/// What is divided, and how.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files, folders or patterns to read, one after another; - is standard input
    #[arg(value_name = "IN", required = true, num_args = 1..)]
    files: Vec<PathBuf>,
    /// Rows to validate on: a share such as 0.05, or a number of rows
    #[arg(long, value_name = "N", default_value = "0.05")]
    valid: PartSize,
    /// Rows to test on: the same
    #[arg(long, value_name = "N", default_value = "0")]
    test: PartSize,
    /// Another seed chooses other rows
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// A folder for train, valid and test in the first file's kind; or a file's name such as rows.parquet, which gives
    /// rows.train.parquet and so on
    #[arg(long, value_name = "DIR|NAME")]
    out: PathBuf,
    #[command(flatten)]
    read: ReadArgs,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// Divides the rows; those with the same text stay together.
///
/// # Errors
/// A file cannot be read or written or is there already, a row is no JSON object, or nothing is left to train on.
pub fn run(mut args: Args) -> Result<()> {
    let read = args.read.options()?;
    args.files = rows_in::files(&args.files)?;
    let mut parts = vec![Part::Train, Part::Valid, Part::Test];
    let none = [PartSize::Rows(0), PartSize::Share(0.0)];
    parts.retain(|part| match part {
        Part::Train => true,
        Part::Valid => !none.contains(&args.valid),
        Part::Test => !none.contains(&args.test),
    });
    for part in &parts {
        let path = place(&args, *part);
        writer::Target::of(&path)?;
        writer::check_free(&path, args.force)?;
    }
    let first = place(&args, Part::Train);
    let folder = first.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).map_err(|e| Error::io("make the folder", folder, e))?;
    let (converter, mut splitter) = (Converter { to: None, read: read.clone() }, Splitter::new(args.seed));
    let (mut spool, mut source) = (Spool::new(folder)?, rows_in::lines(&args.files, &read));
    while let Some(line) = source.lines.next().transpose()? {
        let said = converter.said(&line).map_err(|fault| fault.into_error().at(source.place(line.number)));
        splitter.add(&said?);
        spool.push(line.bytes)?;
    }
    let (mut rows, split) = (spool.finish()?, splitter.choose(args.valid, args.test)?);
    for part in parts {
        let path = place(&args, part);
        let of_part = rows
            .rows()?
            .enumerate()
            .filter(|(i, _)| split.part(*i) == part)
            .map(|(i, row)| Ok(OutRow { place: Place::line("the rows read", i + 1), bytes: row? }));
        let options = WriteOptions { split: read.split.clone(), replace: args.force };
        let written = writer::write(&path, of_part, &options)?;
        written.notes.iter().for_each(|note| eprintln!("note: {note}"));
        println!("{:5} {} rows in {}", part.name(), written.rows, path.display());
    }
    repeated(&split);
    Ok(())
}

fn repeated(split: &Split) {
    if split.repeated > 0 {
        println!("{} rows have the text of another row and are in the same file as it", split.repeated);
    }
}

/// The file of a part.
fn place(args: &Args, part: Part) -> PathBuf {
    let (out, name) = (&args.out, part.name());
    if out.is_dir() || FileKind::by_name(out).is_none() {
        return out.join(format!("{name}{}", rows_in::ending(&args.files[0])));
    }
    let ending = rows_in::ending(out);
    let whole = out.file_name().unwrap_or_default().to_string_lossy();
    out.with_file_name(format!("{}.{name}{ending}", whole.strip_suffix(&ending).unwrap_or(&whole)))
}
