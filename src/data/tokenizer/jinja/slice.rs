//! Python's slices: `value[start:stop:step]`. Next: `ops`, the operators.

use super::eval::Engine;
use super::value::Value;
use super::{Res, failed, limit};

/// `slice(start, stop, step).indices(length)`; `None` where a bound is no integer.
fn indices(bounds: &[Value; 3], length: i128) -> Res<Option<(i128, i128, i128)>> {
    let whole = |value: &Value| match value {
        Value::None => Some(None),
        other => other.as_int().map(Some),
    };
    let (Some(start), Some(stop), Some(step)) = (whole(&bounds[0]), whole(&bounds[1]), whole(&bounds[2]))
    else {
        return Ok(None);
    };
    let step = step.unwrap_or(1);
    if step == 0 {
        return Err(failed("slice step cannot be zero"));
    }
    let (low, high) = if step < 0 { (-1, length - 1) } else { (0, length) };
    let clamp = |bound: Option<i128>, default: i128| match bound {
        None => default,
        Some(at) if at < 0 => at.saturating_add(length).max(low),
        Some(at) => at.min(high),
    };
    let start = clamp(start, if step < 0 { high } else { low });
    Ok(Some((start, clamp(stop, if step < 0 { low } else { high }), step)))
}

/// The places that indices name.
fn places((start, stop, step): (i128, i128, i128)) -> Vec<i128> {
    let mut found = Vec::new();
    let mut at = start;
    while if step < 0 { at > stop } else { at < stop } {
        found.push(at);
        at = at.saturating_add(step);
    }
    found
}

/// `value[start:stop:step]`
pub(super) fn slice(engine: &Engine, value: &Value, bounds: &[Value; 3]) -> Res<Value> {
    let wrong = || failed("slice indices must be integers or None or have an __index__ method");
    match value {
        Value::Undefined(missing) => Err(missing.fault()),
        Value::Str(text) => {
            let chars: Vec<char> = text.chars().collect();
            engine.spend(chars.len() as u64 / 16)?;
            let indices = indices(bounds, chars.len() as i128)?.ok_or_else(wrong)?;
            let part: String = places(indices).into_iter().map(|at| chars[at as usize]).collect();
            Ok(Value::text(part, text.markup))
        }
        Value::List(items) | Value::Tuple(items) => {
            let places = places(indices(bounds, items.items.len() as i128)?.ok_or_else(wrong)?);
            engine.spend_items(places.len())?;
            let part = places.into_iter().map(|at| items.items[at as usize].clone()).collect();
            if matches!(value, Value::List(_)) { Value::list(part) } else { Value::tuple(part) }
        }
        Value::Range(range) => {
            let (start, stop, step) = indices(bounds, range.len())?.ok_or_else(wrong)?;
            let large = || limit("it computes an integer of more than 127 bits");
            let step = step.checked_mul(range.step).ok_or_else(large)?;
            Ok(Value::Range(super::value::Range { start: range.get(start), stop: range.get(stop), step }))
        }
        other => Err(failed(format!("'{}' object is not subscriptable by a slice", other.type_name()))),
    }
}
