//! The tokens of a template as the parser walks them. Next: `expressions`, `statements`.

use std::collections::HashMap;
use std::sync::Arc;

use super::ast::{RESERVED, Stmt, Symbol};
use super::budget::Stack;
use super::lexer::{Tok, Token};
use super::{Res, limit, syntax};

pub(super) struct Parser {
    tokens: Vec<Token>,
    at: usize,
    pub(super) names: Vec<Arc<str>>,
    table: HashMap<Arc<str>, Symbol>,
    pub(super) blocks: Vec<(Arc<str>, Vec<Stmt>)>,
    /// Of every macro around this place: whether it names `caller`, `kwargs`, `varargs`.
    pub(super) uses: Vec<[bool; 3]>,
    /// Filters and tests that do not exist: an error, unless an `if` stands before them.
    pub(super) unknown: Vec<(String, usize)>,
    pub(super) surely_unknown: Vec<(String, usize)>,
    /// Whether `break` may stand here.
    pub(super) in_loop: bool,
    stack: Stack,
    /// Operations in the tag so far.
    operations: usize,
}

/// Operations in one tag, at most: what is read left to right makes a tree as deep as it is long.
const MAX_OPERATIONS: usize = 1000;

impl Parser {
    pub(super) fn new(tokens: Vec<Token>) -> Self {
        let names: Vec<Arc<str>> = RESERVED.iter().map(|name| Arc::from(*name)).collect();
        let table = names.iter().enumerate().map(|(i, name)| (name.clone(), i as Symbol)).collect();
        Self {
            tokens,
            at: 0,
            names,
            table,
            blocks: Vec::new(),
            uses: Vec::new(),
            unknown: Vec::new(),
            surely_unknown: Vec::new(),
            in_loop: false,
            stack: Stack::here(),
            operations: 0,
        }
    }

    pub(super) fn line(&self) -> usize {
        self.tokens[self.at].line
    }

    pub(super) fn peek(&self) -> &Tok {
        &self.tokens[self.at].tok
    }

    pub(super) fn look(&self) -> &Tok {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].tok
    }

    pub(super) fn next(&mut self) -> Tok {
        let tok = self.peek().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        tok
    }

    pub(super) fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Tok::Op(other) if *other == op)
    }

    pub(super) fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Tok::Name(other) if &**other == name)
    }

    pub(super) fn looks_name(&self, name: &str) -> bool {
        matches!(self.look(), Tok::Name(other) if &**other == name)
    }

    pub(super) fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        if found {
            self.next();
        }
        found
    }

    pub(super) fn fail<T>(&self, message: impl Into<String>) -> Res<T> {
        Err(syntax(message, self.line()))
    }

    pub(super) fn described(&self) -> String {
        match self.peek() {
            Tok::Data(_) => "template data / text".to_owned(),
            Tok::VariableBegin => "begin of print statement".to_owned(),
            Tok::VariableEnd => "end of print statement".to_owned(),
            Tok::BlockBegin => "begin of statement block".to_owned(),
            Tok::BlockEnd => "end of statement block".to_owned(),
            Tok::Name(name) => name.to_string(),
            Tok::Str(_) => "string".to_owned(),
            Tok::Int(_) => "integer".to_owned(),
            Tok::Float(_) => "float".to_owned(),
            Tok::Op(op) => (*op).to_owned(),
            Tok::End => "end of template".to_owned(),
        }
    }

    pub(super) fn unexpected<T>(&self, wanted: &str) -> Res<T> {
        self.fail(format!("expected token '{wanted}', got '{}'", self.described()))
    }

    pub(super) fn expect_op(&mut self, op: &str) -> Res<()> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(op) }
    }

    pub(super) fn expect_name(&mut self, name: &str) -> Res<()> {
        if self.skip_name(name) { Ok(()) } else { self.unexpected(name) }
    }

    pub(super) fn expect_block_end(&mut self) -> Res<()> {
        if *self.peek() != Tok::BlockEnd {
            return self.unexpected("end of statement block");
        }
        self.next();
        Ok(())
    }

    pub(super) fn any_name(&mut self) -> Res<Arc<str>> {
        match self.peek() {
            Tok::Name(name) => {
                let name = name.clone();
                self.next();
                Ok(name)
            }
            _ => self.unexpected("name"),
        }
    }

    pub(super) fn symbol(&mut self, name: &Arc<str>) -> Symbol {
        if let Some(symbol) = self.table.get(name) {
            return *symbol;
        }
        let symbol = self.names.len() as Symbol;
        self.names.push(name.clone());
        self.table.insert(name.clone(), symbol);
        symbol
    }

    /// Counts an operation of the tag.
    pub(super) fn operation(&mut self) -> Res<()> {
        self.operations += 1;
        if self.operations > MAX_OPERATIONS {
            let mut fault = limit(format!("a tag has more than {MAX_OPERATIONS} operations"));
            fault.line = Some(self.line());
            return Err(fault);
        }
        Ok(())
    }

    /// Begins a tag.
    pub(super) fn begin_tag(&mut self) -> Res<()> {
        self.operations = 0;
        self.check_stack()
    }

    /// An error where the template nests so deep that reading it would use up the stack.
    pub(super) fn check_stack(&self) -> Res<()> {
        if self.stack.is_low() { Err(limit("the template nests too deep")) } else { Ok(()) }
    }
}
