//! The bytes of every token, for grammars that decide which tokens may come next.

use super::Tokenizer;
use super::stream::byte_of;

/// A token of a SentencePiece vocabulary.
pub(super) fn piece_bytes(token: &str) -> Vec<u8> {
    let hex = token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
    match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => token.replace('\u{2581}', " ").into_bytes(),
    }
}

impl Tokenizer {
    /// The bytes that each token stands for; `None` for special tokens, which stand for no text.
    pub fn token_bytes(&self) -> Vec<Option<Vec<u8>>> {
        let added = self.inner.get_added_tokens_decoder();
        let bytes = |token: String| -> Option<Vec<u8>> {
            if !self.byte_level {
                return Some(piece_bytes(&token));
            }
            token.chars().map(byte_of).collect()
        };
        (0..self.vocab_size as u32)
            .map(|id| match added.get(&id) {
                Some(token) => (!token.special).then(|| token.content.clone().into_bytes()),
                None => self.inner.id_to_token(id).and_then(bytes),
            })
            .collect()
    }

    /// The same without added tokens, special or not, as grammars want it: a marker such as `</tool_call>` inside a JSON string
    /// would be that marker again when the conversation comes back as a prompt. Grammars name the markers that they write.
    pub fn plain_token_bytes(&self) -> Vec<Option<Vec<u8>>> {
        let mut bytes = self.token_bytes();
        for id in self.inner.get_added_tokens_decoder().keys() {
            if let Some(token) = bytes.get_mut(*id as usize) {
                *token = None;
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let alphabet: HashMap<u8, char> =
            (0..0x200).filter_map(char::from_u32).filter_map(|c| Some((byte_of(c)?, c))).collect();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(['Ġ', 'Ċ', 'a', 'Ń'].map(|c| byte_of(c).unwrap()), [b' ', b'\n', b'a', 0xad]);
        assert_eq!(piece_bytes("<0x0A>"), b"\n");
        assert_eq!(piece_bytes("\u{2581}the"), b" the");
    }

    #[test]
    fn bytes_of_a_texts_ids_are_the_texts() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer");
        let tokenizer = Tokenizer::load(&folder).unwrap();
        let bytes = tokenizer.token_bytes();
        let text = "{\"name\": \"Grüße, 世界\", \"n\": [1, 22]}\n\tx";
        let ids = tokenizer.encode(text).unwrap();
        let joined: Vec<u8> = ids.iter().flat_map(|&id| bytes[id as usize].clone().unwrap()).collect();
        assert_eq!(String::from_utf8(joined).unwrap(), text);
        assert_eq!(bytes[tokenizer.eos_id() as usize], None);
    }
}
