//! Throughput of a training loop: seconds trained, those before a restart included, and tokens a second.

use std::time::Instant;

/// Tokens are counted at each update (with several ranks, in its all-reduce), rows are written at `log_interval`: the
/// rate is tokens counted since the last row over the time from count to count.
#[derive(Debug)]
pub(super) struct Throughput {
    started: Instant,
    before: f64,
    counted_at: f64,
    row_at: f64,
    tokens: u64,
    last: f64,
}

impl Throughput {
    /// Starts the clock at `before` seconds.
    pub(super) fn resume_at(before: f64) -> Self {
        Self { started: Instant::now(), before, counted_at: before, row_at: before, tokens: 0, last: 0.0 }
    }

    pub(super) fn elapsed(&self) -> f64 {
        self.before + self.started.elapsed().as_secs_f64()
    }

    pub(super) fn count(&mut self, tokens: u64) {
        self.count_at(tokens, self.elapsed());
    }

    fn count_at(&mut self, tokens: u64, elapsed: f64) {
        self.tokens += tokens;
        self.counted_at = elapsed;
    }

    /// Tokens a second since the last row; the last row's rate where none were counted.
    pub(super) fn rate(&self) -> f64 {
        match self.tokens {
            0 => self.last,
            tokens => tokens as f64 / (self.counted_at - self.row_at).max(1e-9),
        }
    }

    /// [`Self::rate`] for a row that is written now, from which the next rate is counted.
    pub(super) fn row(&mut self) -> f64 {
        self.last = self.rate();
        self.row_at = self.counted_at;
        self.tokens = 0;
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_between_two_counts_repeats_the_last_rate() {
        let mut throughput = Throughput::resume_at(10.0);
        throughput.count_at(600, 12.0);
        assert_eq!(throughput.rate(), 300.0);
        assert_eq!(throughput.row(), 300.0);
        assert_eq!(throughput.row(), 300.0);
        // The time since the last count, not since the last row.
        throughput.count_at(600, 16.0);
        assert_eq!(throughput.row(), 150.0);
        assert!(throughput.elapsed() >= 10.0);
    }
}
