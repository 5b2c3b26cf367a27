//! Expressions, the loosest operator first.

use crate::ast::*;
use crate::constant::evaluate;
use crate::error::{fail, Result};
use crate::lexer::Kind;
use crate::operators::{boxed, number};
use crate::parser::*;
use crate::types::*;

/// Binary operators by how close they bind, the loosest first.
const LEVELS: [&[(&str, Operator)]; 8] = [
    &[("|", Operator::BitOr)],
    &[("^", Operator::BitXor)],
    &[("&", Operator::BitAnd)],
    &[("==", Operator::Equal), ("!=", Operator::NotEqual)],
    &[("<=", Operator::LessEqual), (">=", Operator::LessEqual), ("<", Operator::Less), (">", Operator::Less)],
    &[("<<", Operator::ShiftLeft), (">>", Operator::ShiftRight)],
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[("*", Operator::Multiply), ("/", Operator::Divide), ("%", Operator::Remainder)],
];
//@2
const COMPOUND: [(&str, Operator); 10] = [
    ("+=", Operator::Add), ("-=", Operator::Subtract), ("*=", Operator::Multiply), ("/=", Operator::Divide),
    ("%=", Operator::Remainder), ("&=", Operator::BitAnd), ("|=", Operator::BitOr), ("^=", Operator::BitXor),
    ("<<=", Operator::ShiftLeft), (">>=", Operator::ShiftRight),
];
//@

impl<'a> Parser<'a> {
    pub fn expression(&mut self) -> Result<Expr> {
        let mut left = self.assignment()?;
        while self.accept(",") {
            let right = self.assignment()?;
            let (ty, line) = (right.ty.clone(), left.line);
            left = Expr { kind: ExprKind::Comma(Box::new(left), Box::new(right)), ty, line };
        }
        Ok(left)
    }

    /// A constant that is needed now.
    pub fn constant(&mut self) -> Result<i64> {
        let expr = self.conditional()?;
        match evaluate(&expr) {
            Some(value) => Ok(value),
            None => fail(expr.line, "this is no constant"),
        }
    }

    pub fn assignment(&mut self) -> Result<Expr> {
        let left = self.conditional()?;
//@2
        let line = self.line();
        if self.accept("=") {
            self.require_place(&left, line)?;
            let value = self.assignment()?;
            let value = self.converted(value, &left.ty)?;
            let ty = left.ty.clone();
            return Ok(Expr { kind: ExprKind::Assign(Box::new(left), Box::new(value)), ty, line });
        }
        for (text, operator) in COMPOUND {
            if self.accept(text) {
                let value = self.assignment()?;
                return self.compound(operator, left, value, line);
            }
        }
//@
        Ok(left)
    }

    fn conditional(&mut self) -> Result<Expr> {
        let condition = self.or()?;
        let line = self.line();
        if !self.accept("?") {
            return Ok(condition);
        }
        let condition = self.scalar(condition, line)?;
        let yes = self.expression()?;
        self.expect(":")?;
        let no = self.conditional()?;
        let (mut yes, mut no) = (self.rvalue(yes), self.rvalue(no));
        if yes.ty.is_integer() && no.ty.is_integer() {
            let ty = yes.ty.common(&no.ty);
            yes = self.converted(yes, &ty)?;
            no = self.converted(no, &ty)?;
        }
        let ty = if yes.ty.is_integer() { no.ty.clone() } else { yes.ty.clone() };
        let kind = ExprKind::Conditional(Box::new(condition), Box::new(yes), Box::new(no));
        Ok(Expr { kind, ty, line })
    }

    fn or(&mut self) -> Result<Expr> {
        let mut left = self.and()?;
        while self.peek("||") {
            let line = self.advance().line;
            let right = self.and()?;
            let (a, b) = (self.scalar(left, line)?, self.scalar(right, line)?);
            left = Expr { kind: ExprKind::Or(Box::new(a), Box::new(b)), ty: INT, line };
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr> {
        let mut left = self.level(0)?;
        while self.peek("&&") {
            let line = self.advance().line;
            let right = self.level(0)?;
            let (a, b) = (self.scalar(left, line)?, self.scalar(right, line)?);
            left = Expr { kind: ExprKind::And(Box::new(a), Box::new(b)), ty: INT, line };
        }
        Ok(left)
    }

    fn level(&mut self, depth: usize) -> Result<Expr> {
        let operators = match LEVELS.get(depth) {
            Some(operators) => operators,
            None => return self.unary(),
        };
        let mut left = self.level(depth + 1)?;
        while let Some((text, operator)) = operators.iter().find(|(text, _)| self.peek(text)) {
            let line = self.advance().line;
            let right = self.level(depth + 1)?;
            // a > b is b < a.
            let swap = text.starts_with('>') && *text != ">>";
            let (first, second) = if swap { (right, left) } else { (left, right) };
            left = self.binary(*operator, first, second, line)?;
        }
        Ok(left)
    }


    fn unary(&mut self) -> Result<Expr> {
        let line = self.line();
        for text in ["-", "+", "~", "!"] {
            if self.accept(text) {
                let of = self.unary()?;
                let of = self.scalar(of, line)?;
                if text == "!" {
                    return Ok(boxed(ExprKind::Not, of, INT));
                }
                let ty = of.ty.promoted();
                let of = self.converted(of, &ty)?;
                return Ok(match text {
                    "-" => boxed(ExprKind::Negate, of, ty),
                    "~" => boxed(ExprKind::Complement, of, ty),
                    _ => of,
                });
            }
        }
//@2
        for (text, operator) in [("++", Operator::Add), ("--", Operator::Subtract)] {
            if self.accept(text) {
                let target = self.unary()?;
                return self.compound(operator, target, number(1, INT, line), line);
            }
        }
//@
//@4
        if self.accept("*") {
            let of = self.unary()?;
            let of = self.rvalue(of);
            return self.dereference(of, line);
        }
        if self.accept("&") {
            let of = self.unary()?;
            if !matches!(of.kind, ExprKind::Local(_) | ExprKind::Global(_) | ExprKind::Dereference(_)) {
                return fail(line, "this has no address");
            }
            let ty = of.ty.clone().pointer();
            return Ok(boxed(ExprKind::Address, of, ty));
        }
        if self.accept("sizeof") {
            let ty = match self.type_name()? {
                Some(ty) => ty,
                None => self.unary()?.ty,
            };
            return Ok(number(ty.size() as i64, UNSIGNED_LONG, line));
        }
        if let Some(ty) = self.type_name()? {
            let of = self.unary()?;
            let of = self.rvalue(of);
            return Ok(boxed(ExprKind::Cast, of, ty));
        }
//@
        self.postfix()
    }
//@4

    /// A type in parentheses, if one is next.
    fn type_name(&mut self) -> Result<Option<Type>> {
        let at = self.position();
        if !self.accept("(") || !self.starts_type() {
            self.go_to(at);
            return Ok(None);
        }
        let specifiers = self.specifiers()?;
        let ty = self.declarator(specifiers.ty)?.ty;
        self.expect(")")?;
        Ok(Some(ty))
    }

//@

    fn postfix(&mut self) -> Result<Expr> {
        let mut expr = self.primary()?;
        loop {
            let line = self.line();
//@2
            if self.peek("++") || self.peek("--") {
                // What it was before: the new value, and the step back.
                let is_up = self.advance().text == "++";
                let (up, down) = (Operator::Add, Operator::Subtract);
                let (there, back) = if is_up { (up, down) } else { (down, up) };
                let ty = expr.ty.clone();
                let new = self.compound(there, expr, number(1, INT, line), line)?;
                let old = self.binary(back, new, number(1, INT, line), line)?;
                expr = boxed(ExprKind::Cast, old, ty);
                continue;
            }
//@
//@3
            if self.accept("(") {
                expr = self.call(expr, line)?;
                continue;
            }
//@
//@4
            if self.accept("[") {
                let index = self.expression()?;
                self.expect("]")?;
                let sum = self.binary(Operator::Add, expr, index, line)?;
                expr = self.dereference(sum, line)?;
                continue;
            }
//@
            let _ = line;
            return Ok(expr);
        }
    }
//@3

    fn call(&mut self, callee: Expr, line: usize) -> Result<Expr> {
        let signature = match &callee.ty {
            Type::Function(signature) => signature.clone(),
//@4
            Type::Pointer(to) => match &**to {
                Type::Function(signature) => signature.clone(),
                _ => return fail(line, "only a function can be called"),
            },
//@
            _ => return fail(line, "only a function can be called"),
        };
        let mut arguments = Vec::new();
        while !self.accept(")") {
            if !arguments.is_empty() {
                self.expect(",")?;
            }
            let argument = self.assignment()?;
            let argument = self.rvalue(argument);
            let ty = match signature.parameters.get(arguments.len()) {
                Some(ty) => ty.clone(),
                None => argument.ty.promoted(),
            };
            arguments.push(self.converted(argument, &ty)?);
        }
//@5
        let (given, wanted) = (arguments.len(), signature.parameters.len());
        if given < wanted || given > wanted && !signature.is_open {
            return fail(line, format!("{} arguments are given, and {} are wanted", given, wanted));
        }
//@
        let ty = signature.result.clone();
        Ok(Expr { kind: ExprKind::Call(Box::new(callee), arguments), ty, line })
    }
//@

    fn primary(&mut self) -> Result<Expr> {
        let token = self.token();
        let line = token.line;
        if let Kind::Number { value, size, signed } = token.kind {
            self.advance();
            return Ok(number(value, Type::Int { size, signed }, line));
        }
        if self.accept("(") {
            let expr = self.expression()?;
            self.expect(")")?;
            return Ok(expr);
        }
//@4
        if let Kind::Text(bytes) = &token.kind {
            self.advance();
            return Ok(self.text(bytes, line));
        }
//@
        if token.kind != Kind::Word {
            return fail(line, format!("expected an expression before '{}'", token.text));
        }
        let name = self.name()?;
//@2
        match self.find(&name).cloned() {
            Some(Symbol::Local { place, ty }) => return Ok(Expr { kind: ExprKind::Local(place), ty, line }),
//@3
            Some(Symbol::Global { label, ty, .. }) => return Ok(Expr { kind: ExprKind::Global(label), ty, line }),
//@
//@4
            Some(Symbol::Constant(value)) => return Ok(number(value, INT, line)),
            Some(Symbol::Type(_)) => return fail(line, format!("'{}' is a type", name)),
//@
            None => {}
        }
//@
        fail(line, format!("'{}' is not declared", name))
    }
//@4

    /// A string literal is a static array without a name.
    fn text(&mut self, bytes: &[u8], line: usize) -> Expr {
        let label = format!(".Lt{}", self.program.data.len());
        let ty = Type::Array(std::rc::Rc::new(CHAR), Some(bytes.len() + 1));
        let values = bytes.iter().chain(&[0]).enumerate().map(|(at, byte)| (at, 1, Value::Number(*byte as i64)));
        let data = data_of(&label, true, &ty, values.collect());
        self.program.data.push(data);
        Expr { kind: ExprKind::Global(label), ty, line }
    }
//@


}
