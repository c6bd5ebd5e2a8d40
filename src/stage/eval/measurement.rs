//! The settings of an evaluation, from a recipe or a command line.

use std::path::Path;

use crate::data::DataConfig;
use crate::engine::Compute;
use crate::plan::{ChoicePlan, EvalTask};

/// What to evaluate a model on, and how.
#[derive(Debug)]
pub struct Measurement<'a> {
    /// Rows.
    pub data: &'a DataConfig,
    /// What is measured.
    pub tasks: &'a [EvalTask],
    /// Rows a batch.
    pub batch_size: usize,
    /// Longest row in tokens.
    pub max_seq_len: usize,
    /// Longest answer in tokens.
    pub max_new_tokens: usize,
    /// Most rows; of multiple choice, most a file.
    pub limit: Option<usize>,
    /// How questions of multiple choice are asked.
    pub choice: &'a ChoicePlan,
    /// The ids of the tokens that end an answer.
    pub eos_token_ids: &'a [u32],
    /// Precision of the forward pass.
    pub compute: Compute,
    /// Where tokenised rows are cached.
    pub cache_dir: &'a Path,
}
