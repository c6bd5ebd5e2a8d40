//! A compiled grammar as a constraint on the next token, with numbers kept short. Next: [`super::grammar`].

use std::sync::Arc;

use llguidance::Matcher;
use llguidance::toktrie::SimpleVob;

use super::request::Constraint;
use crate::error::{Error, Result};

/// Digits of a number at the most; a whole number of so many fits every reader. Where a schema demands more, they come.
pub const DIGITS: usize = 15;

/// Where a JSON text stands: inside a string, or so many digits into a number.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct NumberScan {
    string: bool,
    escaped: bool,
    /// A name's digits are no number.
    word: bool,
    digits: usize,
}

impl NumberScan {
    /// Takes a byte; whether it keeps numbers short. An exponent would make numbers that no reader has.
    fn take(&mut self, byte: u8) -> bool {
        if self.string {
            (self.string, self.escaped) = (self.escaped || byte != b'"', !self.escaped && byte == b'\\');
            return true;
        }
        match byte {
            b'0'..=b'9' if self.word => true,
            b'0'..=b'9' => {
                self.digits += 1;
                self.digits <= DIGITS
            }
            b'.' => self.digits < DIGITS,
            b'e' | b'E' if self.digits > 0 => false,
            _ => {
                (self.digits, self.string) = (0, byte == b'"');
                self.word = byte.is_ascii_alphabetic() || byte == b'_';
                true
            }
        }
    }

    fn allows(mut self, bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| self.take(*byte))
    }
}

/// A grammar at work on one answer.
pub(super) struct GrammarConstraint {
    pub matcher: Matcher,
    /// The bytes of every token; `None` for one that stands for no text.
    pub tokens: Arc<[Option<Vec<u8>>]>,
    /// The tokens that end an answer.
    pub ends: Vec<u32>,
    /// Limits the digits of JSON numbers; `None` without that limit.
    pub numbers: Option<NumberScan>,
}

fn lost(error: impl std::fmt::Display) -> Error {
    Error::failed("the grammar cannot go on from here").because(error)
}

impl GrammarConstraint {
    fn is_allowed(&self, allowed: &SimpleVob, id: usize) -> bool {
        // A model may have more rows than the tokenizer has tokens.
        let id = match self.ends.first() {
            Some(eos) if self.ends.contains(&(id as u32)) => *eos as usize,
            _ => id,
        };
        id < allowed.len() && allowed.is_allowed(id as u32)
    }

    /// Whether a token leaves the number it stands in short.
    fn is_short(&self, scan: NumberScan, id: usize) -> bool {
        self.tokens.get(id).and_then(Option::as_ref).is_none_or(|bytes| scan.allows(bytes))
    }
}

impl Constraint for GrammarConstraint {
    fn mask(&mut self, logits: &mut [f32]) -> Result<()> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(lost)?;
        for (id, logit) in logits.iter_mut().enumerate() {
            if !self.is_allowed(&allowed, id) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let Some(scan) = self.numbers else { return Ok(()) };
        let open = |(id, logit): (usize, &f32)| (*logit > f32::NEG_INFINITY).then_some(id);
        let long: Vec<usize> =
            logits.iter().enumerate().filter_map(open).filter(|id| !self.is_short(scan, *id)).collect();
        // A schema may demand more digits than others are given.
        if long.len() < logits.iter().enumerate().filter_map(open).count() {
            long.into_iter().for_each(|id| logits[id] = f32::NEG_INFINITY);
        }
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<bool> {
        if self.ends.contains(&token) {
            return Ok(true);
        }
        if let (Some(scan), Some(bytes)) =
            (&mut self.numbers, self.tokens.get(token as usize).and_then(Option::as_ref))
        {
            for byte in bytes {
                scan.take(*byte);
            }
        }
        self.matcher.consume_token(token).map_err(lost)?;
        Ok(self.matcher.is_stopped())
    }
}
