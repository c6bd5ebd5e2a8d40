//! `minimind tokenizer train`: a tokenizer from the text of rows.

use std::path::PathBuf;

use crate::cli::data::ReadArgs;
use crate::data::tokenizer::{Normalizer, TrainOptions, train_with};
use crate::data::{DataConfig, DataFormat, source};
use crate::error::Result;

/// The texts, and what the training may choose.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Files with rows
    #[arg(long, required = true, num_args = 1.., value_name = "FILE")]
    data: Vec<PathBuf>,
    /// Ids in the vocabulary, the 36 reserved ones included
    #[arg(long, default_value_t = 6400)]
    vocab_size: usize,
    /// Special tokens beside the reserved ones; their ids come after those
    #[arg(long, num_args = 1.., value_name = "TOKEN")]
    special_tokens: Vec<String>,
    /// Pairs that come fewer times are not merged
    #[arg(long, default_value_t = 0, value_name = "N")]
    min_frequency: u64,
    /// Unicode's normal form of texts, in training and after: none, nfc, nfd, nfkc or nfkd
    #[arg(long, default_value = "none", value_name = "FORM", value_parser = normalizer, hide_possible_values = true)]
    normalizer: Normalizer,
    #[command(flatten)]
    read: ReadArgs,
    /// The folder to write
    #[arg(long)]
    out: PathBuf,
}

fn normalizer(text: &str) -> Result<Normalizer, String> {
    serde_json::from_value(text.into()).map_err(|_| "none, nfc, nfd, nfkc or nfkd".to_owned())
}

/// Trains the tokenizer and writes its folder.
///
/// # Errors
/// A file cannot be read or holds no text, a choice is impossible, or the folder cannot be written.
pub fn run(args: Args) -> Result<()> {
    let config = DataConfig { read: args.read.options()?, ..DataConfig::files(args.data, DataFormat::Text) };
    let options = TrainOptions {
        vocab_size: args.vocab_size,
        special_tokens: args.special_tokens,
        min_frequency: args.min_frequency,
        normalizer: args.normalizer,
    };
    let report = train_with(source::texts(&config)?, &options, &args.out)?;
    if report.vocab_size < options.vocab_size {
        let (found, asked) = (report.vocab_size, options.vocab_size);
        eprintln!("note: the text has merges for {found} tokens only, not {asked}");
    }
    println!(
        "{}: {} ids from {} texts, {} bytes",
        args.out.display(),
        report.vocab_size,
        report.texts,
        report.bytes
    );
    Ok(())
}
