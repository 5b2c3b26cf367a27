//! What is known before the program runs.

use crate::ast::*;
use crate::types::*;

/// The value of an expression that has one before the program runs.
pub fn evaluate(expr: &Expr) -> Option<i64> {
    let value = match &expr.kind {
        ExprKind::Number(value) => *value,
        ExprKind::Cast(of) => evaluate(of)?,
        ExprKind::Negate(of) => evaluate(of)?.wrapping_neg(),
        ExprKind::Complement(of) => !evaluate(of)?,
        ExprKind::Not(of) => (evaluate(of)? == 0) as i64,
        ExprKind::And(a, b) => (evaluate(a)? != 0 && evaluate(b)? != 0) as i64,
        ExprKind::Or(a, b) => (evaluate(a)? != 0 || evaluate(b)? != 0) as i64,
        ExprKind::Conditional(condition, yes, no) => evaluate(if evaluate(condition)? != 0 { yes } else { no })?,
        ExprKind::Binary(operator, left, right) => {
            let (a, b) = (evaluate(left)?, evaluate(right)?);
            let signed = left.ty.is_signed();
            let less = if signed { a < b } else { (a as u64) < b as u64 };
            match operator {
                Operator::Add => a.wrapping_add(b),
                Operator::Subtract => a.wrapping_sub(b),
                Operator::Multiply => a.wrapping_mul(b),
                Operator::Divide if signed => a.checked_div(b)?,
                Operator::Divide => (a as u64).checked_div(b as u64)? as i64,
                Operator::Remainder if signed => a.checked_rem(b)?,
                Operator::Remainder => (a as u64).checked_rem(b as u64)? as i64,
                Operator::BitAnd => a & b,
                Operator::BitOr => a | b,
                Operator::BitXor => a ^ b,
                Operator::ShiftLeft => a.wrapping_shl(b as u32),
                Operator::ShiftRight if signed => a.wrapping_shr(b as u32),
                Operator::ShiftRight => (a as u64).wrapping_shr(b as u32) as i64,
                Operator::Equal => (a == b) as i64,
                Operator::NotEqual => (a != b) as i64,
                Operator::Less => less as i64,
                Operator::LessEqual => (less || a == b) as i64,
            }
        }
        _ => return None,
    };
    Some(match expr.ty {
        Type::Int { size: 1, signed: true } => value as i8 as i64,
        Type::Int { size: 1, signed: false } => value as u8 as i64,
        Type::Int { size: 2, signed: true } => value as i16 as i64,
        Type::Int { size: 2, signed: false } => value as u16 as i64,
        Type::Int { size: 4, signed: true } => value as i32 as i64,
        Type::Int { size: 4, signed: false } => value as u32 as i64,
        _ => value,
    })
}
