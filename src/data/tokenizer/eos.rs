//! Which tokens end an answer: what the model's files name, the tokenizer's own end mark, and the one with which the
//! chat template closes an assistant's turn. Generation stops at any of them.

use serde_json::json;

use super::{RenderOptions, Tokenizer};

/// Upstream's end mark in both eras, where neither a tokenizer nor the model's files tell.
const UPSTREAM: u32 = 2;

/// Every end mark of a model, each once: those that its files name (`named`) first, then the tokenizer's.
pub fn eos_token_ids(tokenizer: Option<&Tokenizer>, named: &[u32]) -> Vec<u32> {
    let mut ends = named.to_vec();
    if let Some(tokenizer) = tokenizer {
        // A tokenizer that names no end mark has one by guess; who knows better is asked first.
        let own = tokenizer.has_eos() || named.is_empty();
        for id in own.then(|| tokenizer.eos_id()).into_iter().chain(tokenizer.end_of_turn_id()) {
            if !ends.contains(&id) {
                ends.push(id);
            }
        }
    }
    if ends.is_empty() {
        ends.push(UPSTREAM);
    }
    ends
}

impl Tokenizer {
    /// The token with which the chat template closes an assistant's turn; `None` without a template, and where the turn
    /// ends in plain text.
    pub fn end_of_turn_id(&self) -> Option<u32> {
        const SAID: &str = "Answer7";
        if !self.has_chat_template() {
            return None;
        }
        let turns = json!([{"role": "user", "content": "Question7"}, {"role": "assistant", "content": SAID}]);
        let text = self.apply_chat_template(&turns, None, RenderOptions::default()).ok()?;
        let (_, after) = text.rsplit_once(SAID)?;
        let ids = self.encode(after).ok()?;
        let added = self.inner.get_added_tokens_decoder();
        let mut marks = ids.iter().filter(|id| !self.is_space(**id));
        // Text between answer and mark belongs to the turn; then the mark is what stands last.
        let first = marks.next().filter(|id| added.contains_key(*id));
        first.or_else(|| marks.next_back().filter(|id| added.contains_key(*id))).copied()
    }

    fn is_space(&self, id: u32) -> bool {
        std::str::from_utf8(&self.bytes_of_token(id)).is_ok_and(|text| text.trim().is_empty())
    }

    /// What is left of a text behind the end mark it begins with, if it begins with one of `ends`.
    pub fn strip_eos<'a>(&self, text: &'a str, ends: &[u32]) -> &'a str {
        let marks = ends.iter().filter_map(|&id| self.inner.id_to_token(id));
        let found =
            marks.filter(|mark| !mark.is_empty() && text.starts_with(mark.as_str())).map(|mark| mark.len());
        &text[found.max().unwrap_or(0)..]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Upstream's vocabulary with another template and end mark.
    fn tokenizer(template: &str, eos: Option<&str>) -> Tokenizer {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tokenizer/tokenizer.json");
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(from, folder.path().join("tokenizer.json")).unwrap();
        let config = json!({"eos_token": eos, "chat_template": template});
        std::fs::write(folder.path().join("tokenizer_config.json"), config.to_string()).unwrap();
        Tokenizer::load(folder.path()).unwrap()
    }

    #[test]
    fn the_template_closes_a_turn_with_its_own_mark() {
        let chatml = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}";
        let other = tokenizer(chatml, Some("<|endoftext|>"));
        let id = |text: &str| other.token_id(text).unwrap();
        assert_eq!(other.end_of_turn_id(), Some(id("<|im_end|>")));
        assert_eq!(eos_token_ids(Some(&other), &[]), [id("<|endoftext|>"), id("<|im_end|>")]);
        // What the model's files name comes first, and nothing twice.
        let named = [9, id("<|im_end|>")];
        assert_eq!(eos_token_ids(Some(&other), &named), [9, id("<|im_end|>"), id("<|endoftext|>")]);
        assert_eq!(other.strip_eos("<|im_end|>\nrest", &named), "\nrest");
        assert_eq!(other.strip_eos("rest", &named), "rest");
        // One mark: as upstream's own tokenizers.
        assert_eq!(eos_token_ids(Some(&tokenizer(chatml, Some("<|im_end|>"))), &[]), [id("<|im_end|>")]);
        // A turn that ends in plain text, or in text and then a mark; a template that refuses.
        let plain = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}";
        assert_eq!(tokenizer(plain, None).end_of_turn_id(), None);
        let late = "{% for m in messages %}{{ m.content + ' (end)<|im_end|>' }}{% endfor %}";
        assert_eq!(tokenizer(late, None).end_of_turn_id(), Some(id("<|im_end|>")));
        assert_eq!(tokenizer("{{ raise_exception('no') }}", None).end_of_turn_id(), None);
        // An end mark by guess gives way to one by name.
        assert_eq!(eos_token_ids(Some(&tokenizer(plain, None)), &[11]), [11]);
        assert_eq!(eos_token_ids(None, &[]), [2]);
    }
}
