//! Filters over one text.

use super::call::Given;
use super::chars;
use super::eval::Engine;
use super::lexer::{is_space, is_word};
use super::repr::{self, escape};
use super::text;
use super::value::{Text, Value};
use super::{Res, failed};

/// `soft_str`: a text as it is, anything else by `str`.
fn soft(engine: &Engine, value: &Value) -> Res<Text> {
    Ok(match value {
        Value::Str(text) => text.clone(),
        other => Text { text: repr::to_str(engine, other)?.into(), markup: false },
    })
}

/// What must be a text.
fn strict<'v>(value: &'v Value, doing: &str) -> Res<&'v Text> {
    match value {
        Value::Str(text) => Ok(text),
        Value::Undefined(missing) => Err(missing.fault()),
        other => Err(failed(format!("'{}' object has no attribute '{doing}'", other.type_name()))),
    }
}

/// A filter of this file; `None` where it is another's.
pub(super) fn apply(engine: &Engine, name: &str, value: &Value, given: &Given) -> Res<Option<Value>> {
    let like = |text: &Text, made: String| Value::text(made, text.markup);
    Ok(Some(match name {
        "upper" | "lower" | "capitalize" => {
            given.none(name)?;
            let this = soft(engine, value)?;
            engine.spend_text(this.len())?;
            let made = match name {
                "upper" => this.to_uppercase(),
                "lower" => chars::lower(&this),
                _ => chars::capitalize(&this),
            };
            like(&this, made)
        }
        "title" => {
            given.none(name)?;
            Value::str(title(&soft(engine, value)?))
        }
        "trim" => {
            let [chars] = given.bind(name, ["chars"], 0)?;
            let this = soft(engine, value)?;
            let chars = match &chars {
                None | Some(Value::None) => None,
                Some(chars) => Some(text::text_of(chars)?),
            };
            like(&this, text::strip(&this, chars, true, true).to_owned())
        }
        "center" => {
            let [width] = given.bind(name, ["width"], 0)?;
            let width = width.map_or(Ok(80), |width| width.index())?.max(0);
            let this = soft(engine, value)?;
            let width = usize::try_from(width).unwrap_or(usize::MAX);
            engine.spend_text(width)?;
            like(&this, text::padded(engine, &this, width, ' ', name)?)
        }
        "replace" => replace(engine, value, given)?,
        "indent" => indent(engine, value, given)?,
        "truncate" => truncate(engine, value, given)?,
        "wordcount" => {
            given.none(name)?;
            let this = soft(engine, value)?;
            Value::Int(this.split(|c| !is_word(c)).filter(|word| !word.is_empty()).count() as i128)
        }
        "wordwrap" => super::wrap::wordwrap(engine, value, given)?,
        "urlencode" => urlencode(engine, value, given)?,
        "striptags" => {
            given.none(name)?;
            Value::str(striptags(&repr::to_str(engine, value)?))
        }
        "xmlattr" => xmlattr(engine, value, given)?,
        "filesizeformat" => filesize(engine, value, given)?,
        _ => return Ok(None),
    }))
}

/// Jinja's `title`: words part at whitespace, `-` and opening brackets.
fn title(text: &str) -> String {
    let parts = |c: char| c == '-' || is_space(c) || matches!(c, '(' | '{' | '[' | '<');
    let mut out = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let same = parts(first);
        let end = rest.find(|c| parts(c) != same).unwrap_or(rest.len());
        out.extend(first.to_uppercase());
        out.push_str(&chars::lower(&rest[first.len_utf8()..end]));
        rest = &rest[end..];
    }
    out
}

fn replace(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [old, new, count] = given.bind("replace", ["old", "new", "count"], 2)?;
    let count = match count {
        None | Some(Value::None) => -1,
        Some(count) => count.index()?,
    };
    let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
    let (old_text, new_text) = (repr::to_str(engine, &old)?, repr::to_str(engine, &new)?);
    let markup = engine.autoescape.get() && [value, &old, &new].iter().any(|value| value.is_markup());
    let this = if markup { repr::escaped(engine, value)? } else { repr::to_str(engine, value)? };
    let new_text = if markup { repr::escaped(engine, &new)? } else { new_text };
    Ok(Value::text(text::replaced(engine, &this, &old_text, &new_text, count)?, markup))
}

fn indent(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [width, first, blank] = given.bind("indent", ["width", "first", "blank"], 0)?;
    let flag = |value: Option<Value>| value.map_or(Ok(false), |value| value.truth(engine));
    let (first, blank) = (flag(first)?, flag(blank)?);
    let indent = match width {
        None => " ".repeat(4),
        Some(Value::Str(text)) => text.to_string(),
        Some(width) => {
            let width = usize::try_from(width.index()?.max(0)).unwrap_or(usize::MAX);
            engine.spend_text(width)?;
            " ".repeat(width)
        }
    };
    let Value::Str(this) = value else {
        return Err(match value {
            Value::Undefined(missing) => missing.fault(),
            other => failed(format!("unsupported operand type(s) for +=: '{}' and 'str'", other.type_name())),
        });
    };
    let whole = format!("{}\n", &**this);
    let lines = text::lines(&whole, false);
    engine.spend_text(whole.len().saturating_add(indent.len().saturating_mul(lines.len())))?;
    let mut out = if first { indent.clone() } else { String::new() };
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            out.push('\n');
            if blank || !line.is_empty() {
                out.push_str(&indent);
            }
        }
        out.push_str(line);
    }
    Ok(Value::text(out, this.markup))
}

fn truncate(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [length, kill, end, leeway] = given.bind("truncate", ["length", "killwords", "end", "leeway"], 0)?;
    let length = length.map_or(Ok(255), |length| length.index())?;
    let kill = kill.map_or(Ok(false), |kill| kill.truth(engine))?;
    let end = end.unwrap_or_else(|| Value::str("..."));
    let leeway = match leeway {
        None | Some(Value::None) => 5,
        Some(leeway) => leeway.index()?,
    };
    let ending = text::text_of(&end)?;
    let tail = ending.chars().count() as i128;
    if length < tail {
        return Err(failed(format!("expected length >= {tail}, got {length}")));
    }
    if leeway < 0 {
        return Err(failed(format!("expected leeway >= 0, got {leeway}")));
    }
    let Value::Str(this) = value else {
        let size = value.len(engine)?;
        return match size {
            Some(size) if size <= length + leeway => Ok(value.clone()),
            _ => Err(failed(format!("'{}' object cannot be truncated", value.type_name()))),
        };
    };
    if this.chars().count() as i128 <= length + leeway {
        return Ok(value.clone());
    }
    let kept: String = this.chars().take((length - tail) as usize).collect();
    let kept = if kill { &*kept } else { kept.rsplit_once(' ').map_or(&*kept, |(before, _)| before) };
    Ok(Value::text([kept, ending].concat(), this.markup))
}

/// `urllib.parse.quote`
fn quoted(text: &str, for_query: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'.' | b'-' | b'~' => out.push(char::from(byte)),
            b'/' if !for_query => out.push('/'),
            b' ' if for_query => out.push('+'),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

fn urlencode(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    given.none("urlencode")?;
    let pairs: Vec<Value> = match value {
        Value::Dict(dict) => {
            let pairs =
                dict.entries.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
            pairs.collect::<Res<_>>()?
        }
        Value::Str(_) => return Ok(Value::str(quoted(&repr::to_str(engine, value)?, false))),
        other if super::iter::Cursor::maybe(other).is_some() => super::sequences::items(engine, other)?,
        other => return Ok(Value::str(quoted(&repr::to_str(engine, other)?, false))),
    };
    let mut parts = Vec::new();
    for pair in &pairs {
        let pair = super::sequences::items(engine, pair)?;
        let [key, value] = pair.as_slice() else { return Err(failed("urlencode wants pairs")) };
        let (key, value) = (repr::to_str(engine, key)?, repr::to_str(engine, value)?);
        parts.push(format!("{}={}", quoted(&key, true), quoted(&value, true)));
    }
    Ok(Value::str(parts.join("&")))
}

/// Without comments and tags, whitespace made one space, the entities that `escape` writes read back.
fn striptags(text: &str) -> String {
    let cut = |text: &str, open: &str, close: &str| -> String {
        let mut out = String::new();
        let mut rest = text;
        while let Some(start) = rest.find(open) {
            let Some(end) = rest[start..].find(close) else { break };
            out.push_str(&rest[..start]);
            rest = &rest[start + end + close.len()..];
        }
        out + rest
    };
    let bare = cut(&cut(text, "<!--", "-->"), "<", ">");
    let words: Vec<&str> = bare.split(is_space).filter(|word| !word.is_empty()).collect();
    let joined = words.join(" ");
    [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", "\""),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&nbsp;", "\u{a0}"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(joined, |text, (entity, c)| text.replace(entity, c))
}

fn xmlattr(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [space] = given.bind("xmlattr", ["autospace"], 0)?;
    let space = space.map_or(Ok(true), |space| space.truth(engine))?;
    let Value::Dict(dict) = value else { return Err(failed("xmlattr wants a mapping")) };
    let mut parts = Vec::new();
    for (key, value) in &dict.entries {
        if matches!(value, Value::None) || value.is_undefined() {
            continue;
        }
        let name = strict(key, "search")?;
        if name.contains(|c: char| c.is_ascii_whitespace() || matches!(c, '/' | '>' | '=' | '\u{b}')) {
            return Err(failed(format!("Invalid character in attribute name: '{}'", &**name)));
        }
        parts.push(format!("{}=\"{}\"", escape(name), repr::escaped(engine, value)?));
    }
    let mut text = parts.join(" ");
    if space && !text.is_empty() {
        text.insert(0, ' ');
    }
    Ok(Value::text(text, engine.autoescape.get()))
}

fn filesize(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [binary] = given.bind("filesizeformat", ["binary"], 0)?;
    let binary = binary.map_or(Ok(false), |binary| binary.truth(engine))?;
    let bytes = match value {
        Value::Undefined(missing) => return Err(missing.fault()),
        Value::Str(text) => super::filters::parse_float(text),
        other => other.as_float(),
    };
    let Some(bytes) = bytes else {
        return Err(failed(format!("could not convert {} to float", repr::to_repr(engine, value)?)));
    };
    let base: f64 = if binary { 1024.0 } else { 1000.0 };
    if bytes == 1.0 {
        return Ok(Value::str("1 Byte"));
    }
    if bytes < base {
        return Ok(Value::str(format!("{} Bytes", super::percent::whole(bytes)?)));
    }
    let mut unit = base;
    for (i, letter) in ["k", "M", "G", "T", "P", "E", "Z", "Y"].into_iter().enumerate() {
        unit = base.powi(i as i32 + 2);
        if bytes < unit || letter == "Y" {
            let name = if binary { format!("{}iB", letter.to_uppercase()) } else { format!("{letter}B") };
            return Ok(Value::str(format!("{:.1} {name}", base * bytes / unit)));
        }
    }
    Ok(Value::str(format!("{:.1}", bytes / unit)))
}
