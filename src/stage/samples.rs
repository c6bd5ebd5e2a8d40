//! Sample answers of a stage, before and after it trained.

use std::path::Path;

use serde_json::{Value, json};

use super::context::StageRun;
use super::greedy::continue_greedily;
use super::record::write_json;
use crate::data::Tokenizer;
use crate::error::Result;
use crate::model::CausalLm;

/// Longest sample answer, in tokens.
const SAMPLE_TOKENS: usize = 48;

/// A file of the stage's folder: prompts with their answers before training.
const FILE: &str = "samples.json";

/// The sample prompts of a stage.
pub struct Samples<'a> {
    /// The stage.
    pub stage: StageRun<'a>,
    /// The recipe's prompts; there may be none.
    pub prompts: &'a [String],
    /// Without one there are no answers.
    pub tokenizer: Option<&'a Tokenizer>,
    /// The ids of the tokens that end an answer.
    pub eos_token_ids: Vec<u32>,
    /// Whether prompts are chat messages; otherwise text is continued.
    pub chat: bool,
}

impl Samples<'_> {
    /// Greedy answers on rank 0; empty without prompts or tokenizer.
    ///
    /// # Errors
    /// A prompt is empty, or text that cannot be tokenised.
    pub fn answers(&self, model: &CausalLm) -> Result<Vec<String>> {
        match self.tokenizer {
            Some(tokenizer) if !self.prompts.is_empty() && self.stage.context.ranks.is_rank0() => {
                let limits = (SAMPLE_TOKENS, self.eos_token_ids.as_slice());
                continue_greedily(model, tokenizer, self.prompts, self.chat, limits)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Prompts and answers of before the stage began: of the model as it is, or, where the stage resumes, those kept in
    /// its folder. Keeps them.
    ///
    /// # Errors
    /// As [`Self::answers`]; I/O faults.
    pub fn before(&self, model: &CausalLm, resumes: bool) -> Result<Vec<(String, String)>> {
        let before = match resumes {
            true => kept(self.stage.folder, self.prompts),
            false => self.prompts.iter().cloned().zip(self.answers(model)?).collect(),
        };
        if self.stage.context.ranks.is_rank0() {
            write_json(&self.stage.folder.join(FILE), &before)?;
        }
        Ok(before)
    }

    /// `prompt`, `before` and `after` of each prompt, for the summary.
    pub fn compared(&self, before: &[(String, String)], after: &[String]) -> Value {
        let rows = self.prompts.iter().enumerate().filter_map(|(i, prompt)| {
            let after = after.get(i)?;
            // A prompt that was added later has no answer of before.
            let before = before.iter().find(|(asked, _)| asked == prompt).map(|(_, answer)| answer);
            Some(json!({"prompt": prompt, "before": before, "after": after}))
        });
        rows.collect()
    }
}

fn kept(folder: &Path, prompts: &[String]) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    // Files of earlier versions hold the answers alone.
    let answers: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
    let same = answers.len() == prompts.len() && !answers.is_empty();
    let old = same.then(|| prompts.iter().cloned().zip(answers).collect());
    old.or_else(|| serde_json::from_str(&text).ok()).unwrap_or_default()
}
