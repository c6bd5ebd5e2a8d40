//! `minimind data synth`: writes rows of the built-in world.

use std::path::{Path, PathBuf};

use clap::ValueEnum;

use crate::atomic;
use crate::data::synthetic::{self, SyntheticKind};
use crate::data::{SyntheticConfig, SyntheticSplit, SyntheticTask};
use crate::error::{Error, Result};

/// Which rows are written, and where.
#[derive(Debug, clap::Args)]
pub struct Args {
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

/// Writes the rows.
///
/// # Errors
/// The file cannot be written.
pub fn run(args: Args) -> Result<()> {
    let out = args.file.or(args.out).ok_or_else(|| Error::input("name the file to write"))?;
    synth(args.kind, &out, args.rows, args.seed, args.split)
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
