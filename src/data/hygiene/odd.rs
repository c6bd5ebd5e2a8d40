//! Characters that a reader of the text would not expect: left by a wrong encoding, a crawler or a converter.

use serde::Serialize;

/// What is odd about a character.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum OddKind {
    /// Control characters other than tab and line ends.
    Control,
    /// U+FFFD, which stands where bytes could not be read.
    Replacement,
    /// Characters that only one font or program knows.
    PrivateUse,
    /// Characters without width where no script needs them.
    ZeroWidth,
    /// Characters that turn the direction of writing.
    Direction,
    /// UTF-8 that was read as another encoding: `Ã©` for `é`, `锟斤拷`.
    Mojibake,
}

impl OddKind {
    /// All, in the order of [`OddCharacters`].
    pub const ALL: [Self; 6] = [
        Self::Control,
        Self::Replacement,
        Self::PrivateUse,
        Self::ZeroWidth,
        Self::Direction,
        Self::Mojibake,
    ];

    /// Its name for people and in JSON.
    pub fn name(self) -> &'static str {
        ["control", "replacement", "private_use", "zero_width", "direction", "mojibake"][self as usize]
    }
}

/// How many characters of each kind, in the order of [`OddKind::ALL`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OddCharacters(pub [u32; OddKind::ALL.len()]);

impl OddCharacters {
    /// Those of some texts.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let mut found = Self::default();
        for text in texts {
            // Most texts are plain, and bytes are quick to look through.
            let plain = |byte: &u8| *byte < 0x7f && (*byte >= 0x20 || b"\t\n\r".contains(byte));
            if !text.as_bytes().iter().all(plain) {
                found.count(text);
            }
        }
        found
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.0.iter().any(|count| *count > 0)
    }

    fn count(&mut self, text: &str) {
        let mut before = ' ';
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let mut length = letter.len_utf8();
            let kind = match letter {
                '\t' | '\n' | '\r' => None,
                _ if letter.is_control() => Some(OddKind::Control),
                '\u{fffd}' => Some(OddKind::Replacement),
                '\u{e000}'..='\u{f8ff}' | '\u{f0000}'..='\u{10fffd}' => Some(OddKind::PrivateUse),
                '\u{200b}' | '\u{2060}' | '\u{feff}' => (!needs_breaks(before)).then_some(OddKind::ZeroWidth),
                // They join letters and signs of many scripts, but not of ASCII.
                '\u{200c}' | '\u{200d}' => before.is_ascii().then_some(OddKind::ZeroWidth),
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => Some(OddKind::Direction),
                _ if !letter.is_ascii() => mojibake(rest).map(|whole| {
                    length = whole;
                    OddKind::Mojibake
                }),
                _ => None,
            };
            if let Some(kind) = kind {
                self.0[kind as usize] += 1;
            }
            before = letter;
            rest = &rest[length..];
        }
    }
}

/// Scripts without blanks in which U+200B says where a line may end.
fn needs_breaks(letter: char) -> bool {
    matches!(letter, '\u{e00}'..='\u{eff}' | '\u{1000}'..='\u{109f}' | '\u{1780}'..='\u{17ff}')
}

/// What other programs made of UTF-8 that they took for GBK.
const GBK: [&str; 6] = ["锟斤拷", "烫烫烫", "屯屯屯", "锛", "銆", "鈥"];

/// The bytes at the beginning of a text that are one character of UTF-8 read as Windows-1252 or GBK.
fn mojibake(text: &str) -> Option<usize> {
    if let Some(known) = GBK.iter().find(|known| text.starts_with(**known)) {
        return Some(known.len());
    }
    let mut letters = text.chars();
    let first = letters.next()?;
    let follow = match first {
        // Others of two bytes are common letters that guillemets may follow: `CAFÉ »`.
        'Â' | 'Ã' => 1,
        'à'..='ï' => 2,
        'ð' => 3,
        _ => return None,
    };
    let mut length = first.len_utf8();
    let mut strange = follow == 1;
    for _ in 0..follow {
        let letter = letters.next().filter(|letter| is_continuation(*letter))?;
        // Some signs do follow a letter, two of them too: `à «` with a hard blank.
        strange |= !"\u{a0}«»·°¡¿§©®ª²³´¨”’".contains(letter) || follow == 3;
        length += letter.len_utf8();
    }
    strange.then_some(length)
}

/// Whether Windows-1252 (or Latin-1) has this character at a byte from 0x80 to 0xbf.
fn is_continuation(letter: char) -> bool {
    matches!(letter, '\u{80}'..='\u{bf}') || "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ".contains(letter)
}
