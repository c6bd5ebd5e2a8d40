//! Jinja2 as chat templates are written in it, rendered to the same bytes.
//!
//! The language as transformers sets it up (`ImmutableSandboxedEnvironment`, `trim_blocks`, `lstrip_blocks`,
//! loop controls, the `generation` tag), with Python's values, methods, `%` and `format`, and how Python prints
//! them. A template is code from strangers: it has no way out to the machine, and each rendering has limits.
//! What it is not: there are no other templates to include or extend.
//!
//! A template passes `lexer`, `parser` (with `expressions`, `arguments`, `statements`), `ast`, and is run by `eval` and `expr`
//! (with `scope`, `call`, `budget`). Values: `value`, `dict`, `iter`, `ops`, `slice`, `repr`. What values can do: `methods`, `text`,
//! `split`, `chars`, `percent`, `format`, `filters`, `sequences`, `words`, `wrap`, `predicates`, `clock`.

mod arguments;
mod ast;
mod budget;
mod call;
mod chars;
mod clock;
mod dict;
mod eval;
mod expr;
mod expressions;
mod filters;
mod format;
mod iter;
mod lexer;
mod methods;
mod ops;
mod parser;
mod percent;
mod predicates;
mod repr;
mod scope;
mod sequences;
mod slice;
mod split;
mod statements;
mod text;
mod value;
mod words;
mod wrap;

#[cfg(test)]
mod tests;

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use dict::Dict;
use value::Value;

/// What kind of fault a template made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// The text is no template.
    Syntax,
    /// The template said so itself, by `raise_exception`: the message is its own sentence.
    Raised,
    /// The template did something with a value that the value cannot do.
    Failed,
    /// The template needs more time, text or depth than one may.
    Limit,
}

/// Why a template could not be read or rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The sentence.
    pub message: String,
    /// The line of the template, from 1.
    pub line: Option<usize>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.message),
            None => f.write_str(&self.message),
        }
    }
}

impl std::error::Error for Fault {}

type Res<T> = Result<T, Box<Fault>>;

fn fault(kind: FaultKind, message: impl Into<String>) -> Box<Fault> {
    Box::new(Fault { kind, message: message.into(), line: None })
}

fn failed(message: impl Into<String>) -> Box<Fault> {
    fault(FaultKind::Failed, message)
}

fn limit(message: impl Into<String>) -> Box<Fault> {
    fault(FaultKind::Limit, message)
}

fn raised(message: impl Into<String>) -> Box<Fault> {
    fault(FaultKind::Raised, message)
}

fn syntax(message: impl Into<String>, line: usize) -> Box<Fault> {
    let mut fault = fault(FaultKind::Syntax, message);
    fault.line = Some(line);
    fault
}

/// What one rendering may use.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Steps: about one an expression, an item, and 64 bytes of text.
    pub fuel: u64,
    /// Bytes of one text, the whole result among them.
    pub max_text_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { fuel: 20_000_000, max_text_bytes: 64 << 20 }
    }
}

/// A rendered template.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Where `{% generation %}` blocks stand in it, as byte offsets, in the order they ended.
    pub generation: Vec<(usize, usize)>,
}

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Template {
    tree: Arc<ast::Tree>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Text that Jinja2 does not take, with its line.
    pub fn parse(source: &str) -> Result<Self, Fault> {
        let tree = statements::parse(source).map_err(|fault| *fault)?;
        Ok(Self { tree: Arc::new(tree) })
    }

    /// Renders with variables by name; of two with one name the later counts.
    ///
    /// # Errors
    /// What the template raises, what it cannot do, and limits.
    pub fn render<'v>(
        &self,
        variables: impl IntoIterator<Item = (&'v str, &'v Json)>,
        limits: &Limits,
    ) -> Result<Rendered, Fault> {
        let mut vars: Vec<(ast::Symbol, Value)> = Vec::new();
        for (name, value) in variables {
            // What the template does not name, it cannot see.
            let Some(symbol) = self.tree.names.iter().position(|other| &**other == name) else { continue };
            let symbol = symbol as ast::Symbol;
            vars.retain(|(other, _)| *other != symbol);
            vars.push((symbol, of_json(value).map_err(|fault| *fault)?));
        }
        let engine = eval::Engine::new(self.tree.clone(), limits);
        let text = engine.run(vars).map_err(|fault| *fault)?;
        Ok(Rendered { text, generation: engine.spans.take() })
    }
}

/// JSON as a value; key order is kept.
fn of_json(json: &Json) -> Res<Value> {
    Ok(match json {
        Json::Null => Value::None,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::Int(whole.into()),
            (None, Some(whole)) => Value::Int(whole.into()),
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::str(text.as_str()),
        Json::Array(items) => Value::list(items.iter().map(of_json).collect::<Res<_>>()?)?,
        Json::Object(map) => {
            let entries = map.iter().map(|(key, value)| Ok((Value::str(key.as_str()), of_json(value)?)));
            Value::Dict(Rc::new(Dict::from_object(entries.collect::<Res<_>>()?)?))
        }
    })
}
