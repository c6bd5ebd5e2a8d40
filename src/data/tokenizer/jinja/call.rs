//! Calls: of macros, of global functions, of methods, and how their arguments are bound.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{Arguments, Expr, KWARGS, VARARGS};
use super::dict::Dict;
use super::eval::{Engine, Scope};
use super::iter::Cursor;
use super::value::{Cycler, Function, Macro, Namespace, Range, Value, depth_of};
use super::{Res, clock, failed, methods, raised, repr};

/// The longest `range`, as the sandbox has it.
const MAX_RANGE: i128 = 100_000;

/// Arguments, evaluated.
#[derive(Clone, Default)]
pub(super) struct Given {
    pub(super) args: Vec<Value>,
    pub(super) kwargs: Vec<(Arc<str>, Value)>,
}

impl Given {
    pub(super) fn depth(&self) -> u16 {
        depth_of(self.args.iter().chain(self.kwargs.iter().map(|(_, value)| value)))
    }

    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.kwargs.iter().position(|(other, _)| &**other == name)?;
        Some(self.kwargs.remove(at).1)
    }

    /// The arguments by name, as Python binds them; the first `required` must be given.
    pub(super) fn bind<const N: usize>(
        &self,
        what: &str,
        names: [&str; N],
        required: usize,
    ) -> Res<[Option<Value>; N]> {
        let mut bound = [const { None }; N];
        if self.args.len() > N {
            return Err(failed(format!("{what}() takes at most {N} arguments ({} given)", self.args.len())));
        }
        for (place, value) in bound.iter_mut().zip(&self.args) {
            *place = Some(value.clone());
        }
        for (name, value) in &self.kwargs {
            let Some(at) = names.iter().position(|other| *other == &**name) else {
                return Err(failed(format!("{what}() got an unexpected keyword argument '{name}'")));
            };
            if bound[at].is_some() {
                return Err(failed(format!("{what}() got multiple values for argument '{name}'")));
            }
            bound[at] = Some(value.clone());
        }
        match (0..required).find(|at| bound[*at].is_none()) {
            Some(at) => Err(failed(format!("{what}() is missing its argument '{}'", names[at]))),
            None => Ok(bound),
        }
    }

    /// No argument is taken.
    pub(super) fn none(&self, what: &str) -> Res<()> {
        self.bind::<0>(what, [], 0).map(|_| ())
    }

    /// Arguments that have no names.
    pub(super) fn positional(&self, what: &str, least: usize, most: usize) -> Res<&[Value]> {
        if let Some((name, _)) = self.kwargs.first() {
            return Err(failed(format!("{what}() takes no keyword argument '{name}'")));
        }
        if !(least..=most).contains(&self.args.len()) {
            return Err(failed(format!("{what}() was given {} arguments", self.args.len())));
        }
        Ok(&self.args)
    }
}

impl Engine {
    pub(super) fn arguments(&self, arguments: &Arguments, scope: &Rc<Scope>) -> Res<Given> {
        let mut given = Given::default();
        for value in &arguments.positional {
            given.args.push(self.eval(value, scope)?);
        }
        for (name, value) in &arguments.keywords {
            given.kwargs.push((name.clone(), self.eval(value, scope)?));
        }
        if let Some(star) = &arguments.star {
            let mut cursor = Cursor::of(&self.eval(star, scope)?)?;
            while let Some(item) = cursor.next(self)? {
                given.args.push(item);
            }
        }
        if let Some(star_star) = &arguments.star_star {
            let Value::Dict(dict) = self.eval(star_star, scope)? else {
                return Err(failed("argument after ** must be a mapping"));
            };
            for (key, value) in &dict.entries {
                let Value::Str(name) = key else { return Err(failed("keywords must be strings")) };
                if given.kwargs.iter().any(|(other, _)| *other == name.text) {
                    return Err(failed(format!("got multiple values for keyword argument '{}'", &**name)));
                }
                given.kwargs.push((name.text.clone(), value.clone()));
            }
        }
        Ok(given)
    }

    /// A call as it stands in the template, with the `caller` of a call block.
    pub(super) fn call_with(
        &self,
        callee: &Expr,
        arguments: &Arguments,
        scope: &Rc<Scope>,
        caller: Option<Value>,
    ) -> Res<Value> {
        let callee = self.eval(callee, scope)?;
        let mut given = self.arguments(arguments, scope)?;
        if let Some(caller) = caller {
            given.kwargs.retain(|(name, _)| &**name != "caller");
            given.kwargs.push(("caller".into(), caller));
        }
        self.call(&callee, given)
    }

    pub(super) fn call(&self, callee: &Value, given: Given) -> Res<Value> {
        self.spend(1)?;
        match callee {
            Value::Undefined(missing) => Err(missing.fault()),
            Value::Macro(called) => self.call_macro(called, given),
            Value::Function(function) => self.call_function(*function, given),
            Value::Method(method) => methods::call(self, &method.owner, method.name, given),
            Value::Joiner(joiner) => {
                given.none("joiner")?;
                Ok(if joiner.1.replace(true) { joiner.0.clone() } else { Value::str("") })
            }
            Value::Loop(around) => {
                let args = given.positional("loop", 1, 1)?;
                let Some((node, scope)) = &around.again else {
                    return Err(failed(
                        "The loop must have the 'recursive' marker to be called recursively.",
                    ));
                };
                self.check_stack()?;
                let iterable = args[0].clone();
                let depth = around.depth0 + 1;
                let text = self.captured(|out| self.rounds(node, iterable, scope, depth, out))?.0;
                Ok(Value::text(text, self.autoescape.get()))
            }
            Value::Blocks(Some(name)) => {
                self.check_stack()?;
                let root = self.root.borrow().clone();
                let mut text = String::new();
                if let Some(root) = root {
                    text = self
                        .captured(|out| {
                            self.exec_block(name, &root, out)?;
                            Ok(super::eval::Flow::On)
                        })?
                        .0;
                }
                Ok(Value::text(text, self.autoescape.get()))
            }
            other => Err(failed(format!("'{}' object is not callable", other.type_name()))),
        }
    }

    fn call_macro(&self, called: &Macro, mut given: Given) -> Res<Value> {
        self.check_stack()?;
        let def = &called.def;
        let scope = Scope::inside(&called.scope);
        let mut names_caller = false;
        let count = def.parameters.len();
        let positional = given.args.len().min(count);
        for (at, (symbol, name)) in def.parameters.iter().enumerate() {
            names_caller |= &**name == "caller";
            let value = match at < positional {
                true => Some(given.args[at].clone()),
                false => given.take(name),
            };
            let default = (at + def.defaults.len()).checked_sub(count).and_then(|at| def.defaults.get(at));
            let value = match (value, default) {
                (Some(value), _) => value,
                (None, Some(default)) => self.eval(default, &scope)?,
                (None, None) => Value::undefined(format!("parameter '{name}' was not provided")),
            };
            scope.set(*symbol, value);
        }
        if def.uses_caller && !names_caller {
            let caller = given.take("caller").filter(|caller| !matches!(caller, Value::None));
            self.bind_caller(&scope, caller.unwrap_or_else(|| Value::undefined("No caller defined")));
        }
        if def.uses_kwargs {
            let pairs = given.kwargs.drain(..).map(|(name, value)| (Value::str(name), value));
            scope.set(KWARGS, Value::Dict(Rc::new(Dict::from_pairs(pairs.collect::<Vec<_>>())?)));
        } else if let Some((name, _)) = given.kwargs.first() {
            let name_of = &def.name;
            return Err(failed(match &**name {
                "caller" => format!(
                    "macro '{name_of}' was invoked with two values for the special caller argument. This is most likely a bug."
                ),
                _ => format!("macro '{name_of}' takes no keyword argument '{name}'"),
            }));
        }
        if def.uses_varargs {
            scope.set(VARARGS, Value::tuple(given.args.split_off(positional))?);
        } else if given.args.len() > count {
            return Err(failed(format!("macro '{}' takes not more than {count} argument(s)", def.name)));
        }
        let text = self.macro_body(def, &scope)?;
        Ok(Value::text(text, called.autoescape))
    }

    fn call_function(&self, function: Function, mut given: Given) -> Res<Value> {
        match function {
            Function::Range => {
                let args = given.positional("range", 1, 3)?;
                let numbers = args.iter().map(Value::index).collect::<Res<Vec<_>>>()?;
                let (start, stop, step) = match *numbers {
                    [stop] => (0, stop, 1),
                    [start, stop] => (start, stop, 1),
                    [start, stop, step] => (start, stop, step),
                    _ => (0, 0, 1),
                };
                if step == 0 {
                    return Err(failed("range() arg 3 must not be zero"));
                }
                if [start, stop, step].iter().any(|n| n.unsigned_abs() > 1 << 100) {
                    return Err(failed("range() was given a number too large"));
                }
                let range = Range { start, stop, step };
                if range.len() > MAX_RANGE {
                    return Err(failed(format!(
                        "Range too big. The sandbox blocks ranges larger than MAX_RANGE ({MAX_RANGE})."
                    )));
                }
                Ok(Value::Range(range))
            }
            Function::Dict => Ok(Value::Dict(Rc::new(self.make_dict(given)?))),
            Function::Namespace => {
                let namespace = Rc::new(Namespace { attrs: RefCell::default() });
                self.keep_namespace(&namespace);
                for (name, value) in &self.make_dict(given)?.entries {
                    let Value::Str(name) = name else { return Err(failed("attribute name must be string")) };
                    namespace.set(&name.text, value.clone())?;
                }
                Ok(Value::Namespace(namespace))
            }
            Function::Cycler => {
                let items = given.positional("cycler", 0, usize::MAX)?.to_vec();
                if items.is_empty() {
                    return Err(failed("at least one item has to be provided"));
                }
                super::value::nested(depth_of(&items))?;
                Ok(Value::Cycler(Rc::new(Cycler { items, at: Cell::new(0) })))
            }
            Function::Joiner => {
                let [separator] = given.bind("joiner", ["sep"], 0)?;
                let separator = separator.unwrap_or_else(|| Value::str(", "));
                Ok(Value::Joiner(Rc::new((separator, Cell::new(false)))))
            }
            Function::Lipsum => Err(failed("lipsum() makes random text, which a prompt is not")),
            Function::RaiseException => {
                let [message] = given.bind("raise_exception", ["message"], 1)?;
                let message = message.unwrap_or(Value::None);
                Err(raised(repr::to_str(self, &message)?.to_string()))
            }
            Function::StrftimeNow => {
                let format = given.take("format").or_else(|| given.args.pop());
                match format {
                    Some(Value::Str(format)) if given.args.is_empty() && given.kwargs.is_empty() => {
                        Ok(Value::str(clock::strftime_now(&format)))
                    }
                    _ => Err(failed("strftime_now() takes one text, the form of the time")),
                }
            }
        }
    }

    /// `dict(mapping or pairs, name=value, ...)`
    fn make_dict(&self, given: Given) -> Res<Dict> {
        let mut pairs = Vec::new();
        if given.args.len() > 1 {
            return Err(failed(format!("dict expected at most 1 argument, got {}", given.args.len())));
        }
        match given.args.first() {
            None => {}
            Some(Value::Dict(dict)) => pairs.extend(dict.entries.iter().cloned()),
            Some(other) => {
                let mut cursor = Cursor::of(other)?;
                while let Some(pair) = cursor.next(self)? {
                    let mut parts = Cursor::of(&pair)?;
                    match (parts.next(self)?, parts.next(self)?, parts.next(self)?) {
                        (Some(key), Some(value), None) => pairs.push((key, value)),
                        _ => return Err(failed("dictionary update sequence elements must be pairs")),
                    }
                }
            }
        }
        pairs.extend(given.kwargs.into_iter().map(|(name, value)| (Value::str(name), value)));
        Dict::from_pairs(pairs)
    }
}
