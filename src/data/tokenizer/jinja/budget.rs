//! What one rendering may use: steps, time, bytes of text, stack. Next: `eval`, which spends it.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::{Limits, Res, limit};

/// Bytes of the stack that one rendering may use; threads have 2 MiB.
const STACK: usize = 640 << 10;

/// How long one rendering may take, whatever its steps are; an honest one takes milliseconds.
const TIME: Duration = Duration::from_secs(10);
/// Steps between looks at the clock.
const LOOK: u8 = 16;

/// How much of the stack was used since a place in the program.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stack(usize);

impl Stack {
    #[inline(never)]
    pub(super) fn here() -> Self {
        let mark = 0u8;
        Self(std::ptr::from_ref(&mark) as usize)
    }

    pub(super) fn is_low(self) -> bool {
        self.0.abs_diff(Self::here().0) > STACK
    }
}

/// What is left of the limits of a rendering.
pub(super) struct Budget {
    fuel: Cell<u64>,
    begun: Instant,
    until_look: Cell<u8>,
    max_text: usize,
    stack: Stack,
}

impl Budget {
    /// All of `limits`, from here on.
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            fuel: Cell::new(limits.fuel),
            begun: Instant::now(),
            until_look: Cell::new(LOOK),
            max_text: limits.max_text_bytes,
            stack: Stack::here(),
        }
    }

    /// Takes fuel; none left is an error.
    pub(super) fn spend(&self, steps: u64) -> Res<()> {
        match self.until_look.get().checked_sub(1) {
            Some(left) => self.until_look.set(left),
            None if self.begun.elapsed() > TIME => {
                return Err(limit(format!("it takes longer than {} s", TIME.as_secs())));
            }
            None => self.until_look.set(LOOK),
        }
        match self.fuel.get().checked_sub(steps) {
            Some(left) => {
                self.fuel.set(left);
                Ok(())
            }
            None => {
                self.fuel.set(0);
                Err(limit("it takes more steps than a chat template may"))
            }
        }
    }

    /// Takes the fuel of a text of so many bytes, before it is made.
    pub(super) fn spend_text(&self, bytes: usize) -> Res<()> {
        if bytes > self.max_text {
            return Err(limit(format!("it makes a text of more than {} bytes", self.max_text)));
        }
        self.spend(bytes as u64 / 64)
    }

    /// Takes the fuel of so many items, before they are made.
    pub(super) fn spend_items(&self, count: usize) -> Res<()> {
        self.spend((count as u64).saturating_mul(4))
    }

    /// Takes the fuel of a text's pieces, before they are made: each is a text of its own.
    pub(super) fn spend_pieces(&self, count: usize) -> Res<()> {
        self.spend((count as u64).saturating_mul(16))
    }

    /// Takes the fuel of `more` bytes behind `have`, before they are written.
    pub(super) fn grow(&self, have: usize, more: usize) -> Res<()> {
        if have.saturating_add(more) > self.max_text {
            return Err(limit(format!("it makes a text of more than {} bytes", self.max_text)));
        }
        self.spend(more as u64 / 64)
    }

    /// An error where the template calls itself too deep for the stack.
    pub(super) fn check_stack(&self) -> Res<()> {
        if self.stack.is_low() {
            return Err(limit("it calls itself too deep"));
        }
        Ok(())
    }
}
