//! Python's operators: arithmetic, comparison, `in`. Next: `slice`.

use std::rc::Rc;

use super::ast::Operator;
use super::eval::Engine;
use super::iter::Cursor;
use super::percent::percent;
use super::value::{Part, Value};
use super::{Fault, Res, failed, limit, repr};

fn too_large() -> Box<Fault> {
    limit("it computes an integer of more than 127 bits")
}

fn unsupported(sign: &str, left: &Value, right: &Value) -> Box<Fault> {
    failed(format!(
        "unsupported operand type(s) for {sign}: '{}' and '{}'",
        left.type_name(),
        right.type_name()
    ))
}

fn sign_of(operator: Operator) -> &'static str {
    match operator {
        Operator::Add => "+",
        Operator::Sub => "-",
        Operator::Mul => "*",
        Operator::Div => "/",
        Operator::FloorDiv => "//",
        Operator::Mod => "%",
        Operator::Pow => "** or pow()",
    }
}

/// `left op right`.
pub(super) fn binary(engine: &Engine, operator: Operator, left: &Value, right: &Value) -> Res<Value> {
    if operator == Operator::Mod
        && let Value::Str(text) = left
    {
        return percent(engine, text, right);
    }
    for side in [left, right] {
        if let Value::Undefined(missing) = side {
            return Err(missing.fault());
        }
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return integers(operator, a, b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return floats(operator, a, b);
    }
    match (operator, left, right) {
        (Operator::Add, Value::Str(a), Value::Str(b)) => {
            let markup = a.markup || b.markup;
            let (a, b) = match markup {
                true => (repr::escaped(engine, left)?, repr::escaped(engine, right)?),
                false => (repr::to_str(engine, left)?, repr::to_str(engine, right)?),
            };
            engine.spend_text(a.len() + b.len())?;
            Ok(Value::text([&*a, &*b].concat(), markup))
        }
        (Operator::Add, Value::List(a), Value::List(b)) => {
            engine.spend_items(a.items.len() + b.items.len())?;
            Value::list(a.items.iter().chain(&b.items).cloned().collect())
        }
        (Operator::Add, Value::Tuple(a), Value::Tuple(b)) => {
            engine.spend_items(a.items.len() + b.items.len())?;
            Value::tuple(a.items.iter().chain(&b.items).cloned().collect())
        }
        (Operator::Mul, Value::Str(_) | Value::List(_) | Value::Tuple(_), times)
            if times.as_int().is_some() =>
        {
            repeated(engine, left, times.as_int().unwrap_or(0))
        }
        (Operator::Mul, times, Value::Str(_) | Value::List(_) | Value::Tuple(_))
            if times.as_int().is_some() =>
        {
            repeated(engine, right, times.as_int().unwrap_or(0))
        }
        (Operator::Add, Value::Str(_), other) => {
            Err(failed(format!("can only concatenate str (not \"{}\") to str", other.type_name())))
        }
        _ => Err(unsupported(sign_of(operator), left, right)),
    }
}

fn repeated(engine: &Engine, value: &Value, times: i128) -> Res<Value> {
    let times = usize::try_from(times.max(0)).unwrap_or(usize::MAX);
    match value {
        Value::Str(text) => {
            engine.spend_text(text.len().saturating_mul(times))?;
            Ok(Value::text(text.repeat(times), text.markup))
        }
        Value::List(items) | Value::Tuple(items) => {
            engine.spend_items(items.items.len().saturating_mul(times))?;
            let made = std::iter::repeat_n(&items.items, times).flatten().cloned().collect();
            if matches!(value, Value::List(_)) { Value::list(made) } else { Value::tuple(made) }
        }
        _ => Ok(Value::None),
    }
}

fn integers(operator: Operator, a: i128, b: i128) -> Res<Value> {
    let zero = || failed("division by zero");
    let whole = |value: Option<i128>| value.map(Value::Int).ok_or_else(too_large);
    match operator {
        Operator::Add => whole(a.checked_add(b)),
        Operator::Sub => whole(a.checked_sub(b)),
        Operator::Mul => whole(a.checked_mul(b)),
        Operator::Div if b == 0 => Err(zero()),
        Operator::Div => Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDiv if b == 0 => Err(failed("integer division or modulo by zero")),
        Operator::FloorDiv => {
            let quotient = a.checked_div(b).ok_or_else(too_large)?;
            Ok(Value::Int(if a % b != 0 && (a < 0) != (b < 0) { quotient - 1 } else { quotient }))
        }
        Operator::Mod if b == 0 => Err(failed("integer modulo by zero")),
        Operator::Mod => {
            let rest = a.checked_rem(b).unwrap_or(0);
            Ok(Value::Int(if rest != 0 && (rest < 0) != (b < 0) { rest + b } else { rest }))
        }
        Operator::Pow if b < 0 && a == 0 => Err(failed("zero to a negative power")),
        Operator::Pow if b < 0 => Ok(Value::Float((a as f64).powf(b as f64))),
        Operator::Pow => match a {
            0 | 1 => Ok(Value::Int(if b == 0 { 1 } else { a })),
            -1 => Ok(Value::Int(if b % 2 == 0 { 1 } else { -1 })),
            _ => whole(u32::try_from(b).ok().and_then(|b| a.checked_pow(b))),
        },
    }
}

/// Python's `divmod` of floats.
pub(super) fn float_divmod(a: f64, b: f64) -> (f64, f64) {
    let mut rest = a % b;
    let mut quotient = (a - rest) / b;
    if rest != 0.0 {
        if (b < 0.0) != (rest < 0.0) {
            rest += b;
            quotient -= 1.0;
        }
    } else {
        rest = 0.0f64.copysign(b);
    }
    let mut floored = 0.0f64.copysign(a / b);
    if quotient != 0.0 {
        floored = quotient.floor();
        if quotient - floored > 0.5 {
            floored += 1.0;
        }
    }
    (floored, rest)
}

fn floats(operator: Operator, a: f64, b: f64) -> Res<Value> {
    let zero = matches!(operator, Operator::Div | Operator::FloorDiv | Operator::Mod) && b == 0.0;
    if zero {
        return Err(failed(if operator == Operator::Div {
            "float division by zero"
        } else {
            "float floor division by zero"
        }));
    }
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Sub => a - b,
        Operator::Mul => a * b,
        Operator::Div => a / b,
        Operator::FloorDiv => float_divmod(a, b).0,
        Operator::Mod => float_divmod(a, b).1,
        Operator::Pow => {
            if a == 0.0 && b < 0.0 {
                return Err(failed("zero to a negative power"));
            }
            if a < 0.0 && b.fract() != 0.0 {
                return Err(failed("a complex number is not a value of a template"));
            }
            let power = a.powf(b);
            if power.is_infinite() && a.is_finite() && b.is_finite() {
                return Err(failed("(34, 'Numerical result out of range')"));
            }
            power
        }
    }))
}

/// `-value`
pub(super) fn negative(value: &Value) -> Res<Value> {
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        Value::Float(value) => Ok(Value::Float(-value)),
        other => match other.as_int() {
            Some(value) => value.checked_neg().map(Value::Int).ok_or_else(too_large),
            None => Err(failed(format!("bad operand type for unary -: '{}'", other.type_name()))),
        },
    }
}

/// `+value`
pub(super) fn positive(value: &Value) -> Res<Value> {
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        Value::Float(value) => Ok(Value::Float(*value)),
        other => match other.as_int() {
            Some(value) => Ok(Value::Int(value)),
            None => Err(failed(format!("bad operand type for unary +: '{}'", other.type_name()))),
        },
    }
}

/// `left == right`
pub(super) fn equal(engine: &Engine, left: &Value, right: &Value) -> Res<bool> {
    engine.spend(1)?;
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(a == b);
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(a == b);
    }
    match (left, right) {
        (Value::Undefined(_), Value::Undefined(_)) => Ok(true),
        (Value::Str(a), Value::Str(b)) => Ok(a.text == b.text),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            if a.items.len() != b.items.len() {
                return Ok(false);
            }
            for (a, b) in a.items.iter().zip(&b.items) {
                if !identical(a, b) && !equal(engine, a, b)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        (Value::Dict(a), Value::Dict(b)) => {
            if a.len() != b.len() {
                return Ok(false);
            }
            for (key, value) in &a.entries {
                match b.get(key)? {
                    Some(other) if identical(value, other) || equal(engine, value, other)? => {}
                    _ => return Ok(false),
                }
            }
            Ok(true)
        }
        (Value::Range(a), Value::Range(b)) => {
            let (length, other) = (a.len(), b.len());
            Ok(length == other && (length == 0 || a.start == b.start && (length == 1 || a.step == b.step)))
        }
        (Value::View(Part::Keys | Part::Items, a), Value::View(Part::Keys | Part::Items, b)) => {
            let mut same = a.len() == b.len() && discriminant(left) == discriminant(right);
            for (key, value) in &a.entries {
                same = same
                    && match b.get(key)? {
                        Some(other) => {
                            matches!(left, Value::View(Part::Keys, _)) || equal(engine, value, other)?
                        }
                        None => false,
                    };
            }
            Ok(same)
        }
        _ => Ok(left.same(right)),
    }
}

fn discriminant(value: &Value) -> bool {
    matches!(value, Value::View(Part::Keys, _))
}

/// Containers take the same object for equal (`nan` in a list).
fn identical(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => Rc::ptr_eq(a, b),
        _ => false,
    }
}

/// `left < right`; `sign` is what the template wrote.
pub(super) fn less(engine: &Engine, left: &Value, right: &Value, sign: &str) -> Res<bool> {
    ordered(engine, left, right, sign, false)
}

/// `left <= right`
pub(super) fn less_or_equal(engine: &Engine, left: &Value, right: &Value, sign: &str) -> Res<bool> {
    ordered(engine, left, right, sign, true)
}

fn ordered(engine: &Engine, left: &Value, right: &Value, sign: &str, or_equal: bool) -> Res<bool> {
    engine.spend(1)?;
    for side in [left, right] {
        if let Value::Undefined(missing) = side {
            return Err(missing.fault());
        }
    }
    if let (Some(a), Some(b)) = (left.as_int(), right.as_int()) {
        return Ok(if or_equal { a <= b } else { a < b });
    }
    if let (Some(a), Some(b)) = (left.as_float(), right.as_float()) {
        return Ok(if or_equal { a <= b } else { a < b });
    }
    match (left, right) {
        (Value::Str(a), Value::Str(b)) => Ok(if or_equal { a.text <= b.text } else { a.text < b.text }),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !identical(a, b) && !equal(engine, a, b)? {
                    return ordered(engine, a, b, sign, or_equal);
                }
            }
            let (a, b) = (a.items.len(), b.items.len());
            Ok(if or_equal { a <= b } else { a < b })
        }
        _ => {
            let (left, right) = if sign.starts_with('>') { (right, left) } else { (left, right) };
            Err(failed(format!(
                "'{sign}' not supported between instances of '{}' and '{}'",
                left.type_name(),
                right.type_name()
            )))
        }
    }
}

/// `item in container`
pub(super) fn contains(engine: &Engine, container: &Value, item: &Value) -> Res<bool> {
    match container {
        Value::Str(text) => match item {
            Value::Str(part) => {
                engine.spend(text.len() as u64 / 64)?;
                Ok(text.contains(&**part))
            }
            other => Err(failed(format!(
                "'in <string>' requires string as left operand, not {}",
                other.type_name()
            ))),
        },
        Value::Dict(dict) | Value::View(Part::Keys, dict) => Ok(dict.get(item)?.is_some()),
        Value::Undefined(_) => Ok(false),
        Value::Range(range) => match item.as_int() {
            Some(value) => {
                let inside = if range.step > 0 {
                    (range.start..range.stop).contains(&value)
                } else {
                    value <= range.start && value > range.stop
                };
                Ok(inside && (value - range.start) % range.step == 0)
            }
            None => match item {
                Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => {
                    contains(engine, container, &Value::Int(*value as i128))
                }
                _ => Ok(false),
            },
        },
        Value::Namespace(_) | Value::None | Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
            Err(failed(format!("argument of type '{}' is not iterable", container.type_name())))
        }
        other => {
            let mut cursor = Cursor::of(other)?;
            while let Some(value) = cursor.next(engine)? {
                if identical(&value, item) || equal(engine, &value, item)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}
