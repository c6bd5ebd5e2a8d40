//! What every stage is given and what it hands back: the run, where the stage starts, its result.
//!
//! Types alone, so that each stage can name them and `runner` can name each stage.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tch::Device;

use super::record::{Forced, Inputs};
use crate::engine::{Compute, Ranks, RunControl, Signals};
use crate::plan::Plan;
use crate::report::console::ConsoleMode;

/// Whether a stage resumes from a checkpoint (`--resume`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub enum Resume {
    /// Go on from checkpoints; ask where other settings, data or start weights made them.
    Auto,
    /// Begin stages that are unfinished or changed anew; their old files are kept as .old.
    Never,
    /// Go on, or fail.
    Must,
    /// Go on all the same from checkpoints made with other settings, data or start weights.
    Force,
}

/// The command line of `minimind run`, apart from the recipe.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// `--only`: run this stage alone.
    pub only: Option<String>,
    /// `--from`: run this stage and those below it, done or not.
    pub from: Option<String>,
    /// Whether stages resume from checkpoints.
    pub resume: Resume,
    /// How progress is shown.
    pub console: ConsoleMode,
    /// Where tokenised rows are cached.
    pub cache_dir: PathBuf,
    /// The command as a person can type it, without `--from`, `--only` and `--resume`: for hints.
    pub command: String,
}

/// The run that a stage is part of.
#[derive(Debug)]
pub struct Context<'a> {
    /// The whole plan.
    pub plan: &'a Plan,
    /// The command line.
    pub options: &'a RunOptions,
    /// Where tensors live.
    pub device: Device,
    /// Precision of forward and backward.
    pub compute: Compute,
    /// Ctrl-C and SIGTERM.
    pub signals: Signals,
    /// The processes that train together.
    pub ranks: Ranks,
    /// Where the current stage starts.
    pub start: StartFrom,
}

impl Context<'_> {
    /// What can stop a training loop, and what it trains with.
    pub fn run_control(&self) -> RunControl<'_> {
        RunControl { signals: &self.signals, ranks: &self.ranks }
    }
}

/// One stage of a run.
#[derive(Debug, Clone, Copy)]
pub struct StageRun<'a> {
    /// The run.
    pub context: &'a Context<'a>,
    /// The stage's name in the recipe.
    pub name: &'a str,
    /// Its folder, `<output>/<name>`.
    pub folder: &'a Path,
    /// What its result depends on.
    pub inputs: &'a Inputs,
}

/// Where a stage starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub enum StartFrom {
    /// From its first step.
    #[default]
    Scratch,
    /// From upstream's resume file of its own name and width, if there is one.
    UpstreamFile,
    /// From a resume file of ours.
    Checkpoint(ResumePoint),
}

impl StartFrom {
    /// `inputs` with the changes that `--resume force` accepted so far, which stay in the stage's record.
    pub fn with_forced(&self, inputs: Inputs) -> Inputs {
        match self {
            Self::Checkpoint(point) => Inputs { forced: point.forced_changes.clone(), ..inputs },
            Self::Scratch | Self::UpstreamFile => inputs,
        }
    }
}

/// The resume file that a stage goes on from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResumePoint {
    /// `<stage>_<hidden>[_moe]_resume.pth`.
    pub file: PathBuf,
    /// Whether `--resume force` is in effect.
    pub forced: bool,
    /// What `--resume force` has accepted until now.
    pub forced_changes: Vec<Forced>,
    /// Changed settings that do not affect the result, by key.
    pub harmless_changes: Vec<String>,
}

/// What a stage hands back.
#[derive(Debug, Default)]
pub struct StageResult {
    /// Files it wrote, relative to the run's folder.
    pub outputs: Vec<String>,
    /// Goes into `summary.json`: a JSON object.
    pub summary: Value,
    /// Micro-batches done and micro-batches an epoch, of a training stage.
    pub steps: Option<(u64, u64)>,
    /// Seconds that it trained before it was resumed.
    pub earlier_seconds: f64,
}
