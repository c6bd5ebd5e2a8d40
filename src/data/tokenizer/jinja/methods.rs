//! Attributes and items of values, as the sandbox lets a template reach them, and the methods of all but text.
//!
//! A method that would change its list or dict does not exist here, nor does a name with `_` in front.

use std::rc::Rc;

use super::call::Given;
use super::dict::Dict;
use super::eval::Engine;
use super::iter::Cursor;
use super::value::{Cycler, Method, Part, Value};
use super::{Res, failed, format, ops, repr, text};

const DICT: &[&str] = &["get", "items", "keys", "values", "copy", "fromkeys"];
const LIST: &[&str] = &["copy", "count", "index"];
const TUPLE: &[&str] = &["count", "index"];
const INT: &[&str] = &["bit_length", "bit_count", "conjugate", "is_integer", "as_integer_ratio"];
const FLOAT: &[&str] = &["is_integer", "conjugate", "as_integer_ratio", "hex"];

fn method(owner: &Value, names: &[&'static str], name: &str) -> Option<Value> {
    let name = names.iter().find(|other| **other == name)?;
    Some(Value::Method(Rc::new(Method { owner: owner.clone(), name })))
}

/// `getattr(owner, name)`, where the sandbox gives it.
fn attribute(engine: &Engine, owner: &Value, name: &str) -> Res<Option<Value>> {
    if let Value::Undefined(missing) = owner {
        return Err(missing.fault());
    }
    if name.starts_with('_') {
        return Ok(None);
    }
    Ok(match owner {
        Value::Str(_) => method(owner, text::METHODS, name),
        Value::Dict(_) => method(owner, DICT, name),
        Value::List(_) => method(owner, LIST, name),
        Value::Tuple(items) if items.grouped && name == "grouper" => Some(items.items[0].clone()),
        Value::Tuple(items) if items.grouped && name == "list" => Some(items.items[1].clone()),
        Value::Tuple(_) => method(owner, TUPLE, name),
        Value::Range(range) => match name {
            "start" => Some(Value::Int(range.start)),
            "stop" => Some(Value::Int(range.stop)),
            "step" => Some(Value::Int(range.step)),
            _ => method(owner, TUPLE, name),
        },
        Value::Int(_) | Value::Bool(_) => match name {
            "real" | "numerator" => owner.as_int().map(Value::Int),
            "imag" => Some(Value::Int(0)),
            "denominator" => Some(Value::Int(1)),
            _ => method(owner, INT, name),
        },
        Value::Float(value) => match name {
            "real" => Some(Value::Float(*value)),
            "imag" => Some(Value::Float(0.0)),
            _ => method(owner, FLOAT, name),
        },
        Value::Namespace(namespace) => {
            namespace.attrs.borrow().iter().find(|(other, _)| **other == *name).map(|(_, v)| v.clone())
        }
        Value::Loop(around) => around.attribute(engine, name)?,
        Value::Cycler(cycler) => match name {
            "current" => Some(cycler.items[cycler.at.get()].clone()),
            _ => method(owner, &["next", "reset"], name),
        },
        Value::Joiner(joiner) => match name {
            "sep" => Some(joiner.0.clone()),
            "used" => Some(Value::Bool(joiner.1.get())),
            _ => None,
        },
        Value::Macro(called) => match name {
            "name" if called.def.name.is_empty() => Some(Value::None),
            "name" => Some(Value::str(called.def.name.clone())),
            "arguments" => {
                let names = called.def.parameters.iter().map(|(_, name)| Value::str(name.clone()));
                Some(Value::tuple(names.collect())?)
            }
            "catch_kwargs" => Some(Value::Bool(called.def.uses_kwargs)),
            "catch_varargs" => Some(Value::Bool(called.def.uses_varargs)),
            "caller" => Some(Value::Bool(called.def.uses_caller)),
            _ => None,
        },
        Value::View(_, dict) if name == "mapping" => Some(Value::Dict(dict.clone())),
        Value::Function(super::value::Function::Dict) => method(owner, &["fromkeys"], name),
        Value::Blocks(None) => {
            let known = engine.tree.blocks.iter().find(|(other, _)| **other == *name);
            known.map(|(name, _)| Value::Blocks(Some(name.clone())))
        }
        _ => None,
    })
}

/// `owner[index]`, where there is one; asking what has no items is no error to a template.
fn element(owner: &Value, index: &Value) -> Res<Option<Value>> {
    let at = |length: usize| -> Option<usize> {
        let at = index.as_int()?;
        let at = if at < 0 { at.checked_add(length as i128)? } else { at };
        usize::try_from(at).ok().filter(|at| *at < length)
    };
    Ok(match owner {
        Value::Undefined(missing) => return Err(missing.fault()),
        Value::Dict(dict) => match index {
            Value::List(_) | Value::Dict(_) => None,
            index => dict.get(index).ok().flatten().cloned(),
        },
        Value::List(items) | Value::Tuple(items) => at(items.items.len()).map(|at| items.items[at].clone()),
        Value::Str(text) if text.is_ascii() => {
            at(text.len()).map(|at| Value::text(&text[at..at + 1], text.markup))
        }
        Value::Str(text) => at(text.chars().count())
            .and_then(|at| text.chars().nth(at))
            .map(|c| Value::text(c.to_string(), text.markup)),
        Value::Range(range) => {
            at(usize::try_from(range.len()).unwrap_or(usize::MAX)).map(|at| Value::Int(range.get(at as i128)))
        }
        Value::Blocks(None) => index.as_str().map(|name| Value::Blocks(Some(name.into()))),
        _ => None,
    })
}

impl Engine {
    /// `owner.name`: the attribute, else the item.
    pub(super) fn attribute(&self, owner: &Value, name: &std::sync::Arc<str>) -> Res<Value> {
        self.spend(1)?;
        if let Some(value) = attribute(self, owner, name)? {
            return Ok(value);
        }
        // An attribute that exists but is not safe hides an item of the same name, as in the sandbox.
        let hidden = match owner {
            Value::Dict(_) => matches!(&**name, "clear" | "pop" | "popitem" | "setdefault" | "update"),
            _ => false,
        };
        if let (Value::Dict(dict), false) = (owner, hidden)
            && let Some(value) = dict.get_str(name)
        {
            return Ok(value.clone());
        }
        Ok(Value::undefined(format!("'{}' has no attribute '{name}'", owner.described())))
    }

    /// `owner[index]`: the item, else the attribute.
    pub(super) fn item(&self, owner: &Value, index: &Value) -> Res<Value> {
        self.spend(1)?;
        if let Some(value) = element(owner, index)? {
            return Ok(value);
        }
        if let Value::Str(name) = index {
            if let Some(value) = attribute(self, owner, name)? {
                return Ok(value);
            }
            return Ok(Value::undefined(format!("'{}' has no attribute '{}'", owner.described(), &**name)));
        }
        let index = repr::to_repr(self, index)?;
        Ok(Value::undefined(format!("{} has no element {index}", owner.described())))
    }
}

/// Calls a method.
pub(super) fn call(engine: &Engine, owner: &Value, name: &'static str, given: Given) -> Res<Value> {
    match owner {
        Value::Str(this) => match name {
            "format" | "format_map" => format::format(engine, this, name == "format_map", &given),
            _ => text::call(engine, this, name, &given),
        },
        Value::Dict(dict) => of_dict(engine, dict, name, &given),
        Value::Function(_) => from_keys(engine, &given),
        Value::List(_) | Value::Tuple(_) | Value::Range(_) => of_sequence(engine, owner, name, &given),
        Value::Cycler(cycler) => of_cycler(cycler, name, &given),
        Value::Loop(around) if name == "cycle" => {
            let items = given.positional("cycle", 0, usize::MAX)?;
            if items.is_empty() {
                return Err(failed("no items for cycling given"));
            }
            Ok(items[around.index0.get().rem_euclid(items.len() as i128) as usize].clone())
        }
        Value::Loop(around) => {
            let values = Value::tuple(given.positional("changed", 0, usize::MAX)?.to_vec())?;
            super::value::nested(values.depth())?;
            Ok(Value::Bool(around.changed(engine, values)?))
        }
        _ => {
            given.none(name)?;
            of_number(owner, name)
        }
    }
}

fn from_keys(engine: &Engine, given: &Given) -> Res<Value> {
    let args = given.positional("fromkeys", 1, 2)?;
    let value = args.get(1).cloned().unwrap_or(Value::None);
    let mut keys = Cursor::of(&args[0])?;
    let mut pairs = Vec::new();
    while let Some(key) = keys.next(engine)? {
        pairs.push((key, value.clone()));
    }
    Ok(Value::Dict(Rc::new(Dict::from_pairs(pairs)?)))
}

fn of_dict(engine: &Engine, dict: &Rc<Dict>, name: &str, given: &Given) -> Res<Value> {
    let part = match name {
        "get" => {
            let args = given.positional("get", 1, 2)?;
            let found = dict.get(&args[0])?.cloned();
            return Ok(found.or(args.get(1).cloned()).unwrap_or(Value::None));
        }
        "fromkeys" => return from_keys(engine, given),
        "copy" => {
            given.none(name)?;
            return Ok(Value::Dict(dict.clone()));
        }
        "keys" => Part::Keys,
        "values" => Part::Values,
        _ => Part::Items,
    };
    given.none(name)?;
    Ok(Value::View(part, dict.clone()))
}

fn of_sequence(engine: &Engine, owner: &Value, name: &str, given: &Given) -> Res<Value> {
    if name == "copy" {
        given.none(name)?;
        return Ok(owner.clone());
    }
    let most = if name == "index" && !matches!(owner, Value::Range(_)) { 3 } else { 1 };
    let args = given.positional(name, 1, most)?;
    let length = owner.len(engine)?.unwrap_or(0);
    let bound = |at: usize, default: i128| -> Res<i128> {
        let Some(value) = args.get(at) else { return Ok(default) };
        let at = value.index()?;
        Ok(if at < 0 { (at + length).max(0) } else { at })
    };
    let (start, stop) = (bound(1, 0)?, bound(2, length)?);
    let mut cursor = Cursor::of(owner)?;
    let (mut at, mut count) = (0, 0);
    while let Some(item) = cursor.next(engine)? {
        if ops::equal(engine, &item, &args[0])? {
            if name == "index" && (start..stop).contains(&at) {
                return Ok(Value::Int(at));
            }
            count += 1;
        }
        at += 1;
    }
    match name {
        "index" => {
            Err(failed(format!("{} is not in {}", repr::to_repr(engine, &args[0])?, owner.type_name())))
        }
        _ => Ok(Value::Int(count)),
    }
}

fn of_cycler(cycler: &Cycler, name: &str, given: &Given) -> Res<Value> {
    given.none(name)?;
    if name == "reset" {
        cycler.at.set(0);
        return Ok(Value::None);
    }
    let at = cycler.at.get();
    cycler.at.set((at + 1) % cycler.items.len());
    Ok(cycler.items[at].clone())
}

fn of_number(owner: &Value, name: &str) -> Res<Value> {
    if let Value::Float(value) = owner {
        return Ok(match name {
            "is_integer" => Value::Bool(value.fract() == 0.0),
            "conjugate" => Value::Float(*value),
            _ => return Err(failed(format!("float.{name}() is not known here"))),
        });
    }
    let value = owner.as_int().unwrap_or(0);
    Ok(match name {
        "bit_length" => Value::Int(i128::from(128 - value.unsigned_abs().leading_zeros())),
        "bit_count" => Value::Int(i128::from(value.unsigned_abs().count_ones())),
        "is_integer" => Value::Bool(true),
        "as_integer_ratio" => Value::tuple(vec![Value::Int(value), Value::Int(1)])?,
        _ => Value::Int(value),
    })
}
