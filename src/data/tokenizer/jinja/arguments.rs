//! What stands behind a value: arguments of calls, filters after `|`, tests after `is`. Next: `expressions`.

use std::sync::Arc;

use super::ast::{Applied, Arguments, Expr};
use super::lexer::Tok;
use super::parser::Parser;
use super::{Res, filters, predicates};

impl Parser {
    /// `(a, *b, c=1, **d)`, the opening parenthesis next.
    pub(super) fn arguments(&mut self) -> Res<Arguments> {
        let mut given = Arguments::default();
        let mut first = true;
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !first {
                self.expect_op(",")?;
                if self.is_op(")") {
                    break;
                }
            }
            first = false;
            let wrong = "invalid syntax for function call expression";
            let named = matches!((self.peek(), self.look()), (Tok::Name(_), Tok::Op("=")));
            if self.skip_op("*") {
                if given.star.is_some() || given.star_star.is_some() {
                    return self.fail(wrong);
                }
                given.star = Some(self.expression()?);
            } else if self.skip_op("**") {
                if given.star_star.is_some() {
                    return self.fail(wrong);
                }
                given.star_star = Some(self.expression()?);
            } else if named {
                let name = self.any_name()?;
                self.next();
                if given.star_star.is_some() || given.keywords.iter().any(|(other, _)| *other == name) {
                    return self.fail(wrong);
                }
                given.keywords.push((name, self.expression()?));
            } else {
                if given.star.is_some() || given.star_star.is_some() || !given.keywords.is_empty() {
                    return self.fail(wrong);
                }
                given.positional.push(self.expression()?);
            }
        }
        self.expect_op(")")?;
        Ok(given)
    }

    /// A call of `callee`, the opening parenthesis next.
    pub(super) fn call(&mut self, callee: Expr) -> Res<Expr> {
        self.operation()?;
        let line = self.line();
        Ok(Expr::Call(Box::new((callee, self.arguments()?)), line))
    }

    fn dotted_name(&mut self) -> Res<Arc<str>> {
        let mut name = self.any_name()?;
        while self.skip_op(".") {
            name = format!("{name}.{}", self.any_name()?).into();
        }
        Ok(name)
    }

    /// A filter after its `|`.
    pub(super) fn filter(&mut self, value: Expr) -> Res<Expr> {
        self.operation()?;
        let line = self.line();
        let name = self.dotted_name()?;
        if !filters::exists(&name) {
            self.unknown.push((format!("No filter named '{name}'."), line));
        }
        let arguments = if self.is_op("(") { self.arguments()? } else { Arguments::default() };
        Ok(Expr::Filter(Box::new(Applied { value, name, arguments, line })))
    }

    /// A test after its `is`.
    pub(super) fn test(&mut self, value: Expr) -> Res<Expr> {
        self.operation()?;
        let line = self.line();
        self.next();
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        if !predicates::exists(&name) {
            self.unknown.push((format!("No test named '{name}'."), line));
        }
        let mut arguments = Arguments::default();
        match self.peek() {
            Tok::Op("(") => arguments = self.arguments()?,
            Tok::Name(word) if matches!(&**word, "else" | "or" | "and") => {}
            Tok::Name(word) if &**word == "is" => {
                return self.fail("You cannot chain multiple tests with is");
            }
            Tok::Name(_) | Tok::Str(_) | Tok::Int(_) | Tok::Float(_) | Tok::Op("[" | "{") => {
                let argument = self.primary()?;
                arguments.positional.push(self.postfix(argument)?);
            }
            _ => {}
        }
        let test = Expr::Test(Box::new(Applied { value, name, arguments, line }));
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }
}
