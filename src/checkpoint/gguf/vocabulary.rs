//! The tokenizer inside a GGUF: byte-level BPE as GPT-2 has it, which is what upstream and we train.
//!
//! The pre-tokenizer has a name here (`tokenizer.ggml.pre`), and llama.cpp holds the rule; a rule without a name would
//! give other tokens, so it is refused. `data::tokenizer::gguf` turns this into a tokenizer and a folder's
//! `tokenizer.json` into this.

use super::reader::{Gguf, damaged};
use super::writer::MetadataWriter;
use crate::error::{Error, Result};

/// The type of a token, by llama.cpp's numbers (`llama_token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Made by merges.
    Normal = 1,
    /// Special: found in text, hidden in answers.
    Control = 3,
    /// Found in text whole, and shown.
    UserDefined = 4,
    /// A row of the embedding without a token.
    Unused = 5,
}

/// A tokenizer as plain data.
#[derive(Debug, Clone, PartialEq)]
pub struct Vocabulary {
    /// By id: byte-level text where merged, plain text where added.
    pub tokens: Vec<String>,
    /// By id.
    pub kinds: Vec<TokenKind>,
    /// Pairs, the first to be merged first.
    pub merges: Vec<(String, String)>,
    /// llama.cpp's name of the pre-tokenizer.
    pub pre: String,
    /// BOS: begins a text.
    pub bos: Option<u32>,
    /// EOS: ends a text or turn.
    pub eos: Option<u32>,
    /// Padding.
    pub pad: Option<u32>,
    /// Token for unknown text.
    pub unknown: Option<u32>,
    /// Whether a text gets `bos` before it unasked.
    pub add_bos: bool,
    /// The chat template.
    pub template: Option<String>,
}

impl Vocabulary {
    /// The tokenizer of a file; `None` where it has none.
    ///
    /// # Errors
    /// It is no byte-level BPE, or its lists do not fit each other.
    pub fn of(file: &Gguf) -> Result<Option<Self>> {
        let Some(tokens) = file.texts("tokenizer.ggml.tokens")? else { return Ok(None) };
        let model = file.text("tokenizer.ggml.model").unwrap_or_default();
        if model != "gpt2" {
            return Err(Error::failed(format!("the tokenizer in this GGUF is `{}`", model.escape_debug()))
                .because("byte-level BPE (`gpt2`) is read")
                .hint("give the model's tokenizer.json with --tokenizer DIR"));
        }
        let kinds = match file.ints("tokenizer.ggml.token_type")? {
            None => vec![TokenKind::Normal; tokens.len()],
            Some(kinds) if kinds.len() == tokens.len() => kinds
                .into_iter()
                .map(|kind| match kind {
                    3 | 2 => TokenKind::Control,
                    4 => TokenKind::UserDefined,
                    5 => TokenKind::Unused,
                    _ => TokenKind::Normal,
                })
                .collect(),
            Some(kinds) => {
                return Err(damaged(format!("{} tokens have {} types", tokens.len(), kinds.len())));
            }
        };
        let merges = file.texts("tokenizer.ggml.merges")?.unwrap_or_default();
        let pair = |merge: &&str| {
            // A byte-level token holds no space; a merge may begin with one only in other tokenizers.
            let (left, right) = merge.split_once(' ').ok_or_else(|| damaged("a merge is not a pair"))?;
            Ok((left.to_owned(), right.to_owned()))
        };
        let id = |key: &str| {
            let id = file.int(&format!("tokenizer.ggml.{key}_token_id"));
            id.and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < tokens.len())
        };
        Ok(Some(Self {
            merges: merges.iter().map(pair).collect::<Result<_>>()?,
            pre: file.text("tokenizer.ggml.pre").unwrap_or("default").to_owned(),
            bos: id("bos"),
            eos: id("eos"),
            pad: id("padding"),
            unknown: id("unknown"),
            add_bos: file.flag("tokenizer.ggml.add_bos_token").unwrap_or(false),
            template: file.text("tokenizer.chat_template").map(str::to_owned),
            tokens: tokens.into_iter().map(str::to_owned).collect(),
            kinds,
        }))
    }

    /// Writes it as metadata, for an embedding of `rows` rows.
    ///
    /// # Errors
    /// It has more tokens than rows.
    pub(super) fn put(&self, head: &mut MetadataWriter, rows: i64) -> Result<()> {
        let rows = usize::try_from(rows).unwrap_or(0);
        if self.tokens.len() > rows {
            return Err(Error::input(format!(
                "the tokenizer has {} tokens, the model's embedding {rows} rows",
                self.tokens.len()
            ))
            .hint("give the tokenizer that the model was trained with, with --tokenizer DIR"));
        }
        let (mut tokens, mut kinds) = (self.tokens.clone(), self.kinds.clone());
        for id in tokens.len()..rows {
            // llama.cpp's converter names rows without a token so.
            tokens.push(format!("[PAD{id}]"));
            kinds.push(TokenKind::Unused);
        }
        head.text("tokenizer.ggml.model", "gpt2");
        head.text("tokenizer.ggml.pre", &self.pre);
        head.texts("tokenizer.ggml.tokens", &tokens);
        head.ints("tokenizer.ggml.token_type", &kinds.iter().map(|kind| *kind as i32).collect::<Vec<_>>());
        let merges: Vec<String> = self.merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
        head.texts("tokenizer.ggml.merges", &merges);
        let ids = [("bos", self.bos), ("eos", self.eos), ("padding", self.pad), ("unknown", self.unknown)];
        for (role, id) in ids {
            if let Some(id) = id {
                head.int(&format!("tokenizer.ggml.{role}_token_id"), i64::from(id))?;
            }
        }
        head.flag("tokenizer.ggml.add_bos_token", self.add_bos);
        if let Some(template) = &self.template {
            head.text("tokenizer.chat_template", template);
        }
        Ok(())
    }
}
