//! Text out of ids as they come, never a broken character.
//!
//! A byte-level token may hold part of a character. What is whole is given at once, the rest waits; the
//! pieces joined equal `decode` of all ids. Other decoders are asked to decode a growing window instead.

use super::Tokenizer;
use crate::error::Result;

/// Decodes one id at a time.
#[derive(Debug, Clone, Default)]
pub struct StreamDecoder {
    skip_special: bool,
    /// Special tokens that are shown all the same.
    shown: Vec<u32>,
    /// Bytes of a character that is not whole yet.
    bytes: Vec<u8>,
    /// Where the decoder is not byte-level: the ids since the piece before the last, and how many of them were
    /// given. A piece is what they add to the text of those before them.
    ids: Vec<u32>,
    given: usize,
}

impl StreamDecoder {
    /// A decoder at the start of a text; `skip_special` leaves special tokens out.
    pub fn new(skip_special: bool) -> Self {
        Self { skip_special, ..Self::default() }
    }

    /// The same with some special tokens in the text.
    pub fn showing(self, shown: Vec<u32>) -> Self {
        Self { shown, ..self }
    }

    fn skips(&self, id: u32) -> bool {
        self.skip_special && !self.shown.contains(&id)
    }

    /// Takes an id; returns the text that is complete by it, often empty.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        if !tokenizer.byte_level {
            return self.push_window(tokenizer, id);
        }
        if let Some(token) = tokenizer.token(id, self.skips(id)) {
            match token.chars().map(byte_of).collect::<Option<Vec<u8>>>() {
                Some(bytes) => self.bytes.extend(bytes),
                None => self.bytes.extend(token.as_bytes()),
            }
        }
        Ok(self.take_whole())
    }

    /// Ends the text and returns the rest; bytes that never became a character show as U+FFFD.
    ///
    /// # Errors
    /// As [`Tokenizer::decode`].
    pub fn finish(&mut self, tokenizer: &Tokenizer) -> Result<String> {
        if !tokenizer.byte_level {
            let before = tokenizer.decode(&self.ids[..self.given], false)?;
            let text = tokenizer.decode(&self.ids, false)?;
            let rest = text.get(before.len()..).unwrap_or_default().to_owned();
            self.ids.clear();
            self.given = 0;
            return Ok(rest);
        }
        Ok(String::from_utf8_lossy(&std::mem::take(&mut self.bytes)).into_owned())
    }

    fn take_whole(&mut self) -> String {
        let mut kept = 0;
        for chunk in self.bytes.utf8_chunks() {
            kept += chunk.valid().len() + chunk.invalid().len();
        }
        // Only an unfinished sequence at the very end may still become a character.
        if let Some(last) = self.bytes.utf8_chunks().last()
            && let Err(error) = std::str::from_utf8(last.invalid())
            && error.error_len().is_none()
        {
            kept -= last.invalid().len();
        }
        let rest = self.bytes.split_off(kept);
        let whole = std::mem::replace(&mut self.bytes, rest);
        String::from_utf8_lossy(&whole).into_owned()
    }

    fn push_window(&mut self, tokenizer: &Tokenizer, id: u32) -> Result<String> {
        if tokenizer.token(id, self.skips(id)).is_none() {
            return Ok(String::new());
        }
        self.ids.push(id);
        let before = tokenizer.decode(&self.ids[..self.given], false)?;
        let text = tokenizer.decode(&self.ids, false)?;
        let fresh = text.get(before.len()..).unwrap_or_default().to_owned();
        // Part of a character waits for the rest, and a token without a text for one that has.
        if text.ends_with('\u{fffd}') || fresh.is_empty() {
            return Ok(String::new());
        }
        self.ids.drain(..self.given);
        self.given = self.ids.len();
        Ok(fresh)
    }
}

impl Tokenizer {
    /// The bytes that a token stands for; an unknown id has none.
    pub fn bytes_of_token(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.token(id, false) else { return Vec::new() };
        if self.byte_level
            && let Some(bytes) = token.chars().map(byte_of).collect::<Option<Vec<u8>>>()
        {
            return bytes;
        }
        match self.byte_level {
            true => token.into_bytes(),
            false => super::token_bytes::piece_bytes(&token),
        }
    }
}

/// The byte that a character of the byte-level alphabet stands for: printable Latin-1 stands for itself,
/// the other 68 bytes follow from U+0100 on in order (GPT-2's `bytes_to_unicode`).
pub(super) fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    match c as u32 {
        code if code < 0x100 => printable(code).then_some(code as u8),
        code => {
            let place = code.checked_sub(0x100)? as usize;
            (0u32..0x100).filter(|b| !printable(*b)).nth(place).map(|b| b as u8)
        }
    }
}
