//! A program as a tree in which every expression has its type and every name is resolved.

use crate::types::Type;

#[derive(Clone, Debug)]
pub struct Expr {
    pub kind: ExprKind,
    pub ty: Type,
    pub line: usize,
}

#[derive(Clone, Debug)]
pub enum ExprKind {
    Number(i64),
//@2
    /// A variable, by its place below the frame's base.
    Local(usize),
    Assign(Box<Expr>, Box<Expr>),
    /// `target op= value`, computed in the value's type.
    Compound(Operator, Box<Expr>, Box<Expr>),
//@
//@3
    /// A variable, function or string, by its label.
    Global(String),
    Call(Box<Expr>, Vec<Expr>),
//@
//@4
    Address(Box<Expr>),
    Dereference(Box<Expr>),
//@
    /// To the expression's own type.
    Cast(Box<Expr>),
    Negate(Box<Expr>),
    Complement(Box<Expr>),
    Not(Box<Expr>),
    /// Both sides are of one type; shifts apart.
    Binary(Operator, Box<Expr>, Box<Expr>),
    And(Box<Expr>, Box<Expr>),
    Or(Box<Expr>, Box<Expr>),
    Conditional(Box<Expr>, Box<Expr>, Box<Expr>),
    Comma(Box<Expr>, Box<Expr>),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    BitAnd,
    BitOr,
    BitXor,
    ShiftLeft,
    ShiftRight,
    Equal,
    NotEqual,
    Less,
    LessEqual,
}

/// A place in the code; unique in its file.
pub type Label = usize;

#[derive(Debug)]
pub enum Stmt {
    Return(Option<Expr>),
//@2
    Expr(Expr),
    Block(Vec<Stmt>),
    If(Expr, Box<Stmt>, Option<Box<Stmt>>),
    /// Any loop: its condition is tested first unless `tests_last`; `step` runs before each further test.
    Loop { condition: Option<Expr>, step: Option<Expr>, body: Box<Stmt>, tests_last: bool, next: Label, end: Label },
    Switch { value: Expr, cases: Vec<(i64, Label)>, default: Option<Label>, body: Box<Stmt>, end: Label },
    Label(Label),
    Jump(Label),
//@
//@4
    /// Zero bytes from a place below the frame's base.
    Clear(usize, usize),
//@
}

#[derive(Debug)]
pub struct Function {
    pub name: String,
    pub is_static: bool,
    pub body: Vec<Stmt>,
//@2
    pub frame_size: usize,
//@
//@3
    /// Where each parameter lives, and its type.
    pub parameters: Vec<(usize, Type)>,
//@
}
//@3

/// A variable with static storage.
#[derive(Debug)]
pub struct Data {
    pub label: String,
    pub is_static: bool,
    pub size: usize,
    pub align: usize,
    /// By offset; what is not named is zero.
    pub values: Vec<(usize, usize, Value)>,
}

#[derive(Clone, Debug)]
pub enum Value {
    Number(i64),
//@4
    /// A label, and what is added to it.
    Address(String, i64),
//@
}
//@

#[derive(Default, Debug)]
pub struct Program {
    pub functions: Vec<Function>,
//@3
    pub data: Vec<Data>,
//@
}
