//! `wordwrap`, as Python's `textwrap` breaks lines.

use super::call::Given;
use super::eval::Engine;
use super::lexer::is_word;
use super::text::lines;
use super::value::Value;
use super::{Res, failed};

/// The whitespace that `textwrap` breaks at.
fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// `value|wordwrap(...)`
pub(super) fn wordwrap(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let names = ["width", "break_long_words", "wrapstring", "break_on_hyphens"];
    let [width, long, wrap, hyphens] = given.bind("wordwrap", names, 0)?;
    let flag = |value: Option<Value>| value.map_or(Ok(true), |value| value.truth(engine));
    let (long, hyphens) = (flag(long)?, flag(hyphens)?);
    let width = width.map_or(Ok(79), |width| width.index())?;
    let Value::Str(text) = value else {
        return Err(match value {
            Value::Undefined(missing) => missing.fault(),
            other => failed(format!("'{}' object has no attribute 'splitlines'", other.type_name())),
        });
    };
    let wrap = match &wrap {
        None | Some(Value::None) => "\n",
        Some(value) => super::text::text_of(value)?,
    };
    engine.spend_text(text.len())?;
    let mut wrapped = Vec::new();
    for line in lines(text, false) {
        wrapped.push(wrapped_line(engine, line, width, long, hyphens)?.join(wrap));
    }
    let bytes = wrapped.iter().map(|line| line.len() + wrap.len()).sum();
    engine.spend_text(bytes)?;
    Ok(Value::str(wrapped.join(wrap)))
}

fn wrapped_line(engine: &Engine, line: &str, width: i128, long: bool, hyphens: bool) -> Res<Vec<String>> {
    if width <= 0 {
        return Err(failed(format!("invalid width {width} (must be > 0)")));
    }
    let width = usize::try_from(width).unwrap_or(usize::MAX);
    let size = |chunk: &str| chunk.chars().count();
    let mut chunks: Vec<String> = chunks(line, hyphens);
    chunks.reverse();
    let mut made: Vec<String> = Vec::new();
    while !chunks.is_empty() {
        engine.spend(1)?;
        let mut current: Vec<String> = Vec::new();
        let mut length = 0;
        if !made.is_empty() && chunks.last().is_some_and(|chunk| chunk.trim().is_empty()) {
            chunks.pop();
        }
        while let Some(chunk) = chunks.last() {
            if length + size(chunk) > width {
                break;
            }
            length += size(chunk);
            current.extend(chunks.pop());
        }
        if chunks.last().is_some_and(|chunk| size(chunk) > width) {
            let space = width.saturating_sub(length).max(usize::from(width < 1));
            if long {
                if let Some(chunk) = chunks.pop() {
                    let mut end = space;
                    if hyphens && size(&chunk) > space {
                        let head: Vec<char> = chunk.chars().take(space).collect();
                        let hyphen = head.iter().rposition(|c| *c == '-');
                        if let Some(at) = hyphen.filter(|at| *at > 0 && head[..*at].iter().any(|c| *c != '-'))
                        {
                            end = at + 1;
                        }
                    }
                    let head: String = chunk.chars().take(end).collect();
                    let tail: String = chunk.chars().skip(end).collect();
                    current.push(head);
                    if !tail.is_empty() {
                        chunks.push(tail);
                    }
                }
            } else if current.is_empty() {
                current.extend(chunks.pop());
            }
        }
        if current.last().is_some_and(|chunk| chunk.trim().is_empty()) {
            current.pop();
        }
        if !current.is_empty() {
            made.push(current.concat());
        }
    }
    Ok(made)
}

/// Words, the blanks between them, and parts of words after hyphens.
fn chunks(line: &str, hyphens: bool) -> Vec<String> {
    let mut found = Vec::new();
    let chars: Vec<char> = line.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let blank = is_blank(chars[at]);
        let mut end = at;
        while end < chars.len() && is_blank(chars[end]) == blank {
            end += 1;
        }
        if blank || !hyphens {
            found.push(chars[at..end].iter().collect());
        } else {
            parts(&chars[at..end], &mut found);
        }
        at = end;
    }
    found
}

/// A word at its hyphens: after `letter-letter`, and around dashes of two and more.
fn parts(word: &[char], found: &mut Vec<String>) {
    let letter = |at: usize| word.get(at).is_some_and(|c| is_word(*c) && !c.is_ascii_digit() && *c != '_');
    let before = |at: usize| {
        at > 0
            && word
                .get(at - 1)
                .is_some_and(|c| is_word(*c) || matches!(c, '!' | '"' | '\'' | '&' | '.' | ',' | '?'))
    };
    let mut start = 0;
    let mut at = 0;
    while at < word.len() {
        if word[at] != '-' {
            at += 1;
            continue;
        }
        let mut end = at;
        while end < word.len() && word[end] == '-' {
            end += 1;
        }
        let dashes = end - at;
        if dashes >= 2 && before(at) && word.get(end).is_some_and(|c| is_word(*c)) {
            if at > start {
                found.push(word[start..at].iter().collect());
            }
            found.push(word[at..end].iter().collect());
            start = end;
        } else if dashes == 1
            && at >= 2
            && letter(at - 1)
            && (letter(at - 2) || at >= 3 && word[at - 2] == '-' && letter(at - 3))
            && (letter(at + 1) && (letter(at + 2) || word.get(at + 2) == Some(&'-') && letter(at + 3)))
        {
            found.push(word[start..end].iter().collect());
            start = end;
        }
        at = end;
    }
    if start < word.len() {
        found.push(word[start..].iter().collect());
    }
}
