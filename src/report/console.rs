//! Progress on stderr: a bar on a terminal, plain lines elsewhere, or nothing.
//!
//! Only progress: results go to stdout and logs through `tracing`. Lines come at most every ten
//! seconds, with the first and the last step always among them. Next: `metrics`, what is kept.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::format;
use super::left::Recent;
use crate::terminal::in_line;

/// Seconds between two plain lines.
const LINE_INTERVAL_SECS: u64 = 10;

/// The bar: stage, progress, figures, time left.
const TEMPLATE: &str = "{prefix:.bold} {bar:24.cyan/black.bright} {pos}/{len}  {msg}";

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleMode {
    /// A bar that redraws itself; for terminals.
    Bar,
    /// A line now and then; for log files.
    Lines,
    /// Nothing.
    Quiet,
}

impl ConsoleMode {
    /// A bar where stderr is a terminal, else lines.
    pub fn auto() -> Self {
        use std::io::IsTerminal;
        if std::io::stderr().is_terminal() { Self::Bar } else { Self::Lines }
    }
}

/// A stage's progress.
#[derive(Debug)]
pub struct Console {
    stage: String,
    total: u64,
    mode: ConsoleMode,
    bar: Option<ProgressBar>,
    started: Instant,
    recent: Recent,
    shown: Option<Instant>,
    last: Option<(u64, String)>,
    last_shown: u64,
}

impl Console {
    /// A stage of `total` steps.
    pub fn new(stage: &str, total: u64, mode: ConsoleMode) -> Self {
        let bar = (mode == ConsoleMode::Bar).then(|| {
            let style =
                ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
            bar.set_style(style.progress_chars("━╸─"));
            bar.set_prefix(in_line(stage).into_owned());
            bar
        });
        Self {
            stage: stage.to_owned(),
            total,
            mode,
            bar,
            started: Instant::now(),
            recent: Recent::default(),
            shown: None,
            last: None,
            last_shown: 0,
        }
    }

    /// Step `step` (from 1) is done.
    pub fn tick(&mut self, step: u64, loss: f64, lr: f64, tokens_per_s: f64) {
        if self.mode == ConsoleMode::Quiet {
            return;
        }
        self.recent.done(step, self.started.elapsed().as_secs_f64());
        let mut facts = format!("loss {loss:.4}  lr {lr:.2e}  {} tok/s", format::compact(tokens_per_s));
        if let Some(left) = self.recent.left(self.total).filter(|_| step < self.total) {
            facts += &format!("  eta {}", format::duration(left));
        }
        if let Some(bar) = &self.bar {
            bar.set_message(facts);
            bar.set_position(step);
            return;
        }
        let due = self.shown.is_none_or(|at| at.elapsed() >= Duration::from_secs(LINE_INTERVAL_SECS));
        if due || step == self.total {
            self.line(step, &facts);
        } else {
            self.last = Some((step, facts));
        }
    }

    fn line(&mut self, step: u64, facts: &str) {
        eprintln!("{}  {step}/{}  {facts}", self.stage, self.total);
        self.shown = Some(Instant::now());
        self.last_shown = step;
        self.last = None;
    }

    /// Something a person should read; shown in every mode but [`ConsoleMode::Quiet`].
    pub fn note(&mut self, text: &str) {
        match (&self.bar, self.mode) {
            (Some(bar), _) => bar.suspend(|| eprintln!("{}: {text}", self.stage)),
            (None, ConsoleMode::Quiet) => {}
            (None, _) => eprintln!("{}: {text}", self.stage),
        }
    }

    /// The stage ended, or stopped: the last step is shown and stays.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.abandon();
        }
        if let Some((step, facts)) = self.last.take()
            && step > self.last_shown
        {
            self.line(step, &facts);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_keeps_its_place_and_its_template_is_known() {
        assert!(ProgressStyle::with_template(TEMPLATE).is_ok());
        let mut console = Console::new("sft", 10, ConsoleMode::Bar);
        console.tick(6, 2.0, 1e-4, 1500.0);
        let bar = console.bar.clone().unwrap();
        assert_eq!((bar.position(), bar.message().as_str()), (6, "loss 2.0000  lr 1.00e-4  1.5k tok/s"));
        console.finish();
        assert!(bar.is_finished());
    }

    #[test]
    fn lines_show_the_first_and_the_last_step() {
        let mut console = Console::new("sft", 10, ConsoleMode::Lines);
        console.tick(1, 2.0, 1e-4, 1500.0);
        assert_eq!(console.last_shown, 1);
        console.tick(2, 2.0, 1e-4, 1500.0);
        assert_eq!(console.last_shown, 1);
        console.finish();
        assert_eq!(console.last_shown, 2);
    }
}
