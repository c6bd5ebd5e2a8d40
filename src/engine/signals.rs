//! Ctrl-C and SIGTERM: the first asks a training loop to save and stop, the second stops at once.
//!
//! Outside a loop there is nothing to save (every file is written whole or not at all), so the first
//! signal already ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;

use crate::error::{Error, Result};

/// What the handlers have seen.
#[derive(Debug, Clone)]
pub struct Signals {
    /// The signal that asked to stop; 0 for none.
    asked: Arc<AtomicUsize>,
    /// Whether the next signal ends the process at once.
    armed: Arc<AtomicBool>,
}

/// What a launcher sends its ranks for a signal that it was sent.
pub fn passed_on(signal: i32) -> i32 {
    if signal == SIGINT { SIGUSR1 } else { SIGUSR2 }
}

impl Signals {
    /// Installs the handlers; call once.
    pub fn install() -> Result<Self> {
        let signals = Self::none();
        for signal in [SIGINT, SIGTERM] {
            let register = || -> std::io::Result<()> {
                // Handlers run in this order: leave when armed, else arm and remember. The launcher's word for a signal
                // does not arm: where all processes of a group are sent one, it comes on top of that.
                for heard in [signal, passed_on(signal)] {
                    flag::register_conditional_shutdown(heard, 128 + signal, Arc::clone(&signals.armed))?;
                    if heard == signal {
                        flag::register(heard, Arc::clone(&signals.armed))?;
                    }
                    flag::register_usize(heard, Arc::clone(&signals.asked), signal as usize)?;
                }
                Ok(())
            };
            register().map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
        }
        Ok(signals)
    }

    /// Signals that never come; for tests and tools.
    pub fn none() -> Self {
        Self { asked: Arc::new(AtomicUsize::new(0)), armed: Arc::new(AtomicBool::new(true)) }
    }

    /// From now until the guard is dropped, the first signal is only remembered.
    pub fn hold(&self) -> Held {
        self.armed.store(false, Ordering::SeqCst);
        Held { armed: Arc::clone(&self.armed) }
    }

    /// The signal that asked to stop, if one did.
    pub fn asked(&self) -> Option<i32> {
        match self.asked.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// A signal that has come since the last call, to be dealt with by the caller: the next one ends nothing by itself.
    pub fn take(&self) -> Option<i32> {
        self.armed.store(false, Ordering::SeqCst);
        match self.asked.swap(0, Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Acts as if `signal` had come; for tests of the loop.
    pub fn pretend(&self, signal: i32) {
        self.asked.store(signal as usize, Ordering::SeqCst);
    }
}

/// While it lives, a first signal does not end the process.
#[derive(Debug)]
pub struct Held {
    armed: Arc<AtomicBool>,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}
