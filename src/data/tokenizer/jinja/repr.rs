//! Values as text: Python's `str` and `repr`, JSON as `json.dumps` writes it, HTML escapes.

use std::borrow::Cow;
use std::fmt::Write;

use super::eval::Engine;
use super::value::{Function, Part, Value};
use super::{Res, failed};

/// `str(value)`
pub(super) fn to_str<'v>(engine: &Engine, value: &'v Value) -> Res<Cow<'v, str>> {
    Ok(match value {
        Value::Undefined(_) => Cow::Borrowed(""),
        Value::Str(text) => Cow::Borrowed(&**text),
        other => Cow::Owned(to_repr(engine, other)?),
    })
}

/// `escape(value)`: as it is where it is HTML already.
pub(super) fn escaped<'v>(engine: &Engine, value: &'v Value) -> Res<Cow<'v, str>> {
    let text = to_str(engine, value)?;
    Ok(if value.is_markup() { text } else { Cow::Owned(escape(&text)) })
}

/// The five characters that HTML gives a meaning to.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// `repr(value)`
pub(super) fn to_repr(engine: &Engine, value: &Value) -> Res<String> {
    let mut out = String::new();
    write_repr(engine, value, &mut out)?;
    Ok(out)
}

fn write_repr(engine: &Engine, value: &Value, out: &mut String) -> Res<()> {
    engine.spend(1)?;
    match value {
        Value::Undefined(_) => out.push_str("Undefined"),
        Value::None => out.push_str("None"),
        Value::Bool(flag) => out.push_str(if *flag { "True" } else { "False" }),
        Value::Int(value) => {
            let _ = write!(out, "{value}");
        }
        Value::Float(value) => out.push_str(&float_repr(*value)),
        Value::Str(text) => {
            engine.grow(out.len(), text.len())?;
            let (open, close) = if text.markup { ("Markup(", ")") } else { ("", "") };
            out.push_str(open);
            quote(text, out);
            out.push_str(close);
        }
        Value::List(items) => {
            out.push('[');
            write_all(engine, &items.items, out)?;
            out.push(']');
        }
        Value::Tuple(items) => {
            out.push('(');
            write_all(engine, &items.items, out)?;
            out.push_str(if items.items.len() == 1 { ",)" } else { ")" });
        }
        Value::Dict(dict) => {
            out.push('{');
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write_repr(engine, key, out)?;
                out.push_str(": ");
                write_repr(engine, value, out)?;
            }
            out.push('}');
        }
        Value::Range(range) => {
            let _ = match range.step {
                1 => write!(out, "range({}, {})", range.start, range.stop),
                step => write!(out, "range({}, {}, {step})", range.start, range.stop),
            };
        }
        Value::View(part, dict) => {
            out.push_str(value.type_name());
            out.push_str("([");
            for (i, (key, value)) in dict.entries.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                match part {
                    Part::Keys => write_repr(engine, key, out)?,
                    Part::Values => write_repr(engine, value, out)?,
                    Part::Items => {
                        out.push('(');
                        write_repr(engine, key, out)?;
                        out.push_str(", ");
                        write_repr(engine, value, out)?;
                        out.push(')');
                    }
                }
            }
            out.push_str("])");
        }
        Value::Loop(around) => {
            let length = around.length(engine)?;
            let _ = write!(out, "<LoopContext {}/{length}>", around.index0.get() + 1);
        }
        Value::Macro(called) if called.def.name.is_empty() => out.push_str("<Macro anonymous>"),
        Value::Macro(called) => {
            out.push_str("<Macro ");
            quote(&called.def.name, out);
            out.push('>');
        }
        Value::Namespace(namespace) => {
            out.push_str("<Namespace {");
            let attrs = namespace.attrs.borrow().clone();
            for (i, (name, value)) in attrs.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                quote(name, out);
                out.push_str(": ");
                // A namespace may hold itself.
                match value {
                    Value::Namespace(_) => out.push_str("<Namespace {...}>"),
                    value => write_repr(engine, value, out)?,
                }
            }
            out.push_str("}>");
        }
        Value::Function(Function::RaiseException) => out.push_str("<function raise_exception>"),
        Value::Function(Function::StrftimeNow) => out.push_str("<function strftime_now>"),
        Value::Blocks(None) => out.push_str("<TemplateReference None>"),
        other => {
            let _ = write!(out, "<{} object>", other.type_name());
        }
    }
    Ok(())
}

fn write_all(engine: &Engine, items: &[Value], out: &mut String) -> Res<()> {
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        write_repr(engine, item, out)?;
    }
    Ok(())
}

/// A text as Python writes it in quotes.
pub(super) fn quote(text: &str, out: &mut String) {
    let mark = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(mark);
    for c in text.chars() {
        let code = c as u32;
        let _ = match c {
            '\n' => write!(out, "\\n"),
            '\r' => write!(out, "\\r"),
            '\t' => write!(out, "\\t"),
            '\\' => write!(out, "\\\\"),
            c if c == mark => write!(out, "\\{c}"),
            ' '..='~' => {
                out.push(c);
                Ok(())
            }
            c if is_printable(c) => {
                out.push(c);
                Ok(())
            }
            _ if code < 0x100 => write!(out, "\\x{code:02x}"),
            _ if code < 0x10000 => write!(out, "\\u{code:04x}"),
            _ => write!(out, "\\U{code:08x}"),
        };
    }
    out.push(mark);
}

/// `str.isprintable` of a character, as far as the standard library's tables tell.
pub(super) fn is_printable(c: char) -> bool {
    if c == ' ' {
        return true;
    }
    if c.is_control() || c.is_whitespace() {
        return false;
    }
    // What Rust's own printing escapes: unassigned, private, format and surrogate characters. It also
    // escapes marks that extend the character before, which Python prints.
    let escaped = c.escape_debug().len() > 1 && !matches!(c, '\'' | '"' | '\\');
    !escaped || is_mark(c)
}

fn is_mark(c: char) -> bool {
    let code = c as u32;
    matches!(code, 0x300..=0x36f | 0x483..=0x489 | 0x591..=0x5c7 | 0x610..=0x61a | 0x64b..=0x65f | 0x900..=0x903
        | 0x93a..=0x94f | 0xe31 | 0xe34..=0xe3a | 0xe47..=0xe4e | 0x1ab0..=0x1ace | 0x1dc0..=0x1dff
        | 0x200c..=0x200d | 0x20d0..=0x20f0 | 0x302a..=0x302f | 0x3099..=0x309a | 0xfe00..=0xfe0f | 0xfe20..=0xfe2f
        | 0xff9e..=0xff9f | 0x1f3fb..=0x1f3ff | 0xe0100..=0xe01ef)
        && !matches!(code, 0x200c..=0x200d)
}

/// `repr(float)` of Python: shortest digits, an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let magnitude = value.abs();
    if value == 0.0 || (1e-4..1e16).contains(&magnitude) {
        return format!("{value:?}");
    }
    exponent(&format!("{value:e}"))
}

/// Rust's `1e-7` as Python's `1e-07`.
pub(super) fn exponent(text: &str) -> String {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, power) = match exponent.strip_prefix('-') {
        Some(power) => ('-', power),
        None => ('+', exponent),
    };
    format!("{digits}e{sign}{power:0>2}")
}

/// The arguments of `json.dumps` that transformers gives templates.
pub(super) struct Dump {
    pub(super) ensure_ascii: bool,
    /// What a level is set in by.
    pub(super) indent: Option<String>,
    pub(super) item_separator: String,
    pub(super) key_separator: String,
    pub(super) sort_keys: bool,
}

impl Dump {
    /// `json.dumps(value)`
    pub(super) fn dumps(&self, engine: &Engine, value: &Value) -> Res<String> {
        let mut out = String::new();
        self.write(engine, value, 0, &mut out)?;
        Ok(out)
    }

    fn write(&self, engine: &Engine, value: &Value, depth: usize, out: &mut String) -> Res<()> {
        engine.spend(1)?;
        match value {
            Value::None => out.push_str("null"),
            Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Value::Int(value) => {
                let _ = write!(out, "{value}");
            }
            Value::Float(value) => out.push_str(&json_float(*value)),
            Value::Str(text) => {
                engine.grow(out.len(), text.len())?;
                self.quote(text, out);
            }
            Value::List(items) | Value::Tuple(items) => {
                out.push('[');
                for (i, item) in items.items.iter().enumerate() {
                    self.begin(engine, i > 0, depth + 1, out)?;
                    self.write(engine, item, depth + 1, out)?;
                }
                self.end(engine, items.items.is_empty(), depth, out)?;
                out.push(']');
            }
            Value::Dict(dict) => {
                out.push('{');
                let entries: Vec<&(Value, Value)> = match self.sort_keys {
                    true => super::sequences::sorted(dict.entries.iter().collect(), |a, b| {
                        super::ops::less(engine, &a.0, &b.0, "<")
                    })?,
                    false => dict.entries.iter().collect(),
                };
                for (i, (key, value)) in entries.into_iter().enumerate() {
                    self.begin(engine, i > 0, depth + 1, out)?;
                    self.quote(&key_text(key)?, out);
                    out.push_str(&self.key_separator);
                    self.write(engine, value, depth + 1, out)?;
                }
                self.end(engine, dict.len() == 0, depth, out)?;
                out.push('}');
            }
            other => {
                return Err(failed(format!("Object of type {} is not JSON serializable", other.type_name())));
            }
        }
        Ok(())
    }

    /// What comes before an item.
    fn begin(&self, engine: &Engine, later: bool, depth: usize, out: &mut String) -> Res<()> {
        if later {
            engine.grow(out.len(), self.item_separator.len())?;
            out.push_str(&self.item_separator);
        }
        self.line(engine, depth, out)
    }

    fn end(&self, engine: &Engine, empty: bool, depth: usize, out: &mut String) -> Res<()> {
        if empty { Ok(()) } else { self.line(engine, depth, out) }
    }

    fn line(&self, engine: &Engine, depth: usize, out: &mut String) -> Res<()> {
        if let Some(indent) = &self.indent {
            engine.grow(out.len(), indent.len().saturating_mul(depth))?;
            out.push('\n');
            out.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
        Ok(())
    }

    fn quote(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 || (self.ensure_ascii && (c as u32) > 0x7e) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn json_float(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        value => float_repr(value),
    }
}

fn key_text(key: &Value) -> Res<Cow<'_, str>> {
    Ok(match key {
        Value::Str(text) => Cow::Borrowed(&**text),
        Value::None => Cow::Borrowed("null"),
        Value::Bool(flag) => Cow::Borrowed(if *flag { "true" } else { "false" }),
        Value::Int(value) => Cow::Owned(value.to_string()),
        Value::Float(value) => Cow::Owned(json_float(*value)),
        other => {
            return Err(failed(format!(
                "keys must be str, int, float, bool or None, not {}",
                other.type_name()
            )));
        }
    })
}
