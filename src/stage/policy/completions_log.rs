//! `completions.jsonl`: completions of some steps with their rewards.
//!
//! Grows like the metrics: a checkpoint keeps its length, and a resumed run truncates it to there.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::rollout::FinishReason;
use crate::rollout::rewards::Scores;

/// A completion.
#[derive(Debug)]
pub struct LoggedCompletion<'a> {
    /// From 1 over the whole run.
    pub step: u64,
    /// Rendered.
    pub prompt: &'a str,
    /// Generated text.
    pub completion: &'a str,
    /// Its rewards.
    pub scores: &'a Scores,
    /// Why it ended.
    pub finish: FinishReason,
}

/// The file.
#[derive(Debug)]
pub struct CompletionsLog {
    path: PathBuf,
    file: Option<File>,
    length: u64,
    /// Rows of a step that are kept.
    most: usize,
    /// Steps between kept ones.
    interval: u64,
}

impl CompletionsLog {
    /// A log that keeps nothing: that of a rank after the first.
    pub fn none() -> Self {
        Self { path: PathBuf::new(), file: None, length: 0, most: 0, interval: 1 }
    }

    /// Opens `folder/completions.jsonl`; counts as empty until [`Self::truncate`] gives a length. `most` rows of a step
    /// are kept, every `interval` steps.
    ///
    /// # Errors
    /// I/O faults.
    pub fn open(folder: &Path, most: usize, interval: u64) -> Result<Self> {
        let path = folder.join("completions.jsonl");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(|e| Error::io("open the log of completions", &path, e))?;
        Ok(Self { path, file: Some(file), length: 0, most, interval })
    }

    /// Whether the completions of a step (from 1) are logged.
    pub fn is_logged(&self, step: u64) -> bool {
        self.most > 0 && (step == 1 || step.is_multiple_of(self.interval))
    }

    /// Logs some of a step's completions, if it is one of those: the best, the worst, and the first ones.
    ///
    /// # Errors
    /// I/O faults.
    pub fn log<'a>(&mut self, rows: impl Iterator<Item = LoggedCompletion<'a>>) -> Result<()> {
        let rows: Vec<LoggedCompletion<'_>> = rows.collect();
        if !rows.first().is_some_and(|row| self.is_logged(row.step)) {
            return Ok(());
        }
        let mut text = String::new();
        for row in chosen(&rows, self.most) {
            let parts: serde_json::Map<String, Value> =
                row.scores.parts.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
            let line = json!({
                "step": row.step, "prompt": row.prompt, "completion": row.completion,
                "reward": row.scores.total, "rewards": parts,
                "truncated": row.finish == FinishReason::Length,
            });
            text += &format!("{line}\n");
        }
        let fault = |e| Error::io("write the log of completions", &self.path, e);
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.length == 0 {
            file.set_len(0).map_err(fault)?;
        }
        file.seek(SeekFrom::Start(self.length)).map_err(fault)?;
        file.write_all(text.as_bytes()).map_err(fault)?;
        self.length += text.len() as u64;
        Ok(())
    }

    /// The length of the file in bytes.
    pub fn position(&self) -> Value {
        json!(self.length)
    }

    /// Truncates the file to a [`Self::position`].
    ///
    /// # Errors
    /// I/O faults.
    pub fn truncate(&mut self, position: &Value) -> Result<()> {
        let fault = |e| Error::io("truncate the log of completions", &self.path, e);
        let Some(file) = &self.file else { return Ok(()) };
        let there = file.metadata().map_err(fault)?.len();
        self.length = position.as_u64().unwrap_or(0).min(there);
        file.set_len(self.length).map_err(fault)
    }

    /// The last `count` rows, for the summary.
    ///
    /// # Errors
    /// I/O faults.
    pub fn last(&mut self, count: usize) -> Result<Vec<Value>> {
        let fault = |e| Error::io("read the log of completions", &self.path, e);
        let mut text = String::new();
        let Some(file) = &mut self.file else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(0)).map_err(fault)?;
        file.take(self.length).read_to_string(&mut text).map_err(fault)?;
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(count);
        Ok(lines[from..].iter().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// The best, the worst, then the first ones, in their order.
fn chosen<'a, 'b>(rows: &'b [LoggedCompletion<'a>], most: usize) -> Vec<&'b LoggedCompletion<'a>> {
    let by = |a: &&usize, b: &&usize| rows[**a].scores.total.total_cmp(&rows[**b].scores.total);
    let all: Vec<usize> = (0..rows.len()).collect();
    let mut picked: Vec<usize> =
        [all.iter().max_by(by), all.iter().min_by(by)].into_iter().flatten().copied().collect();
    picked.extend(&all);
    let mut seen = std::collections::BTreeSet::new();
    for row in picked {
        if seen.len() < most {
            seen.insert(row);
        }
    }
    seen.into_iter().map(|row| &rows[row]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(total: f64) -> Scores {
        Scores { total, parts: vec![("length".into(), total)], failed: Vec::new() }
    }

    #[test]
    fn the_best_and_the_worst_are_kept_and_a_resumed_run_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let all: Vec<Scores> = [0.0, 0.5, -1.0, 2.0].map(scores).into();
        let keep = |log: &mut CompletionsLog, step: u64| {
            let rows = all.iter().map(|scores| LoggedCompletion {
                step,
                prompt: "p",
                completion: "c",
                scores,
                finish: FinishReason::Stop,
            });
            log.log(rows).unwrap();
        };
        let mut log = CompletionsLog::open(folder.path(), 3, 2).unwrap();
        (1..=3).for_each(|step| keep(&mut log, step));
        let rows = log.last(9).unwrap();
        let shown: Vec<_> =
            rows.iter().map(|r| (r["step"].as_u64().unwrap(), r["reward"].as_f64().unwrap())).collect();
        assert_eq!(shown, [(1, 0.0), (1, -1.0), (1, 2.0), (2, 0.0), (2, -1.0), (2, 2.0)]);
        let (position, whole) =
            (log.position(), std::fs::read(folder.path().join("completions.jsonl")).unwrap());
        keep(&mut log, 4);
        let mut again = CompletionsLog::open(folder.path(), 3, 2).unwrap();
        again.truncate(&position).unwrap();
        assert_eq!(std::fs::read(folder.path().join("completions.jsonl")).unwrap(), whole);
        assert_eq!(again.last(1).unwrap()[0]["step"], 2);
        // A new start forgets what was there.
        keep(&mut CompletionsLog::open(folder.path(), 1, 2).unwrap(), 2);
        let text = std::fs::read_to_string(folder.path().join("completions.jsonl")).unwrap();
        assert_eq!(text.lines().count(), 1);
    }
}
