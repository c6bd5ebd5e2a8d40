//! A stage's rows: `metrics.jsonl` for everyone, `events.out.tfevents.*` for TensorBoard.
//!
//! Both files only grow. A checkpoint keeps how long they were ([`MetricsFile::position`]); a run that
//! resumes from it cuts them back to there, so its rows are those of a run that was never stopped.
//! What a killed process left half written is cut too. Next: `tfevents`, then `folder`, the reader.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

use super::tfevents;
use crate::error::{Error, Result};

/// One name for every start of a stage: TensorBoard then shows one curve.
const EVENTS: &str = "events.out.tfevents.0.minimind";

/// The two files of a stage, open at their ends.
#[derive(Debug)]
pub struct MetricsFile {
    stage: String,
    rows: Log,
    events: Log,
}

impl MetricsFile {
    /// Opens (and makes) `folder`'s files. `position` is what [`Self::position`] gave when the checkpoint
    /// that is gone on from was written; without one the files start empty.
    ///
    /// # Errors
    /// I/O faults.
    pub fn open(folder: &Path, stage: &str, position: Option<&Value>) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(|e| Error::io("make the stage's folder", folder, e))?;
        let kept = |key: &str| position.and_then(|p| p.get(key)).and_then(Value::as_u64).unwrap_or(0);
        let rows = Log::open(folder.join("metrics.jsonl"), kept("metrics_bytes"), whole_lines)?;
        let events = Log::open(folder.join(EVENTS), kept("events_bytes"), tfevents::whole_records)?;
        let mut file = Self { stage: stage.to_owned(), rows, events };
        if file.events.length == 0 {
            file.events.append(&tfevents::opening(now()))?;
        }
        Ok(file)
    }

    /// Keeps a row: `stage`, `epoch`, `step`, then `values` in order. A number that is not finite is
    /// written as `null` (JSON has no other word for it).
    ///
    /// # Errors
    /// I/O faults.
    pub fn row(&mut self, epoch: u64, step: u64, values: &[(&str, f64)]) -> Result<()> {
        let mut row = Map::new();
        row.insert("stage".to_owned(), json!(self.stage));
        row.insert("epoch".to_owned(), json!(epoch));
        row.insert("step".to_owned(), json!(step));
        for &(name, value) in values {
            row.insert(name.to_owned(), number(value));
        }
        let mut line = Value::Object(row).to_string();
        line.push('\n');
        self.rows.append(line.as_bytes())?;
        self.events.append(&tfevents::scalars(now(), step, values))
    }

    /// How long both files are, once what they hold is on the disk.
    ///
    /// # Errors
    /// I/O faults.
    pub fn position(&self) -> Result<Value> {
        for log in [&self.rows, &self.events] {
            log.file.sync_all().map_err(|e| Error::io("write metrics to the disk", &log.path, e))?;
        }
        Ok(json!({"metrics_bytes": self.rows.length, "events_bytes": self.events.length}))
    }
}

/// A file that grows by whole records.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Log {
    /// Keeps at most `kept` bytes of what is there, and of those only whole records.
    fn open(path: PathBuf, kept: u64, whole: fn(&[u8]) -> usize) -> Result<Self> {
        let fault = |e| Error::io("open metrics", &path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(fault)?;
        let mut bytes = Vec::new();
        (&mut file).take(kept).read_to_end(&mut bytes).map_err(fault)?;
        let length = whole(&bytes) as u64;
        if length < kept {
            tracing::warn!("{}: {} bytes of earlier rows are gone", path.display(), kept - length);
        }
        file.set_len(length).map_err(fault)?;
        file.seek(SeekFrom::Start(length)).map_err(fault)?;
        Ok(Self { path, file, length })
    }

    fn append(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write_all(bytes).map_err(|e| Error::io("write metrics", &self.path, e))?;
        self.length += bytes.len() as u64;
        Ok(())
    }
}

/// How many leading bytes are whole lines of JSON.
fn whole_lines(bytes: &[u8]) -> usize {
    let mut end = 0;
    for line in bytes.split_inclusive(|&b| b == b'\n') {
        if !line.ends_with(b"\n") || serde_json::from_slice::<Map<String, Value>>(line).is_err() {
            break;
        }
        end += line.len();
    }
    end
}

/// Whole numbers without `.0`, so that counts read as counts.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 9e15 { json!(value as i64) } else { json!(value) }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(folder: &Path, from: u64, to: u64, file: &mut MetricsFile) -> String {
        for step in from..=to {
            file.row(1, step, &[("loss", 4.0 / step as f64), ("tokens", step as f64 * 64.0)]).unwrap();
        }
        std::fs::read_to_string(folder.join("metrics.jsonl")).unwrap()
    }

    #[test]
    fn a_resumed_runs_rows_equal_an_uninterrupted_runs() {
        let (whole, cut) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wanted = rows(whole.path(), 1, 9, &mut MetricsFile::open(whole.path(), "sft", None).unwrap());
        let mut file = MetricsFile::open(cut.path(), "sft", None).unwrap();
        rows(cut.path(), 1, 4, &mut file);
        let position = file.position().unwrap();
        rows(cut.path(), 5, 7, &mut file);
        file.rows.append(b"{\"stage\": \"sf").unwrap();
        file.events.append(b"half").unwrap();
        drop(file);
        let mut file = MetricsFile::open(cut.path(), "sft", Some(&position)).unwrap();
        assert_eq!(rows(cut.path(), 5, 9, &mut file), wanted);
        let size = |folder: &Path| std::fs::metadata(folder.join(EVENTS)).unwrap().len();
        assert_eq!(size(cut.path()), size(whole.path()));
        let bytes = std::fs::read(cut.path().join(EVENTS)).unwrap();
        assert_eq!(tfevents::whole_records(&bytes), bytes.len());
    }

    #[test]
    fn a_torn_last_line_is_cut_and_a_new_start_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        for torn in ["{\"step\":1}\n{\"step\":2", "{\"step\":1}\n\0\0\0\n"] {
            std::fs::write(&path, torn).unwrap();
            let far = json!({"metrics_bytes": 1000, "events_bytes": 1000});
            MetricsFile::open(folder.path(), "s", Some(&far)).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
        }
        MetricsFile::open(folder.path(), "s", Some(&Value::Null)).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn what_is_not_finite_is_null() {
        let folder = tempfile::tempdir().unwrap();
        let mut file = MetricsFile::open(folder.path(), "s", None).unwrap();
        file.row(1, 2, &[("loss", f64::NAN), ("grad_norm", f64::INFINITY), ("lr", 5e-4)]).unwrap();
        let text = std::fs::read_to_string(folder.path().join("metrics.jsonl")).unwrap();
        assert_eq!(
            text,
            "{\"stage\":\"s\",\"epoch\":1,\"step\":2,\"loss\":null,\"grad_norm\":null,\"lr\":0.0005}\n"
        );
    }
}
