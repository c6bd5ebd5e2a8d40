//! A dict that keeps the order of its keys, which may be anything that Python can hash.

use std::collections::HashMap;
use std::sync::Arc;

use super::value::{Part, Value, depth_of, nested};
use super::{Res, failed, limit};

/// From how many entries on a table is kept beside them.
const INDEXED_FROM: usize = 9;
/// Parts of one key, those of tuples in it among them: forty tuples that each hold the last one twice are a terabyte.
const MAX_PARTS: usize = 1000;

/// What makes two keys one: `1`, `1.0` and `True` are the same key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    None,
    Int(i128),
    Float(u64),
    Str(Arc<str>),
    Tuple(Vec<Key>),
    /// Anything else is equal to itself alone.
    Other(&'static str, usize),
}

impl Key {
    pub(super) fn of(value: &Value) -> Res<Self> {
        Self::within(value, &mut 0)
    }

    fn within(value: &Value, parts: &mut usize) -> Res<Self> {
        *parts += 1;
        if *parts > MAX_PARTS {
            return Err(limit(format!("a key has more than {MAX_PARTS} parts")));
        }
        Ok(match value {
            Value::None => Self::None,
            Value::Bool(flag) => Self::Int(i128::from(*flag)),
            Value::Int(value) => Self::Int(*value),
            Value::Float(value) if value.fract() == 0.0 && value.abs() < 1e30 => Self::Int(*value as i128),
            Value::Float(value) => Self::Float(value.to_bits()),
            Value::Str(text) => Self::Str(text.text.clone()),
            Value::Tuple(items) => {
                let keys = items.items.iter().map(|item| Self::within(item, parts));
                Self::Tuple(keys.collect::<Res<_>>()?)
            }
            Value::List(_) | Value::Dict(_) | Value::View(Part::Keys | Part::Items, _) => {
                return Err(failed(format!("unhashable type: '{}'", value.type_name())));
            }
            Value::Undefined(_) => Self::Other("undefined", 0),
            Value::Range(range) => Self::Other("range", range.len() as usize),
            Value::Function(function) => Self::Other("function", *function as usize),
            Value::Namespace(it) => Self::Other("object", std::rc::Rc::as_ptr(it) as usize),
            Value::Iter(it) => Self::Other("object", std::rc::Rc::as_ptr(it) as usize),
            Value::Macro(it) => Self::Other("object", std::rc::Rc::as_ptr(it) as usize),
            other => Self::Other(other.type_name(), 0),
        })
    }
}

/// A dict.
#[derive(Default)]
pub(super) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    index: Option<HashMap<Key, usize>>,
    pub(super) depth: u16,
}

impl Dict {
    /// A dict of pairs; of two equal keys the first stays and the last value counts.
    pub(super) fn from_pairs(pairs: impl IntoIterator<Item = (Value, Value)>) -> Res<Self> {
        let mut seen: HashMap<Key, usize> = HashMap::new();
        let mut entries: Vec<(Value, Value)> = Vec::new();
        for (key, value) in pairs {
            match seen.entry(Key::of(&key)?) {
                std::collections::hash_map::Entry::Occupied(at) => entries[*at.get()].1 = value,
                std::collections::hash_map::Entry::Vacant(at) => {
                    at.insert(entries.len());
                    entries.push((key, value));
                }
            }
        }
        let depth = nested(depth_of(entries.iter().flat_map(|(key, value)| [key, value])))?;
        let index = (entries.len() >= INDEXED_FROM).then_some(seen);
        Ok(Self { entries, index, depth })
    }

    /// A dict whose keys are texts, all different (as a JSON object's).
    pub(super) fn from_object(entries: Vec<(Value, Value)>) -> Res<Self> {
        if entries.len() >= INDEXED_FROM {
            return Self::from_pairs(entries);
        }
        let depth = nested(depth_of(entries.iter().map(|(_, value)| value)))?;
        Ok(Self { entries, index: None, depth })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get_str(&self, name: &str) -> Option<&Value> {
        if let Some(index) = &self.index {
            let at = index.get(&Key::Str(Arc::from(name)))?;
            return Some(&self.entries[*at].1);
        }
        self.entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value)
    }

    pub(super) fn get(&self, key: &Value) -> Res<Option<&Value>> {
        if let Some(name) = key.as_str() {
            return Ok(self.get_str(name));
        }
        let key = Key::of(key)?;
        if let Some(index) = &self.index {
            return Ok(index.get(&key).map(|at| &self.entries[*at].1));
        }
        for (other, value) in &self.entries {
            if Key::of(other)? == key {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}
