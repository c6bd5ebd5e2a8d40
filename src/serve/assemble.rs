//! From tokens to the text that a client may see, with the log-probabilities that belong to it.
//!
//! Half a character waits for its rest, text that may be the start of a stop string waits for what follows,
//! and log-probabilities go out with the text of their token.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::split::StopFinder;
use crate::data::Tokenizer;
use crate::data::tokenizer::StreamDecoder;
use crate::error::Result;
use crate::rollout::ScoredToken;

/// A token with its place in the text.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The token and its log-probabilities.
    pub token: ScoredToken,
    /// Bytes of text before it.
    pub start: usize,
    end: usize,
}

/// What became certain.
#[derive(Debug, Clone, Default)]
pub struct Shown {
    /// The text.
    pub text: String,
    /// Its tokens.
    pub entries: Vec<Entry>,
}

/// Puts one answer together.
#[derive(Debug)]
pub struct Assembler {
    decoder: StreamDecoder,
    stops: StopFinder,
    end_ids: Vec<u32>,
    /// Whether an end mark is listed among the entries.
    list_end: bool,
    entries: VecDeque<Entry>,
    decoded: usize,
    shown: usize,
    tokens: usize,
}

impl Assembler {
    /// An answer's start. `end_ids` end it and are not text; `list_end` lists them with their log-probability;
    /// `shown` are special tokens that are text here, as those around a tool call.
    pub fn new(stop: &[String], end_ids: Vec<u32>, list_end: bool, shown: Vec<u32>) -> Self {
        Self {
            decoder: StreamDecoder::new(true).showing(shown),
            stops: StopFinder::new(stop),
            end_ids,
            list_end,
            entries: VecDeque::new(),
            decoded: 0,
            shown: 0,
            tokens: 0,
        }
    }

    /// Tokens taken, without an end mark.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Takes a token; the flag tells that a stop string ended the answer.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: ScoredToken) -> Result<(Shown, bool)> {
        if self.end_ids.contains(&token.id) {
            if self.list_end {
                self.entries.push_back(Entry { token, start: self.decoded, end: self.decoded });
            }
            return Ok((Shown::default(), false));
        }
        self.tokens += 1;
        let piece = self.decoder.push(tokenizer, token.id)?;
        let start = self.decoded;
        self.decoded += piece.len();
        self.entries.push_back(Entry { token, start, end: self.decoded });
        let (text, stopped) = self.stops.push(&piece);
        Ok((self.show(text, stopped), stopped))
    }

    /// Ends an answer that no stop string ended.
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<Shown> {
        let rest = self.decoder.finish(tokenizer)?;
        self.decoded += rest.len();
        let (mut text, stopped) = self.stops.push(&rest);
        if !stopped {
            text.push_str(&self.stops.finish());
        }
        let mut shown = self.show(text, stopped);
        if !stopped {
            shown.entries.extend(self.entries.drain(..));
        }
        Ok(shown)
    }

    fn show(&mut self, text: String, last: bool) -> Shown {
        self.shown += text.len();
        let whole = |entry: &Entry| entry.end <= self.shown || (last && entry.start < self.shown);
        let mut entries = Vec::new();
        while self.entries.front().is_some_and(whole) {
            entries.extend(self.entries.pop_front());
        }
        Shown { text, entries }
    }
}

/// OpenAI knows no minus infinity in JSON; this is its stand-in.
fn finite(logprob: f32) -> f64 {
    f64::from(logprob).max(-9999.0)
}

/// A token as text; bytes that are no text are written out.
pub fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.bytes_of_token(id);
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let hex: String = error.as_bytes().iter().map(|b| format!("\\x{b:02x}")).collect();
            format!("bytes:{hex}")
        }
    }
}

/// `logprobs` of a chat choice: `{"content": [...]}`.
pub fn chat_logprobs(tokenizer: &Tokenizer, entries: &[Entry]) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.bytes_of_token(id);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": finite(logprob), "bytes": bytes})
    };
    let token = |entry: &Entry| {
        let logprobs = entry.token.logprobs.as_ref();
        let mut value = one(entry.token.id, logprobs.map_or(0.0, |l| l.logprob));
        let top = logprobs.map_or(&[][..], |l| &l.top);
        value["top_logprobs"] = top.iter().map(|&(id, logprob)| one(id, logprob)).collect();
        value
    };
    json!({"content": entries.iter().map(token).collect::<Vec<_>>(), "refusal": null})
}

/// Where tokens stand in a text, in characters. A token that holds a part of a character stands where the character
/// does, so that of several such tokens none lies behind it.
#[derive(Debug, Default)]
pub struct TextPlace {
    decoder: StreamDecoder,
    chars: usize,
}

impl TextPlace {
    /// The place of a token after `chars` characters; `skip_special`: special tokens are not in the text.
    pub fn new(chars: usize, skip_special: bool) -> Self {
        Self { decoder: StreamDecoder::new(skip_special), chars }
    }

    /// The place of the next token.
    pub fn take(&mut self, tokenizer: &Tokenizer, id: u32) -> usize {
        let place = self.chars;
        // An id that does not decode has no text; the text itself is decoded elsewhere, where that is a fault.
        self.chars += self.decoder.push(tokenizer, id).unwrap_or_default().chars().count();
        place
    }
}

/// `logprobs` of a completion: four lists side by side, the oldest form of the interface.
#[derive(Debug, Default)]
pub struct PlainLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl PlainLogprobs {
    /// Adds a token that starts `offset` characters into the text.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: &ScoredToken, offset: usize) {
        self.tokens.push(token_text(tokenizer, token.id).into());
        self.token_logprobs.push(token.logprobs.as_ref().map(|l| finite(l.logprob)).into());
        self.top_logprobs.push(match &token.logprobs {
            None => Value::Null,
            Some(logprobs) => {
                let mut top = Map::new();
                // The likeliest first; of two tokens with one text the likelier stays. The token itself is always among them.
                for &(id, logprob) in logprobs.top.iter().chain(&[(token.id, logprobs.logprob)]) {
                    top.entry(token_text(tokenizer, id)).or_insert_with(|| finite(logprob).into());
                }
                top.into()
            }
        });
        self.text_offset.push(offset);
    }

    /// The object.
    pub fn json(&self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs, "text_offset": self.text_offset,
        })
    }
}
