//! From tokens to the text that a client may see, with the log-probabilities that belong to it.
//!
//! Half a character waits for its rest, text that may be the start of a stop string waits for what follows,
//! and a token goes out with its text.

use std::collections::VecDeque;

use super::stop_strings::StopStringFinder;
use crate::data::Tokenizer;
use crate::data::tokenizer::StreamDecoder;
use crate::error::Result;
use crate::rollout::ScoredToken;

/// A token with its place in the text.
#[derive(Debug, Clone)]
pub struct TokenSpan {
    /// The token and its log-probabilities.
    pub token: ScoredToken,
    /// Bytes of text before it.
    pub start: usize,
    end: usize,
}

/// Text that became certain.
#[derive(Debug, Clone, Default)]
pub struct TextDelta {
    /// The text that became complete with these tokens.
    pub text: String,
    /// The tokens that this text was made of.
    pub tokens: Vec<TokenSpan>,
}

/// Turns the tokens of one answer into text (vLLM's incremental detokenizer).
#[derive(Debug)]
pub struct IncrementalDetokenizer {
    decoder: StreamDecoder,
    stop_strings: StopStringFinder,
    stop_ids: Vec<u32>,
    /// Whether a stop token is listed among the tokens of the text.
    list_stop_token: bool,
    /// Tokens whose text has not gone out.
    pending: VecDeque<TokenSpan>,
    /// Bytes of text decoded, and sent out.
    decoded: usize,
    sent: usize,
    count: usize,
}

impl IncrementalDetokenizer {
    /// The start of an answer that any of the texts `stop` and of the tokens `stop_ids` end; neither is part of its text.
    pub fn new(stop: &[String], stop_ids: Vec<u32>) -> Self {
        Self {
            decoder: StreamDecoder::new(true),
            stop_strings: StopStringFinder::new(stop),
            stop_ids,
            list_stop_token: false,
            pending: VecDeque::new(),
            decoded: 0,
            sent: 0,
            count: 0,
        }
    }

    /// Special tokens that are text here, as those around a tool call.
    pub fn with_special_tokens(self, ids: Vec<u32>) -> Self {
        Self { decoder: self.decoder.showing(ids), ..self }
    }

    /// Whether a stop token is listed with its log-probability.
    pub fn listing_stop_tokens(self, list_stop_token: bool) -> Self {
        Self { list_stop_token, ..self }
    }

    /// Tokens pushed, without a stop token.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes a token; returns the text that is certain now, and whether a stop string ended the answer.
    ///
    /// # Errors
    /// An id that the tokenizer does not know.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: ScoredToken) -> Result<(TextDelta, bool)> {
        if self.stop_ids.contains(&token.id) {
            if self.list_stop_token {
                self.pending.push_back(TokenSpan { token, start: self.decoded, end: self.decoded });
            }
            return Ok((TextDelta::default(), false));
        }
        self.count += 1;
        let piece = self.decoder.push(tokenizer, token.id)?;
        let start = self.decoded;
        self.decoded += piece.len();
        self.pending.push_back(TokenSpan { token, start, end: self.decoded });
        let (text, stopped) = self.stop_strings.push(&piece);
        Ok((self.release(text, stopped), stopped))
    }

    /// Ends an answer that no stop string ended; returns the rest of its text.
    ///
    /// # Errors
    /// As [`IncrementalDetokenizer::push`].
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<TextDelta> {
        let rest = self.decoder.finish(tokenizer)?;
        self.decoded += rest.len();
        let (mut text, stopped) = self.stop_strings.push(&rest);
        if !stopped {
            text.push_str(&self.stop_strings.finish());
        }
        let mut delta = self.release(text, stopped);
        if !stopped {
            delta.tokens.extend(self.pending.drain(..));
        }
        Ok(delta)
    }

    /// Text that goes out, with the tokens whose text it completes.
    fn release(&mut self, text: String, last: bool) -> TextDelta {
        self.sent += text.len();
        let is_out = |span: &TokenSpan| span.end <= self.sent || (last && span.start < self.sent);
        let mut tokens = Vec::new();
        while self.pending.front().is_some_and(is_out) {
            tokens.extend(self.pending.pop_front());
        }
        TextDelta { text, tokens }
    }
}
