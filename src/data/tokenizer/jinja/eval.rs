//! Executes a template's statements.
//!
//! A template is code from strangers: `budget` bounds its steps, time, text and depth. Expressions: `expr`; calls:
//! `call`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::ast::{CALLER, CAPTURED, Expr, For, LOOP, MacroDef, Stmt, StmtKind, Symbol, Target, Tree};
use super::budget::Budget;
use super::iter::Loop;
pub(super) use super::scope::Scope;
use super::value::{Macro, Namespace, Value};
use super::{Fault, Limits, Res, failed, repr};

/// What a statement says about the loop around it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Break,
    Continue,
}

/// One rendering.
pub(super) struct Engine {
    pub(super) tree: Arc<Tree>,
    budget: Budget,
    pub(super) autoescape: Cell<bool>,
    /// Bytes of the whole text while a buffer of its own is written.
    pub(super) written: Cell<usize>,
    buffers: Cell<usize>,
    pub(super) spans: RefCell<Vec<(usize, usize)>>,
    /// What may hold itself, to be emptied at the end.
    scopes: RefCell<Vec<Rc<Scope>>>,
    namespaces: RefCell<Vec<Rc<Namespace>>>,
    pub(super) root: RefCell<Option<Rc<Scope>>>,
}

impl std::ops::Deref for Engine {
    type Target = Budget;
    fn deref(&self) -> &Budget {
        &self.budget
    }
}

impl Engine {
    pub(super) fn new(tree: Arc<Tree>, limits: &Limits) -> Self {
        Self {
            tree,
            budget: Budget::new(limits),
            autoescape: Cell::new(false),
            written: Cell::new(0),
            buffers: Cell::new(0),
            spans: RefCell::default(),
            scopes: RefCell::default(),
            namespaces: RefCell::default(),
            root: RefCell::default(),
        }
    }

    /// Renders with variables by symbol.
    pub(super) fn run(&self, vars: Vec<(Symbol, Value)>) -> Res<String> {
        let root = Scope::inside(&Scope::root(vars));
        self.root.replace(Some(root.clone()));
        let mut out = String::new();
        let tree = self.tree.clone();
        let done = self.exec_all(&tree.body, &root, &mut out);
        for scope in self.scopes.take() {
            scope.vars.borrow_mut().clear();
        }
        for namespace in self.namespaces.take() {
            namespace.attrs.borrow_mut().clear();
        }
        root.vars.borrow_mut().clear();
        self.root.replace(None);
        done.map(|_| out)
    }

    pub(super) fn keep_namespace(&self, namespace: &Rc<Namespace>) {
        self.namespaces.borrow_mut().push(namespace.clone());
    }

    pub(super) fn write(&self, out: &mut String, text: &str) -> Res<()> {
        self.grow(out.len(), text.len())?;
        if self.buffers.get() == 0 {
            self.written.set(out.len() + text.len());
        }
        out.push_str(text);
        Ok(())
    }

    /// What `body` writes, as a text of its own.
    pub(super) fn captured(&self, body: impl FnOnce(&mut String) -> Res<Flow>) -> Res<(String, Flow)> {
        let mut text = String::new();
        self.buffers.set(self.buffers.get() + 1);
        let flow = body(&mut text);
        self.buffers.set(self.buffers.get() - 1);
        Ok((text, flow?))
    }

    pub(super) fn exec_all(&self, body: &[Stmt], scope: &Rc<Scope>, out: &mut String) -> Res<Flow> {
        for stmt in body {
            let flow = self.exec(stmt, scope, out).map_err(|fault| fault.on(stmt.line))?;
            if flow != Flow::On {
                return Ok(flow);
            }
        }
        Ok(Flow::On)
    }

    fn exec(&self, stmt: &Stmt, scope: &Rc<Scope>, out: &mut String) -> Res<Flow> {
        self.spend(1)?;
        self.check_stack()?;
        match &stmt.kind {
            StmtKind::Text(text) => self.write(out, text)?,
            StmtKind::Output(values) => {
                for value in values {
                    let value = self.eval(value, scope)?;
                    self.print(&value, out)?;
                }
            }
            StmtKind::If(branches, otherwise) => {
                for (test, body) in branches {
                    if self.eval(test, scope)?.truth(self)? {
                        return self.exec_all(body, scope, out);
                    }
                }
                return self.exec_all(otherwise, scope, out);
            }
            StmtKind::For(node) => {
                let iterable = self.eval(&node.iterable, scope)?;
                return self.for_loop(node, iterable, scope, 0, out);
            }
            StmtKind::Set(target, value) => {
                self.check_namespaces(target, scope)?;
                let value = self.eval(value, scope)?;
                self.assign(target, value, scope)?;
            }
            StmtKind::SetBlock(target, filter, body) => {
                let inner = Scope::inside(scope);
                let (text, flow) = self.captured(|out| self.exec_all(body, &inner, out))?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                let value = self.filtered(text, filter.as_ref(), &inner)?;
                let value = match value {
                    Value::Str(text) if self.autoescape.get() => Value::text(text.text, true),
                    other => other,
                };
                self.assign(target, value, scope)?;
            }
            StmtKind::With(values, body) => {
                let inner = Scope::inside(scope);
                for (target, value) in values {
                    let value = self.eval(value, scope)?;
                    self.assign(target, value, &inner)?;
                }
                return self.exec_all(body, &inner, out);
            }
            StmtKind::Macro(symbol, def) => {
                let made = self.make_macro(def, scope)?;
                scope.set(*symbol, made);
            }
            StmtKind::Call(call, def) => {
                let caller = self.make_macro(def, scope)?;
                let value = self.call_with(&call.0, &call.1, scope, Some(caller))?;
                self.write_text(&value, out)?;
            }
            StmtKind::FilterBlock(filter, body) => {
                let inner = Scope::inside(scope);
                let (text, flow) = self.captured(|out| self.exec_all(body, &inner, out))?;
                if flow != Flow::On {
                    return Ok(flow);
                }
                let value = self.filtered(text, Some(filter), &inner)?;
                self.write_text(&value, out)?;
            }
            StmtKind::Autoescape(flag, body) => {
                let inner = Scope::inside(scope);
                let flag = self.eval(flag, &inner)?.truth(self)?;
                let before = self.autoescape.replace(flag);
                let flow = self.exec_all(body, &inner, out);
                self.autoescape.set(before);
                return flow;
            }
            StmtKind::Generation(body) => {
                let inner = Scope::inside(scope);
                let top = self.written.get();
                let (text, _) = self.captured(|out| self.exec_all(body, &inner, out))?;
                self.spans.borrow_mut().push((top, top + text.len()));
                self.write(out, &text)?;
            }
            StmtKind::Block(name, scoped) => {
                let root = self.root.borrow().clone();
                let around = if *scoped { scope.clone() } else { root.unwrap_or_else(|| scope.clone()) };
                self.exec_block(name, &around, out)?;
            }
            StmtKind::Foreign(what) => {
                return Err(failed(format!("`{what}` needs another template, and there is none")));
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    pub(super) fn exec_block(&self, name: &str, scope: &Rc<Scope>, out: &mut String) -> Res<()> {
        let tree = self.tree.clone();
        if let Some((_, body)) = tree.blocks.iter().find(|(other, _)| &**other == name) {
            self.exec_all(body, &Scope::inside(scope), out)?;
        }
        Ok(())
    }

    /// Puts a captured text through filters.
    fn filtered(&self, text: String, filter: Option<&Expr>, scope: &Rc<Scope>) -> Res<Value> {
        let text = Value::text(text, self.autoescape.get());
        match filter {
            None => Ok(text),
            Some(filter) => {
                scope.set(CAPTURED, text);
                self.eval(filter, scope)
            }
        }
    }

    fn make_macro(&self, def: &Arc<MacroDef>, scope: &Rc<Scope>) -> Res<Value> {
        self.scopes.borrow_mut().push(scope.clone());
        let made = Macro { def: def.clone(), scope: scope.clone(), autoescape: self.autoescape.get() };
        Ok(Value::Macro(Rc::new(made)))
    }

    /// What a block's filter or call gave, which must be a text.
    fn write_text(&self, value: &Value, out: &mut String) -> Res<()> {
        match value {
            Value::Str(text) => self.write(out, text),
            other => Err(failed(format!("expected str instance, {} found", other.type_name()))),
        }
    }

    /// Prints as `str` does, escaped where that is on.
    pub(super) fn print(&self, value: &Value, out: &mut String) -> Res<()> {
        if self.autoescape.get() {
            let text = repr::escaped(self, value)?;
            return self.write(out, &text);
        }
        match value {
            Value::Str(text) => self.write(out, text),
            other => {
                let text = repr::to_str(self, other)?;
                self.write(out, &text)
            }
        }
    }

    fn check_namespaces(&self, target: &Target, scope: &Scope) -> Res<()> {
        match target {
            Target::Name(_) => Ok(()),
            Target::Tuple(items) => items.iter().try_for_each(|item| self.check_namespaces(item, scope)),
            Target::Attr(symbol, _) => match scope.get(*symbol) {
                Some(Value::Namespace(_)) => Ok(()),
                _ => Err(failed("cannot assign attribute on non-namespace object")),
            },
        }
    }

    pub(super) fn assign(&self, target: &Target, value: Value, scope: &Scope) -> Res<()> {
        match target {
            Target::Name(symbol) => scope.set(*symbol, value),
            Target::Attr(symbol, attr) => match scope.get(*symbol) {
                Some(Value::Namespace(namespace)) => namespace.set(attr, value)?,
                _ => return Err(failed("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(items) => {
                let mut cursor = super::iter::Cursor::maybe(&value).ok_or_else(|| {
                    failed(format!("cannot unpack non-iterable {} object", value.type_name()))
                })?;
                let mut parts = Vec::with_capacity(items.len());
                while let Some(part) = cursor.next(self)? {
                    if parts.len() == items.len() {
                        return Err(failed(format!("too many values to unpack (expected {})", items.len())));
                    }
                    parts.push(part);
                }
                if parts.len() < items.len() {
                    return Err(failed(format!(
                        "not enough values to unpack (expected {}, got {})",
                        items.len(),
                        parts.len()
                    )));
                }
                for (item, part) in items.iter().zip(parts) {
                    self.assign(item, part, scope)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn for_loop(
        &self,
        node: &Arc<For>,
        iterable: Value,
        scope: &Rc<Scope>,
        depth: i128,
        out: &mut String,
    ) -> Res<Flow> {
        if node.recursive {
            let (text, _) = self.captured(|out| self.rounds(node, iterable, scope, depth, out))?;
            self.write(out, &text)?;
            return Ok(Flow::On);
        }
        self.rounds(node, iterable, scope, depth, out)
    }

    /// A loop's rounds; what they say about the loop around them is in its `else` alone.
    pub(super) fn rounds(
        &self,
        node: &Arc<For>,
        iterable: Value,
        scope: &Rc<Scope>,
        depth: i128,
        out: &mut String,
    ) -> Res<Flow> {
        let around = Rc::new(Loop::new(node, iterable, scope, depth)?);
        let mut ended = true;
        while let Some(item) = around.advance(self)? {
            let inner = Scope::inside(scope);
            inner.set(LOOP, Value::Loop(around.clone()));
            self.assign(&node.target, item, &inner)?;
            match self.exec_all(&node.body, &inner, out)? {
                Flow::Break => break,
                // As Jinja2 compiles it, a round that `continue` cuts short does not count against `else`.
                Flow::Continue => {}
                Flow::On => ended = false,
            }
        }
        if ended && !node.otherwise.is_empty() {
            return self.exec_all(&node.otherwise, &Scope::inside(scope), out);
        }
        Ok(Flow::On)
    }

    /// The text of a macro's body with its arguments bound in `scope`.
    pub(super) fn macro_body(&self, def: &MacroDef, scope: &Rc<Scope>) -> Res<String> {
        Ok(self.captured(|out| self.exec_all(&def.body, scope, out))?.0)
    }

    pub(super) fn bind_caller(&self, scope: &Scope, caller: Value) {
        scope.set(CALLER, caller);
    }
}

impl Namespace {
    pub(super) fn set(&self, name: &Arc<str>, value: Value) -> Res<()> {
        if name.starts_with('_') {
            return Err(failed(format!(
                "Chat templates cannot store underscore-prefixed attributes on a namespace, but got '{name}'. Please rename the attribute."
            )));
        }
        let mut attrs = self.attrs.borrow_mut();
        match attrs.iter_mut().find(|(other, _)| other == name) {
            Some((_, old)) => *old = value,
            None => attrs.push((name.clone(), value)),
        }
        Ok(())
    }
}

impl Fault {
    /// Adds the line, unless one is known.
    pub(super) fn on(mut self: Box<Self>, line: usize) -> Box<Self> {
        self.line.get_or_insert(line);
        self
    }
}
