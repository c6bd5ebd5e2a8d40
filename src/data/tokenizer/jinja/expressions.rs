//! Tokens to expressions, by Jinja2's precedence. Statements: `statements`.

use super::Res;
use super::ast::{CALLER, Comparison, Const, Expr, KWARGS, Operator, Target, VARARGS};
use super::lexer::Tok;
use super::parser::Parser;

/// What stops a tuple, besides the end of its tag.
pub(super) type Stops = &'static [&'static str];

impl Parser {
    pub(super) fn expression(&mut self) -> Res<Expr> {
        self.check_stack()?;
        let mark = self.unknown.len();
        let mut value = self.or()?;
        while self.is_name("if") {
            self.operation()?;
            let line = self.line();
            self.next();
            let test = self.or()?;
            let otherwise = if self.skip_name("else") { Some(self.expression()?) } else { None };
            value = Expr::Cond(Box::new((test, value, otherwise)), line);
            self.unknown.truncate(mark);
        }
        Ok(value)
    }

    pub(super) fn or(&mut self) -> Res<Expr> {
        let mut left = self.and()?;
        while self.skip_name("or") {
            self.operation()?;
            left = Expr::Or(Box::new((left, self.and()?)));
        }
        Ok(left)
    }

    fn and(&mut self) -> Res<Expr> {
        let mut left = self.not()?;
        while self.skip_name("and") {
            self.operation()?;
            left = Expr::And(Box::new((left, self.not()?)));
        }
        Ok(left)
    }

    fn not(&mut self) -> Res<Expr> {
        self.check_stack()?;
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.not()?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Res<Expr> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Tok::Op("==") => Comparison::Eq,
                Tok::Op("!=") => Comparison::Ne,
                Tok::Op("<") => Comparison::Lt,
                Tok::Op("<=") => Comparison::Le,
                Tok::Op(">") => Comparison::Gt,
                Tok::Op(">=") => Comparison::Ge,
                Tok::Name(name) if &**name == "in" => Comparison::In,
                Tok::Name(name) if &**name == "not" && self.looks_name("in") => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Res<Expr> {
        let mut left = self.concat()?;
        loop {
            let operator = match self.peek() {
                Tok::Op("+") => Operator::Add,
                Tok::Op("-") => Operator::Sub,
                _ => return Ok(left),
            };
            self.next();
            self.operation()?;
            left = Expr::Binary(operator, Box::new((left, self.concat()?)));
        }
    }

    fn concat(&mut self) -> Res<Expr> {
        let mut parts = vec![self.product()?];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Expr::Concat(parts) })
    }

    fn product(&mut self) -> Res<Expr> {
        let mut left = self.power()?;
        loop {
            let operator = match self.peek() {
                Tok::Op("*") => Operator::Mul,
                Tok::Op("/") => Operator::Div,
                Tok::Op("//") => Operator::FloorDiv,
                Tok::Op("%") => Operator::Mod,
                _ => return Ok(left),
            };
            self.next();
            self.operation()?;
            left = Expr::Binary(operator, Box::new((left, self.power()?)));
        }
    }

    fn power(&mut self) -> Res<Expr> {
        let mut left = self.unary(true)?;
        while self.skip_op("**") {
            self.operation()?;
            left = Expr::Binary(Operator::Pow, Box::new((left, self.unary(true)?)));
        }
        Ok(left)
    }

    fn unary(&mut self, with_filter: bool) -> Res<Expr> {
        self.check_stack()?;
        let value = if self.skip_op("-") {
            Expr::Neg(Box::new(self.unary(false)?))
        } else if self.skip_op("+") {
            Expr::Pos(Box::new(self.unary(false)?))
        } else {
            self.primary()?
        };
        let value = self.postfix(value)?;
        if with_filter { self.filters_and_tests(value) } else { Ok(value) }
    }

    pub(super) fn primary(&mut self) -> Res<Expr> {
        let tok = self.peek().clone();
        Ok(match tok {
            Tok::Name(name) => {
                self.next();
                match &*name {
                    "true" | "True" => Expr::Const(Const::Bool(true)),
                    "false" | "False" => Expr::Const(Const::Bool(false)),
                    "none" | "None" => Expr::Const(Const::None),
                    _ => {
                        let symbol = self.symbol(&name);
                        if let Some(place) = [CALLER, KWARGS, VARARGS].iter().position(|s| *s == symbol) {
                            self.uses.iter_mut().for_each(|uses| uses[place] = true);
                        }
                        Expr::Name(symbol)
                    }
                }
            }
            Tok::Str(first) => {
                self.next();
                let mut text = first;
                while let Tok::Str(more) = self.peek() {
                    text = format!("{text}{more}").into();
                    self.next();
                }
                Expr::Const(Const::Str(text))
            }
            Tok::Int(value) => {
                self.next();
                Expr::Const(Const::Int(value))
            }
            Tok::Float(value) => {
                self.next();
                Expr::Const(Const::Float(value))
            }
            Tok::Op("(") => {
                self.next();
                let value = self.tuple(true, &[], true)?;
                self.expect_op(")")?;
                value
            }
            Tok::Op("[") => Expr::List(self.items("[", "]", Self::expression)?),
            Tok::Op("{") => Expr::Dict(self.items("{", "}", |parser| {
                let key = parser.expression()?;
                parser.expect_op(":")?;
                Ok((key, parser.expression()?))
            })?),
            _ => return self.fail(format!("unexpected '{}'", self.described())),
        })
    }

    fn items<T>(&mut self, open: &str, close: &str, item: fn(&mut Self) -> Res<T>) -> Res<Vec<T>> {
        self.expect_op(open)?;
        let mut items = Vec::new();
        while !self.is_op(close) {
            if !items.is_empty() {
                self.expect_op(",")?;
                if self.is_op(close) {
                    break;
                }
            }
            items.push(item(self)?);
        }
        self.expect_op(close)?;
        Ok(items)
    }

    fn tuple_ends(&self, stops: Stops) -> bool {
        matches!(self.peek(), Tok::VariableEnd | Tok::BlockEnd | Tok::Op(")"))
            || stops.iter().any(|stop| self.is_name(stop))
    }

    /// One expression, or several with commas between.
    pub(super) fn tuple(&mut self, conditions: bool, stops: Stops, in_parentheses: bool) -> Res<Expr> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.tuple_ends(stops) {
                break;
            }
            items.push(if conditions { self.expression()? } else { self.or()? });
            if !self.is_op(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            if let Some(only) = items.pop() {
                return Ok(only);
            }
            if !in_parentheses {
                return self.fail(format!("Expected an expression, got '{}'", self.described()));
            }
        }
        Ok(Expr::Tuple(items))
    }

    /// What is assigned to.
    pub(super) fn target(&mut self, stops: Stops, namespaces: bool) -> Res<Target> {
        let mut items = Vec::new();
        let mut is_tuple = false;
        loop {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            if self.tuple_ends(stops) {
                break;
            }
            items.push(self.one_target(namespaces)?);
            if !self.is_op(",") {
                break;
            }
            is_tuple = true;
        }
        match items.pop() {
            Some(only) if !is_tuple => Ok(only),
            None => self.fail(format!("Expected an expression, got '{}'", self.described())),
            Some(last) => {
                items.push(last);
                Ok(Target::Tuple(items))
            }
        }
    }

    fn one_target(&mut self, namespaces: bool) -> Res<Target> {
        self.check_stack()?;
        if self.skip_op("(") {
            let inner = self.target(&[], namespaces)?;
            self.expect_op(")")?;
            return Ok(inner);
        }
        match self.peek() {
            Tok::Name(name) => {
                if matches!(&**name, "true" | "True" | "false" | "False" | "none" | "None") {
                    return self.fail("can't assign to 'const'");
                }
            }
            _ => return self.fail(format!("can't assign to '{}'", self.described())),
        }
        let name = self.any_name()?;
        let symbol = self.symbol(&name);
        if namespaces && self.skip_op(".") {
            return Ok(Target::Attr(symbol, self.any_name()?));
        }
        Ok(Target::Name(symbol))
    }

    pub(super) fn postfix(&mut self, mut value: Expr) -> Res<Expr> {
        loop {
            value = match self.peek() {
                Tok::Op("." | "[") => self.subscript(value)?,
                Tok::Op("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn filters_and_tests(&mut self, mut value: Expr) -> Res<Expr> {
        loop {
            value = match self.peek() {
                Tok::Op("|") => {
                    self.next();
                    self.filter(value)?
                }
                Tok::Name(name) if &**name == "is" => self.test(value)?,
                Tok::Op("(") => self.call(value)?,
                _ => return Ok(value),
            };
        }
    }

    fn subscript(&mut self, value: Expr) -> Res<Expr> {
        self.operation()?;
        if self.skip_op(".") {
            return match self.next() {
                Tok::Name(name) => Ok(Expr::Attr(Box::new(value), name)),
                Tok::Int(at) => Ok(Expr::Item(Box::new((value, Expr::Const(Const::Int(at)))))),
                _ => self.fail("expected name or number"),
            };
        }
        self.expect_op("[")?;
        let mut items = Vec::new();
        while !self.is_op("]") {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            items.push(self.subscribed()?);
        }
        self.expect_op("]")?;
        let index = if items.len() == 1 { items.remove(0) } else { Expr::Tuple(items) };
        Ok(Expr::Item(Box::new((value, index))))
    }

    fn subscribed(&mut self) -> Res<Expr> {
        let start = if self.is_op(":") { None } else { Some(self.expression()?) };
        if !self.skip_op(":") {
            return match start {
                Some(value) => Ok(value),
                None => self.unexpected(":"),
            };
        }
        let ends = |parser: &Self| parser.is_op("]") || parser.is_op(",");
        let stop = if self.is_op(":") || ends(self) { None } else { Some(self.expression()?) };
        let step = if self.skip_op(":") && !ends(self) { Some(self.expression()?) } else { None };
        Ok(Expr::Slice(Box::new([start, stop, step])))
    }
}
