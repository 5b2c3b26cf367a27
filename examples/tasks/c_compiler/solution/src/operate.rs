//! The machine's instructions for each operator.

use crate::ast::Operator;
use crate::codegen::Generator;
use crate::types::Type;

impl Generator {
    /// rax = rax operator rcx, both of this type.
    pub fn operate(&mut self, operator: Operator, ty: &Type) {
        let (a, c, d) = if ty.size() == 8 { ("rax", "rcx", "rdx") } else { ("eax", "ecx", "edx") };
        let signed = ty.is_signed();
        match operator {
            Operator::Add => self.line(&format!("add %{}, %{}", c, a)),
            Operator::Subtract => self.line(&format!("sub %{}, %{}", c, a)),
            Operator::Multiply => self.line(&format!("imul %{}, %{}", c, a)),
            Operator::BitAnd => self.line(&format!("and %{}, %{}", c, a)),
            Operator::BitOr => self.line(&format!("or %{}, %{}", c, a)),
            Operator::BitXor => self.line(&format!("xor %{}, %{}", c, a)),
            Operator::ShiftLeft => self.line(&format!("shl %cl, %{}", a)),
            Operator::ShiftRight => self.line(&format!("{} %cl, %{}", if signed { "sar" } else { "shr" }, a)),
            Operator::Divide | Operator::Remainder => {
                match (signed, ty.size()) {
                    (true, 8) => self.line("cqto"),
                    (true, _) => self.line("cltd"),
                    _ => self.line("xor %edx, %edx"),
                }
                self.line(&format!("{} %{}", if signed { "idiv" } else { "div" }, c));
                if operator == Operator::Remainder {
                    self.line(&format!("mov %{}, %{}", d, a));
                }
            }
            _ => {
                let condition = match (operator, signed) {
                    (Operator::Equal, _) => "e",
                    (Operator::NotEqual, _) => "ne",
                    (Operator::Less, true) => "l",
                    (Operator::Less, false) => "b",
                    (_, true) => "le",
                    (_, false) => "be",
                };
                self.line(&format!("cmp %{}, %{}\nset{} %al\nmovzbl %al, %eax", c, a, condition));
                return;
            }
        }
        self.widen(ty);
    }
}
