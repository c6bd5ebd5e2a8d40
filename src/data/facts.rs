//! What was read of a source, in numbers.
//!
//! Next: `prepare`, which counts.

use std::collections::BTreeMap;

use serde::Serialize;
use sha2::{Digest, Sha256};

use super::config::{DataConfig, DataFormat, DataSource};
use super::mixture::PartFacts;
use super::token_file::TokenFile;
use super::{jsonl, reader, selection, synthetic};
use crate::error::{Error, Result};
use crate::hash::hex;

/// What was read, in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DataFacts {
    /// Rows for training.
    pub rows: usize,
    /// Rows left out as unusable.
    pub skipped_rows: usize,
    /// Rows that a filter left out, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub filtered: BTreeMap<String, usize>,
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
    /// The parts of a mixture.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<PartFacts>,
}

impl DataFacts {
    /// The numbers of several sources together.
    pub(super) fn sum(all: &[Self]) -> Self {
        let of = |field: fn(&Self) -> usize| all.iter().map(field).sum();
        let mut filtered = BTreeMap::new();
        for (reason, count) in all.iter().flat_map(|facts| &facts.filtered) {
            *filtered.entry(reason.clone()).or_insert(0) += count;
        }
        let mut hash = Sha256::new();
        all.iter().for_each(|facts| hash.update(&facts.content_hash));
        Self {
            rows: of(|f| f.rows),
            skipped_rows: of(|f| f.skipped_rows),
            filtered,
            tokens: of(|f| f.tokens),
            loss_tokens: of(|f| f.loss_tokens),
            rows_without_loss: of(|f| f.rows_without_loss),
            longest: all.iter().map(|f| f.longest).max().unwrap_or(0),
            bytes: all.iter().map(|f| f.bytes).sum(),
            content_hash: hex(&hash.finalize()),
            parts: Vec::new(),
        }
    }

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
        DataSource::Mixture(_) => {
            for part in config.parts() {
                let own = quick_facts(&part)?;
                facts = QuickFacts { rows: facts.rows + own.rows, bytes: facts.bytes + own.bytes };
            }
        }
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
    facts.rows = facts.rows.min(config.select.limit.unwrap_or(usize::MAX));
    if let Some(some) = selection::sampled(config.select.sample, facts.rows) {
        facts.rows = some.len();
    }
    Ok(facts)
}
