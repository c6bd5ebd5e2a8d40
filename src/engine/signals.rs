//! Ctrl-C and SIGTERM: the first requests a training loop to save and stop, the second stops at once.
//!
//! Outside a loop there is nothing to save (every file is written whole or not at all), so the first
//! signal already ends the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::flag;

use crate::error::{Error, Result};

/// The stop request that the signal handlers recorded.
#[derive(Debug, Clone)]
pub struct Signals {
    /// The signal that asked to stop; 0 for none.
    requested: Arc<AtomicUsize>,
    /// Whether the next signal ends the process at once.
    armed: Arc<AtomicBool>,
}

/// The signal that a launcher sends its ranks when it receives `signal`.
pub fn forwarded(signal: i32) -> i32 {
    if signal == SIGINT { SIGUSR1 } else { SIGUSR2 }
}

impl Signals {
    /// Installs the handlers; call once.
    ///
    /// # Errors
    /// The system refuses a handler.
    pub fn install() -> Result<Self> {
        let signals = Self::none();
        for signal in [SIGINT, SIGTERM] {
            let register = || -> std::io::Result<()> {
                // Handlers run in this order: leave when armed, else arm and record. A forwarded signal does not arm:
                // where all processes of a group receive a signal, the forwarded one comes on top of it.
                for received in [signal, forwarded(signal)] {
                    flag::register_conditional_shutdown(received, 128 + signal, Arc::clone(&signals.armed))?;
                    if received == signal {
                        flag::register(received, Arc::clone(&signals.armed))?;
                    }
                    flag::register_usize(received, Arc::clone(&signals.requested), signal as usize)?;
                }
                Ok(())
            };
            register().map_err(|e| Error::failed("cannot install signal handlers").because(e))?;
        }
        Ok(signals)
    }

    /// Signals that never come; for tests and tools.
    pub fn none() -> Self {
        Self { requested: Arc::new(AtomicUsize::new(0)), armed: Arc::new(AtomicBool::new(true)) }
    }

    /// Until the guard is dropped, the first signal is only recorded and does not end the process.
    pub fn defer(&self) -> Deferred {
        self.armed.store(false, Ordering::SeqCst);
        Deferred { armed: Arc::clone(&self.armed) }
    }

    /// The signal that requested a stop, if one came.
    pub fn requested(&self) -> Option<i32> {
        match self.requested.load(Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// The signal that came since the last call, for a caller that acts on each by itself: none ends the process.
    pub fn take(&self) -> Option<i32> {
        self.armed.store(false, Ordering::SeqCst);
        match self.requested.swap(0, Ordering::SeqCst) {
            0 => None,
            signal => Some(signal as i32),
        }
    }

    /// Acts as if `signal` had come; for tests of the loop.
    pub fn simulate(&self, signal: i32) {
        self.requested.store(signal as usize, Ordering::SeqCst);
    }
}

/// Guard of [`Signals::defer`].
#[derive(Debug)]
pub struct Deferred {
    armed: Arc<AtomicBool>,
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}
