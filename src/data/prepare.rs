//! From a stage's `DataConfig` to tokenised rows: hash the source, find or make its cache, split.
//!
//! Next: `loader`.

use std::io::Read;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::chat::{self, ChatOptions};
use super::config::{
    DataConfig, DataFormat, DataSource, OnBadRow, SyntheticConfig, SyntheticSplit, Validation,
};
use super::dataset::Dataset;
use super::jsonl::{self, RowError, RowFault};
use super::preference;
use super::random::SplitMix64;
use super::source::{self, SourceLines};
use super::synthetic;
use super::text;
use super::token_cache::{self, TokenCache, TokenizedRow};
use super::token_file::{TokenFile, TokenFiles};
use super::tokenizer::{Tokenizer, chat_row};
use super::{reader, shapes};
use crate::error::{Error, Result};
use crate::hash::hex;

/// What preparing needs beside the data's own settings.
#[derive(Debug)]
pub struct PrepareContext<'a> {
    /// Turns text into ids; not needed for token files.
    pub tokenizer: Option<&'a Tokenizer>,
    /// Rows are cut at this many tokens.
    pub max_seq_len: usize,
    /// Seed of validation rows and of random text changes.
    pub seed: u64,
    /// Where token caches lie.
    pub cache_dir: &'a Path,
    /// Chance of a system prompt before a chat without one.
    pub system_prompt_ratio: f64,
    /// Chance that empty think blocks stay.
    pub empty_think_ratio: f64,
}

/// What was read, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DataFacts {
    /// Rows for training.
    pub rows: usize,
    /// Rows left out as unusable.
    pub skipped_rows: usize,
    /// Tokens of the training rows.
    pub tokens: usize,
    /// Labels with loss.
    pub loss_tokens: usize,
    /// Rows without one: nothing is learned from them.
    pub rows_without_loss: usize,
    /// Tokens of the longest row.
    pub longest: usize,
    /// Bytes of the source.
    pub bytes: u64,
    /// SHA-256 of the source, in hex.
    pub content_hash: String,
}

impl DataFacts {
    /// Warns of rows without training targets.
    ///
    /// # Errors
    /// No row has a target.
    pub fn check_targets(&self, format: DataFormat, max_seq_len: usize) -> Result<()> {
        if self.rows_without_loss == 0 {
            return Ok(());
        }
        let cut = format != DataFormat::Tokens && self.longest >= max_seq_len;
        let why = match format {
            DataFormat::Tokens => "all their labels are -100".to_owned(),
            _ if cut => format!("rows are cut at max_seq_len {max_seq_len}, and no answer begins before it"),
            _ => "in no row does the chat template mark anything as said by the assistant".to_owned(),
        };
        if self.rows_without_loss == self.rows {
            return Err(Error::input("no training targets: every label is -100").because(why).hint(if cut {
                "raise max_seq_len; `minimind data stats` counts tokens"
            } else {
                "`minimind data show --tokenizer DIR FILE` shows which tokens carry loss"
            }));
        }
        tracing::warn!("{} of {} rows have no training targets: {why}", self.rows_without_loss, self.rows);
        Ok(())
    }
}

/// Rows to train and to validate on.
#[derive(Debug, Clone)]
pub struct PreparedData {
    /// Training rows.
    pub train: Dataset,
    /// Validation rows.
    pub validation: Option<Dataset>,
    /// Numbers of the training rows.
    pub facts: DataFacts,
}

/// The stage's rows: tokenised, or mapped from the token cache of an earlier run, then split into training and validation.
///
/// # Errors
/// A file is missing or a row is bad (input), no row is usable, `validation` leaves none to train on, or the cache cannot be
/// written.
pub fn prepare(config: &DataConfig, ctx: &PrepareContext) -> Result<PreparedData> {
    let whole = load(&config.source, config, ctx)?;
    let (train, validation) = match &config.validation {
        Validation::Off => (whole.rows.clone(), None),
        Validation::Path(path) => {
            let other = load(&DataSource::Paths(vec![path.clone()]), config, ctx)?;
            (whole.rows.clone(), Some(other.rows))
        }
        Validation::Heldout => {
            let DataSource::Synthetic(world) = &config.source else {
                return Err(Error::input("held-out questions are the built-in world's").hint("name a file"));
            };
            let other = SyntheticConfig { rows: None, split: SyntheticSplit::Heldout, ..world.clone() };
            (whole.rows.clone(), Some(load(&DataSource::Synthetic(other), config, ctx)?.rows))
        }
        Validation::Share(share) => split(&whole.rows, *share, ctx.seed)?,
    };
    let lens = || (0..train.len()).map(|i| train.row_len(i));
    let losses: Vec<usize> = (0..train.len()).map(|i| train.loss_tokens(i)).collect();
    let facts = DataFacts {
        rows: train.len(),
        skipped_rows: whole.skipped,
        tokens: lens().sum(),
        loss_tokens: losses.iter().sum(),
        rows_without_loss: losses.iter().filter(|&&n| n == 0).count(),
        longest: lens().max().unwrap_or(0),
        bytes: whole.bytes,
        content_hash: whole.hash,
    };
    Ok(PreparedData { train, validation, facts })
}

/// What a source is before it is tokenised, for `plan`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct QuickFacts {
    /// Rows, bad ones included (validation rows too).
    pub rows: usize,
    /// Bytes of the files; 0 for the built-in world.
    pub bytes: u64,
}

/// Counts rows and bytes in one pass over the lines, without a tokenizer.
///
/// # Errors
/// A file cannot be read.
pub fn quick_facts(config: &DataConfig) -> Result<QuickFacts> {
    let mut facts = QuickFacts { rows: 0, bytes: 0 };
    match &config.source {
        DataSource::Synthetic(world) => facts.rows = synthetic::row_count(world),
        DataSource::Paths(paths) => {
            for path in paths {
                facts.bytes += std::fs::metadata(path).map_err(|e| jsonl::missing(path, e))?.len();
                if config.format == DataFormat::Tokens {
                    facts.rows += TokenFile::open(path)?.rows;
                } else {
                    for line in reader::open(path, &config.read)? {
                        line?;
                        facts.rows += 1;
                    }
                }
            }
        }
    }
    Ok(facts)
}

fn split(rows: &Dataset, share: f64, seed: u64) -> Result<(Dataset, Option<Dataset>)> {
    let units = rows.len() / rows.micro_batch().unwrap_or(1);
    let held = (units as f64 * share).round() as usize;
    if held == 0 {
        return Ok((rows.clone(), None));
    }
    if held >= units {
        return Err(Error::input(format!(
            "validation takes {held} of {units} rows and leaves none to train on"
        ))
        .hint("lower `validation`, or name a validation file"));
    }
    let mut order: Vec<u32> = (0..units as u32).collect();
    SplitMix64::new(seed, 11).shuffle(&mut order);
    let mut train = order.split_off(held);
    train.sort_unstable();
    order.sort_unstable();
    Ok((rows.select(train), Some(rows.select(order))))
}

struct LoadedSource {
    rows: Dataset,
    skipped: usize,
    bytes: u64,
    hash: String,
}

fn load(source: &DataSource, config: &DataConfig, ctx: &PrepareContext) -> Result<LoadedSource> {
    let (hash, bytes) = hash_source(source, config.format)?;
    if config.format == DataFormat::Tokens {
        let DataSource::Paths(paths) = source else {
            return Err(Error::input("the built-in world has no tokens format")
                .hint("use format: text, chat or preference"));
        };
        return Ok(LoadedSource { rows: Dataset::tokens(TokenFiles::open(paths)?), skipped: 0, bytes, hash });
    }
    let tokenizer = ctx.tokenizer.ok_or_else(|| {
        Error::input("text rows need a tokenizer").hint("name one: `tokenizer: PATH`, or use format: tokens")
    })?;
    let mut key = Sha256::new();
    let skip = config.on_bad_row == OnBadRow::Skip;
    let form = config.format;
    // 3: the loss mask is found from the template, tools beside a conversation reach it, what it drops is a fault.
    key.update(format!("3|{hash}|{}|{form:?}|{}|{skip}", tokenizer.fingerprint(), ctx.max_seq_len));
    if form != DataFormat::Text {
        key.update(format!("|{}|{}|{}", ctx.seed, ctx.system_prompt_ratio, ctx.empty_think_ratio));
    }
    if !config.read.is_default() {
        key.update(format!("|{:?}", config.read));
    }
    let path = ctx.cache_dir.join(format!("{}.rows", &hex(&key.finalize())[..32]));
    let cache = match TokenCache::open(&path) {
        Some(cache) => cache,
        None => build(source, &path, tokenizer, config, ctx)?,
    };
    if cache.rows() == 0 {
        let fault = Error::input(format!("no usable row ({} skipped)", cache.skipped))
            .hint("look with `minimind data check FILE`");
        return Err(source.at(fault));
    }
    let skipped = cache.skipped;
    let bytes = if matches!(source, DataSource::Synthetic(_)) { cache.source_bytes } else { bytes };
    Ok(LoadedSource { rows: Dataset::cached(cache, form == DataFormat::Preference), skipped, bytes, hash })
}

fn build(
    source: &DataSource,
    path: &Path,
    tokenizer: &Tokenizer,
    config: &DataConfig,
    ctx: &PrepareContext,
) -> Result<TokenCache> {
    let (format, skip) = (config.format, config.on_bad_row == OnBadRow::Skip);
    let SourceLines { files, lines } = source::lines(source, format, &config.read);
    if matches!(format, DataFormat::Chat) && ctx.system_prompt_ratio > 0.0 && !tokenizer.renders_system() {
        tracing::info!(
            "the chat template shows no system prompt before an answer: none is put in front of rows"
        );
    }
    let options = ChatOptions {
        max_seq_len: ctx.max_seq_len,
        seed: ctx.seed,
        system_prompt_ratio: ctx.system_prompt_ratio,
        empty_think_ratio: ctx.empty_think_ratio,
    };
    token_cache::build(path, lines, |line| {
        let encoded =
            shapes::parse(&line.bytes, format, &config.read).map_err(RowError::Bad).and_then(|row| {
                check(&row, format)?;
                encode(tokenizer, &row, line.number, &options, format)
            });
        match encoded {
            Ok(row) => Ok(Some(row)),
            Err(RowError::Bad(_)) if skip => Ok(None),
            Err(error) => {
                let (file, number) = source::file_and_number(line.number);
                Err(error.at(&files[file], number))
            }
        }
    })
}

/// Tokens of a row that [`check`] has passed; `number` is its line.
///
/// # Errors
/// The row is bad, or the tokenizer cannot be used for this format.
pub(super) fn encode(
    tokenizer: &Tokenizer,
    row: &Value,
    number: usize,
    options: &ChatOptions,
    format: DataFormat,
) -> Result<TokenizedRow, RowError> {
    match format {
        // Rows of rollouts are read by `prompts`; seen as rows, they are conversations.
        DataFormat::Chat | DataFormat::Prompts | DataFormat::Agent => {
            chat::encode(tokenizer, row, number, options)
        }
        DataFormat::Preference => preference::encode(tokenizer, row, number, options),
        DataFormat::Text | DataFormat::Tokens => {
            Ok(text::encode(tokenizer, row["text"].as_str().unwrap_or_default(), options.max_seq_len)?)
        }
    }
}

/// Whether a row has the fields that its format needs.
///
/// # Errors
/// The field that is missing or wrong.
pub fn check(row: &Value, format: DataFormat) -> Result<(), RowFault> {
    match format {
        DataFormat::Chat | DataFormat::Prompts | DataFormat::Agent => {
            chat::conversations(row)?;
            chat_row::messages_and_tools(row).map(|_| ()).map_err(|e| chat_row::row_fault(&e))
        }
        DataFormat::Preference => preference::sides(row).map(|_| ()),
        DataFormat::Text | DataFormat::Tokens => text::text(row).map(|_| ()),
    }
}

/// SHA-256 in hex and bytes of the source.
fn hash_source(source: &DataSource, format: DataFormat) -> Result<(String, u64)> {
    let mut hash = Sha256::new();
    let mut bytes = 0u64;
    match source {
        DataSource::Synthetic(config) => {
            hash.update(format!("synthetic {} {config:?} {format:?}", synthetic::VERSION));
        }
        DataSource::Paths(paths) => {
            if paths.is_empty() {
                return Err(Error::input("no data file is named").hint("add `data: {path: FILE}`"));
            }
            let mut buffer = vec![0u8; 1 << 20];
            for path in paths {
                let mut file = crate::files::open(path).map_err(|e| jsonl::missing(path, e))?;
                let mut len = 0u64;
                loop {
                    let read = file.read(&mut buffer).map_err(|e| Error::io("read", path, e))?;
                    if read == 0 {
                        break;
                    }
                    hash.update(&buffer[..read]);
                    len += read as u64;
                }
                hash.update(len.to_le_bytes());
                bytes += len;
            }
        }
    }
    Ok((hex(&hash.finalize()), bytes))
}

#[cfg(test)]
mod tests;
