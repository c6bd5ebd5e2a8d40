//! `'{}'.format(x)`.

use super::call::Given;
use super::eval::Engine;
use super::percent::{Spec, check_precision, float_text, general, pad, sign_text, size};
use super::repr::{escape, exponent, to_repr, to_str};
use super::value::{Text, Value};
use super::{Res, failed};

/// `text.format(...)`
pub(super) fn format(engine: &Engine, this: &Text, is_map: bool, given: &Given) -> Res<Value> {
    let mut given = given.clone();
    if is_map {
        let args = given.positional("format_map", 1, 1)?;
        let Value::Dict(dict) = &args[0] else { return Err(failed("format_map() wants a mapping")) };
        let pairs = dict.entries.iter();
        let kwargs =
            pairs.filter_map(|(key, value)| Some((key.as_str()?.into(), value.clone()))).collect::<Vec<_>>();
        given = Given { args: Vec::new(), kwargs };
    }
    let mut automatic = 0;
    let text = expand(engine, this, &given, &mut automatic, 2)?;
    Ok(Value::text(text, this.markup))
}

fn expand(engine: &Engine, text: &Text, given: &Given, automatic: &mut usize, depth: usize) -> Res<String> {
    if depth == 0 {
        return Err(failed("Max string recursion exceeded"));
    }
    let mut out = String::new();
    let mut rest = &*text.text;
    while let Some(at) = rest.find(['{', '}']) {
        engine.grow(out.len(), at)?;
        out.push_str(&rest[..at]);
        let brace = &rest[at..at + 1];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(failed("Single '}' encountered in format string"));
        }
        let mut open = 1;
        let end = rest.char_indices().find(|(_, c)| {
            open += match c {
                '{' => 1,
                '}' => -1,
                _ => 0,
            };
            open == 0
        });
        let Some((end, _)) = end else { return Err(failed("expected '}' before end of string")) };
        let field = &rest[..end];
        rest = &rest[end + 1..];
        let cut = field.find(['!', ':']).unwrap_or(field.len());
        // Brackets may hold both signs.
        let cut = match field[..cut].rfind('[').filter(|open| !field[*open..cut].contains(']')) {
            Some(open) => field[open..]
                .find(']')
                .and_then(|close| field[open + close..].find(['!', ':']).map(|at| open + close + at))
                .unwrap_or(field.len()),
            None => cut,
        };
        let (name, tail) = field.split_at(cut);
        let (conversion, spec) = match tail.strip_prefix('!') {
            Some(tail) => {
                let c = tail.chars().next().ok_or_else(|| failed("unmatched '{' in format spec"))?;
                let after = &tail[c.len_utf8()..];
                match after.strip_prefix(':') {
                    Some(spec) => (Some(c), spec),
                    None if after.is_empty() => (Some(c), ""),
                    None => return Err(failed("expected ':' after conversion specifier")),
                }
            }
            None => (None, tail.strip_prefix(':').unwrap_or("")),
        };
        let value = lookup(engine, name, given, automatic)?;
        let value = match conversion {
            None => value,
            Some('s') => Value::str(&*to_str(engine, &value)?),
            Some('r' | 'a') => Value::str(to_repr(engine, &value)?),
            Some(other) => return Err(failed(format!("Unknown conversion specifier '{other}'"))),
        };
        let spec = Text { text: spec.into(), markup: false };
        let spec = expand(engine, &spec, given, automatic, depth - 1)?;
        let made = formatted(engine, &value, &spec)?;
        let made = if text.markup && !value.is_markup() { escape(&made) } else { made };
        engine.grow(out.len(), made.len())?;
        out.push_str(&made);
    }
    out.push_str(rest);
    Ok(out)
}

/// `0.name[key]`
fn lookup(engine: &Engine, name: &str, given: &Given, automatic: &mut usize) -> Res<Value> {
    let cut = name.find(['.', '[']).unwrap_or(name.len());
    let (first, mut rest) = name.split_at(cut);
    let index = match first {
        "" => {
            *automatic += 1;
            Some(*automatic - 1)
        }
        digits => digits.parse::<usize>().ok(),
    };
    let mut value = match index {
        Some(at) => given.args.get(at).cloned().ok_or_else(|| {
            failed(format!("Replacement index {at} out of range for positional args tuple"))
        })?,
        None => {
            let found = given.kwargs.iter().find(|(other, _)| &**other == first);
            found.map(|(_, value)| value.clone()).ok_or_else(|| failed(format!("'{first}'")))?
        }
    };
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix('.') {
            let cut = after.find(['.', '[']).unwrap_or(after.len());
            value = engine.attribute(&value, &after[..cut].into())?;
            rest = &after[cut..];
        } else {
            let inner = rest.strip_prefix('[').unwrap_or(rest);
            let end = inner.find(']').ok_or_else(|| failed("Missing ']' in format string"))?;
            let key = match inner[..end].parse::<i128>() {
                Ok(at) => Value::Int(at),
                Err(_) => Value::str(&inner[..end]),
            };
            value = engine.item(&value, &key)?;
            rest = &inner[end + 1..];
        }
    }
    Ok(value)
}

fn parse_spec(engine: &Engine, text: &str) -> Res<Spec> {
    let wrong = || failed(format!("Invalid format specifier '{text}'"));
    let mut spec = Spec::default();
    let mut chars: Vec<char> = text.chars().collect();
    let aligns = |c: Option<&char>| c.copied().filter(|c| matches!(c, '<' | '>' | '^' | '='));
    if let Some(align) = aligns(chars.get(1)) {
        (spec.fill, spec.align) = (Some(chars[0]), Some(align));
        chars.drain(..2);
    } else if let Some(align) = aligns(chars.first()) {
        spec.align = Some(align);
        chars.remove(0);
    }
    let mut rest = chars.into_iter().peekable();
    if let Some(sign) = rest.next_if(|c| matches!(c, '+' | '-' | ' ')) {
        spec.sign = Some(sign);
    }
    rest.next_if_eq(&'z');
    spec.alternate = rest.next_if_eq(&'#').is_some();
    spec.zero = rest.next_if_eq(&'0').is_some();
    let digits = |rest: &mut std::iter::Peekable<std::vec::IntoIter<char>>| -> Res<Option<usize>> {
        let mut text = String::new();
        while let Some(c) = rest.next_if(char::is_ascii_digit) {
            text.push(c);
        }
        if text.is_empty() { Ok(None) } else { size(engine, &text).map(Some) }
    };
    spec.width = digits(&mut rest)?.unwrap_or(0);
    spec.grouping = rest.next_if(|c| matches!(c, ',' | '_'));
    if rest.next_if_eq(&'.').is_some() {
        spec.precision =
            Some(digits(&mut rest)?.ok_or_else(|| failed("Format specifier missing precision"))?);
    }
    spec.kind = rest.next();
    if rest.next().is_some() { Err(wrong()) } else { Ok(spec) }
}

/// `format(value, spec)`
fn formatted(engine: &Engine, value: &Value, text: &str) -> Res<String> {
    if text.is_empty() {
        return Ok(to_str(engine, value)?.into_owned());
    }
    let spec = parse_spec(engine, text)?;
    let unknown = |kind: char| {
        failed(format!("Unknown format code '{kind}' for object of type '{}'", value.type_name()))
    };
    match value {
        Value::Str(text) => {
            if let Some(kind) = spec.kind.filter(|kind| *kind != 's') {
                return Err(unknown(kind));
            }
            if spec.sign.is_some() || spec.align == Some('=') || spec.grouping.is_some() || spec.alternate {
                return Err(failed("that format is for numbers, not for a text"));
            }
            let text: String = match spec.precision {
                Some(most) => text.chars().take(most).collect(),
                None => text.to_string(),
            };
            let fill = spec.fill.unwrap_or(if spec.zero { '0' } else { ' ' });
            Ok(pad(&text, spec.width, fill, spec.align.unwrap_or('<')))
        }
        Value::Int(_) | Value::Bool(_)
            if matches!(spec.kind, None | Some('d' | 'b' | 'o' | 'x' | 'X' | 'n' | 'c')) =>
        {
            let number = value.as_int().unwrap_or(0);
            if spec.precision.is_some() {
                return Err(failed("Precision not allowed in integer format specifier"));
            }
            let (prefix, digits) = match spec.kind {
                Some('b') => ("0b", format!("{:b}", number.unsigned_abs())),
                Some('o') => ("0o", format!("{:o}", number.unsigned_abs())),
                Some('x') => ("0x", format!("{:x}", number.unsigned_abs())),
                Some('X') => ("0X", format!("{:X}", number.unsigned_abs())),
                Some('c') => {
                    let c = u32::try_from(number).ok().and_then(char::from_u32);
                    let c = c.ok_or_else(|| failed("%c arg not in range(0x110000)"))?;
                    return Ok(pad(
                        &c.to_string(),
                        spec.width,
                        spec.fill.unwrap_or(' '),
                        spec.align.unwrap_or('<'),
                    ));
                }
                _ => ("", number.unsigned_abs().to_string()),
            };
            let every = if matches!(spec.kind, None | Some('d' | 'n')) { 3 } else { 4 };
            Ok(placed(&spec, number < 0, if spec.alternate { prefix } else { "" }, &digits, "", every))
        }
        Value::Int(_) | Value::Bool(_) | Value::Float(_) => {
            let number = value.as_float().unwrap_or(0.0);
            check_precision(spec.precision.unwrap_or(0))?;
            let kind = spec.kind.unwrap_or('r');
            let (kind, scaled, tail) = match kind {
                'e' | 'E' | 'f' | 'F' | 'g' | 'G' => (kind, number.abs(), ""),
                'n' => ('g', number.abs(), ""),
                '%' => ('f', number.abs() * 100.0, "%"),
                'r' if matches!(value, Value::Float(_)) => ('r', number.abs(), ""),
                other => return Err(unknown(other)),
            };
            let made = match (kind, spec.precision) {
                ('r', None) => super::repr::float_repr(scaled),
                ('r', Some(precision)) => {
                    let made = general(scaled, precision.max(1), spec.alternate);
                    if made.contains(['.', 'e', 'n', 'i']) || precision == 0 {
                        made
                    } else if made.len() < precision {
                        made + ".0"
                    } else {
                        scientific_or(scaled, precision, made)
                    }
                }
                (kind, precision) => float_text(scaled, kind, precision.unwrap_or(6), spec.alternate),
            };
            let cut = made.find(|c: char| !c.is_ascii_digit()).unwrap_or(made.len());
            let (whole, rest) = made.split_at(cut);
            let rest = [rest, tail].concat();
            Ok(placed(&spec, number.is_sign_negative() && !number.is_nan(), "", whole, &rest, 3))
        }
        other => Err(failed(format!("unsupported format string passed to {}.__format__", other.type_name()))),
    }
}

/// A float without a letter keeps a sign that it is one.
fn scientific_or(value: f64, precision: usize, made: String) -> String {
    if made.len() == precision {
        exponent(&format!("{value:.*e}", precision - 1)).replace(".0e", "e")
    } else {
        made
    }
}

/// A number in its field, with separators in its whole part.
fn placed(spec: &Spec, negative: bool, prefix: &str, whole: &str, rest: &str, every: usize) -> String {
    let head = [sign_text(spec, negative), prefix].concat();
    let zero = spec.zero && spec.align.is_none();
    let grouped = |digits: &str| match spec.grouping {
        None => digits.to_owned(),
        Some(mark) => {
            let mut out = String::new();
            for (i, c) in digits.chars().enumerate() {
                if i > 0 && (digits.len() - i).is_multiple_of(every) {
                    out.push(mark);
                }
                out.push(c);
            }
            out
        }
    };
    let mut body = grouped(whole);
    if zero && spec.grouping.is_some() {
        let mut digits = whole.to_owned();
        while head.len() + body.len() + rest.len() < spec.width {
            digits.insert(0, '0');
            body = grouped(&digits);
        }
    }
    let body = [&body, rest].concat();
    let fill = spec.fill.unwrap_or(if zero { '0' } else { ' ' });
    match spec.align {
        Some('=') => {
            let missing = spec.width.saturating_sub(head.len() + body.len());
            [head, std::iter::repeat_n(fill, missing).collect(), body].concat()
        }
        None if zero => {
            let missing = spec.width.saturating_sub(head.len() + body.len());
            [head, "0".repeat(missing), body].concat()
        }
        align => pad(&[head, body].concat(), spec.width, fill, align.unwrap_or('>')),
    }
}
