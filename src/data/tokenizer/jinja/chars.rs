//! Case and kinds of characters, as Python's strings know them.

use super::lexer::{is_space, is_word};
use super::repr;

/// Python's lower case: a final sigma as Unicode says.
pub(super) fn lower(text: &str) -> String {
    text.to_lowercase()
}

pub(super) fn casefold(text: &str) -> String {
    // The full folding of the characters that lower case leaves apart.
    text.chars()
        .flat_map(|c| match c {
            'ß' | 'ẞ' => vec!['s', 's'],
            'ς' => vec!['σ'],
            'ſ' => vec!['s'],
            'ŉ' => vec!['ʼ', 'n'],
            'ﬀ' => vec!['f', 'f'],
            'ﬁ' => vec!['f', 'i'],
            'ﬂ' => vec!['f', 'l'],
            c => c.to_lowercase().collect(),
        })
        .collect()
}

fn title_char(c: char) -> String {
    match c {
        'ǆ' | 'Ǆ' | 'ǅ' => "ǅ".to_owned(),
        'ǉ' | 'Ǉ' | 'ǈ' => "ǈ".to_owned(),
        'ǌ' | 'Ǌ' | 'ǋ' => "ǋ".to_owned(),
        'ß' => "Ss".to_owned(),
        'ﬁ' => "Fi".to_owned(),
        'ﬂ' => "Fl".to_owned(),
        c => c.to_uppercase().collect(),
    }
}

pub(super) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => title_char(first) + &lower(chars.as_str()),
        None => String::new(),
    }
}

/// Whether a character is a capital and a small letter in one.
fn is_title(c: char) -> bool {
    matches!(c, 'ǅ' | 'ǈ' | 'ǋ' | 'ǲ' | '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}' | 'ᾼ' | 'ῌ' | 'ῼ')
}

/// `str.islower`
pub(super) fn is_lower(text: &str) -> bool {
    text.chars().any(char::is_lowercase) && !text.chars().any(|c| c.is_uppercase() || is_title(c))
}

/// `str.isupper`
pub(super) fn is_upper(text: &str) -> bool {
    text.chars().any(char::is_uppercase) && !text.chars().any(|c| c.is_lowercase() || is_title(c))
}

/// Whether a character has case.
fn cased(c: char) -> bool {
    c.is_lowercase() || c.is_uppercase() || is_title(c)
}

pub(super) fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        match inside {
            true => out.extend(c.to_lowercase()),
            false => out.push_str(&title_char(c)),
        }
        inside = cased(c);
    }
    out
}

pub(super) fn swapcase(text: &str) -> String {
    text.chars()
        .flat_map(|c| -> Vec<char> {
            if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
        })
        .collect()
}

/// The questions about a text's characters.
pub(super) fn is(text: &str, name: &str) -> bool {
    let all = |holds: &dyn Fn(char) -> bool| !text.is_empty() && text.chars().all(holds);
    let digit = |c: char| c.is_ascii_digit() || c.is_numeric() && decimal(c);
    match name {
        "isalpha" => all(&letter),
        "isalnum" => all(&|c| letter(c) || c.is_numeric()),
        "isdecimal" => all(&digit),
        "isdigit" => {
            all(&|c| digit(c) || matches!(c, '²' | '³' | '¹' | '⁰' | '⁴'..='⁹' | '₀'..='₉' | '①'..='⑨'))
        }
        "isnumeric" => all(&char::is_numeric),
        "isspace" => all(&is_space),
        "isascii" => text.is_ascii(),
        "isprintable" => text.chars().all(repr::is_printable),
        "isidentifier" => {
            let mut chars = text.chars();
            chars.next().is_some_and(|c| c == '_' || letter(c)) && chars.all(is_word)
        }
        "islower" => is_lower(text),
        "isupper" => is_upper(text),
        "istitle" => {
            let (mut inside, mut any) = (false, false);
            for c in text.chars() {
                if (c.is_uppercase() || is_title(c)) && inside || c.is_lowercase() && !inside {
                    return false;
                }
                any |= cased(c);
                inside = cased(c);
            }
            any
        }
        _ => false,
    }
}

/// A letter by its category: numbers that Unicode calls alphabetic (Ⅷ) and marks are none.
fn letter(c: char) -> bool {
    c.is_alphabetic() && !c.is_numeric()
}

/// A decimal digit of some script.
fn decimal(c: char) -> bool {
    const ZEROS: [u32; 20] = [
        0x660, 0x6f0, 0x7c0, 0x966, 0x9e6, 0xa66, 0xae6, 0xb66, 0xbe6, 0xc66, 0xce6, 0xd66, 0xde6, 0xe50,
        0xed0, 0xf20, 0x1040, 0x17e0, 0x1810, 0xff10,
    ];
    ZEROS.iter().any(|zero| (*zero..zero + 10).contains(&(c as u32)))
}
