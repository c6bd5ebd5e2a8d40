//! How far a training loop is: micro-batches done, where epochs and accumulation windows end, what falls due.

use crate::engine::resume::Position;

/// Counts of micro-batches; several ranks count those of all.
#[derive(Debug)]
pub(super) struct Progress {
    /// Micro-batches done.
    pub step: u64,
    /// Micro-batches of the whole run.
    pub total: u64,
    /// Micro-batches an epoch.
    pub per_epoch: u64,
    /// Backward passes since the last update.
    pub accumulated: u64,
    /// `step` at the last update that left nothing accumulated, and at the one before it.
    boundaries: [u64; 2],
}

/// One micro-batch on each rank, as far as the epoch has them.
#[derive(Debug)]
pub(super) struct Round {
    /// The epoch, counted from 0.
    pub epoch: u64,
    /// This rank's micro-batch in the epoch, from 0; `None` where there is none left for it.
    pub index: Option<u64>,
    /// Micro-batches of all ranks.
    pub size: u64,
    /// Whether an epoch or the run ends with it: nothing may stay accumulated.
    pub flush: bool,
}

impl Progress {
    pub(super) fn new(per_epoch: u64, total: u64) -> Self {
        Self { step: 0, total, per_epoch, accumulated: 0, boundaries: [0, 0] }
    }

    pub(super) fn at_end(&self) -> bool {
        self.step == self.total
    }

    /// Whether the last update took in every micro-batch so far.
    pub(super) fn at_boundary(&self) -> bool {
        self.accumulated == 0
    }

    /// Continues at micro-batch `step`.
    pub(super) fn jump_to(&mut self, step: u64) {
        self.step = step;
        self.boundaries = [step; 2];
    }

    /// Counts the next round of `world` ranks, of which this is number `rank`.
    pub(super) fn next_round(&mut self, rank: usize, world: usize) -> Round {
        let (epoch, index) = (self.step / self.per_epoch, self.step % self.per_epoch);
        let size = (world as u64).min(self.per_epoch - index).min(self.total - self.step);
        self.step += size;
        let rank = rank as u64;
        Round {
            epoch,
            index: (rank < size).then_some(index + rank),
            size,
            flush: self.at_end() || index + size == self.per_epoch,
        }
    }

    /// To be called after each round.
    pub(super) fn end_round(&mut self) {
        if self.at_boundary() {
            self.boundaries = [self.step, self.boundaries[0]];
        }
    }

    /// Whether something that is done every `interval` micro-batches falls due now. What falls due inside an
    /// accumulation window waits for its end.
    pub(super) fn is_due(&self, interval: u64) -> bool {
        self.at_boundary() && (self.at_end() || self.step / interval > self.boundaries[1] / interval)
    }

    /// The place that a checkpoint notes.
    pub(super) fn position(&self) -> Position {
        // The last micro-batch of an epoch belongs to it, as in upstream's files.
        let epoch = self.step.saturating_sub(1) / self.per_epoch;
        Position { epoch, step_in_epoch: self.step - epoch * self.per_epoch }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_round_of_an_epoch_is_for_some_ranks_and_flushes() {
        let mut progress = Progress::new(5, 10);
        let rounds: Vec<Round> = (0..3).map(|_| progress.next_round(1, 2)).collect();
        assert_eq!(rounds.iter().map(|r| r.index).collect::<Vec<_>>(), [Some(1), Some(3), None]);
        assert_eq!(rounds.iter().map(|r| r.flush).collect::<Vec<_>>(), [false, false, true]);
        assert_eq!((progress.step, progress.position()), (5, Position { epoch: 0, step_in_epoch: 5 }));
    }

    #[test]
    fn what_is_due_waits_for_the_end_of_the_window() {
        let mut progress = Progress::new(8, 8);
        let due: Vec<bool> = (0..8)
            .map(|_| {
                progress.next_round(0, 1);
                progress.accumulated = (progress.accumulated + 1) % 2;
                progress.end_round();
                progress.is_due(3)
            })
            .collect();
        assert_eq!(due, [false, false, false, true, false, true, false, true]);
    }
}
