//! `minimind bench data`: the whole of preparing a data file: read, unpacked, tokenised, written to a token cache.

use std::path::Path;
use std::time::Instant;

use serde_json::json;
use tch::Device;

use super::median;
use crate::cli::vocabulary;
use crate::data::prepare::{PrepareContext, prepare};
use crate::data::{DataConfig, source};
use crate::engine::memory::measure_peak;
use crate::error::{Error, Result};

/// How a file is prepared.
#[derive(Debug, Clone, Copy)]
pub struct Case<'a> {
    /// The file.
    pub file: &'a Path,
    /// The tokenizer's folder, or the name of a built-in one.
    pub tokenizer: &'a Path,
    /// Rows are cut at this many tokens.
    pub max_seq_len: usize,
    /// Times that it is prepared, each into a new cache; the median counts.
    pub repeat: u16,
}

/// Prepares a file and prints how long it took.
///
/// # Errors
/// The file or the tokenizer cannot be used, or the temporary folder has no room for the cache.
pub fn run(case: Case<'_>, as_json: bool) -> Result<()> {
    let tokenizer = vocabulary::load(case.tokenizer)?;
    let (format, _) = source::detect_format(case.file)?;
    let config = DataConfig::files(vec![case.file.to_owned()], format);
    let (mut seconds, mut last) = (Vec::new(), None);
    let (done, peak) = measure_peak(Device::Cpu, || -> Result<()> {
        for _ in 0..case.repeat {
            let folder =
                tempfile::tempdir().map_err(|e| Error::io("make a folder in", &std::env::temp_dir(), e))?;
            let context = PrepareContext {
                tokenizer: Some(&tokenizer),
                max_seq_len: case.max_seq_len,
                seed: 42,
                cache_dir: folder.path(),
                system_prompt_ratio: 0.0,
                empty_think_ratio: 1.0,
            };
            let clock = Instant::now();
            let facts = prepare(&config, &context)?.facts;
            seconds.push(clock.elapsed().as_secs_f64());
            last = Some(facts);
        }
        Ok(())
    });
    done?;
    let (facts, seconds) = (last.ok_or_else(|| Error::failed("nothing was measured"))?, median(seconds));
    if as_json {
        println!(
            "{}",
            json!({
                "rows": facts.rows, "tokens": facts.tokens, "file_bytes": facts.bytes, "seconds": seconds,
                "rows_per_s": facts.rows as f64 / seconds, "peak_mb": peak,
            })
        );
        return Ok(());
    }
    println!(
        "{} rows, {} tokens, {} bytes in {seconds:.2} s: {:.0} rows/s, {:.2} M tokens/s",
        facts.rows,
        facts.tokens,
        facts.bytes,
        facts.rows as f64 / seconds,
        facts.tokens as f64 / seconds / 1e6
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_prepared_and_one_that_is_not_there_is_a_fault() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rows.jsonl");
        std::fs::write(&file, "{\"text\": \"one\"}\n{\"text\": \"two\"}\n").unwrap();
        let tokenizer = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        let case = Case { file: &file, tokenizer: &tokenizer, max_seq_len: 64, repeat: 2 };
        run(case, true).unwrap();
        assert!(run(Case { file: Path::new("none.jsonl"), ..case }, false).is_err());
    }
}
