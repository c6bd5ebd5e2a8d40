//! From a stage's `DataConfig` to tokenised rows: hash the source, find or make its cache, split.
//!
//! Next: `loader`.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::chat::{self, ChatOptions};
use super::config::{
    DataConfig, DataFormat, DataSource, OnBadRow, SyntheticConfig, SyntheticSplit, Validation,
};
use super::dataset::Dataset;
use super::facts::DataFacts;
use super::jsonl::{self, RowError, RowFault};
use super::mixture;
use super::preference;
use super::progress::{Progress, Total, count_read};
use super::prompts;
use super::random::SplitMix64;
use super::reader::{self, FileKind};
use super::selection::{self, Filter, Filtered, RowSelection};
use super::shapes::Tally;
use super::source::{self, SourceLines};
use super::synthetic;
use super::text;
use super::token_cache::{self, Encoded, TokenCache, TokenizedRow};
use super::token_file::TokenFiles;
use super::tokenizer::{Tokenizer, chat_row};
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
    if let DataSource::Mixture(parts) = &config.source {
        let mut mixed = mixture::prepare(parts, config, ctx, prepare)?;
        if let Validation::Path(path) = &config.validation {
            let other = config.beside(DataSource::Paths(vec![path.clone()]));
            mixed.validation = Some(load(&other, ctx)?.rows);
        }
        return Ok(mixed);
    }
    let whole = load(config, ctx)?;
    let (train, validation) = match &config.validation {
        Validation::Off => (whole.rows.clone(), None),
        Validation::Path(path) => {
            let other = load(&config.beside(DataSource::Paths(vec![path.clone()])), ctx)?;
            (whole.rows.clone(), Some(other.rows))
        }
        Validation::Heldout => {
            let DataSource::Synthetic(world) = &config.source else {
                return Err(Error::input("held-out questions are the built-in world's").hint("name a file"));
            };
            let other = SyntheticConfig { rows: None, split: SyntheticSplit::Heldout, ..world.clone() };
            let other = config.beside(DataSource::Synthetic(other));
            (whole.rows.clone(), Some(load(&other, ctx)?.rows))
        }
        Validation::Share(share) => split(&whole.rows, *share, ctx.seed)?,
    };
    let lens = || (0..train.len()).map(|i| train.row_len(i));
    let losses = || (0..train.len()).map(|i| train.loss_tokens(i));
    let facts = DataFacts {
        rows: train.len(),
        skipped_rows: whole.skipped,
        filtered: selection::by_reason(whole.filtered),
        tokens: lens().sum(),
        loss_tokens: losses().sum(),
        rows_without_loss: losses().filter(|n| *n == 0).count(),
        longest: lens().max().unwrap_or(0),
        bytes: whole.bytes,
        content_hash: whole.hash,
        parts: Vec::new(),
    };
    Ok(PreparedData { train, validation, facts })
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
    filtered: Filtered,
    bytes: u64,
    hash: String,
}

/// The rows of a source that is no mixture.
fn load(config: &DataConfig, ctx: &PrepareContext) -> Result<LoadedSource> {
    let source = &config.source;
    let (hash, bytes) = hash_source(source, config.format)?;
    if config.format == DataFormat::Tokens {
        let DataSource::Paths(paths) = source else {
            return Err(Error::input("the built-in world has no tokens format")
                .hint("use format: text, chat or preference"));
        };
        let rows = Dataset::tokens(TokenFiles::open(paths)?);
        return Ok(LoadedSource { rows, skipped: 0, filtered: Filtered::default(), bytes, hash });
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
    let RowSelection { limit, filter, .. } = &config.select;
    if limit.is_some() || !filter.is_default() {
        key.update(format!("|{limit:?} {filter:?}"));
    }
    // The same bytes under another ending are other rows.
    if let DataSource::Paths(paths) = &config.source {
        for path in paths {
            let kind = reader::kind_of(path, &config.read)?;
            if kind != FileKind::JsonLines {
                key.update(format!("|{kind:?}"));
            }
        }
    }
    let path = ctx.cache_dir.join(format!("{}.rows", &hex(&key.finalize())[..32]));
    let cache = match TokenCache::open(&path) {
        Some(cache) => cache,
        None => build((&path, bytes), tokenizer, config, ctx)?,
    };
    let (skipped, filtered) = (cache.skipped, cache.filtered);
    let dropped: u32 = filtered.iter().sum();
    if cache.rows() == 0 {
        let fault = Error::input(match dropped {
            0 => format!("no usable row ({skipped} skipped)"),
            _ => format!("`filter` leaves no row ({})", reasons_in_words(filtered)),
        });
        return Err(source.at(fault.hint("look with `minimind data check FILE`")));
    }
    if dropped > 0 {
        tracing::info!(
            "{}: `filter` leaves out {dropped} of {} rows ({})",
            source.name(),
            cache.rows() + dropped as usize,
            reasons_in_words(filtered)
        );
    }
    let bytes = if matches!(source, DataSource::Synthetic(_)) { cache.source_bytes } else { bytes };
    let mut rows = Dataset::cached(cache, form == DataFormat::Preference);
    if let Some(some) = selection::sampled(config.select.sample, rows.len()) {
        tracing::info!("{}: a sample of {} of {} rows", source.name(), some.len(), rows.len());
        rows = rows.select(some);
    }
    Ok(LoadedSource { rows, skipped, filtered, bytes, hash })
}

fn reasons_in_words(filtered: Filtered) -> String {
    let all = selection::by_reason(filtered);
    all.iter().map(|(reason, count)| format!("{reason}: {count}")).collect::<Vec<_>>().join(", ")
}

fn build(
    (path, bytes): (&Path, u64),
    tokenizer: &Tokenizer,
    config: &DataConfig,
    ctx: &PrepareContext,
) -> Result<TokenCache> {
    let (format, skip) = (config.format, config.on_bad_row == OnBadRow::Skip);
    let SourceLines { files, lines } = source::lines(&config.source, format, &config.read);
    let lines = lines.take(config.select.limit.unwrap_or(usize::MAX));
    let total = match &config.source {
        DataSource::Synthetic(world) => Total::Rows(synthetic::row_count(world) as u64),
        DataSource::Paths(_) | DataSource::Mixture(_) => Total::Bytes(bytes),
    };
    let lines = Progress::new("tokenizing", total).of_rows(lines);
    let filter = Filter::new(&config.select.filter)?;
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
    let tally = Tally::default();
    let divided = config.divided_files();
    let cut = AtomicUsize::new(0);
    let cache = token_cache::build(path, lines, |line| {
        let divide = divided.get(source::file_and_number(line.number).0) == Some(&true);
        let encoded = tally.parse(&line.bytes, format, &config.read).map_err(RowError::Bad).and_then(|row| {
            check(&row, format)?;
            let row = encode_filtered(tokenizer, &row, line.number, (&options, format), (&filter, divide))?;
            cut.fetch_add(usize::from(matches!(row, Encoded::Pieces(_))), Relaxed);
            Ok(row)
        });
        match encoded {
            Ok(row) => Ok(row),
            Err(RowError::Bad(_)) if skip => Ok(Encoded::Skipped),
            Err(error) => {
                let (file, number) = source::file_and_number(line.number);
                Err(error.at(&files[file], number))
            }
        }
    })?;
    tally.finish(config, ctx.cache_dir).inspect_err(|_| _ = std::fs::remove_file(path))?;
    let cut = cut.into_inner();
    if cut > 0 {
        tracing::info!(
            "{cut} documents are longer than max_seq_len {}: they are divided, {} rows in all",
            ctx.max_seq_len,
            cache.rows()
        );
    }
    Ok(cache)
}

/// A row that a filter may leave out; its tokens are counted before it is cut.
fn encode_filtered(
    tokenizer: &Tokenizer,
    row: &Value,
    number: usize,
    (options, format): (&ChatOptions, DataFormat),
    (filter, divide): (&Filter, bool),
) -> Result<Encoded, RowError> {
    if let Some(reason) = filter.by_text(row) {
        return Ok(Encoded::Filtered(reason));
    }
    let most = options.max_seq_len;
    let needed = if divide { usize::MAX } else { most.max(filter.tokens_needed()) };
    let whole = ChatOptions { max_seq_len: needed, ..*options };
    let encoded = encode(tokenizer, row, number, &whole, format)?;
    if let Some(reason) = filter.by_tokens(encoded.ids.len()) {
        return Ok(Encoded::Filtered(reason));
    }
    let cut = whole.max_seq_len > most && encoded.ids.len() > most;
    if cut && divide {
        return Ok(Encoded::Pieces(text::pieces(tokenizer, encoded, most)?));
    }
    Ok(Encoded::Row(if cut { encode(tokenizer, row, number, options, format)? } else { encoded }))
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
        DataFormat::Prompts | DataFormat::Agent => prompts::check(row.clone(), format == DataFormat::Agent),
        DataFormat::Chat => {
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
        DataSource::Mixture(_) => return Err(Error::failed("the parts of a mixture are read one by one")),
        DataSource::Synthetic(config) => {
            hash.update(format!("synthetic {} {config:?} {format:?}", synthetic::VERSION));
        }
        DataSource::Paths(paths) => {
            if paths.is_empty() {
                return Err(Error::input("no data file is named").hint("add `data: {path: FILE}`"));
            }
            let size = |path: &PathBuf| std::fs::metadata(path).map_or(0, |about| about.len());
            let mut progress = Progress::new("reading", Total::Bytes(paths.iter().map(size).sum()));
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
                    count_read(read);
                    progress.update();
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
