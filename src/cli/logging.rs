//! Where `tracing` events go: stderr, as short lines or as JSON.

use tracing::Level;

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Short lines for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// Starts logging; later calls change nothing.
pub fn start(verbose: u8, format: LogFormat) {
    let level = match verbose {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    let base = tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr);
    // A second start (tests) finds the first one in place, which is fine.
    let _ = match format {
        LogFormat::Json => base.json().try_init(),
        LogFormat::Text => {
            base.with_target(false).with_level(verbose > 0).with_ansi(false).without_time().try_init()
        }
    };
}
