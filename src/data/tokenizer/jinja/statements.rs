//! Tokens to statements. Expressions: `parser`.

use std::sync::Arc;

use super::ast::{CAPTURED, Expr, For, MacroDef, Stmt, StmtKind, Symbol, Target, Tree};
use super::lexer::{self, Tok};
use super::parser::Parser;
use super::value::Function;
use super::{Res, syntax};

/// Parameters, and the defaults of the last of them.
type Signature = (Vec<(Symbol, Arc<str>)>, Vec<Expr>);

/// Reads a template.
pub(super) fn parse(source: &str) -> Res<Tree> {
    let mut parser = Parser::new(lexer::tokens(source)?);
    let body = parser.body(&[])?;
    let unknown = parser.surely_unknown.first().or(parser.unknown.first());
    if let Some((message, line)) = unknown {
        return Err(syntax(message.clone(), *line));
    }
    let globals = parser.names.iter().map(|name| global(name)).collect();
    Ok(Tree { body, names: parser.names, globals, blocks: parser.blocks })
}

fn global(name: &str) -> Option<Function> {
    Some(match name {
        "range" => Function::Range,
        "dict" => Function::Dict,
        "namespace" => Function::Namespace,
        "cycler" => Function::Cycler,
        "joiner" => Function::Joiner,
        "lipsum" => Function::Lipsum,
        "raise_exception" => Function::RaiseException,
        "strftime_now" => Function::StrftimeNow,
        _ => return None,
    })
}

impl Parser {
    /// Statements up to a block that `ends` names (which is not consumed), or to the end of the template.
    fn body(&mut self, ends: &[&str]) -> Res<Vec<Stmt>> {
        let mut body: Vec<Stmt> = Vec::new();
        loop {
            let line = self.line();
            self.begin_tag()?;
            match self.next() {
                Tok::Data(text) => body.push(Stmt { line, kind: StmtKind::Text(text) }),
                Tok::VariableBegin => {
                    let value = self.tuple(true, &[], false)?;
                    if *self.peek() != Tok::VariableEnd {
                        return self.unexpected("end of print statement");
                    }
                    self.next();
                    body.push(Stmt { line, kind: StmtKind::Output(vec![value]) });
                }
                Tok::BlockBegin => {
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    let kind = self.statement(ends)?;
                    body.push(Stmt { line, kind });
                    self.expect_block_end()?;
                }
                _ if ends.is_empty() => return Ok(body),
                _ => {
                    let wanted: Vec<_> = ends.iter().map(|end| format!("'{end}'")).collect();
                    return self.fail(format!(
                        "Unexpected end of template. Jinja was looking for the following tags: {}.",
                        wanted.join(" or ")
                    ));
                }
            }
        }
    }

    /// The body of a block that begins here, up to one of `ends`.
    fn block_body(&mut self, ends: &[&str]) -> Res<Vec<Stmt>> {
        self.skip_op(":");
        self.expect_block_end()?;
        self.body(ends)
    }

    /// [`Self::block_body`] with the word that ends it consumed.
    fn whole_body(&mut self, end: &str) -> Res<Vec<Stmt>> {
        let body = self.block_body(&[end])?;
        self.next();
        Ok(body)
    }

    /// What `read` reads is in a scope of its own: a filter that does not exist is an error there, even
    /// inside an `if`.
    fn scoped<T>(&mut self, in_loop: bool, read: impl FnOnce(&mut Self) -> Res<T>) -> Res<T> {
        let mark = self.unknown.len();
        let around = std::mem::replace(&mut self.in_loop, in_loop);
        let value = read(self)?;
        self.in_loop = around;
        self.surely_unknown.extend(self.unknown.drain(mark..));
        Ok(value)
    }

    fn statement(&mut self, ends: &[&str]) -> Res<StmtKind> {
        let Tok::Name(word) = self.peek().clone() else { return self.fail("tag name expected") };
        match &*word {
            "for" => self.for_loop(),
            "if" => self.condition(),
            "set" => self.set(),
            "macro" => self.macro_definition(),
            "call" => self.call_block(),
            "with" => self.with(),
            "filter" => {
                self.next();
                let mut filter = self.filter(Expr::Name(CAPTURED))?;
                while self.skip_op("|") {
                    filter = self.filter(filter)?;
                }
                let in_loop = self.in_loop;
                let body = self.scoped(in_loop, |parser| parser.whole_body("endfilter"))?;
                Ok(StmtKind::FilterBlock(filter, body))
            }
            "autoescape" => {
                self.next();
                let flag = self.expression()?;
                let in_loop = self.in_loop;
                let body = self.scoped(in_loop, |parser| parser.whole_body("endautoescape"))?;
                Ok(StmtKind::Autoescape(flag, body))
            }
            "generation" => {
                self.next();
                let body = self.scoped(false, |parser| parser.whole_body("endgeneration"))?;
                Ok(StmtKind::Generation(body))
            }
            "print" => {
                self.next();
                let mut values = Vec::new();
                while *self.peek() != Tok::BlockEnd {
                    if !values.is_empty() {
                        self.expect_op(",")?;
                    }
                    values.push(self.expression()?);
                }
                Ok(StmtKind::Output(values))
            }
            "break" | "continue" => {
                if !self.in_loop {
                    return self.fail(format!("'{word}' outside loop"));
                }
                self.next();
                Ok(if &*word == "break" { StmtKind::Break } else { StmtKind::Continue })
            }
            "block" => self.block(),
            "include" => self.foreign("include"),
            "extends" => self.foreign("extends"),
            "import" => self.foreign("import"),
            "from" => self.foreign("import"),
            _ => {
                let looked: Vec<_> = ends.iter().map(|end| format!("'{end}'")).collect();
                let message = match looked.is_empty() {
                    true => format!("Encountered unknown tag '{word}'."),
                    false => format!(
                        "Encountered unknown tag '{word}'. Jinja was looking for the following tags: {}.",
                        looked.join(" or ")
                    ),
                };
                self.fail(message)
            }
        }
    }

    fn for_loop(&mut self) -> Res<StmtKind> {
        self.next();
        let target = self.target(&["in"], false)?;
        self.expect_name("in")?;
        let iterable = self.tuple(false, &["recursive"], false)?;
        let (test, recursive, body, last) = self.scoped(true, |parser| {
            let test = if parser.skip_name("if") { Some(parser.expression()?) } else { None };
            let recursive = parser.skip_name("recursive");
            let body = parser.block_body(&["endfor", "else"])?;
            Ok((test, recursive, body, parser.next()))
        })?;
        let in_loop = self.in_loop;
        let otherwise = match last {
            Tok::Name(word) if &*word == "else" => {
                self.scoped(in_loop, |parser| parser.whole_body("endfor"))?
            }
            _ => Vec::new(),
        };
        if target.names_loop() {
            return self.fail("Can't assign to special loop variable in for-loop target");
        }
        Ok(StmtKind::For(Arc::new(For { target, iterable, test, recursive, body, otherwise })))
    }

    fn condition(&mut self) -> Res<StmtKind> {
        self.next();
        let mark = self.unknown.len();
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        loop {
            let test = self.tuple(false, &[], false)?;
            branches.push((test, self.block_body(&["elif", "else", "endif"])?));
            match self.next() {
                Tok::Name(word) if &*word == "elif" => {}
                Tok::Name(word) if &*word == "else" => {
                    otherwise = self.whole_body("endif")?;
                    break;
                }
                _ => break,
            }
        }
        self.unknown.truncate(mark);
        Ok(StmtKind::If(branches, otherwise))
    }

    fn set(&mut self) -> Res<StmtKind> {
        self.next();
        let target = self.target(&[], true)?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple(true, &[], false)?));
        }
        let mut filter = None;
        while self.skip_op("|") {
            filter = Some(self.filter(filter.unwrap_or(Expr::Name(CAPTURED)))?);
        }
        let in_loop = self.in_loop;
        let body = self.scoped(in_loop, |parser| parser.whole_body("endset"))?;
        Ok(StmtKind::SetBlock(target, filter, body))
    }

    fn with(&mut self) -> Res<StmtKind> {
        self.next();
        let mut values = Vec::new();
        while *self.peek() != Tok::BlockEnd {
            if !values.is_empty() {
                self.expect_op(",")?;
            }
            // One name or a tuple in parentheses: a comma parts the assignments.
            let target = self.target(&["="], false)?;
            self.expect_op("=")?;
            values.push((target, self.expression()?));
        }
        let in_loop = self.in_loop;
        let body = self.scoped(in_loop, |parser| parser.whole_body("endwith"))?;
        Ok(StmtKind::With(values, body))
    }

    fn signature(&mut self) -> Res<Signature> {
        let (mut parameters, mut defaults) = (Vec::new(), Vec::new());
        self.expect_op("(")?;
        while !self.is_op(")") {
            if !parameters.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.any_name()?;
            let symbol = self.symbol(&name);
            if self.skip_op("=") {
                defaults.push(self.expression()?);
            } else if !defaults.is_empty() {
                return self.fail("non-default argument follows default argument");
            }
            parameters.push((symbol, name));
        }
        self.expect_op(")")?;
        Ok((parameters, defaults))
    }

    fn definition(
        &mut self,
        name: Arc<str>,
        (parameters, defaults): Signature,
        end: &str,
    ) -> Res<Arc<MacroDef>> {
        let line = self.line();
        self.uses.push([false; 3]);
        let body = self.scoped(false, |parser| parser.whole_body(end))?;
        let [uses_caller, uses_kwargs, uses_varargs] = self.uses.pop().unwrap_or_default();
        let names = |name: &str| parameters.iter().position(|(_, other)| &**other == name);
        if uses_caller && names("caller").is_some_and(|at| at + defaults.len() < parameters.len()) {
            let message = "When defining macros or call blocks the special \"caller\" argument must be omitted or be given a default.";
            return Err(syntax(message, line));
        }
        Ok(Arc::new(MacroDef {
            uses_caller,
            uses_kwargs: uses_kwargs && names("kwargs").is_none(),
            uses_varargs: uses_varargs && names("varargs").is_none(),
            name,
            parameters,
            defaults,
            body,
        }))
    }

    fn macro_definition(&mut self) -> Res<StmtKind> {
        self.next();
        let name = self.any_name()?;
        let symbol = self.symbol(&name);
        let signature = self.signature()?;
        Ok(StmtKind::Macro(symbol, self.definition(name, signature, "endmacro")?))
    }

    fn call_block(&mut self) -> Res<StmtKind> {
        self.next();
        let signature = if self.is_op("(") { self.signature()? } else { (Vec::new(), Vec::new()) };
        let line = self.line();
        let Expr::Call(call, _) = self.expression()? else { return Err(syntax("expected call", line)) };
        let body = self.definition("".into(), signature, "endcall")?;
        Ok(StmtKind::Call(call, body))
    }

    fn block(&mut self) -> Res<StmtKind> {
        self.next();
        let name = self.any_name()?;
        let scoped = self.skip_name("scoped");
        self.skip_name("required");
        let body = self.scoped(false, |parser| parser.whole_body("endblock"))?;
        self.skip_name(&name);
        if self.blocks.iter().any(|(other, _)| *other == name) {
            return self.fail(format!("block '{name}' defined twice"));
        }
        self.blocks.push((name.clone(), body));
        Ok(StmtKind::Block(name, scoped))
    }

    /// A statement that needs another template; its words are passed over.
    fn foreign(&mut self, what: &'static str) -> Res<StmtKind> {
        self.next();
        self.expression()?;
        while *self.peek() != Tok::BlockEnd {
            match self.next() {
                Tok::Name(_) | Tok::Op(",") => {}
                _ => return self.unexpected("end of statement block"),
            }
        }
        Ok(StmtKind::Foreign(what))
    }
}

impl Target {
    fn names_loop(&self) -> bool {
        match self {
            Self::Name(symbol) => *symbol == super::ast::LOOP,
            Self::Attr(..) => false,
            Self::Tuple(items) => items.iter().any(Self::names_loop),
        }
    }
}
