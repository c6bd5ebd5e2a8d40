//! Names and what they hold. Next: `eval`.

use std::cell::RefCell;
use std::rc::Rc;

use super::ast::Symbol;
use super::value::Value;

/// Names and what they hold, with the scope around.
pub(super) struct Scope {
    pub(super) vars: RefCell<Vec<(Symbol, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn root(vars: Vec<(Symbol, Value)>) -> Rc<Self> {
        Rc::new(Self { vars: RefCell::new(vars), parent: None })
    }

    pub(super) fn inside(parent: &Rc<Self>) -> Rc<Self> {
        Rc::new(Self { vars: RefCell::new(Vec::new()), parent: Some(parent.clone()) })
    }

    pub(super) fn get(&self, symbol: Symbol) -> Option<Value> {
        let mut scope = self;
        loop {
            let found = scope.vars.borrow().iter().find(|(name, _)| *name == symbol).map(|(_, v)| v.clone());
            match (found, &scope.parent) {
                (Some(value), _) => return Some(value),
                (None, Some(parent)) => scope = parent,
                (None, None) => return None,
            }
        }
    }

    pub(super) fn set(&self, symbol: Symbol, value: Value) {
        let mut vars = self.vars.borrow_mut();
        match vars.iter_mut().find(|(name, _)| *name == symbol) {
            Some((_, old)) => *old = value,
            None => vars.push((symbol, value)),
        }
    }
}
