//! Log-probabilities in the JSON of answers: the form of chats, and the older one of completions.

use serde_json::{Map, Value, json};

use crate::data::Tokenizer;
use crate::data::tokenizer::StreamDecoder;
use crate::rollout::ScoredToken;
use crate::serve::engine::detokenizer::TokenSpan;

/// A log-probability as JSON can hold it: OpenAI sends -9999 for minus infinity.
fn finite(logprob: f32) -> f64 {
    f64::from(logprob).max(-9999.0)
}

/// A token as text; bytes that are not UTF-8 are written as `bytes:\x..`, as OpenAI does.
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

/// `logprobs` of a chat choice: `{"content": [{"token", "logprob", "bytes", "top_logprobs"}, ...]}`.
pub fn chat_logprobs(tokenizer: &Tokenizer, spans: &[TokenSpan]) -> Value {
    let one = |id: u32, logprob: f32| {
        let bytes = tokenizer.bytes_of_token(id);
        json!({"token": String::from_utf8_lossy(&bytes), "logprob": finite(logprob), "bytes": bytes})
    };
    let token = |span: &TokenSpan| {
        let logprobs = span.token.logprobs.as_ref();
        let mut value = one(span.token.id, logprobs.map_or(0.0, |l| l.logprob));
        let top = logprobs.map_or(&[][..], |l| &l.top);
        value["top_logprobs"] = top.iter().map(|&(id, logprob)| one(id, logprob)).collect();
        value
    };
    json!({"content": spans.iter().map(token).collect::<Vec<_>>(), "refusal": null})
}

/// Where tokens start in a text, in characters (`text_offset`). A token that holds a part of a character starts where the
/// character does.
#[derive(Debug, Default)]
pub struct TextOffsets {
    decoder: StreamDecoder,
    chars: usize,
}

impl TextOffsets {
    /// Offsets of the tokens that follow `chars` characters; `skip_special`: special tokens are not in the text.
    pub fn new(chars: usize, skip_special: bool) -> Self {
        Self { decoder: StreamDecoder::new(skip_special), chars }
    }

    /// The offset of the next token, which is `id`.
    pub fn next(&mut self, tokenizer: &Tokenizer, id: u32) -> usize {
        let offset = self.chars;
        // An id that does not decode has no text; the text itself is decoded elsewhere, where that is a fault.
        self.chars += self.decoder.push(tokenizer, id).unwrap_or_default().chars().count();
        offset
    }
}

/// `logprobs` of a completion: four lists of one length, the older form of OpenAI's interface.
#[derive(Debug, Default)]
pub struct CompletionLogprobs {
    tokens: Vec<Value>,
    token_logprobs: Vec<Value>,
    top_logprobs: Vec<Value>,
    text_offset: Vec<usize>,
}

impl CompletionLogprobs {
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

    /// The `logprobs` object of a completion, in OpenAI's form.
    pub fn json(&self) -> Value {
        json!({
            "tokens": self.tokens, "token_logprobs": self.token_logprobs,
            "top_logprobs": self.top_logprobs, "text_offset": self.text_offset,
        })
    }
}
