//! Jinja2's filters: of single values here, of many items in `sequences`, of texts in `words`.

use std::rc::Rc;

use super::call::Given;
use super::eval::Engine;
use super::ops::negative;
use super::percent::{percent, whole};
use super::repr::{self, Dump};
use super::value::{Text, Value};
use super::{Res, failed, sequences, words};

const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "filesizeformat",
    "first",
    "float",
    "forceescape",
    "format",
    "groupby",
    "indent",
    "int",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "items",
    "map",
    "min",
    "max",
    "pprint",
    "random",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "striptags",
    "sum",
    "title",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "urlize",
    "wordcount",
    "wordwrap",
    "xmlattr",
    "tojson",
];

/// Whether there is a filter of that name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// `value|name(...)`
pub(super) fn apply(engine: &Engine, name: &str, value: Value, given: &Given) -> Res<Value> {
    if let Some(made) = sequences::apply(engine, name, &value, given)? {
        return Ok(made);
    }
    if let Some(made) = words::apply(engine, name, &value, given)? {
        return Ok(made);
    }
    match name {
        "default" | "d" => {
            let [default, boolean] = given.bind(name, ["default_value", "boolean"], 0)?;
            let boolean = boolean.map_or(Ok(false), |flag| flag.truth(engine))?;
            let missing = value.is_undefined() || boolean && !value.truth(engine)?;
            Ok(if missing { default.unwrap_or_else(|| Value::str("")) } else { value })
        }
        "length" | "count" => {
            given.none(name)?;
            match value.len(engine)? {
                Some(length) => Ok(Value::Int(length)),
                None => Err(failed(format!("object of type '{}' has no len()", value.type_name()))),
            }
        }
        "string" => {
            given.none(name)?;
            match value {
                Value::Str(_) => Ok(value),
                other => Ok(Value::str(&*repr::to_str(engine, &other)?)),
            }
        }
        "safe" => {
            given.none(name)?;
            Ok(Value::text(&*repr::to_str(engine, &value)?, true))
        }
        "e" | "escape" => {
            given.none(name)?;
            Ok(Value::text(&*repr::escaped(engine, &value)?, true))
        }
        "forceescape" => {
            given.none(name)?;
            Ok(Value::text(repr::escape(&repr::to_str(engine, &value)?), true))
        }
        "tojson" => to_json(engine, &value, given),
        "attr" => {
            let [wanted] = given.bind(name, ["name"], 1)?;
            match wanted {
                Some(Value::Str(wanted)) => attribute_alone(engine, &value, &wanted),
                _ => Err(failed("attribute name must be string")),
            }
        }
        "abs" => {
            given.none(name)?;
            match &value {
                Value::Float(number) => Ok(Value::Float(number.abs())),
                other => match other.as_int() {
                    Some(number) if number < 0 => negative(other),
                    Some(number) => Ok(Value::Int(number)),
                    None => Err(failed(format!("bad operand type for abs(): '{}'", other.type_name()))),
                },
            }
        }
        "int" => to_int(&value, given),
        "float" => {
            let [default] = given.bind(name, ["default"], 0)?;
            match &value {
                Value::Undefined(missing) => Err(missing.fault()),
                Value::Str(text) => Ok(match parse_float(text) {
                    Some(number) => Value::Float(number),
                    None => default.unwrap_or(Value::Float(0.0)),
                }),
                other => Ok(match other.as_float() {
                    Some(number) => Value::Float(number),
                    None => default.unwrap_or(Value::Float(0.0)),
                }),
            }
        }
        "round" => round(&value, given),
        "format" => {
            if !given.args.is_empty() && !given.kwargs.is_empty() {
                return Err(failed("can't handle positional and keyword arguments at the same time"));
            }
            let text = match &value {
                Value::Str(text) => text.clone(),
                other => Text { text: repr::to_str(engine, other)?.into(), markup: false },
            };
            let with = if given.kwargs.is_empty() {
                Value::tuple(given.args.clone())?
            } else {
                let pairs =
                    given.kwargs.iter().map(|(name, value)| (Value::str(name.clone()), value.clone()));
                Value::Dict(Rc::new(super::dict::Dict::from_pairs(pairs)?))
            };
            percent(engine, &text, &with)
        }
        "pprint" => {
            given.none(name)?;
            Ok(Value::str(repr::to_repr(engine, &value)?))
        }
        "random" | "urlize" => Err(failed(format!("the filter `{name}` is not known here"))),
        other => Err(failed(format!("No filter named '{other}' found."))),
    }
}

/// `attr`: the attribute, and never the item.
fn attribute_alone(engine: &Engine, value: &Value, name: &Text) -> Res<Value> {
    if value.is_undefined() && name.len() >= 4 && name.starts_with("__") && name.ends_with("__") {
        return Ok(Value::undefined(format!("access to attribute '{}' is unsafe.", &**name)));
    }
    if let Value::Dict(dict) = value
        && dict.get_str(name).is_some()
        && !matches!(&**name, "get" | "items" | "keys" | "values" | "copy" | "fromkeys")
    {
        return Ok(Value::undefined(format!("'dict object' has no attribute '{}'", &**name)));
    }
    engine.attribute(value, &name.text)
}

/// transformers' `tojson`: `json.dumps` with its arguments by name or in this order.
fn to_json(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    let [ascii, indent, separators, sort] = given.bind("tojson", names, 0)?;
    let flag = |value: Option<Value>| value.map_or(Ok(false), |value| value.truth(engine));
    let indent = match indent {
        None | Some(Value::None) => None,
        Some(Value::Str(text)) => Some(text.to_string()),
        Some(other) => {
            let spaces = usize::try_from(other.index()?.max(0)).unwrap_or(usize::MAX);
            engine.spend_text(spaces)?;
            Some(" ".repeat(spaces))
        }
    };
    let (item, key) = match &separators {
        None | Some(Value::None) => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
        Some(Value::Tuple(pair) | Value::List(pair)) => match pair.items.as_slice() {
            [Value::Str(item), Value::Str(key)] => (item.to_string(), key.to_string()),
            _ => return Err(failed("separators are two texts")),
        },
        Some(_) => return Err(failed("separators are two texts")),
    };
    let dump = Dump {
        ensure_ascii: flag(ascii)?,
        indent,
        item_separator: item,
        key_separator: key,
        sort_keys: flag(sort)?,
    };
    Ok(Value::str(dump.dumps(engine, value)?))
}

/// `float(text)`
pub(super) fn parse_float(text: &str) -> Option<f64> {
    let text = super::text::strip(text, None, true, true);
    let unsigned = text.trim_start_matches(['+', '-']);
    let digits = unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let named = ["inf", "infinity", "nan"].iter().any(|name| unsigned.eq_ignore_ascii_case(name));
    if !(digits || named) || text.len() - unsigned.len() > 1 || !underscores_part_digits(text) {
        return None;
    }
    text.replace('_', "").parse().ok()
}

/// Python takes single underscores between digits.
fn underscores_part_digits(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().filter(|(_, byte)| **byte == b'_').all(|(at, _)| {
        let digit =
            |at: Option<usize>| at.and_then(|at| bytes.get(at)).is_some_and(u8::is_ascii_alphanumeric);
        digit(at.checked_sub(1)) && digit(Some(at + 1))
    })
}

/// `int(text, base)`; outside, whether the base is one.
fn parse_int(text: &str, base: i128) -> Option<i128> {
    let text = super::text::strip(text, None, true, true);
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let prefix = digits.get(..2).map(str::to_ascii_lowercase);
    let (radix, digits) = match (base, prefix.as_deref()) {
        (0 | 16, Some("0x")) => (16, &digits[2..]),
        (0 | 8, Some("0o")) => (8, &digits[2..]),
        (0 | 2, Some("0b")) => (2, &digits[2..]),
        (0, _)
            if digits.len() > 1
                && digits.starts_with('0')
                && digits.bytes().any(|b| b != b'0' && b != b'_') =>
        {
            return None;
        }
        (0, _) => (10, digits),
        (base, _) => (u32::try_from(base).ok()?, digits),
    };
    let digits = if radix != 10 || base == 0 { digits.strip_prefix('_').unwrap_or(digits) } else { digits };
    if digits.starts_with(['+', '-']) || !underscores_part_digits(digits) {
        return None;
    }
    let value = i128::from_str_radix(&digits.replace('_', ""), radix).ok()?;
    Some(if negative { -value } else { value })
}

fn to_int(value: &Value, given: &Given) -> Res<Value> {
    let [default, base] = given.bind("int", ["default", "base"], 0)?;
    let default = default.unwrap_or(Value::Int(0));
    let base = base.map_or(Ok(10), |base| base.index())?;
    let of_float = |number: Option<f64>| match number {
        Some(number) if number.is_finite() => whole(number).map(Value::Int),
        _ => Ok(default.clone()),
    };
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        Value::Float(number) if number.is_infinite() => {
            Err(failed("cannot convert float infinity to integer"))
        }
        Value::Float(number) => of_float(Some(*number)),
        Value::Str(text) => {
            let known = base == 0 || (2..=36).contains(&base);
            match parse_int(text, base).filter(|_| known) {
                Some(number) => Ok(Value::Int(number)),
                None => of_float(parse_float(text)),
            }
        }
        other => Ok(other.as_int().map_or(default, Value::Int)),
    }
}

fn round(value: &Value, given: &Given) -> Res<Value> {
    let [precision, method] = given.bind("round", ["precision", "method"], 0)?;
    let method = method.unwrap_or_else(|| Value::str("common"));
    let precision = precision.unwrap_or(Value::Int(0));
    let number = |value: &Value| -> Res<f64> {
        match value {
            Value::Undefined(missing) => Err(missing.fault()),
            other => other
                .as_float()
                .ok_or_else(|| failed(format!("type {} doesn't define __round__ method", other.type_name()))),
        }
    };
    match method.as_str() {
        Some("common") => {
            if let Some(whole) = value.as_int() {
                return round_int(whole, precision.index()?);
            }
            let float = number(value)?;
            Ok(Value::Float(round_float(float, precision.index()?)))
        }
        Some(method @ ("ceil" | "floor")) => {
            let power = precision.index()?;
            let turn = if method == "ceil" { f64::ceil } else { f64::floor };
            let power = i32::try_from(power).unwrap_or(i32::MAX);
            let (scaled, back) = (number(value)? * 10f64.powi(power), 10f64.powi(power));
            Ok(Value::Float(whole(turn(scaled))? as f64 / back))
        }
        _ => Err(failed("method must be common, ceil or floor")),
    }
}

/// `round(int, digits)`: half to even.
fn round_int(value: i128, digits: i128) -> Res<Value> {
    if digits >= 0 {
        return Ok(Value::Int(value));
    }
    let Some(unit) = u32::try_from(-digits).ok().and_then(|power| 10i128.checked_pow(power)) else {
        return Ok(Value::Int(0));
    };
    let (down, rest) = (value.div_euclid(unit), value.rem_euclid(unit));
    let up = match rest.cmp(&(unit - rest)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => down % 2 != 0,
    };
    let rounded = (down + i128::from(up)).checked_mul(unit);
    rounded.map(Value::Int).ok_or_else(|| super::limit("it computes an integer of more than 127 bits"))
}

/// `round(float, digits)`: correctly rounded, ties to even.
fn round_float(value: f64, digits: i128) -> f64 {
    if !value.is_finite() || digits > 323 {
        return value;
    }
    if digits < -308 {
        return 0.0f64.copysign(value);
    }
    if digits >= 0 {
        return format!("{value:.*}", digits as usize).parse().unwrap_or(value);
    }
    let unit = 10f64.powi(-digits as i32);
    (value / unit).round_ties_even() * unit
}
