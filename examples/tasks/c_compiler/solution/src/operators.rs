//! What an operator means for the types of its operands, and conversions.

use crate::ast::*;
use crate::error::{fail, Result};
use crate::parser::*;
use crate::types::*;

pub fn boxed(kind: fn(Box<Expr>) -> ExprKind, of: Expr, ty: Type) -> Expr {
    let line = of.line;
    Expr { kind: kind(Box::new(of)), ty, line }
}

pub fn number(value: i64, ty: Type, line: usize) -> Expr {
    Expr { kind: ExprKind::Number(value), ty, line }
}

impl<'a> Parser<'a> {
//@2
    pub fn compound(&mut self, operator: Operator, target: Expr, value: Expr, line: usize) -> Result<Expr> {
        self.require_place(&target, line)?;
        let ty = target.ty.clone();
        let shifts = matches!(operator, Operator::ShiftLeft | Operator::ShiftRight);
        let computed = if shifts { ty.promoted() } else { ty.common(&value.ty) };
        let mut value = self.rvalue(value);
//@4
        if let Type::Pointer(element) = &ty {
            let size = number(element.size() as i64, LONG, line);
            value = self.binary(Operator::Multiply, value, size, line)?;
            value = boxed(ExprKind::Cast, value, LONG);
        } else {
            value = self.converted(value, &computed)?;
        }
//@
//@-4
        value = self.converted(value, &computed)?;
//@
        Ok(Expr { kind: ExprKind::Compound(operator, Box::new(target), Box::new(value)), ty, line })
    }

    /// Only what has a place can be assigned to.
    pub fn require_place(&self, expr: &Expr, line: usize) -> Result<()> {
        let has_place = match &expr.kind {
            ExprKind::Local(_) => true,
//@3
            ExprKind::Global(_) => !matches!(expr.ty, Type::Function(_)),
//@
//@4
            ExprKind::Dereference(_) => true,
//@
            _ => false,
        };
//@4
        let has_place = has_place && !matches!(expr.ty, Type::Array(..));
//@
        if has_place { Ok(()) } else { fail(line, "this can't be assigned to") }
    }
//@

    pub fn binary(&mut self, operator: Operator, left: Expr, right: Expr, line: usize) -> Result<Expr> {
        let (left, right) = (self.rvalue(left), self.rvalue(right));
        let compares =
            matches!(operator, Operator::Equal | Operator::NotEqual | Operator::Less | Operator::LessEqual);
//@4
        if left.ty.element().is_some() || right.ty.element().is_some() {
            return self.pointer_binary(operator, left, right, line);
        }
//@
        if !left.ty.is_integer() || !right.ty.is_integer() {
            return fail(line, "this operator needs numbers");
        }
        let shifts = matches!(operator, Operator::ShiftLeft | Operator::ShiftRight);
        let common = if shifts { left.ty.promoted() } else { left.ty.common(&right.ty) };
        let left = self.converted(left, &common)?;
        let right = if shifts { right } else { self.converted(right, &common)? };
        let ty = if compares { INT } else { common };
        Ok(Expr { kind: ExprKind::Binary(operator, Box::new(left), Box::new(right)), ty, line })
    }
//@4

    fn pointer_binary(&mut self, operator: Operator, left: Expr, right: Expr, line: usize) -> Result<Expr> {
        let sizes = (left.ty.element().map(Type::size), right.ty.element().map(Type::size));
        let made = |operator, a: Expr, b: Expr, ty| {
            let kind = ExprKind::Binary(operator, Box::new(a), Box::new(b));
            Expr { kind, ty, line }
        };
        match (operator, sizes) {
            (Operator::Equal | Operator::NotEqual | Operator::Less | Operator::LessEqual, _) => {
                let (a, b) = (boxed(ExprKind::Cast, left, UNSIGNED_LONG), boxed(ExprKind::Cast, right, UNSIGNED_LONG));
                Ok(made(operator, a, b, INT))
            }
            (Operator::Subtract, (Some(size), Some(_))) => {
                let (a, b) = (boxed(ExprKind::Cast, left, LONG), boxed(ExprKind::Cast, right, LONG));
                let bytes = made(Operator::Subtract, a, b, LONG);
                Ok(made(Operator::Divide, bytes, number(size as i64, LONG, line), LONG))
            }
            (Operator::Add | Operator::Subtract, (Some(size), None)) => {
                let ty = left.ty.clone();
                let by = self.converted(right, &LONG)?;
                let by = made(Operator::Multiply, by, number(size as i64, LONG, line), LONG);
                Ok(made(operator, left, by, ty))
            }
            (Operator::Add, (None, Some(_))) => self.pointer_binary(operator, right, left, line),
            _ => fail(line, "this operator is not for pointers"),
        }
    }
//@
//@4
    pub fn dereference(&mut self, pointer: Expr, line: usize) -> Result<Expr> {
        match pointer.ty.element().cloned() {
            Some(Type::Function(_)) => Ok(pointer),
            Some(ty) if ty != Type::Void => Ok(boxed(ExprKind::Dereference, pointer, ty)),
            _ => fail(line, "only a pointer can be dereferenced"),
        }
    }
//@

    /// An array or a function as the pointer that it is when its value is asked for.
    pub fn rvalue(&mut self, expr: Expr) -> Expr {
//@4
        match &expr.ty {
            Type::Array(element, _) => {
                let ty = Type::Pointer(element.clone());
                return boxed(ExprKind::Address, expr, ty);
            }
            Type::Function(_) => {
                let ty = expr.ty.clone().pointer();
                return boxed(ExprKind::Address, expr, ty);
            }
            _ => {}
        }
//@
        expr
    }

    /// The value in another type.
    pub fn converted(&mut self, expr: Expr, ty: &Type) -> Result<Expr> {
        let expr = self.rvalue(expr);
//@5
        if expr.ty == Type::Void && *ty != Type::Void {
            return fail(expr.line, "a void value is used");
        }
//@
        if expr.ty == *ty {
            return Ok(expr);
        }
        Ok(boxed(ExprKind::Cast, expr, ty.clone()))
    }

    /// The value, which must be one that can be tested.
    pub fn scalar(&mut self, expr: Expr, line: usize) -> Result<Expr> {
        let expr = self.rvalue(expr);
        if expr.ty.is_scalar() {
            return Ok(expr);
        }
        fail(line, "a number or a pointer is needed here")
    }
}
