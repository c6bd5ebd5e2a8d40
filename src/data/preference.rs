//! `{"chosen", "rejected"}` to pairs of rows: one prompt, two last answers, loss on what the assistant says.
//!
//! A pair lies in the token cache as one row, the rejected conversation behind the chosen one; where it begins
//! stands in the place of the row's loss bytes. In a token file both lie apart ([`super::token_file`]).
//!
//! B pairs of a batch, T tokens.

use ndarray::Array2;
use serde_json::{Value, json};

use super::batch::IGNORE_INDEX;
use super::chat::{ChatOptions, messages};
use super::dataset::Row;
use super::jsonl::{RowError, RowFault};
use super::loader::DataLoader;
use super::random::chance;
use super::token_cache::TokenizedRow;
use super::tokenizer::chat_row::{self, TOOL_KEYS};
use super::tokenizer::{MaskedTokens, Tokenizer};
use crate::error::Result;

const FORM: &str = "a preference row is {\"chosen\": [...], \"rejected\": [...]}: the same turns, then two different assistant turns";

/// A pair of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The better conversation.
    pub chosen: Row,
    /// The worse one.
    pub rejected: Row,
}

/// One micro-batch of pairs: the chosen rows, then the rejected ones in the same order.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceBatch {
    /// `[2 B, T]`, padded on the right.
    pub input_ids: Array2<i64>,
    /// 1 where the token's log-probability counts, `[2 B, T]`; column 0 never does.
    pub mask: Array2<i64>,
    /// Index of each row's last token.
    pub last: Vec<i64>,
    /// Tokens that are not padding.
    pub real_tokens: usize,
}

/// The row's `chosen` and `rejected` messages.
///
/// # Errors
/// A side has no prompt or does not end with the assistant, the prompts differ, or both sides are the same.
pub fn sides(row: &Value) -> Result<[&Vec<Value>; 2], RowFault> {
    let sides = [messages(row, "chosen", FORM)?, messages(row, "rejected", FORM)?];
    let mut prompts = Vec::new();
    for (field, side) in ["chosen", "rejected"].into_iter().zip(sides) {
        let (last, prompt) = side.split_last().expect("messages are not empty");
        if last["role"] != "assistant" {
            let role = last["role"].as_str().unwrap_or_default();
            return Err(RowFault::new(
                format!("`{field}` ends with a turn of `{role}`, not of the assistant"),
                FORM,
            ));
        }
        if prompt.is_empty() {
            return Err(RowFault::new(format!("`{field}` has an answer but no prompt"), FORM));
        }
        prompts.push(prompt);
    }
    if prompts[0].len() != prompts[1].len() {
        let (a, b) = (prompts[0].len(), prompts[1].len());
        return Err(RowFault::new(
            format!("`chosen` and `rejected` do not share a prompt: {a} and {b} turns before the answer"),
            FORM,
        ));
    }
    if let Some(i) = (0..prompts[0].len()).find(|i| prompts[0][*i] != prompts[1][*i]) {
        return Err(RowFault::new(
            format!("`chosen` and `rejected` do not share a prompt: turn {i} differs"),
            FORM,
        ));
    }
    if sides[0].last() == sides[1].last() {
        return Err(RowFault::new(
            "`chosen` and `rejected` are the same, so nothing to learn",
            "remove the row",
        ));
    }
    Ok(sides)
}

/// Ids of both conversations; `number` is the row's line. Empty think blocks stay in both or in none.
///
/// # Errors
/// The template refuses the row or leaves part of it out, or the cut leaves nothing of an answer; or the template does
/// not tell which tokens carry loss.
pub fn encode(
    tokenizer: &Tokenizer,
    row: &Value,
    number: usize,
    options: &ChatOptions,
) -> Result<TokenizedRow, RowError> {
    let keep = chance(options.seed, number as u64, 3) < options.empty_think_ratio;
    let mut both = TokenizedRow::default();
    for field in ["chosen", "rejected"] {
        let mut side = json!({"conversations": row[field]});
        for key in TOOL_KEYS {
            if let Some(tools) = row.get(key) {
                side[key] = tools.clone();
            }
        }
        let MaskedTokens { mut ids, loss_mask: mut loss } =
            chat_row::tokenize(tokenizer, field, &side, keep)?;
        let whole = ids.len();
        ids.truncate(options.max_seq_len);
        loss.truncate(options.max_seq_len);
        if !loss.iter().any(|l| *l) {
            return Err(RowFault::new(
                format!(
                    "`{field}` has {whole} tokens; of its answer none is left in max_seq_len {}",
                    options.max_seq_len
                ),
                "raise max_seq_len, shorten the prompt, or set data.on_bad_row: skip",
            )
            .into());
        }
        if field == "chosen" {
            both.loss_bytes = ids.len();
        }
        both.ids.extend(ids);
        both.loss_mask.extend(loss);
    }
    Ok(both)
}

/// Batch `index` (from 0) of `epoch` (from 0): B pairs as `[2 B, T]`.
///
/// # Errors
/// `index` is past the epoch's end.
pub fn batch(loader: &DataLoader, epoch: u64, index: u64) -> Result<PreferenceBatch> {
    let rows = loader.batch_rows(epoch, index)?;
    let pairs: Vec<Pair> = rows.into_iter().map(|row| loader.rows().pair(row)).collect();
    let all: Vec<&Row> = pairs.iter().map(|p| &p.chosen).chain(pairs.iter().map(|p| &p.rejected)).collect();
    let width = loader.width(all.iter().map(|row| row.ids.len()).max().unwrap_or(0));
    let mut input_ids = Array2::from_elem((all.len(), width), loader.pad_id()); // [2 B, T]
    let mut mask = Array2::zeros((all.len(), width)); // [2 B, T]
    for (i, row) in all.iter().enumerate() {
        for (t, (id, label)) in row.ids.iter().zip(&row.labels).enumerate() {
            input_ids[[i, t]] = *id;
            mask[[i, t]] = i64::from(t > 0 && *label != IGNORE_INDEX);
        }
    }
    // A conversation ends where its text does, which is where a score is read; a token file is padded already, so what
    // counts tells where its row ends.
    let padded = loader.rows().fixed_len().is_some();
    let counts = |row: &Row| row.labels.iter().rposition(|l| *l != IGNORE_INDEX).filter(|_| padded);
    let end = |row: &Row| counts(row).unwrap_or(row.ids.len() - 1);
    Ok(PreferenceBatch {
        input_ids,
        mask,
        last: all.iter().map(|row| end(row) as i64).collect(),
        real_tokens: all.iter().map(|row| row.ids.len()).sum(),
    })
}
