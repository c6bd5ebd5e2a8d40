//! A template's text to tokens, with Jinja2's rules for the whitespace around tags.
//!
//! As transformers sets it: `trim_blocks` (the newline after a block tag goes) and `lstrip_blocks` (so does
//! the indent before one); one newline at the very end goes too.

use std::sync::Arc;

use super::{Res, syntax};

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tok {
    Data(Arc<str>),
    VariableBegin,
    VariableEnd,
    BlockBegin,
    BlockEnd,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    /// An operator, by its text.
    Op(&'static str),
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) tok: Tok,
    pub(super) line: usize,
}

/// Longest first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

/// All tokens of a template.
pub(super) fn tokens(source: &str) -> Res<Vec<Token>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, fresh_line: true, tokens: Vec::new() };
    lexer.root()?;
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    /// Whether what was read last ended with a newline.
    fresh_line: bool,
    tokens: Vec<Token>,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, tok: Tok) {
        self.tokens.push(Token { tok, line: self.line });
    }

    /// Goes on by `bytes`, counting lines.
    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.bytes().filter(|b| *b == b'\n').count();
        self.fresh_line = passed.ends_with('\n');
        self.at += bytes;
    }

    fn root(&mut self) -> Res<()> {
        loop {
            let rest = self.rest();
            let Some(found) = opening(rest) else {
                if !rest.is_empty() {
                    self.push(Tok::Data(rest.into()));
                }
                self.push(Tok::End);
                return Ok(());
            };
            let sign = rest[found + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let kind = rest.as_bytes()[found + 1];
            self.data(&rest[..found], sign, kind != b'{');
            let opened = found + 2 + usize::from(sign.is_some());
            match kind {
                b'#' => {
                    self.advance(opened);
                    self.comment()?;
                }
                b'%' => match raw_begin(&rest[opened..]) {
                    Some(length) => {
                        self.advance(opened + length);
                        self.raw()?;
                    }
                    None => {
                        self.advance(opened);
                        self.push(Tok::BlockBegin);
                        self.inside(true)?;
                    }
                },
                _ => {
                    self.advance(opened);
                    self.push(Tok::VariableBegin);
                    self.inside(false)?;
                }
            }
        }
    }

    /// Text before a tag, without the whitespace that the tag takes.
    fn data(&mut self, text: &str, sign: Option<char>, is_block: bool) {
        let kept = match sign {
            Some('-') => text.trim_end_matches(is_space),
            None if is_block => {
                let start = text.rfind('\n').map_or(0, |at| at + 1);
                let indent = &text[start..];
                let starts_line = start > 0 || self.fresh_line;
                if starts_line && !indent.is_empty() && indent.chars().all(is_space) {
                    &text[..start]
                } else {
                    text
                }
            }
            _ => text,
        };
        if !kept.is_empty() {
            self.push(Tok::Data(kept.into()));
        }
    }

    fn comment(&mut self) -> Res<()> {
        let rest = self.rest();
        let end = rest.find("#}").ok_or_else(|| syntax("Missing end of comment tag", self.line))?;
        let sign = rest[..end].chars().next_back();
        self.advance(end + 2);
        self.after_block(sign);
        Ok(())
    }

    /// What goes after a block or a comment: all whitespace, one newline, or nothing.
    fn after_block(&mut self, sign: Option<char>) {
        let rest = self.rest();
        let taken = match sign {
            Some('-') => rest.len() - rest.trim_start_matches(is_space).len(),
            Some('+') => 0,
            _ => usize::from(rest.starts_with('\n')),
        };
        if taken > 0 {
            self.advance(taken);
        }
    }

    fn raw(&mut self) -> Res<()> {
        let rest = self.rest();
        let mut from = 0;
        while let Some(found) = rest[from..].find("{%") {
            let start = from + found;
            let after = &rest[start + 2..];
            let sign = after.chars().next().filter(|c| matches!(c, '-' | '+'));
            let inside = &after[usize::from(sign.is_some())..];
            let word = inside.trim_start_matches(is_space);
            if let Some(tail) = word.strip_prefix("endraw") {
                let close = tail.trim_start_matches(is_space);
                let end_sign = close.chars().next().filter(|c| matches!(c, '-' | '+'));
                if close[usize::from(end_sign.is_some())..].starts_with("%}") {
                    self.data(&rest[..start], sign, true);
                    let end = rest.len() - close.len() + usize::from(end_sign.is_some()) + 2;
                    self.advance(end);
                    self.after_block(end_sign);
                    return Ok(());
                }
            }
            from = start + 2;
        }
        Err(syntax("Missing end of raw directive", self.line))
    }

    /// The tokens of one tag.
    fn inside(&mut self, block: bool) -> Res<()> {
        let end = if block { "%}" } else { "}}" };
        let mut open: Vec<char> = Vec::new();
        loop {
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                self.push(Tok::End);
                return Ok(());
            };
            if open.is_empty() {
                let sign = Some(first).filter(|c| *c == '-' || (block && *c == '+'));
                if rest[usize::from(sign.is_some())..].starts_with(end) {
                    self.push(if block { Tok::BlockEnd } else { Tok::VariableEnd });
                    self.advance(2 + usize::from(sign.is_some()));
                    match block {
                        true => self.after_block(sign),
                        false if sign.is_some() => self.after_block(sign),
                        false => {}
                    }
                    return Ok(());
                }
            }
            if is_space(first) {
                self.advance(rest.len() - rest.trim_start_matches(is_space).len());
            } else if let Some((tok, length)) = number(rest, self.source[..self.at].ends_with('.')) {
                let tok = tok.ok_or_else(|| syntax("a number is too large", self.line))?;
                self.push(tok);
                self.advance(length);
            } else if is_word(first) {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                if first.is_numeric() {
                    return Err(syntax("Invalid character in identifier", self.line));
                }
                self.push(Tok::Name(rest[..length].into()));
                self.advance(length);
            } else if let Some(length) = string(rest) {
                let text = unescape(&rest[1..length - 1]).map_err(|why| syntax(why, self.line))?;
                self.push(Tok::Str(text.into()));
                self.advance(length);
            } else if let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) {
                self.balance(op, &mut open)?;
                self.push(Tok::Op(op));
                self.advance(op.len());
            } else {
                return Err(syntax(format!("unexpected char {first:?} at {}", self.at), self.line));
            }
        }
    }

    fn balance(&self, op: &str, open: &mut Vec<char>) -> Res<()> {
        match op {
            "{" => open.push('}'),
            "(" => open.push(')'),
            "[" => open.push(']'),
            "}" | ")" | "]" => match open.pop() {
                None => return Err(syntax(format!("unexpected '{op}'"), self.line)),
                Some(wanted) if !op.starts_with(wanted) => {
                    return Err(syntax(format!("unexpected '{op}', expected '{wanted}'"), self.line));
                }
                Some(_) => {}
            },
            _ => {}
        }
        Ok(())
    }
}

/// Where the next tag opens.
fn opening(text: &str) -> Option<usize> {
    text.as_bytes().windows(2).position(|pair| pair[0] == b'{' && matches!(pair[1], b'{' | b'%' | b'#'))
}

/// How long `raw %}` is, after the tag's opening.
fn raw_begin(text: &str) -> Option<usize> {
    let word = text.trim_start_matches(is_space).strip_prefix("raw")?;
    let close = word.trim_start_matches(is_space);
    if let Some(tail) = close.strip_prefix("-%}") {
        return Some(text.len() - tail.trim_start_matches(is_space).len());
    }
    close.strip_prefix("%}").map(|tail| text.len() - tail.len())
}

/// Python's whitespace.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// A character of a name.
pub(super) fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Digits with single underscores between them; how many bytes.
fn digits(text: &str, is_digit: impl Fn(u8) -> bool) -> usize {
    let bytes = text.as_bytes();
    let mut end = 0;
    while end < bytes.len() {
        let underscore = usize::from(end > 0 && bytes[end] == b'_');
        match bytes.get(end + underscore) {
            Some(byte) if is_digit(*byte) => end += underscore + 1,
            _ => break,
        }
    }
    end
}

/// The number at the beginning of a text; no token where it is too large.
fn number(text: &str, after_dot: bool) -> Option<(Option<Tok>, usize)> {
    if !text.as_bytes()[0].is_ascii_digit() {
        return None;
    }
    let whole = digits(text, |b| b.is_ascii_digit());
    let plain = |text: &str| text.replace('_', "");
    if !after_dot {
        let mut end = whole;
        if text[end..].starts_with('.') {
            let part = digits(&text[end + 1..], |b| b.is_ascii_digit());
            if part > 0 {
                end += 1 + part;
            }
        }
        if text[end..].starts_with(['e', 'E']) {
            let sign = usize::from(text[end + 1..].starts_with(['+', '-']));
            let part = digits(&text[end + 1 + sign..], |b| b.is_ascii_digit());
            if part > 0 {
                end += 1 + sign + part;
            }
        }
        if end > whole {
            return Some((plain(&text[..end]).parse().ok().map(Tok::Float), end));
        }
    }
    if text.starts_with('0') {
        let (radix, is_digit): (u32, fn(u8) -> bool) = match text.as_bytes().get(1) {
            Some(b'b' | b'B') => (2, |b| matches!(b, b'0' | b'1')),
            Some(b'o' | b'O') => (8, |b| (b'0'..b'8').contains(&b)),
            Some(b'x' | b'X') => (16, |b| b.is_ascii_hexdigit()),
            _ => (10, |b| b == b'0'),
        };
        let prefix = if radix == 10 { 0 } else { 2 };
        let skip = usize::from(prefix == 2 && text[2..].starts_with('_'));
        let length = digits(&text[prefix + skip..], is_digit);
        if length > 0 {
            let end = prefix + skip + length;
            let value = i128::from_str_radix(&plain(&text[prefix + skip..end]), radix).ok();
            return Some((value.map(Tok::Int), end));
        }
        return Some((Some(Tok::Int(0)), 1));
    }
    Some((plain(&text[..whole]).parse().ok().map(Tok::Int), whole))
}

/// How long the quoted text at the beginning is, quotes included.
fn string(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Python's `unicode-escape`.
fn unescape(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else { return Err("\\ at end of string".to_owned()) };
        rest = &rest[c.len_utf8()..];
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0'..='7' => {
                let more = rest.bytes().take(2).take_while(|b| (b'0'..b'8').contains(b)).count();
                let digits = format!("{c}{}", &rest[..more]);
                rest = &rest[more..];
                out.extend(u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32));
            }
            'x' | 'u' | 'U' => {
                let length = match c {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let wrong = || format!("truncated \\{c}{} escape", "X".repeat(length));
                let digits = rest.get(..length).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let code = u32::from_str_radix(digits.ok_or_else(wrong)?, 16).map_err(|_| wrong())?;
                rest = &rest[length..];
                let c = char::from_u32(code).ok_or("illegal Unicode character")?;
                out.push(c);
            }
            'N' => return Err("characters by name are not known here".to_owned()),
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}
