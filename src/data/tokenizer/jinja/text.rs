//! Python's string methods.

use std::sync::Arc;

use super::call::Given;
use super::chars::{capitalize, casefold, is, lower, swapcase, title};
use super::eval::Engine;
use super::iter::Cursor;
use super::lexer::is_space;
use super::split::{partition, split};
use super::value::{Text, Value};
use super::{Res, failed, repr};

/// Every method of `str` that a template can ask for.
pub(super) const METHODS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "encode",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "format_map",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "isidentifier",
    "islower",
    "isnumeric",
    "isprintable",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "maketrans",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "translate",
    "upper",
    "zfill",
];

/// Calls a method, but `format`.
pub(super) fn call(engine: &Engine, this: &Text, name: &'static str, given: &Given) -> Res<Value> {
    engine.spend(1 + this.len() as u64 / 64)?;
    let same = |text: String| -> Res<Value> {
        engine.spend_text(text.len())?;
        Ok(Value::text(text, this.markup))
    };
    match name {
        "split" | "rsplit" => return split(engine, this, name == "rsplit", given),
        "replace" => return replace(engine, this, given),
        "splitlines" => {
            let [keep] = given.bind(name, ["keepends"], 0)?;
            let keep = keep.map_or(Ok(false), |keep| keep.truth(engine))?;
            engine.spend_pieces(this.matches(is_break).count())?;
            return texts(this, lines(this, keep));
        }
        "expandtabs" => {
            let [size] = given.bind(name, ["tabsize"], 0)?;
            let size = size.map_or(Ok(8), |size| size.index())?;
            return same(expand_tabs(engine, this, size)?);
        }
        _ => {}
    }
    let (least, most) = match name {
        "strip" | "lstrip" | "rstrip" => (0, 1),
        "count" | "find" | "rfind" | "index" | "rindex" | "startswith" | "endswith" => (1, 3),
        "center" | "ljust" | "rjust" => (1, 2),
        "join" | "zfill" | "partition" | "rpartition" | "removeprefix" | "removesuffix" => (1, 1),
        "encode" | "maketrans" | "translate" => {
            return Err(failed(format!("str.{name}() is not known here")));
        }
        _ => (0, 0),
    };
    let args = given.positional(name, least, most)?;
    if name.ends_with("strip")
        && let Some(Value::Str(chars)) = args.first()
    {
        // Each letter is looked for among all of them.
        engine.spend((this.len() as u64).saturating_mul(chars.len() as u64) / 64)?;
    }
    match name {
        "upper" => same(this.to_uppercase()),
        "lower" => same(lower(this)),
        "casefold" => same(casefold(this)),
        "capitalize" => same(capitalize(this)),
        "title" => same(title(this)),
        "swapcase" => same(swapcase(this)),
        "strip" => same(strip(this, chars_of(args.first())?.as_deref(), true, true).to_owned()),
        "lstrip" => same(strip(this, chars_of(args.first())?.as_deref(), true, false).to_owned()),
        "rstrip" => same(strip(this, chars_of(args.first())?.as_deref(), false, true).to_owned()),
        "removeprefix" => same(this.strip_prefix(text_of(&args[0])?).unwrap_or(this).to_owned()),
        "removesuffix" => same(this.strip_suffix(text_of(&args[0])?).unwrap_or(this).to_owned()),
        "startswith" | "endswith" => affix(this, name == "startswith", args),
        "find" | "rfind" | "index" | "rindex" | "count" => search(this, name, args),
        "partition" | "rpartition" => partition(this, name == "rpartition", text_of(&args[0])?),
        "join" => join(engine, this, &args[0]),
        "zfill" => {
            let width = width_of(engine, &args[0])?;
            let missing = width.saturating_sub(this.chars().count());
            let (sign, digits) = match this.chars().next() {
                Some('+' | '-') => this.split_at(1),
                _ => ("", &**this),
            };
            same([sign, &"0".repeat(missing), digits].concat())
        }
        "center" | "ljust" | "rjust" => {
            let fill = match args.get(1) {
                None => ' ',
                Some(value) => {
                    let mut chars = text_of(value)?.chars();
                    match (chars.next(), chars.next()) {
                        (Some(c), None) => c,
                        _ => return Err(failed("The fill character must be exactly one character long")),
                    }
                }
            };
            same(padded(engine, this, width_of(engine, &args[0])?, fill, name)?)
        }
        _ => Ok(Value::Bool(is(this, name))),
    }
}

/// Parts of a text as a list, each as safe as the whole.
pub(super) fn texts(this: &Text, parts: Vec<&str>) -> Res<Value> {
    Value::list(parts.into_iter().map(|part| Value::text(part, this.markup)).collect())
}

/// A text argument.
pub(super) fn text_of(value: &Value) -> Res<&str> {
    value.as_str().ok_or_else(|| match value {
        Value::Undefined(missing) => missing.fault(),
        other => failed(format!("must be str, not {}", other.type_name())),
    })
}

fn chars_of(value: Option<&Value>) -> Res<Option<Arc<str>>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(Value::Str(text)) => Ok(Some(text.text.clone())),
        Some(other) => Err(failed(format!("strip arg must be None or str, not {}", other.type_name()))),
    }
}

fn width_of(engine: &Engine, value: &Value) -> Res<usize> {
    let width = usize::try_from(value.index()?.max(0)).unwrap_or(usize::MAX);
    engine.spend_text(width)?;
    Ok(width)
}

/// `strip` of the given sides; whitespace without `chars`.
pub(super) fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |c: char| match chars {
        Some(chars) => chars.contains(c),
        None => is_space(c),
    };
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// `center`, `ljust`, `rjust`.
pub(super) fn padded(engine: &Engine, text: &str, width: usize, fill: char, how: &str) -> Res<String> {
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    let left = match how {
        "ljust" => 0,
        "rjust" => missing,
        _ => missing / 2 + (missing & width & 1),
    };
    engine.spend_text(text.len().saturating_add(missing.saturating_mul(fill.len_utf8())))?;
    let mut out: String = std::iter::repeat_n(fill, left).collect();
    out.push_str(text);
    out.extend(std::iter::repeat_n(fill, missing - left));
    Ok(out)
}

/// Where a line ends for `splitlines`.
fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

/// `splitlines`
pub(super) fn lines(text: &str, keep: bool) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(is_break) else {
            found.push(rest);
            break;
        };
        let width = match rest[at..].starts_with("\r\n") {
            true => 2,
            false => rest[at..].chars().next().map_or(1, char::len_utf8),
        };
        found.push(&rest[..if keep { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    found
}

fn expand_tabs(engine: &Engine, text: &str, size: i128) -> Res<String> {
    let size = usize::try_from(size.max(0)).unwrap_or(usize::MAX);
    let mut out = String::new();
    let mut column = 0;
    for c in text.chars() {
        if c == '\t' {
            if size > 0 {
                let add = size - column % size;
                engine.grow(out.len(), add)?;
                out.extend(std::iter::repeat_n(' ', add));
                column += add;
            }
        } else {
            out.push(c);
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
        }
    }
    Ok(out)
}

fn replace(engine: &Engine, this: &Text, given: &Given) -> Res<Value> {
    let [old, new, count] = given.bind("replace", ["old", "new", "count"], 2)?;
    let (old, new) = (old.unwrap_or(Value::None), new.unwrap_or(Value::None));
    let count = count.map_or(Ok(-1), |count| count.index())?;
    let new_text = match this.markup {
        true => repr::escaped(engine, &new)?.into_owned(),
        false => text_of(&new)?.to_owned(),
    };
    let text = replaced(engine, this, text_of(&old)?, &new_text, count)?;
    Ok(Value::text(text, this.markup))
}

/// `str.replace`; a negative count replaces all.
pub(super) fn replaced(engine: &Engine, text: &str, old: &str, new: &str, count: i128) -> Res<String> {
    let found = if old.is_empty() { text.chars().count() + 1 } else { text.matches(old).count() };
    let times = usize::try_from(count).unwrap_or(usize::MAX).min(found);
    engine.spend_text(text.len().saturating_add(new.len().saturating_mul(times)))?;
    Ok(text.replacen(old, new, times))
}

/// `start` and `stop` as byte offsets; `None` where nothing can be found between them.
fn window<'t>(text: &'t str, args: &[Value]) -> Res<Option<(usize, &'t str)>> {
    if args.len() < 2 {
        return Ok(Some((0, text)));
    }
    let length = text.chars().count() as i128;
    let bound = |value: Option<&Value>, default: i128| -> Res<i128> {
        match value {
            None | Some(Value::None) => Ok(default),
            Some(value) => {
                let at = value.index()?;
                Ok(if at < 0 { (at + length).max(0) } else { at })
            }
        }
    };
    let (start, stop) = (bound(args.get(1), 0)?, bound(args.get(2), length)?.min(length));
    if start > stop {
        return Ok(None);
    }
    let byte = |at: i128| text.char_indices().nth(at as usize).map_or(text.len(), |(byte, _)| byte);
    let (start, stop) = (byte(start), byte(stop));
    Ok(Some((start, &text[start..stop])))
}

fn search(this: &Text, name: &str, args: &[Value]) -> Res<Value> {
    let part = text_of(&args[0])?;
    let found = match window(this, args)? {
        None => None,
        Some((_, inside)) if name == "count" => {
            let count =
                if part.is_empty() { inside.chars().count() + 1 } else { inside.matches(part).count() };
            return Ok(Value::Int(count as i128));
        }
        Some((start, inside)) => {
            let at = if name.starts_with('r') { inside.rfind(part) } else { inside.find(part) };
            at.map(|at| this[..start + at].chars().count() as i128)
        }
    };
    match (name, found) {
        ("count", _) => Ok(Value::Int(0)),
        ("index" | "rindex", None) => Err(failed("substring not found")),
        (_, found) => Ok(Value::Int(found.unwrap_or(-1))),
    }
}

fn affix(this: &Text, front: bool, args: &[Value]) -> Res<Value> {
    let inside = window(this, args)?.map(|(_, inside)| inside);
    let fits = |value: &Value| -> Res<bool> {
        let affix = text_of(value)?;
        Ok(inside.is_some_and(|text| if front { text.starts_with(affix) } else { text.ends_with(affix) }))
    };
    match &args[0] {
        Value::Tuple(items) => {
            for item in &items.items {
                if fits(item)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        Value::Str(_) | Value::Undefined(_) => fits(&args[0]).map(Value::Bool),
        other => Err(failed(format!(
            "{} first arg must be str or a tuple of str, not {}",
            if front { "startswith" } else { "endswith" },
            other.type_name()
        ))),
    }
}

fn join(engine: &Engine, this: &Text, items: &Value) -> Res<Value> {
    let mut cursor = Cursor::maybe(items).ok_or_else(|| failed("can only join an iterable"))?;
    let mut text = String::new();
    let mut at = 0;
    while let Some(item) = cursor.next(engine)? {
        let Value::Str(part) = &item else {
            return Err(failed(format!(
                "sequence item {at}: expected str instance, {} found",
                item.type_name()
            )));
        };
        let part =
            if this.markup { repr::escaped(engine, &item)? } else { std::borrow::Cow::Borrowed(&**part) };
        engine.grow(text.len(), this.len() + part.len())?;
        if at > 0 {
            text.push_str(this);
        }
        text.push_str(&part);
        at += 1;
    }
    Ok(Value::text(text, this.markup))
}
