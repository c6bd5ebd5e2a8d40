//! `${...}` hidden from the YAML parser.
//!
//! YAML would end a plain text in `{...}` at the braces of `${NAME}`. So before it reads, [`mask`] puts characters of
//! the private use area in their place, one for one, and every position stays what it was. Next: `expand`.

use serde_yaml::Value;

use crate::error::Place;

/// A text whose `${...}` are put into characters that mean nothing to YAML.
#[derive(Debug, Clone)]
pub struct Masked {
    /// The text, of as many characters as before.
    pub text: String,
    /// The character that stands for ASCII 0.
    base: u32,
    /// Line and column of each `${`, escaped ones left out, and what follows it in the line.
    spots: Vec<(usize, usize, String)>,
}

/// Puts every `${...}` and `$${...}` of a line into other characters.
pub fn mask(text: &str) -> Masked {
    // Of the private use area, a part that the text does not use itself.
    let free = |base: &u32| !text.chars().any(|c| (*base..*base + 128).contains(&(c as u32)));
    mask_with(text, (0xe000..0xf800).step_by(128).find(free).unwrap_or(0xe000))
}

fn mask_with(text: &str, base: u32) -> Masked {
    let mut masked = Masked { text: String::with_capacity(text.len()), base, spots: Vec::new() };
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let chars: Vec<char> = line.chars().collect();
        let mut at = 0;
        while at < chars.len() {
            let escaped = chars[at..].starts_with(&['$', '$', '{']);
            if !escaped && !chars[at..].starts_with(&['$', '{']) {
                masked.text.push(chars[at]);
                at += 1;
                continue;
            }
            let open = at + if escaped { 3 } else { 2 };
            let end = closing(&chars, open).map_or(open, |end| end + 1);
            for place in at..end {
                if chars[place..].starts_with(&['$', '{']) && (place == 0 || chars[place - 1] != '$') {
                    masked.spots.push((number + 1, place + 1, chars[place + 2..end].iter().collect()));
                }
                masked.text.push(masked.hidden(chars[place]));
            }
            at = end;
        }
    }
    masked
}

/// The brace that closes what was opened before `from`.
pub(super) fn closing(chars: &[char], from: usize) -> Option<usize> {
    let mut open = 1;
    for (at, c) in chars.iter().enumerate().skip(from) {
        match c {
            '{' => open += 1,
            '}' => open -= 1,
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
    }
    None
}

impl Masked {
    /// The character that stands for `c`.
    pub(super) fn hidden(&self, c: char) -> char {
        // Quotes and backslashes stay: inside quotes they are YAML's.
        let kept =
            !c.is_ascii() || c.is_ascii_alphanumeric() || matches!(c, '"' | '\'' | '\\' | '_' | '\n' | '\r');
        if kept { c } else { char::from_u32(self.base + c as u32).unwrap_or(c) }
    }

    /// The character that `c` stands for.
    pub(super) fn shown(&self, c: char) -> char {
        let code = (c as u32).wrapping_sub(self.base);
        if code < 128 { char::from(code as u8) } else { c }
    }

    /// How many `${` a text has.
    pub(super) fn count(&self, text: &str) -> usize {
        mask_with(text, self.base).spots.len()
    }

    /// Another text, put into the same characters.
    pub fn like(&self, text: &str) -> String {
        mask_with(text, self.base).text
    }

    /// A text as it was written.
    pub fn unmask(&self, text: &str) -> String {
        text.chars().map(|c| self.shown(c)).collect()
    }

    /// A value as it was written.
    pub fn written(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.unmask(text)),
            Value::Sequence(items) => Value::Sequence(items.iter().map(|item| self.written(item)).collect()),
            Value::Mapping(map) => {
                Value::Mapping(map.iter().map(|(k, v)| (self.written(k), self.written(v))).collect())
            }
            other => other.clone(),
        }
    }

    /// Where the `nth` `${` of the text that begins at `place` stands, which names `name`. A text that an alias takes over
    /// stands elsewhere.
    pub(super) fn spot(&self, place: Place, nth: usize, name: &str) -> Place {
        let (Some(line), Some(column)) = (place.line, place.column) else { return place };
        let first = self.spots.partition_point(|spot| (spot.0, spot.1) < (line, column));
        let same = |spot: &&(usize, usize, String)| spot.2.starts_with(name);
        match self.spots.get(first + nth).filter(same).or_else(|| self.spots.iter().find(same)) {
            Some((line, column, _)) => Place::line_column(place.file, *line, *column),
            None => place,
        }
    }
}
