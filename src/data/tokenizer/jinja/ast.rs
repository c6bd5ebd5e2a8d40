//! The tree of a template.
//!
//! Names are numbers into the template's table; what outlives its statement at run time (a macro, a loop that
//! calls itself) is shared.

use std::sync::Arc;

use super::value::Function;

/// A name of the template, by its place in the table.
pub(super) type Symbol = u32;

/// A value that stands in the template.
#[derive(Debug, Clone)]
pub(super) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Arc<str>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

/// Arguments of a call.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    pub(super) positional: Vec<Expr>,
    pub(super) keywords: Vec<(Arc<str>, Expr)>,
    pub(super) star: Option<Expr>,
    pub(super) star_star: Option<Expr>,
}

/// A filter or a test with what it is applied to.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) value: Expr,
    pub(super) name: Arc<str>,
    pub(super) arguments: Arguments,
    pub(super) line: usize,
}

#[derive(Debug)]
pub(super) enum Expr {
    Const(Const),
    Name(Symbol),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    /// Test, then, else, line.
    Cond(Box<(Expr, Expr, Option<Expr>)>, usize),
    And(Box<(Expr, Expr)>),
    Or(Box<(Expr, Expr)>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Binary(Operator, Box<(Expr, Expr)>),
    Concat(Vec<Expr>),
    Attr(Box<Expr>, Arc<str>),
    Item(Box<(Expr, Expr)>),
    Slice(Box<[Option<Expr>; 3]>),
    Call(Box<(Expr, Arguments)>, usize),
    Filter(Box<Applied>),
    Test(Box<Applied>),
}

/// What is assigned to.
#[derive(Debug)]
pub(super) enum Target {
    Name(Symbol),
    /// `ns.attr`
    Attr(Symbol, Arc<str>),
    Tuple(Vec<Target>),
}

/// A macro, or the body of a `call` or `generation` block.
#[derive(Debug)]
pub(super) struct MacroDef {
    pub(super) name: Arc<str>,
    pub(super) parameters: Vec<(Symbol, Arc<str>)>,
    /// Of the last parameters.
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Vec<Stmt>,
    pub(super) uses_caller: bool,
    pub(super) uses_kwargs: bool,
    pub(super) uses_varargs: bool,
}

#[derive(Debug)]
pub(super) struct For {
    pub(super) target: Target,
    pub(super) iterable: Expr,
    pub(super) test: Option<Expr>,
    pub(super) recursive: bool,
    pub(super) body: Vec<Stmt>,
    pub(super) otherwise: Vec<Stmt>,
}

#[derive(Debug)]
pub(super) struct Stmt {
    pub(super) line: usize,
    pub(super) kind: StmtKind,
}

#[derive(Debug)]
pub(super) enum StmtKind {
    Text(Arc<str>),
    Output(Vec<Expr>),
    /// Branches, then what else.
    If(Vec<(Expr, Vec<Stmt>)>, Vec<Stmt>),
    For(Arc<For>),
    Set(Target, Expr),
    /// Target, filters over the captured text, body.
    SetBlock(Target, Option<Expr>, Vec<Stmt>),
    With(Vec<(Target, Expr)>, Vec<Stmt>),
    Macro(Symbol, Arc<MacroDef>),
    /// Callee, arguments, body.
    Call(Box<(Expr, Arguments)>, Arc<MacroDef>),
    FilterBlock(Expr, Vec<Stmt>),
    Autoescape(Expr, Vec<Stmt>),
    Generation(Vec<Stmt>),
    /// Name, whether it sees the scope around it.
    Block(Arc<str>, bool),
    /// `include`, `extends`, `import`: there is no other template to read.
    Foreign(&'static str),
    Break,
    Continue,
}

/// A parsed template.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) body: Vec<Stmt>,
    pub(super) names: Vec<Arc<str>>,
    /// What a name means where nothing was assigned to it.
    pub(super) globals: Vec<Option<Function>>,
    pub(super) blocks: Vec<(Arc<str>, Vec<Stmt>)>,
}

/// Names that every template has: the captured text of a block, and the ones macros are given.
pub(super) const CAPTURED: Symbol = 0;
pub(super) const CALLER: Symbol = 1;
pub(super) const KWARGS: Symbol = 2;
pub(super) const VARARGS: Symbol = 3;
pub(super) const LOOP: Symbol = 4;
pub(super) const RESERVED: [&str; 5] = ["\0captured", "caller", "kwargs", "varargs", "loop"];
