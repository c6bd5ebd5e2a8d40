//! `'%s' % x`, and how numbers are written there and by `format`.

use super::eval::Engine;
use super::repr::{escape, exponent, to_repr, to_str};
use super::value::{Text, Value};
use super::{Res, failed};

/// More digits than a number has.
const MAX_PRECISION: usize = 4096;

/// How wide, on which side, with what in front.
#[derive(Default)]
pub(super) struct Spec {
    pub(super) fill: Option<char>,
    pub(super) align: Option<char>,
    pub(super) sign: Option<char>,
    pub(super) alternate: bool,
    pub(super) zero: bool,
    pub(super) width: usize,
    pub(super) grouping: Option<char>,
    pub(super) precision: Option<usize>,
    pub(super) kind: Option<char>,
}

pub(super) fn size(engine: &Engine, text: &str) -> Res<usize> {
    let size = text.parse::<usize>().map_err(|_| failed("Too many decimal digits in format string"))?;
    engine.spend_text(size)?;
    Ok(size)
}

/// Digits behind the point, as many as can be written.
pub(super) fn check_precision(precision: usize) -> Res<()> {
    if precision > MAX_PRECISION {
        Err(super::limit("it wants a number with too many digits"))
    } else {
        Ok(())
    }
}

/// `text % value`
pub(super) fn percent(engine: &Engine, text: &Text, value: &Value) -> Res<Value> {
    let mut given = match value {
        Value::Tuple(items) => items.items.clone(),
        other => vec![other.clone()],
    }
    .into_iter();
    let mapping = match value {
        Value::Dict(_) => Some(value),
        _ => None,
    };
    let mut next = || given.next().ok_or_else(|| failed("not enough arguments for format string"));
    let mut used_mapping = false;
    let mut out = String::new();
    let mut rest = &**text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let mut item = None;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = inner.find(')').ok_or_else(|| failed("incomplete format key"))?;
            let mapping = mapping.ok_or_else(|| failed("format requires a mapping"))?;
            let Value::Dict(dict) = mapping else { return Err(failed("format requires a mapping")) };
            let key = &inner[..end];
            item = Some(dict.get_str(key).cloned().ok_or_else(|| failed(format!("'{key}'")))?);
            used_mapping = true;
            rest = &inner[end + 1..];
        }
        let mut spec = Spec::default();
        let flags = rest.len() - rest.trim_start_matches(['-', '+', ' ', '#', '0']).len();
        for flag in rest[..flags].chars() {
            match flag {
                '-' => spec.align = Some('<'),
                '+' => spec.sign = Some('+'),
                ' ' if spec.sign.is_none() => spec.sign = Some(' '),
                '#' => spec.alternate = true,
                '0' => spec.zero = true,
                _ => {}
            }
        }
        rest = &rest[flags..];
        let number = |rest: &mut &str, next: &mut dyn FnMut() -> Res<Value>| -> Res<Option<i128>> {
            if let Some(after) = rest.strip_prefix('*') {
                *rest = after;
                return Ok(Some(next()?.as_int().ok_or_else(|| failed("* wants int"))?));
            }
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let value = if digits == 0 { None } else { Some(size(engine, &rest[..digits])? as i128) };
            *rest = &rest[digits..];
            Ok(value)
        };
        if let Some(width) = number(&mut rest, &mut next)? {
            if width < 0 {
                spec.align = Some('<');
            }
            spec.width = width.unsigned_abs() as usize;
            engine.spend_text(spec.width)?;
        }
        if let Some(after) = rest.strip_prefix('.') {
            rest = after;
            let precision = number(&mut rest, &mut next)?.unwrap_or(0).max(0);
            spec.precision = Some(usize::try_from(precision).unwrap_or(usize::MAX));
        }
        rest = rest.trim_start_matches(['h', 'l', 'L']);
        let Some(kind) = rest.chars().next() else { return Err(failed("incomplete format")) };
        rest = &rest[kind.len_utf8()..];
        if kind == '%' {
            out.push('%');
            continue;
        }
        let item = item.map_or_else(&mut next, Ok)?;
        let made = converted(engine, text.markup, &mut spec, kind, &item)?;
        engine.grow(out.len(), made.len())?;
        out.push_str(&made);
    }
    out.push_str(rest);
    // What has items may give none.
    let has_items = matches!(value, Value::Dict(_) | Value::List(_) | Value::Range(_) | Value::Undefined(_));
    if given.next().is_some() && !used_mapping && !has_items {
        return Err(failed("not all arguments converted during string formatting"));
    }
    Ok(Value::text(out, text.markup))
}

fn converted(engine: &Engine, markup: bool, spec: &mut Spec, kind: char, item: &Value) -> Res<String> {
    let right = spec.align.is_none();
    let real = || failed(format!("must be real number, not {}", item.type_name()));
    match kind {
        's' | 'r' | 'a' => {
            let text = if kind == 's' { to_str(engine, item)?.into_owned() } else { to_repr(engine, item)? };
            let text = if markup && !item.is_markup() { escape(&text) } else { text };
            let text: String = match spec.precision {
                Some(most) => text.chars().take(most).collect(),
                None => text,
            };
            Ok(pad(&text, spec.width, ' ', if right { '>' } else { '<' }))
        }
        'c' => {
            let text = match item {
                Value::Str(text) if text.chars().count() == 1 => text.to_string(),
                other => {
                    let code = other.as_int().ok_or_else(|| failed("%c requires int or char"))?;
                    let c = u32::try_from(code).ok().and_then(char::from_u32);
                    c.ok_or_else(|| failed("%c arg not in range(0x110000)"))?.to_string()
                }
            };
            Ok(pad(&text, spec.width, ' ', if right { '>' } else { '<' }))
        }
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' => {
            let value = match item {
                Value::Undefined(missing) => return Err(missing.fault()),
                Value::Float(value) if matches!(kind, 'd' | 'i' | 'u') => whole(*value)?,
                other => other.as_int().ok_or_else(|| {
                    failed(format!("%{kind} format: a number is required, not {}", other.type_name()))
                })?,
            };
            let digits = match kind {
                'x' => format!("{:x}", value.unsigned_abs()),
                'X' => format!("{:X}", value.unsigned_abs()),
                'o' => format!("{:o}", value.unsigned_abs()),
                _ => value.unsigned_abs().to_string(),
            };
            let digits = match spec.precision {
                Some(least) => {
                    engine.spend_text(least)?;
                    "0".repeat(least.saturating_sub(digits.len())) + &digits
                }
                None => digits,
            };
            let prefix = match (spec.alternate, kind) {
                (true, 'x') => "0x",
                (true, 'X') => "0X",
                (true, 'o') => "0o",
                _ => "",
            };
            Ok(signed(spec, value < 0, prefix, &digits))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let value = match item {
                Value::Undefined(missing) => return Err(missing.fault()),
                other => other.as_float().ok_or_else(real)?,
            };
            let precision = spec.precision.unwrap_or(6);
            check_precision(precision)?;
            let text = float_text(value.abs(), kind, precision, spec.alternate);
            if !value.is_finite() {
                spec.zero = false;
            }
            Ok(signed(spec, value.is_sign_negative() && !value.is_nan(), "", &text))
        }
        other => Err(failed(format!("unsupported format character '{other}'"))),
    }
}

/// `int(float)`
pub(super) fn whole(value: f64) -> Res<i128> {
    if value.is_nan() {
        return Err(failed("cannot convert float NaN to integer"));
    }
    if value.is_infinite() {
        return Err(failed("cannot convert float infinity to integer"));
    }
    if value.abs() >= 1.7e38 {
        return Err(super::limit("it computes an integer of more than 127 bits"));
    }
    Ok(value as i128)
}

pub(super) fn sign_text(spec: &Spec, negative: bool) -> &'static str {
    match (negative, spec.sign) {
        (true, _) => "-",
        (false, Some('+')) => "+",
        (false, Some(' ')) => " ",
        _ => "",
    }
}

/// `%`'s way of a number with its sign.
fn signed(spec: &Spec, negative: bool, prefix: &str, digits: &str) -> String {
    let head = [sign_text(spec, negative), prefix].concat();
    if spec.zero && spec.align.is_none() {
        let missing = spec.width.saturating_sub(head.len() + digits.len());
        return [&head, &*"0".repeat(missing), digits].concat();
    }
    pad(&[&*head, digits].concat(), spec.width, ' ', spec.align.unwrap_or('>'))
}

pub(super) fn pad(text: &str, width: usize, fill: char, align: char) -> String {
    let missing = width.saturating_sub(text.chars().count());
    let left = match align {
        '<' => 0,
        '^' => missing / 2,
        _ => missing,
    };
    let mut out: String = std::iter::repeat_n(fill, left).collect();
    out.push_str(text);
    out.extend(std::iter::repeat_n(fill, missing - left));
    out
}

/// A number that is not negative, as `e`, `f` or `g` write it.
pub(super) fn float_text(value: f64, kind: char, precision: usize, alternate: bool) -> String {
    let upper = kind.is_uppercase();
    let text = if value.is_nan() {
        "nan".to_owned()
    } else if value.is_infinite() {
        "inf".to_owned()
    } else {
        match kind.to_ascii_lowercase() {
            'f' => format!("{value:.precision$}"),
            'e' => exponent(&format!("{value:.precision$e}")),
            _ => general(value, precision.max(1), alternate),
        }
    };
    if upper { text.to_uppercase() } else { text }
}

/// `g`: the shorter of both forms, without zeros at the end.
pub(super) fn general(value: f64, precision: usize, alternate: bool) -> String {
    let scientific = format!("{value:.*e}", precision - 1);
    let power: i32 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| -> String {
        match !alternate && text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text.to_owned(),
        }
    };
    if power < -4 || power >= precision as i32 {
        let (digits, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        return exponent(&format!("{}e{power}", trimmed(digits)));
    }
    trimmed(&format!("{value:.*}", (precision as i32 - 1 - power).max(0) as usize))
}
