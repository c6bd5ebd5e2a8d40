//! The tokenizer stage: byte-level BPE learned from a stage's text.

use std::path::Path;

use serde_json::json;

use super::context::{Context, StageResult};
use crate::data::tokenizer::{TrainOptions, train_with};
use crate::data::{self, DataSource};
use crate::error::{Error, Result};
use crate::plan::TokenizerConfig;

/// Trains a tokenizer and writes it into `folder`.
///
/// # Errors
/// Data that cannot be read or holds no text; a signal.
pub fn run(context: &Context<'_>, config: &TokenizerConfig, folder: &Path) -> Result<StageResult> {
    let texts = data::source::texts(&config.data)?;
    let mut left = config.max_bytes.unwrap_or(u64::MAX);
    let signals = context.signals.clone();
    let limited = texts.map_while(move |text| {
        if let Some(signal) = signals.requested() {
            return Some(Err(Error::interrupted(
                signal,
                "the tokenizer stage was stopped before it was done",
            )));
        }
        let text = match text {
            Ok(text) => text,
            Err(error) => return Some(Err(error)),
        };
        if left == 0 {
            return None;
        }
        left = left.saturating_sub(text.len() as u64);
        Some(Ok(text))
    });
    let options = TrainOptions {
        vocab_size: config.vocab_size,
        special_tokens: config.special_tokens.clone(),
        min_frequency: config.min_frequency,
        normalizer: config.normalizer,
    };
    let report = train_with(limited, &options, folder)?;
    if report.texts == 0 {
        return Err(
            Error::input("the tokenizer's data holds no text").hint("look at it with minimind data stats")
        );
    }
    let mut notes = Vec::new();
    if report.vocab_size < config.vocab_size {
        let (asked, found) = (config.vocab_size, report.vocab_size);
        let note = format!("vocab_size is {asked}, but the text has merges for {found} tokens only");
        tracing::warn!("{note}; more text, or other text, has more");
        notes.push(note);
    }
    if let DataSource::Mixture(parts) = &config.data.source
        && parts.iter().any(|part| part.weight.is_some() || part.epochs != 1.0)
    {
        tracing::info!("a tokenizer reads every row of a mixture once, whatever its weights");
    }
    let source = match &config.data.source {
        source @ (DataSource::Synthetic(_) | DataSource::Mixture(_)) => source.name(),
        DataSource::Paths(paths) => {
            paths.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(", ")
        }
    };
    let name = folder.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(StageResult {
        outputs: vec![format!("{name}/tokenizer.json"), format!("{name}/tokenizer_config.json")],
        summary: json!({
            "metrics": {"vocab_size": report.vocab_size},
            "notes": notes,
            "data": {"source": source, "rows": report.texts, "bytes": report.bytes},
        }),
        ..StageResult::default()
    })
}
