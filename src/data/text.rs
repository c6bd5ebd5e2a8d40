//! `{"text"}` to ids: bos, the text cut to `max_seq_len - 2` tokens, eos; every id carries loss.
//!
//! A document of a text file is divided instead of cut ([`pieces`]). Upstream's pretraining row; a tokenizer without a begin or end mark gets none. Next: `chat`.

use serde_json::Value;

use super::jsonl::{RowFault, kind};
use super::token_cache::TokenizedRow;
use super::tokenizer::Tokenizer;
use crate::error::Result;

/// The row's `text`.
///
/// # Errors
/// There is none, it is empty, or no string.
pub fn text(row: &Value) -> Result<&str, RowFault> {
    match row.get("text") {
        None => Err(RowFault::new("no field `text`", "a text row is {\"text\": \"...\"}")),
        Some(Value::String(text)) if text.trim().is_empty() => {
            Err(RowFault::new("field `text` is empty", "remove the row"))
        }
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(RowFault::new(
            format!("field `text` is {}, not a string", kind(other)),
            "put the text in quotes",
        )),
    }
}

/// Tokens of a text: bos, at most `max_seq_len - 2` of its tokens, eos.
///
/// # Errors
/// The tokenizer refuses the text.
pub fn encode(tokenizer: &Tokenizer, text: &str, max_seq_len: usize) -> Result<TokenizedRow> {
    let mut body = tokenizer.encode(text)?;
    let room = max_seq_len.saturating_sub(2);
    let mut loss_bytes = text.len();
    if body.len() > room {
        body.truncate(room);
        loss_bytes = tokenizer.decode(&body, true)?.len();
    }
    let mut ids = Vec::with_capacity(body.len() + 2);
    ids.extend(tokenizer.bos_id());
    ids.append(&mut body);
    ids.extend(tokenizer.has_eos().then(|| tokenizer.eos_id()));
    let loss = vec![true; ids.len()];
    Ok(TokenizedRow { ids, loss_mask: loss, loss_bytes })
}

/// A whole document, tokenised without a cut, as rows of at most `max_seq_len` tokens: what follows a piece is learned in the
/// next one.
///
/// # Errors
/// The tokenizer refuses the ids.
pub fn pieces(tokenizer: &Tokenizer, whole: TokenizedRow, max_seq_len: usize) -> Result<Vec<TokenizedRow>> {
    if whole.ids.len() <= max_seq_len {
        return Ok(vec![whole]);
    }
    // A single token has nothing before it to be predicted from.
    let chunks = whole.ids.chunks(max_seq_len.max(2)).filter(|ids| ids.len() > 1);
    let row = |ids: &[u32]| -> Result<TokenizedRow> {
        let loss_bytes = tokenizer.decode(ids, true)?.len();
        Ok(TokenizedRow { ids: ids.to_vec(), loss_mask: vec![true; ids.len()], loss_bytes })
    };
    chunks.map(row).collect()
}
