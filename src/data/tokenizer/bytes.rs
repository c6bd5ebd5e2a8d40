//! The bytes of every token, for grammars that decide which tokens may come next.

use std::collections::HashMap;

use super::Tokenizer;

/// GPT-2's alphabet: the character that stands for a byte in a byte-level vocabulary, turned round.
fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut shifted = 0;
    (0..=255u8)
        .map(|b| {
            if printable(b) {
                return (char::from(b), b);
            }
            shifted += 1;
            (char::from_u32(255 + shifted).expect("a character"), b)
        })
        .collect()
}

/// A token of a SentencePiece vocabulary.
fn piece_bytes(token: &str) -> Vec<u8> {
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
        let alphabet = byte_alphabet();
        let bytes = |token: String| -> Option<Vec<u8>> {
            if !self.byte_level {
                return Some(piece_bytes(&token));
            }
            token.chars().map(|c| alphabet.get(&c).copied()).collect()
        };
        (0..self.vocab_size as u32)
            .map(|id| match added.get(&id) {
                Some(token) => (!token.special).then(|| token.content.clone().into_bytes()),
                None => self.inner.id_to_token(id).and_then(bytes),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_gpt2s() {
        let alphabet = byte_alphabet();
        assert_eq!(alphabet.len(), 256);
        assert_eq!(
            (alphabet[&'Ġ'], alphabet[&'Ċ'], alphabet[&'a'], alphabet[&'Ń']),
            (b' ', b'\n', b'a', 0xad)
        );
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
