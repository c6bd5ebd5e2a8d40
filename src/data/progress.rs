//! How far the reading of a source has come: a bar on stderr where that is a terminal, once the work has taken a second.
//!
//! Readers of files count the bytes that they take from the disk, packed or not: their share of the files' sizes is the
//! share that is done. Next: `prepare`.

use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Bytes that this process has read of data files.
static READ: AtomicU64 = AtomicU64::new(0);

/// Work that takes less shows nothing.
const QUIET: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);

/// Counts bytes that were read of a data file.
pub(super) fn count_read(bytes: usize) {
    READ.fetch_add(bytes as u64, Ordering::Relaxed);
}

/// A data file whose bytes are counted.
pub(super) struct Counted<R>(pub R);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.0.read(buffer)?;
        count_read(read);
        Ok(read)
    }
}

/// All of the work.
#[derive(Debug, Clone, Copy)]
pub enum Total {
    /// Bytes of files.
    Bytes(u64),
    /// Rows that are made.
    Rows(u64),
}

/// A bar.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    total: Total,
    /// [`READ`] when it began.
    before: u64,
    rows: u64,
    started: Instant,
    updated: Instant,
    shown: bool,
}

impl Progress {
    /// Work that begins now; `what` says what is done.
    pub fn new(what: &'static str, total: Total) -> Self {
        let (length, counts) = match total {
            Total::Bytes(bytes) => (bytes, "{bytes}/{total_bytes}  {msg}{bytes_per_sec}"),
            Total::Rows(rows) => (rows, "{human_pos}/{human_len} rows  {per_sec}"),
        };
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::hidden());
        let template = format!("{{prefix:.bold}} {{bar:24.cyan/black.bright}} {counts}  {{eta}} left");
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style.progress_chars("━╸─"));
        }
        bar.set_prefix(what);
        let now = Instant::now();
        let before = READ.load(Ordering::Relaxed);
        Self { bar, total, before, rows: 0, started: now, updated: now, shown: false }
    }

    /// The same rows, counted as they are taken.
    pub fn of_rows<I: Iterator>(mut self, rows: I) -> impl Iterator<Item = I::Item> + use<I> {
        rows.inspect(move |_| {
            self.rows += 1;
            // Time is not asked for each of many short rows.
            if self.rows.is_multiple_of(64) {
                self.update();
            }
        })
    }

    /// Shows what is done by now.
    pub fn update(&mut self) {
        let now = Instant::now();
        if now - self.updated < REDRAW {
            return;
        }
        self.updated = now;
        self.show(now - self.started >= QUIET);
    }

    fn show(&mut self, due: bool) {
        let done = match self.total {
            Total::Bytes(bytes) => (READ.load(Ordering::Relaxed) - self.before).min(bytes),
            Total::Rows(_) => self.rows,
        };
        self.bar.set_position(done);
        if self.rows > 0 {
            self.bar.set_message(format!("{} rows  ", indicatif::HumanCount(self.rows)));
        }
        if due && !self.shown {
            self.shown = true;
            // Hidden where stderr is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_follows_the_files_bytes() {
        let mut progress = Progress::new("reading", Total::Bytes(1000));
        let mut bytes = Vec::new();
        Counted(&[7u8; 250][..]).read_to_end(&mut bytes).unwrap();
        progress.show(false);
        // Other tests may read data files meanwhile.
        assert!((250..=1000).contains(&progress.bar.position()) && progress.bar.is_hidden());
        assert_eq!(bytes.len(), 250);
    }

    #[test]
    fn rows_pass_through_unchanged() {
        let progress = Progress::new("making rows", Total::Rows(200));
        let bar = progress.bar.clone();
        let rows: Vec<usize> = progress
            .of_rows((0..200).inspect(|row| {
                if *row == 100 {
                    std::thread::sleep(REDRAW);
                }
            }))
            .collect();
        assert_eq!(rows, (0..200).collect::<Vec<_>>());
        assert!(bar.is_finished() && bar.position() >= 128, "{}", bar.position());
    }
}
