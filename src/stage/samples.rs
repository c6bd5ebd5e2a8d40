//! Sample answers of a stage, before and after it trained.

use std::path::Path;

use serde_json::{Value, json};

use super::measure;
use super::record::write_json;
use super::session::Session;
use crate::error::Result;
use crate::model::CausalLm;

/// Longest sample answer, in tokens.
const SAMPLE_TOKENS: usize = 48;

/// A file of the stage's folder: prompts with their answers before training.
const FILE: &str = "samples.json";

/// Greedy answers to the recipe's sample prompts, on rank 0; empty without prompts or tokenizer.
///
/// # Errors
/// A prompt is empty, or text that cannot be tokenised.
pub fn answers(session: &Session<'_>, model: &CausalLm, chat: bool) -> Result<Vec<String>> {
    let prompts = &session.config.samples;
    match session.tokenizer() {
        Some(tokenizer) if !prompts.is_empty() && session.stage.context.ranks.is_rank0() => {
            measure::samples(model, tokenizer, prompts, chat, (SAMPLE_TOKENS, &session.end_ids()?))
        }
        _ => Ok(Vec::new()),
    }
}

/// Prompts and answers of before the stage began: of the model as it is, or, where the stage resumes, those kept in its
/// folder. Keeps them.
///
/// # Errors
/// As [`answers`]; I/O faults.
pub fn before(
    session: &Session<'_>,
    model: &CausalLm,
    chat: bool,
    resumes: bool,
) -> Result<Vec<(String, String)>> {
    let prompts = &session.config.samples;
    let before = match resumes {
        true => kept(session.stage.folder, prompts),
        false => prompts.iter().cloned().zip(answers(session, model, chat)?).collect(),
    };
    if session.stage.context.ranks.is_rank0() {
        write_json(&session.stage.folder.join(FILE), &before)?;
    }
    Ok(before)
}

fn kept(folder: &Path, prompts: &[String]) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder.join(FILE)).unwrap_or_default();
    // Files of earlier versions hold the answers alone.
    let answers: Vec<String> = serde_json::from_str(&text).unwrap_or_default();
    let same = answers.len() == prompts.len() && !answers.is_empty();
    let old = same.then(|| prompts.iter().cloned().zip(answers).collect());
    old.or_else(|| serde_json::from_str(&text).ok()).unwrap_or_default()
}

/// `prompt`, `before` and `after` of each prompt, for the summary.
pub fn compared(prompts: &[String], before: &[(String, String)], after: &[String]) -> Value {
    let rows = prompts.iter().enumerate().filter_map(|(i, prompt)| {
        let after = after.get(i)?;
        // A prompt that was added later has no answer of before.
        let before = before.iter().find(|(asked, _)| asked == prompt).map(|(_, answer)| answer);
        Some(json!({"prompt": prompt, "before": before, "after": after}))
    });
    rows.collect()
}
