//! What a template computes with: Python's values, as far as a template can reach them.
//!
//! Lists and dicts never change (the sandbox that chat templates run in forbids it), so they are shared.
//! Each container knows how deep it nests, and one that nests too deep is refused where it is made: nothing
//! that walks a value needs a limit of its own. Next: `dict`, `iter`, `ops`.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::ast::MacroDef;
use super::dict::Dict;
use super::eval::Scope;
use super::iter::{Iter, Loop};
use super::{Res, failed, limit};

/// Containers inside containers, at most.
const MAX_DEPTH: u16 = 200;

/// A text; `markup` is one that is HTML already (`|safe`, `|escape`).
#[derive(Clone)]
pub(super) struct Text {
    pub(super) text: Arc<str>,
    pub(super) markup: bool,
}

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.text
    }
}

/// The items of a list or a tuple.
pub(super) struct Items {
    pub(super) items: Vec<Value>,
    depth: u16,
    /// `groupby`'s pairs: `.grouper` and `.list` name their parts.
    pub(super) grouped: bool,
}

/// Why a value is undefined, for the message of its first use.
pub(super) struct Missing {
    pub(super) message: String,
}

/// `range(start, stop, step)`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) start: i128,
    pub(super) stop: i128,
    pub(super) step: i128,
}

impl Range {
    pub(super) fn len(self) -> i128 {
        let span = if self.step > 0 { self.stop - self.start } else { self.start - self.stop };
        let step = self.step.abs();
        if span <= 0 { 0 } else { (span + step - 1) / step }
    }

    pub(super) fn get(self, at: i128) -> i128 {
        self.start + at * self.step
    }
}

/// Which part of a dict a view shows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Values,
    Items,
}

/// `namespace(...)`: the one thing that a template can change.
pub(super) struct Namespace {
    pub(super) attrs: RefCell<Vec<(Arc<str>, Value)>>,
}

/// `cycler(...)`.
pub(super) struct Cycler {
    pub(super) items: Vec<Value>,
    pub(super) at: Cell<usize>,
}

/// A macro, or the body of a `call` block, with the scope it was written in.
pub(super) struct Macro {
    pub(super) def: Arc<MacroDef>,
    pub(super) scope: Rc<Scope>,
    pub(super) autoescape: bool,
}

/// A method with what it belongs to.
pub(super) struct Method {
    pub(super) owner: Value,
    pub(super) name: &'static str,
}

/// What is callable by a global name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    Lipsum,
    RaiseException,
    StrftimeNow,
}

/// A value.
#[derive(Clone)]
pub(super) enum Value {
    Undefined(Rc<Missing>),
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
    List(Rc<Items>),
    Tuple(Rc<Items>),
    Dict(Rc<Dict>),
    Range(Range),
    View(Part, Rc<Dict>),
    Iter(Rc<Iter>),
    Namespace(Rc<Namespace>),
    Loop(Rc<Loop>),
    Cycler(Rc<Cycler>),
    /// A separator, and whether it was used once.
    Joiner(Rc<(Value, Cell<bool>)>),
    Macro(Rc<Macro>),
    Method(Rc<Method>),
    Function(Function),
    /// `self`: the blocks by name; with a name, one of them.
    Blocks(Option<Arc<str>>),
}

impl Value {
    pub(super) fn str(text: impl Into<Arc<str>>) -> Self {
        Self::Str(Text { text: text.into(), markup: false })
    }

    /// A text that is as safe as `like` is.
    pub(super) fn text(text: impl Into<Arc<str>>, markup: bool) -> Self {
        Self::Str(Text { text: text.into(), markup })
    }

    pub(super) fn undefined(message: impl Into<String>) -> Self {
        Self::Undefined(Rc::new(Missing { message: message.into() }))
    }

    pub(super) fn list(items: Vec<Value>) -> Res<Self> {
        Ok(Self::List(Rc::new(Items::new(items, false)?)))
    }

    pub(super) fn tuple(items: Vec<Value>) -> Res<Self> {
        Ok(Self::Tuple(Rc::new(Items::new(items, false)?)))
    }

    pub(super) fn grouped(key: Value, values: Value) -> Res<Self> {
        Ok(Self::Tuple(Rc::new(Items::new(vec![key, values], true)?)))
    }

    pub(super) fn depth(&self) -> u16 {
        match self {
            Self::List(items) | Self::Tuple(items) => items.depth,
            Self::Dict(dict) | Self::View(_, dict) => dict.depth,
            Self::Iter(iter) => iter.depth,
            Self::Method(method) => method.owner.depth(),
            Self::Cycler(cycler) => depth_of(&cycler.items),
            Self::Joiner(joiner) => joiner.0.depth(),
            Self::Loop(around) => around.depth,
            _ => 0,
        }
    }

    pub(super) fn is_undefined(&self) -> bool {
        matches!(self, Self::Undefined(_))
    }

    pub(super) fn as_str(&self) -> Option<&str> {
        match self {
            Self::Str(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_markup(&self) -> bool {
        matches!(self, Self::Str(text) if text.markup)
    }

    /// An integer, or a boolean as one.
    pub(super) fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(flag) => Some(i128::from(*flag)),
            _ => None,
        }
    }

    /// Any number as a float.
    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// What an argument that must be an integer holds.
    pub(super) fn index(&self) -> Res<i128> {
        match self {
            Self::Undefined(missing) => Err(missing.fault()),
            other => other.as_int().ok_or_else(|| {
                failed(format!("'{}' object cannot be interpreted as an integer", other.type_name()))
            }),
        }
    }

    /// Python's name of the type, for messages.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(text) if text.markup => "Markup",
            Self::Str(_) => "str",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::Range(_) => "range",
            Self::View(Part::Keys, _) => "dict_keys",
            Self::View(Part::Values, _) => "dict_values",
            Self::View(Part::Items, _) => "dict_items",
            Self::Iter(_) => "generator",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Cycler(_) => "Cycler",
            Self::Joiner(_) => "Joiner",
            Self::Macro(_) => "Macro",
            Self::Method(_) => "builtin_function_or_method",
            Self::Function(_) => "function",
            Self::Blocks(_) => "TemplateReference",
        }
    }

    /// How a message names an object without an attribute.
    pub(super) fn described(&self) -> String {
        match self {
            Self::None => "None".to_owned(),
            other => format!("{} object", other.type_name()),
        }
    }

    /// Python's truth.
    pub(super) fn truth(&self, engine: &super::eval::Engine) -> Res<bool> {
        Ok(match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(flag) => *flag,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) => !text.is_empty(),
            Self::List(items) | Self::Tuple(items) => !items.items.is_empty(),
            Self::Dict(dict) | Self::View(_, dict) => dict.len() > 0,
            Self::Range(range) => range.len() > 0,
            Self::Loop(around) => around.length(engine)? > 0,
            _ => true,
        })
    }

    /// `len(value)`; `None` where the value has none.
    pub(super) fn len(&self, engine: &super::eval::Engine) -> Res<Option<i128>> {
        Ok(Some(match self {
            Self::Undefined(_) => 0,
            Self::Str(text) => text.chars().count() as i128,
            Self::List(items) | Self::Tuple(items) => items.items.len() as i128,
            Self::Dict(dict) | Self::View(_, dict) => dict.len() as i128,
            Self::Range(range) => range.len(),
            Self::Loop(around) => around.length(engine)?,
            _ => return Ok(None),
        }))
    }

    /// Whether both are the same object, as far as values tell.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Undefined(a), Self::Undefined(b)) => Rc::ptr_eq(a, b),
            (Self::None, Self::None) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a.to_bits() == b.to_bits(),
            (Self::Str(a), Self::Str(b)) => a.text == b.text && a.markup == b.markup,
            (Self::List(a), Self::List(b)) => Rc::ptr_eq(a, b),
            (Self::Tuple(a), Self::Tuple(b)) => Rc::ptr_eq(a, b) || a.items.is_empty() && b.items.is_empty(),
            (Self::Dict(a), Self::Dict(b)) => Rc::ptr_eq(a, b),
            (Self::Iter(a), Self::Iter(b)) => Rc::ptr_eq(a, b),
            (Self::Namespace(a), Self::Namespace(b)) => Rc::ptr_eq(a, b),
            (Self::Loop(a), Self::Loop(b)) => Rc::ptr_eq(a, b),
            (Self::Cycler(a), Self::Cycler(b)) => Rc::ptr_eq(a, b),
            (Self::Joiner(a), Self::Joiner(b)) => Rc::ptr_eq(a, b),
            (Self::Macro(a), Self::Macro(b)) => Rc::ptr_eq(a, b),
            (Self::Method(a), Self::Method(b)) => Rc::ptr_eq(a, b),
            (Self::Function(a), Self::Function(b)) => a == b,
            _ => false,
        }
    }
}

impl Items {
    fn new(items: Vec<Value>, grouped: bool) -> Res<Self> {
        let depth = nested(depth_of(&items))?;
        Ok(Self { items, depth, grouped })
    }
}

impl Missing {
    /// What using the undefined value says.
    pub(super) fn fault(&self) -> Box<super::Fault> {
        failed(self.message.clone())
    }
}

pub(super) fn depth_of<'a>(values: impl IntoIterator<Item = &'a Value>) -> u16 {
    values.into_iter().map(Value::depth).max().unwrap_or(0)
}

/// The depth of what holds something of depth `inside`.
pub(super) fn nested(inside: u16) -> Res<u16> {
    if inside >= MAX_DEPTH {
        return Err(limit(format!("a value nests more than {MAX_DEPTH} levels deep")));
    }
    Ok(inside + 1)
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.type_name())
    }
}
