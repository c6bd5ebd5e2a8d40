//! Carries a template's expressions out.

use std::rc::Rc;

use super::ast::{Applied, Comparison, Const, Expr};
use super::dict::Dict;
use super::eval::{Engine, Scope};
use super::value::{Text, Value};
use super::{Res, failed, filters, ops, predicates, repr, slice};

impl Engine {
    pub(super) fn eval(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        self.spend(1)?;
        match expr {
            Expr::Const(value) => Ok(constant(value)),
            Expr::Name(symbol) => Ok(match scope.get(*symbol) {
                Some(value) => value,
                None => match self.tree.globals[*symbol as usize] {
                    Some(function) => Value::Function(function),
                    None => self.unknown(*symbol),
                },
            }),
            Expr::Attr(owner, name) => {
                let owner = self.eval_deep(owner, scope)?;
                self.attribute(&owner, name)
            }
            Expr::Item(parts) => {
                let owner = self.eval_deep(&parts.0, scope)?;
                if let Expr::Slice(bounds) = &parts.1 {
                    let mut values = [Value::None, Value::None, Value::None];
                    for (value, bound) in values.iter_mut().zip(bounds.iter()) {
                        if let Some(bound) = bound {
                            *value = self.eval(bound, scope)?;
                        }
                    }
                    return slice::slice(self, &owner, &values);
                }
                let index = self.eval_deep(&parts.1, scope)?;
                self.item(&owner, &index)
            }
            Expr::Compare(first, rest) => self.compare(first, rest, scope),
            Expr::And(sides) => {
                let left = self.eval_deep(&sides.0, scope)?;
                if left.truth(self)? { self.eval_deep(&sides.1, scope) } else { Ok(left) }
            }
            Expr::Or(sides) => {
                let left = self.eval_deep(&sides.0, scope)?;
                if left.truth(self)? { Ok(left) } else { self.eval_deep(&sides.1, scope) }
            }
            Expr::Not(value) => Ok(Value::Bool(!self.eval_deep(value, scope)?.truth(self)?)),
            Expr::Neg(value) => ops::negative(&self.eval_deep(value, scope)?),
            Expr::Pos(value) => ops::positive(&self.eval_deep(value, scope)?),
            Expr::Binary(operator, sides) => {
                let left = self.eval_deep(&sides.0, scope)?;
                let right = self.eval_deep(&sides.1, scope)?;
                ops::binary(self, *operator, &left, &right)
            }
            Expr::Concat(parts) => self.concat(parts, scope),
            Expr::Call(call, line) => {
                self.check_stack()?;
                self.call_with(&call.0, &call.1, scope, None).map_err(|fault| fault.on(*line))
            }
            Expr::Filter(applied) => self.apply_filter(applied, scope),
            Expr::Test(applied) => self.apply_test(applied, scope),
            Expr::Cond(parts, line) => {
                let (test, then, otherwise) = &**parts;
                if self.eval_deep(test, scope)?.truth(self)? {
                    return self.eval_deep(then, scope);
                }
                match otherwise {
                    Some(otherwise) => self.eval_deep(otherwise, scope),
                    None => Ok(Value::undefined(format!(
                        "the inline if-expression on line {line} evaluated to false and no else section was defined."
                    ))),
                }
            }
            Expr::Tuple(items) => Value::tuple(self.all(items, scope)?),
            Expr::List(items) => Value::list(self.all(items, scope)?),
            Expr::Dict(pairs) => {
                let mut made = Vec::with_capacity(pairs.len());
                for (key, value) in pairs {
                    made.push((self.eval_deep(key, scope)?, self.eval_deep(value, scope)?));
                }
                Ok(Value::Dict(Rc::new(Dict::from_pairs(made)?)))
            }
            Expr::Slice(_) => Err(failed("a slice stands alone between brackets")),
        }
    }

    /// [`Self::eval`] of what stands inside another expression.
    fn eval_deep(&self, expr: &Expr, scope: &Rc<Scope>) -> Res<Value> {
        self.check_stack()?;
        self.eval(expr, scope)
    }

    fn unknown(&self, symbol: u32) -> Value {
        let name = &self.tree.names[symbol as usize];
        if &**name == "self" {
            Value::Blocks(None)
        } else {
            Value::undefined(format!("'{name}' is undefined"))
        }
    }

    fn all(&self, items: &[Expr], scope: &Rc<Scope>) -> Res<Vec<Value>> {
        items.iter().map(|item| self.eval_deep(item, scope)).collect()
    }

    fn compare(&self, first: &Expr, rest: &[(Comparison, Expr)], scope: &Rc<Scope>) -> Res<Value> {
        let mut left = self.eval_deep(first, scope)?;
        for (comparison, right) in rest {
            let right = self.eval_deep(right, scope)?;
            let holds = match comparison {
                Comparison::Eq => ops::equal(self, &left, &right)?,
                Comparison::Ne => !ops::equal(self, &left, &right)?,
                Comparison::Lt => ops::less(self, &left, &right, "<")?,
                Comparison::Gt => ops::less(self, &right, &left, ">")?,
                Comparison::Le => ops::less_or_equal(self, &left, &right, "<=")?,
                Comparison::Ge => ops::less_or_equal(self, &right, &left, ">=")?,
                Comparison::In => ops::contains(self, &right, &left)?,
                Comparison::NotIn => !ops::contains(self, &right, &left)?,
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    fn concat(&self, parts: &[Expr], scope: &Rc<Scope>) -> Res<Value> {
        let mut text = String::new();
        let values = self.all(parts, scope)?;
        let escaping = self.autoescape.get() && values.iter().any(Value::is_markup);
        for value in &values {
            let part = match escaping {
                true => repr::escaped(self, value)?,
                false => repr::to_str(self, value)?,
            };
            self.grow(text.len(), part.len())?;
            text.push_str(&part);
        }
        Ok(Value::text(text, escaping))
    }

    fn apply_filter(&self, applied: &Applied, scope: &Rc<Scope>) -> Res<Value> {
        self.check_stack()?;
        let value = self.eval(&applied.value, scope)?;
        let given = self.arguments(&applied.arguments, scope)?;
        self.filter(&applied.name, value, &given).map_err(|fault| fault.on(applied.line))
    }

    /// A filter by name.
    pub(super) fn filter(&self, name: &str, value: Value, given: &super::call::Given) -> Res<Value> {
        self.spend(1)?;
        filters::apply(self, name, value, given)
    }

    fn apply_test(&self, applied: &Applied, scope: &Rc<Scope>) -> Res<Value> {
        self.check_stack()?;
        let value = self.eval(&applied.value, scope)?;
        let given = self.arguments(&applied.arguments, scope)?;
        let holds = self.test(&applied.name, &value, &given).map_err(|fault| fault.on(applied.line))?;
        Ok(Value::Bool(holds))
    }

    /// A test by name.
    pub(super) fn test(&self, name: &str, value: &Value, given: &super::call::Given) -> Res<bool> {
        self.spend(1)?;
        predicates::holds(self, name, value, given)
    }
}

fn constant(value: &Const) -> Value {
    match value {
        Const::None => Value::None,
        Const::Bool(flag) => Value::Bool(*flag),
        Const::Int(value) => Value::Int(*value),
        Const::Float(value) => Value::Float(*value),
        Const::Str(text) => Value::Str(Text { text: text.clone(), markup: false }),
    }
}
