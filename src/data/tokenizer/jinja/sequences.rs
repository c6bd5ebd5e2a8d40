//! Filters over many items: sorting, grouping, picking, cutting up.

use std::rc::Rc;
use std::sync::Arc;

use super::call::Given;
use super::eval::Engine;
use super::iter::{Cursor, Iter, Step};
use super::ops::{binary, equal, less};
use super::value::{Part, Value, depth_of};
use super::{Res, ast, chars, failed, repr};

/// How an item's attribute is found: `a.b.0`, one or several.
#[derive(Clone)]
pub(super) struct Getter {
    parts: Vec<Value>,
    ignore_case: bool,
    default: Option<Value>,
}

impl Getter {
    pub(super) fn new(attribute: Option<&Value>, ignore_case: bool, default: Option<Value>) -> Self {
        let parts = match attribute {
            None | Some(Value::None) => Vec::new(),
            Some(Value::Str(name)) => name.split('.').map(part).collect(),
            Some(other) => vec![other.clone()],
        };
        Self { parts, ignore_case, default: default.filter(|value| !matches!(value, Value::None)) }
    }

    pub(super) fn depth(&self) -> u16 {
        depth_of(self.parts.iter().chain(&self.default))
    }

    pub(super) fn get(&self, engine: &Engine, item: &Value) -> Res<Value> {
        let mut value = item.clone();
        for part in &self.parts {
            value = engine.item(&value, part)?;
            if let (true, Some(default)) = (value.is_undefined(), &self.default) {
                value = default.clone();
            }
        }
        Ok(match &value {
            Value::Str(text) if self.ignore_case => {
                engine.spend_text(text.len())?;
                Value::text(chars::lower(text), text.markup)
            }
            _ => value,
        })
    }
}

fn part(name: &str) -> Value {
    let digits = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
    match name.parse() {
        Ok(at) if digits => Value::Int(at),
        _ => Value::str(name),
    }
}

/// All items of a value.
pub(super) fn items(engine: &Engine, value: &Value) -> Res<Vec<Value>> {
    let mut cursor = Cursor::of(value)?;
    let mut items = Vec::new();
    while let Some(item) = cursor.next(engine)? {
        items.push(item);
    }
    Ok(items)
}

/// A stable merge sort whose comparison may fail and need be no order (`nan`).
pub(super) fn sorted<T>(items: Vec<T>, less: impl Fn(&T, &T) -> Res<bool> + Copy) -> Res<Vec<T>> {
    if items.len() < 2 {
        return Ok(items);
    }
    let mut left = items;
    let right = left.split_off(left.len() / 2);
    let mut left = sorted(left, less)?.into_iter().peekable();
    let mut right = sorted(right, less)?.into_iter().peekable();
    let mut merged = Vec::with_capacity(left.len() + right.len());
    while let (Some(a), Some(b)) = (left.peek(), right.peek()) {
        let next = if less(b, a)? { right.next() } else { left.next() };
        merged.extend(next);
    }
    merged.extend(left);
    merged.extend(right);
    Ok(merged)
}

/// Items in the order of their keys, as `sorted(items, key=...)`.
fn sorted_by(
    engine: &Engine,
    items: Vec<Value>,
    reverse: bool,
    key: impl Fn(&Value) -> Res<Value>,
) -> Res<Vec<Value>> {
    let mut keyed = items.into_iter().map(|item| Ok((key(&item)?, item))).collect::<Res<Vec<_>>>()?;
    if reverse {
        keyed.reverse();
    }
    let mut keyed = sorted(keyed, |a, b| less(engine, &a.0, &b.0, "<"))?;
    if reverse {
        keyed.reverse();
    }
    Ok(keyed.into_iter().map(|(_, item)| item).collect())
}

fn flag(engine: &Engine, value: Option<&Value>) -> Res<bool> {
    value.map_or(Ok(false), |value| value.truth(engine))
}

/// A filter of this file; `None` where it is another's.
pub(super) fn apply(engine: &Engine, name: &str, value: &Value, given: &Given) -> Res<Option<Value>> {
    Ok(Some(match name {
        "list" => {
            given.none(name)?;
            Value::list(items(engine, value)?)?
        }
        "first" => {
            given.none(name)?;
            let first = Cursor::of(value)?.next(engine)?;
            first.unwrap_or_else(|| Value::undefined("No first item, sequence was empty."))
        }
        "last" => {
            given.none(name)?;
            let mut cursor = reversed(engine, value)?;
            cursor.next(engine)?.unwrap_or_else(|| Value::undefined("No last item, sequence was empty."))
        }
        "reverse" => {
            given.none(name)?;
            match value {
                Value::Str(text) => {
                    engine.spend_text(text.len())?;
                    Value::text(text.chars().rev().collect::<String>(), text.markup)
                }
                Value::Iter(_) => {
                    let mut all = items(engine, value)?;
                    all.reverse();
                    Value::list(all)?
                }
                other => Iter::of(reversed(engine, other)?, other.depth())?,
            }
        }
        "sort" => {
            let [reverse, case, attribute] =
                given.bind(name, ["reverse", "case_sensitive", "attribute"], 0)?;
            let ignore = !flag(engine, case.as_ref())?;
            let getters: Vec<Getter> = match &attribute {
                Some(Value::Str(names)) => {
                    names.split(',').map(|name| Getter::new(Some(&Value::str(name)), ignore, None)).collect()
                }
                other => vec![Getter::new(other.as_ref(), ignore, None)],
            };
            let key = |item: &Value| {
                Value::list(getters.iter().map(|getter| getter.get(engine, item)).collect::<Res<_>>()?)
            };
            Value::list(sorted_by(engine, items(engine, value)?, flag(engine, reverse.as_ref())?, key)?)?
        }
        "dictsort" => dictsort(engine, value, given)?,
        "unique" => {
            let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"], 0)?;
            let getter = Getter::new(attribute.as_ref(), !flag(engine, case.as_ref())?, None);
            Iter::value(value.clone(), Step::Unique(getter, Default::default()))?
        }
        "min" | "max" => {
            let [case, attribute] = given.bind(name, ["case_sensitive", "attribute"], 0)?;
            let getter = Getter::new(attribute.as_ref(), !flag(engine, case.as_ref())?, None);
            let mut best: Option<(Value, Value)> = None;
            for item in items(engine, value)? {
                let key = getter.get(engine, &item)?;
                let better = match &best {
                    None => true,
                    Some((other, _)) if name == "min" => less(engine, &key, other, "<")?,
                    Some((other, _)) => less(engine, other, &key, ">")?,
                };
                if better {
                    best = Some((key, item));
                }
            }
            best.map_or_else(|| Value::undefined("No aggregated item, sequence was empty."), |(_, item)| item)
        }
        "sum" => {
            let [attribute, start] = given.bind(name, ["attribute", "start"], 0)?;
            let getter = Getter::new(attribute.as_ref(), false, None);
            let mut total = start.unwrap_or(Value::Int(0));
            if matches!(total, Value::Str(_)) {
                return Err(failed("sum() can't sum strings [use ''.join(seq) instead]"));
            }
            for item in items(engine, value)? {
                total = binary(engine, ast::Operator::Add, &total, &getter.get(engine, &item)?)?;
            }
            total
        }
        "groupby" => group(engine, value, given)?,
        "batch" => {
            let [count, fill] = given.bind(name, ["linecount", "fill_with"], 1)?;
            let count = count.map_or(Ok(1), |count| count.index())?;
            if count <= 0 {
                // No batch is ever full: all in one, behind an empty one where none may hold anything.
                let all = items(engine, value)?;
                let mut parts = Vec::new();
                if !all.is_empty() {
                    parts.extend((count == 0).then(|| Value::list(Vec::new())).transpose()?);
                    parts.push(Value::list(all)?);
                }
                let depth = depth_of(&parts);
                return Iter::of(Cursor::Owned(parts.into_iter()), depth).map(Some);
            }
            Iter::value(value.clone(), Step::Batch(count, fill.unwrap_or(Value::None)))?
        }
        "slice" => slices(engine, value, given)?,
        "items" => {
            given.none(name)?;
            match value {
                Value::Undefined(_) => Iter::of(Cursor::Owned(Vec::new().into_iter()), 0)?,
                Value::Dict(dict) => Iter::of(Cursor::Dict(Part::Items, dict.clone(), 0), value.depth())?,
                _ => Iter::value(Value::None, Step::Plain)?,
            }
        }
        "map" => map(value, given)?,
        "select" | "reject" => {
            let test = named_test(given, 0)?;
            Iter::value(value.clone(), Step::Select(None, test, name == "select"))?
        }
        "selectattr" | "rejectattr" => {
            let Some(attribute) = given.args.first() else {
                return Err(failed("Missing parameter for attribute name"));
            };
            let getter = Getter::new(Some(attribute), false, None);
            let test = named_test(given, 1)?;
            Iter::value(value.clone(), Step::Select(Some(getter), test, name == "selectattr"))?
        }
        "join" => join(engine, value, given)?,
        _ => return Ok(None),
    }))
}

/// From the end.
fn reversed(engine: &Engine, value: &Value) -> Res<Cursor> {
    Ok(match value {
        Value::List(items) | Value::Tuple(items) => Cursor::Reversed(items.clone(), items.items.len()),
        Value::Str(text) => {
            engine.spend_pieces(text.chars().count())?;
            let chars: Vec<Value> = text.chars().rev().map(|c| Value::str(c.to_string())).collect();
            Cursor::Owned(chars.into_iter())
        }
        Value::Dict(dict) => {
            let keys: Vec<Value> = dict.entries.iter().rev().map(|(key, _)| key.clone()).collect();
            Cursor::Owned(keys.into_iter())
        }
        Value::View(part, dict) => {
            let mut found = Vec::new();
            for (key, value) in dict.entries.iter().rev() {
                found.push(match part {
                    Part::Keys => key.clone(),
                    Part::Values => value.clone(),
                    Part::Items => Value::tuple(vec![key.clone(), value.clone()])?,
                });
            }
            Cursor::Owned(found.into_iter())
        }
        Value::Range(range) => {
            let last = range.get(range.len() - 1);
            let turned =
                super::value::Range { start: last, stop: range.start - range.step, step: -range.step };
            Cursor::Range(turned, 0)
        }
        Value::Undefined(_) => Cursor::Owned(Vec::new().into_iter()),
        other => return Err(failed(format!("'{}' object is not reversible", other.type_name()))),
    })
}

fn dictsort(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [case, by, reverse] = given.bind("dictsort", ["case_sensitive", "by", "reverse"], 0)?;
    let at = match by.as_ref().map(|by| by.as_str()) {
        None | Some(Some("key")) => 0,
        Some(Some("value")) => 1,
        _ => return Err(failed("You can only sort by either \"key\" or \"value\"")),
    };
    let Value::Dict(dict) = value else {
        return Err(match value {
            Value::Undefined(missing) => missing.fault(),
            other => failed(format!("'{}' object has no attribute 'items'", other.type_name())),
        });
    };
    let getter = Getter::new(Some(&Value::Int(at)), !flag(engine, case.as_ref())?, None);
    let pairs = dict.entries.iter().map(|(key, value)| Value::tuple(vec![key.clone(), value.clone()]));
    let pairs = pairs.collect::<Res<Vec<_>>>()?;
    Value::list(sorted_by(engine, pairs, flag(engine, reverse.as_ref())?, |pair| getter.get(engine, pair))?)
}

fn group(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [attribute, default, case] = given.bind("groupby", ["attribute", "default", "case_sensitive"], 1)?;
    let case_sensitive = flag(engine, case.as_ref())?;
    let getter = Getter::new(attribute.as_ref(), !case_sensitive, default.clone());
    let shown = Getter::new(attribute.as_ref(), false, default);
    let all = sorted_by(engine, items(engine, value)?, false, |item| getter.get(engine, item))?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for item in all {
        let key = getter.get(engine, &item)?;
        match groups.last_mut() {
            Some((last, items)) if equal(engine, last, &key)? => items.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(key, items)| {
        let key = if case_sensitive { key } else { shown.get(engine, &items[0])? };
        Value::grouped(key, Value::list(items)?)
    });
    Value::list(groups.collect::<Res<_>>()?)
}

fn slices(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [count, fill] = given.bind("slice", ["slices", "fill_with"], 1)?;
    let all = items(engine, value)?;
    let count = count.map_or(Ok(0), |count| count.index())?;
    if count == 0 {
        return Err(failed("integer division or modulo by zero"));
    }
    engine.spend(u64::try_from(count.max(0)).unwrap_or(u64::MAX))?;
    let length = all.len() as i128;
    let (each, more) = (length.div_euclid(count), length.rem_euclid(count));
    let mut parts = Vec::new();
    let mut offset = 0;
    for number in 0..count {
        let start = offset + number * each;
        if number < more {
            offset += 1;
        }
        let end = offset + (number + 1) * each;
        let mut part = all[start as usize..end as usize].to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !matches!(fill, Value::None) && number >= more) {
            part.push(fill.clone());
        }
        parts.push(Value::list(part)?);
    }
    let depth = depth_of(&parts);
    Iter::of(Cursor::Owned(parts.into_iter()), depth)
}

fn map(value: &Value, given: &Given) -> Res<Value> {
    let mut given = given.clone();
    if given.args.is_empty()
        && let Some(attribute) = given.take("attribute")
    {
        let default = given.take("default");
        if let Some((name, _)) = given.kwargs.first() {
            return Err(failed(format!("Unexpected keyword argument '{name}'")));
        }
        return Iter::value(value.clone(), Step::Attribute(Getter::new(Some(&attribute), false, default)));
    }
    if given.args.is_empty() {
        return Err(failed("map requires a filter argument"));
    }
    let name = name_of(&given.args.remove(0))?;
    Iter::value(value.clone(), Step::Filter(name, given))
}

fn named_test(given: &Given, at: usize) -> Res<Option<(Arc<str>, Given)>> {
    let Some(name) = given.args.get(at) else { return Ok(None) };
    let rest = Given { args: given.args[at + 1..].to_vec(), kwargs: given.kwargs.clone() };
    Ok(Some((name_of(name)?, rest)))
}

fn name_of(value: &Value) -> Res<Arc<str>> {
    match value {
        Value::Str(name) => Ok(name.text.clone()),
        other => Err(failed(format!("a filter or test is named by a text, not by {}", other.type_name()))),
    }
}

fn join(engine: &Engine, value: &Value, given: &Given) -> Res<Value> {
    let [separator, attribute] = given.bind("join", ["d", "attribute"], 0)?;
    let separator = separator.unwrap_or_else(|| Value::str(""));
    let getter = Getter::new(attribute.as_ref(), false, None);
    let items = items(engine, value)?.iter().map(|item| getter.get(engine, item)).collect::<Res<Vec<_>>>()?;
    let markup = engine.autoescape.get() && (separator.is_markup() || items.iter().any(Value::is_markup));
    let part = |value: &Value| -> Res<Rc<str>> {
        Ok(match markup {
            true => (&*repr::escaped(engine, value)?).into(),
            false => (&*repr::to_str(engine, value)?).into(),
        })
    };
    let separator = part(&separator)?;
    let mut text = String::new();
    for (i, item) in items.iter().enumerate() {
        let item = part(item)?;
        engine.grow(text.len(), separator.len() + item.len())?;
        if i > 0 {
            text.push_str(&separator);
        }
        text.push_str(&item);
    }
    Ok(Value::text(text, markup))
}
