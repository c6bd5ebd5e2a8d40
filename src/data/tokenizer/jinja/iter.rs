//! Going through values one by one: cursors, generators that work when they are asked, and `loop`.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use super::ast::For;
use super::call::Given;
use super::dict::{Dict, Key};
use super::eval::{Engine, Scope};
use super::sequences::Getter;
use super::value::{Items, Part, Range, Value, nested};
use super::{Res, failed};

/// A place in something that can be gone through.
pub(super) enum Cursor {
    Items(Rc<Items>, usize),
    /// From the end.
    Reversed(Rc<Items>, usize),
    Owned(std::vec::IntoIter<Value>),
    Text(Arc<str>, usize),
    Range(Range, i128),
    Dict(Part, Rc<Dict>, usize),
    Shared(Rc<Iter>),
}

impl Cursor {
    /// `iter(value)`; `None` where the value cannot be gone through.
    pub(super) fn maybe(value: &Value) -> Option<Self> {
        Some(match value {
            Value::Undefined(_) => Self::Owned(Vec::new().into_iter()),
            Value::Str(text) => Self::Text(text.text.clone(), 0),
            Value::List(items) | Value::Tuple(items) => Self::Items(items.clone(), 0),
            Value::Dict(dict) => Self::Dict(Part::Keys, dict.clone(), 0),
            Value::View(part, dict) => Self::Dict(*part, dict.clone(), 0),
            Value::Range(range) => Self::Range(*range, 0),
            Value::Iter(iter) => Self::Shared(iter.clone()),
            _ => return None,
        })
    }

    pub(super) fn of(value: &Value) -> Res<Self> {
        Self::maybe(value).ok_or_else(|| failed(format!("'{}' object is not iterable", value.type_name())))
    }

    pub(super) fn next(&mut self, engine: &Engine) -> Res<Option<Value>> {
        engine.spend(1)?;
        Ok(match self {
            Self::Items(items, at) => {
                *at += 1;
                items.items.get(*at - 1).cloned()
            }
            Self::Reversed(items, left) => match left.checked_sub(1) {
                None => None,
                Some(at) => {
                    *left = at;
                    Some(items.items[at].clone())
                }
            },
            Self::Owned(items) => items.next(),
            Self::Text(text, at) => {
                engine.spend(7)?;
                text[*at..].chars().next().map(|c| {
                    *at += c.len_utf8();
                    Value::str(c.encode_utf8(&mut [0; 4]) as &str)
                })
            }
            Self::Range(range, at) => (*at < range.len()).then(|| {
                *at += 1;
                Value::Int(range.get(*at - 1))
            }),
            Self::Dict(part, dict, at) => match dict.entries.get(*at) {
                None => None,
                Some((key, value)) => {
                    *at += 1;
                    Some(match part {
                        Part::Keys => key.clone(),
                        Part::Values => value.clone(),
                        Part::Items => Value::tuple(vec![key.clone(), value.clone()])?,
                    })
                }
            },
            Self::Shared(iter) => iter.next(engine)?,
        })
    }
}

/// What a filter does to each item.
pub(super) enum Step {
    /// `map` by attribute, or by a filter with its arguments.
    Attribute(Getter),
    Filter(Arc<str>, Given),
    /// `select` and its kin: the attribute looked at, the test with its arguments, whether to keep what passes.
    Select(Option<Getter>, Option<(Arc<str>, Given)>, bool),
    Unique(Getter, HashSet<Key>),
    /// How many together, and what fills the last.
    Batch(i128, Value),
    Plain,
}

/// A generator: it works when it is asked, once.
pub(super) struct Iter {
    state: RefCell<State>,
    pub(super) depth: u16,
}

enum State {
    /// What it goes through is looked at when the first item is asked for.
    Waiting(Value, Step),
    Running(Cursor, Step),
    Done,
}

impl Iter {
    pub(super) fn value(over: Value, step: Step) -> Res<Value> {
        let depth = nested(over.depth().max(step.depth()))?;
        Ok(Value::Iter(Rc::new(Self { state: RefCell::new(State::Waiting(over, step)), depth })))
    }

    /// A generator of items that are there already.
    pub(super) fn of(cursor: Cursor, depth: u16) -> Res<Value> {
        let state = RefCell::new(State::Running(cursor, Step::Plain));
        Ok(Value::Iter(Rc::new(Self { state, depth: nested(depth)? })))
    }

    pub(super) fn next(&self, engine: &Engine) -> Res<Option<Value>> {
        let busy = |_| failed("generator already executing");
        let mut state = self.state.try_borrow_mut().map_err(busy)?;
        if let State::Waiting(..) = *state {
            let State::Waiting(over, step) = std::mem::replace(&mut *state, State::Done) else {
                return Ok(None);
            };
            let asks = matches!(step, Step::Attribute(_) | Step::Filter(..) | Step::Select(..));
            if asks && !over.truth(engine)? {
                return Ok(None);
            }
            *state = State::Running(Cursor::of(&over)?, step);
        }
        let State::Running(cursor, step) = &mut *state else { return Ok(None) };
        let next = step.next(cursor, engine);
        if !matches!(next, Ok(Some(_))) {
            *state = State::Done;
        }
        next
    }
}

impl Step {
    fn depth(&self) -> u16 {
        match self {
            Self::Attribute(getter) | Self::Unique(getter, _) => getter.depth(),
            Self::Filter(_, given) => given.depth(),
            Self::Select(_, test, _) => test.as_ref().map_or(0, |(_, given)| given.depth()),
            Self::Batch(_, fill) => fill.depth(),
            Self::Plain => 0,
        }
    }

    fn next(&mut self, cursor: &mut Cursor, engine: &Engine) -> Res<Option<Value>> {
        while let Some(item) = cursor.next(engine)? {
            match self {
                Self::Plain => return Ok(Some(item)),
                Self::Attribute(getter) => return getter.get(engine, &item).map(Some),
                Self::Filter(name, given) => return engine.filter(name, item, given).map(Some),
                Self::Select(getter, test, keep) => {
                    let looked = match getter {
                        Some(getter) => getter.get(engine, &item)?,
                        None => item.clone(),
                    };
                    let passes = match test {
                        Some((name, given)) => engine.test(name, &looked, given)?,
                        None => looked.truth(engine)?,
                    };
                    if passes == *keep {
                        return Ok(Some(item));
                    }
                }
                Self::Unique(getter, seen) => {
                    if seen.insert(Key::of(&getter.get(engine, &item)?)?) {
                        return Ok(Some(item));
                    }
                }
                Self::Batch(count, fill) => {
                    let mut batch = vec![item];
                    while (batch.len() as i128) < *count {
                        match cursor.next(engine)? {
                            Some(item) => batch.push(item),
                            None => break,
                        }
                    }
                    if !matches!(fill, Value::None) {
                        let missing = usize::try_from(*count).unwrap_or(usize::MAX) - batch.len();
                        engine.spend_items(missing)?;
                        batch.extend(std::iter::repeat_n(fill.clone(), missing));
                    }
                    return Value::list(batch).map(Some);
                }
            }
        }
        Ok(None)
    }
}

/// Where a loop takes its items from: through its `if`, where it has one.
struct Source {
    cursor: Cursor,
    filtered: Option<(Arc<For>, Rc<Scope>)>,
}

impl Source {
    fn next(&mut self, engine: &Engine) -> Res<Option<Value>> {
        while let Some(item) = self.cursor.next(engine)? {
            let Some((node, scope)) = &self.filtered else { return Ok(Some(item)) };
            let inner = Scope::inside(scope);
            engine.assign(&node.target, item.clone(), &inner)?;
            let passes = match &node.test {
                Some(test) => engine.eval(test, &inner)?.truth(engine)?,
                None => true,
            };
            if passes {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }
}

/// `loop`.
pub(super) struct Loop {
    iterable: Value,
    source: RefCell<Source>,
    /// The item after this one, where it was looked at already (`Some(None)`: there is none).
    after: RefCell<Option<Option<Value>>>,
    before: RefCell<Option<Value>>,
    current: RefCell<Option<Value>>,
    changed: RefCell<Option<Value>>,
    length: Cell<Option<i128>>,
    pub(super) index0: Cell<i128>,
    pub(super) depth0: i128,
    /// What `loop(...)` does again.
    pub(super) again: Option<(Arc<For>, Rc<Scope>)>,
    filtered: bool,
    pub(super) depth: u16,
}

impl Loop {
    pub(super) fn new(node: &Arc<For>, iterable: Value, scope: &Rc<Scope>, depth0: i128) -> Res<Self> {
        let cursor = Cursor::of(&iterable)?;
        let filtered = node.test.is_some().then(|| (node.clone(), scope.clone()));
        Ok(Self {
            depth: nested(iterable.depth())?,
            iterable,
            filtered: filtered.is_some(),
            source: RefCell::new(Source { cursor, filtered }),
            after: RefCell::new(None),
            before: RefCell::new(None),
            current: RefCell::new(None),
            changed: RefCell::new(None),
            length: Cell::new(None),
            index0: Cell::new(-1),
            depth0,
            again: node.recursive.then(|| (node.clone(), scope.clone())),
        })
    }

    fn pull(&self, engine: &Engine) -> Res<Option<Value>> {
        let busy = |_| failed("generator already executing");
        self.source.try_borrow_mut().map_err(busy)?.next(engine)
    }

    /// The next round's item.
    pub(super) fn advance(&self, engine: &Engine) -> Res<Option<Value>> {
        let ahead = self.after.borrow_mut().take();
        let next = match ahead {
            Some(next) => next,
            None => self.pull(engine)?,
        };
        let Some(item) = next else { return Ok(None) };
        self.index0.set(self.index0.get() + 1);
        let current = self.current.replace(Some(item.clone()));
        self.before.replace(current);
        Ok(Some(item))
    }

    fn peek(&self, engine: &Engine) -> Res<Option<Value>> {
        if self.after.borrow().is_none() {
            let next = self.pull(engine)?;
            self.after.replace(Some(next));
        }
        Ok(self.after.borrow().clone().flatten())
    }

    pub(super) fn length(&self, engine: &Engine) -> Res<i128> {
        if let Some(length) = self.length.get() {
            return Ok(length);
        }
        let known = if self.filtered { None } else { self.iterable.len(engine)? };
        let length = match known {
            Some(length) => length,
            None => {
                let mut rest = Vec::new();
                while let Some(item) = self.pull(engine)? {
                    rest.push(item);
                }
                let ahead = matches!(*self.after.borrow(), Some(Some(_)));
                let length = rest.len() as i128 + self.index0.get() + 1 + i128::from(ahead);
                let cursor = Cursor::Owned(rest.into_iter());
                self.source.replace(Source { cursor, filtered: None });
                length
            }
        };
        self.length.set(Some(length));
        Ok(length)
    }

    /// `loop.name`.
    pub(super) fn attribute(self: &Rc<Self>, engine: &Engine, name: &str) -> Res<Option<Value>> {
        let index0 = self.index0.get();
        let method =
            |name| Value::Method(Rc::new(super::value::Method { owner: Value::Loop(self.clone()), name }));
        Ok(Some(match name {
            "index0" => Value::Int(index0),
            "index" => Value::Int(index0 + 1),
            "first" => Value::Bool(index0 == 0),
            "last" => Value::Bool(self.peek(engine)?.is_none()),
            "length" => Value::Int(self.length(engine)?),
            "revindex" => Value::Int(self.length(engine)? - index0),
            "revindex0" => Value::Int(self.length(engine)? - index0 - 1),
            "depth" => Value::Int(self.depth0 + 1),
            "depth0" => Value::Int(self.depth0),
            "previtem" if index0 == 0 => Value::undefined("there is no previous item"),
            "previtem" => {
                self.before.borrow().clone().unwrap_or_else(|| Value::undefined("there is no previous item"))
            }
            "nextitem" => self.peek(engine)?.unwrap_or_else(|| Value::undefined("there is no next item")),
            "cycle" => method("cycle"),
            "changed" => method("changed"),
            _ => return Ok(None),
        }))
    }

    /// Whether `loop.changed` was last called with something else.
    pub(super) fn changed(&self, engine: &Engine, values: Value) -> Res<bool> {
        let same = match &*self.changed.borrow() {
            Some(last) => super::ops::equal(engine, last, &values)?,
            None => false,
        };
        self.changed.replace(Some(values));
        Ok(!same)
    }
}
