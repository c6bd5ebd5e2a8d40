//! Jinja2's tests: what stands after `is`.

use super::ast::Operator;
use super::call::Given;
use super::dict::Key;
use super::eval::Engine;
use super::iter::Cursor;
use super::value::Value;
use super::{Res, chars, failed, filters, ops, repr};

const NAMES: &[&str] = &[
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "filter",
    "test",
    "none",
    "boolean",
    "false",
    "true",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    ">",
    "gt",
    "greaterthan",
    "ge",
    ">=",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
];

/// Whether there is a test of that name.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Whether `value is name(...)`.
pub(super) fn holds(engine: &Engine, name: &str, value: &Value, given: &Given) -> Res<bool> {
    let [other] = match name {
        "divisibleby" => given.bind(name, ["num"], 1)?,
        "sameas" => given.bind(name, ["other"], 1)?,
        "in" => given.bind(name, ["seq"], 1)?,
        "==" | "eq" | "equalto" | "!=" | "ne" | ">" | "gt" | "greaterthan" | "ge" | ">=" | "<" | "lt"
        | "lessthan" | "<=" | "le" => [Some(given.positional(name, 1, 1)?[0].clone())],
        _ => {
            given.none(name)?;
            [None]
        }
    };
    let other = other.unwrap_or(Value::None);
    let rest = |by: &Value| ops::binary(engine, Operator::Mod, value, by);
    Ok(match name {
        "odd" => ops::equal(engine, &rest(&Value::Int(2))?, &Value::Int(1))?,
        "even" => ops::equal(engine, &rest(&Value::Int(2))?, &Value::Int(0))?,
        "divisibleby" => ops::equal(engine, &rest(&other)?, &Value::Int(0))?,
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "filter" | "test" => {
            let known = if name == "filter" { filters::exists } else { exists };
            match value {
                Value::Str(name) => known(name),
                // What cannot be hashed cannot be looked up.
                other => Key::of(other).map(|_| false)?,
            }
        }
        "none" => matches!(value, Value::None),
        "boolean" => matches!(value, Value::Bool(_)),
        "false" => matches!(value, Value::Bool(false)),
        "true" => matches!(value, Value::Bool(true)),
        "integer" => matches!(value, Value::Int(_)),
        "float" => matches!(value, Value::Float(_)),
        "number" => matches!(value, Value::Int(_) | Value::Float(_) | Value::Bool(_)),
        "lower" | "upper" => {
            let text = repr::to_str(engine, value)?;
            if name == "lower" { chars::is_lower(&text) } else { chars::is_upper(&text) }
        }
        "string" => matches!(value, Value::Str(_)),
        "mapping" => matches!(value, Value::Dict(_)),
        "sequence" => {
            // What has a length and items by index; an undefined value has neither error nor index.
            matches!(
                value,
                Value::Str(_)
                    | Value::List(_)
                    | Value::Tuple(_)
                    | Value::Dict(_)
                    | Value::Range(_)
                    | Value::Undefined(_)
            )
        }
        "iterable" => Cursor::maybe(value).is_some() || matches!(value, Value::Loop(_)),
        "callable" => matches!(
            value,
            Value::Macro(_)
                | Value::Method(_)
                | Value::Joiner(_)
                | Value::Loop(_)
                | Value::Undefined(_)
                | Value::Function(_)
                | Value::Blocks(Some(_))
        ),
        "sameas" => value.same(&other),
        "escaped" => value.is_markup(),
        "in" => ops::contains(engine, &other, value)?,
        "==" | "eq" | "equalto" => ops::equal(engine, value, &other)?,
        "!=" | "ne" => !ops::equal(engine, value, &other)?,
        ">" | "gt" | "greaterthan" => ops::less(engine, &other, value, ">")?,
        ">=" | "ge" => ops::less_or_equal(engine, &other, value, ">=")?,
        "<" | "lt" | "lessthan" => ops::less(engine, value, &other, "<")?,
        "<=" | "le" => ops::less_or_equal(engine, value, &other, "<=")?,
        other => return Err(failed(format!("No test named '{other}' found."))),
    })
}
