//! Where a call ends: at the first marker that is not part of its arguments.
//!
//! An argument may hold any text, the markers of calls too: a marker inside a JSON value does not count. Where the text
//! is not the JSON that its form wants, every marker counts. The answer to a part of a text stays right however the text
//! goes on. Next: `calls`, which reads what stands before the marker.

use serde::de::IgnoredAny;

use super::call_format::{Body, ToolCallFormat};

/// Where a scan for markers came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scan {
    /// A marker: where it stands, and which it is.
    Marker(usize, usize),
    /// The text ends inside a JSON value, which begins behind the place named.
    InValue(usize),
    /// The text ends outside of values: it may end with the start of a marker.
    Outside,
}

/// A JSON object or list at the start of a text.
enum Json {
    Ends(usize),
    Open,
    None,
}

fn json(text: &str) -> Json {
    if !text.starts_with(['{', '[']) {
        return Json::None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) => Json::Ends(values.byte_offset()),
        Some(Err(error)) if error.is_eof() => Json::Open,
        _ => Json::None,
    }
}

/// Where the JSON at the start of a text ends; 0 where there is none. White space may stand before it.
pub(super) fn json_end(text: &str) -> usize {
    let start = text.len() - text.trim_start().len();
    match json(&text[start..]) {
        Json::Ends(end) => start + end,
        Json::Open | Json::None => 0,
    }
}

/// The first of `marks` in a text from `from` on.
fn find(text: &str, from: usize, marks: &[&str]) -> Option<(usize, usize)> {
    let found = marks.iter().enumerate().filter(|(_, mark)| !mark.is_empty());
    found.filter_map(|(which, mark)| Some((from + text[from..].find(mark)?, which))).min()
}

impl Scan {
    /// The marker that was found.
    pub fn marker(self) -> Option<(usize, usize)> {
        match self {
            Self::Marker(at, which) => Some((at, which)),
            Self::InValue(_) | Self::Outside => None,
        }
    }
}

impl ToolCallFormat {
    /// As [`ToolCallFormat::scan`] for a text that is whole: a value that does not end is none.
    pub fn first_marker(&self, text: &str, marks: &[&str]) -> Option<(usize, usize)> {
        match self.scan(text, marks) {
            Scan::InValue(from) => find(text, from, marks),
            other => other.marker(),
        }
    }

    /// Looks for the first of `marks` that does not stand in a value, in a text that begins behind a start marker.
    pub fn scan(&self, text: &str, marks: &[&str]) -> Scan {
        let mut from = 0;
        loop {
            let marker = find(text, from, marks);
            let counts = marker.map_or(Scan::Outside, |(at, which)| Scan::Marker(at, which));
            let Some(start) = self.value_start(text, from) else { return counts };
            if marker.is_some_and(|(at, _)| at <= start) {
                return counts;
            }
            match json(&text[start..]) {
                Json::Ends(end) => from = start + end,
                Json::Open => return Scan::InValue(from),
                // A value between two tags may be any text.
                Json::None if matches!(self.body, Body::Pairs { .. }) => from = start,
                Json::None => return counts,
            }
        }
    }

    /// Where the next value would begin.
    fn value_start(&self, text: &str, from: usize) -> Option<usize> {
        let rest = &text[from..];
        let start = match &self.body {
            Body::Json { .. } => rest.find(|c: char| !c.is_whitespace() && !",;[]".contains(c))?,
            Body::Named { middle } => rest.find(middle.trim())? + middle.trim().len(),
            Body::Pairs { before_key, middle, .. } => {
                let (key_end, value_start) = super::calls::ends_of(middle);
                let key = rest.find(before_key.trim())? + before_key.trim().len();
                let end = key + rest[key..].find(key_end)? + key_end.len();
                if key_end == value_start {
                    end
                } else {
                    end + rest[end..].find(value_start)? + value_start.len()
                }
            }
        };
        let start = from + start;
        Some(start + text[start..].len() - text[start..].trim_start().len())
    }
}
