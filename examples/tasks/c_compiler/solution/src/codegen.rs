//! The tree to assembly, as for a machine with a stack: every expression leaves its value in rax.
//!
//! A value in rax is always widened to 64 bits as its type says.

use crate::ast::*;
use crate::types::Type;

//@3
const REGISTERS: [&str; 6] = ["rdi", "rsi", "rdx", "rcx", "r8", "r9"];
//@

#[derive(Default)]
pub struct Generator {
    out: String,
    /// Values on the stack now: a call needs an even number.
    depth: usize,
    labels: usize,
}

pub fn generate(program: &Program) -> String {
    let mut generator = Generator::default();
//@3
    for data in &program.data {
        generator.data(data);
    }
//@
    generator.line(".text");
    for function in &program.functions {
        generator.function(function);
    }
    generator.line(".section .note.GNU-stack,\"\",@progbits");
    generator.out
}

impl Generator {
    pub fn line(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    fn new_label(&mut self) -> String {
        self.labels += 1;
        format!(".Lg{}", self.labels)
    }

    fn push(&mut self) {
        self.line("push %rax");
        self.depth += 1;
    }

    fn pop(&mut self, register: &str) {
        self.line(&format!("pop %{}", register));
        self.depth -= 1;
    }
//@3

    fn data(&mut self, data: &Data) {
        self.line(if data.values.is_empty() { ".bss" } else { ".data" });
        if !data.is_static {
            self.line(&format!(".globl {}", data.label));
        }
        self.line(&format!(".balign {}\n{}:", data.align, data.label));
        let mut at = 0;
        for (offset, size, value) in &data.values {
            if *offset > at {
                self.line(&format!(".zero {}", offset - at));
            }
            let directive = match size {
                1 => ".byte",
                2 => ".short",
                4 => ".long",
                _ => ".quad",
            };
            match value {
                Value::Number(number) => {
                    let bits = *number as u64 & (u64::MAX >> (64 - size * 8));
                    self.line(&format!("{} {}", directive, bits));
                }
//@4
                Value::Address(label, added) => self.line(&format!("{} {}+{}", directive, label, added)),
//@
            }
            at = offset + size;
        }
        if data.size > at {
            self.line(&format!(".zero {}", data.size - at));
        }
    }
//@

    fn function(&mut self, function: &Function) {
        if !function.is_static {
            self.line(&format!(".globl {}", function.name));
        }
        self.line(&format!("{}:\npush %rbp\nmov %rsp, %rbp", function.name));
//@2
        self.line(&format!("sub ${}, %rsp", (function.frame_size + 15) / 16 * 16));
//@
//@3
        // rcx, which carries the fourth argument, is needed below.
        self.line("mov %rcx, %r10");
        for (number, (place, ty)) in function.parameters.iter().enumerate() {
            match REGISTERS.get(number) {
                Some(&"rcx") => self.line("mov %r10, %rcx"),
                Some(register) => self.line(&format!("mov %{}, %rcx", register)),
                None => self.line(&format!("mov {}(%rbp), %rcx", 8 * (number - REGISTERS.len()) + 16)),
            }
            self.line(&format!("lea -{}(%rbp), %rax", place));
            self.store(ty);
        }
//@
        for stmt in &function.body {
            self.stmt(stmt);
        }
        self.line("xor %eax, %eax\nleave\nret");
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::Return(value) => {
                if let Some(value) = value {
                    self.value(value);
                }
                self.line("leave\nret");
            }
//@2
            Stmt::Expr(expr) => self.value(expr),
            Stmt::Block(stmts) => stmts.iter().for_each(|stmt| self.stmt(stmt)),
            Stmt::If(condition, then, otherwise) => {
                let (no, end) = (self.new_label(), self.new_label());
                self.jump_if_zero(condition, &no);
                self.stmt(then);
                self.line(&format!("jmp {}\n{}:", end, no));
                if let Some(otherwise) = otherwise {
                    self.stmt(otherwise);
                }
                self.line(&format!("{}:", end));
            }
            Stmt::Loop { condition, step, body, tests_last, next, end } => {
                let (again, test) = (self.new_label(), self.new_label());
                if !tests_last {
                    self.line(&format!("jmp {}", test));
                }
                self.line(&format!("{}:", again));
                self.stmt(body);
                self.line(&format!(".L{}:", next));
                if let Some(step) = step {
                    self.value(step);
                }
                self.line(&format!("{}:", test));
                if let Some(condition) = condition {
                    self.jump_if_zero(condition, &format!(".L{}", end));
                }
                self.line(&format!("jmp {}\n.L{}:", again, end));
            }
            Stmt::Switch { value, cases, default, body, end } => {
                self.value(value);
                for (case, label) in cases {
                    self.line(&format!("mov ${}, %rcx\ncmp %rcx, %rax\nje .L{}", case, label));
                }
                self.line(&format!("jmp .L{}", default.unwrap_or(*end)));
                self.stmt(body);
                self.line(&format!(".L{}:", end));
            }
            Stmt::Label(label) => self.line(&format!(".L{}:", label)),
            Stmt::Jump(label) => self.line(&format!("jmp .L{}", label)),
//@
//@4
            Stmt::Clear(place, size) => {
                self.line(&format!("lea -{}(%rbp), %rdi\nmov ${}, %rcx\nxor %eax, %eax\nrep stosb", place, size));
            }
//@
        }
    }

    fn jump_if_zero(&mut self, condition: &Expr, label: &str) {
        self.value(condition);
        self.line(&format!("test %rax, %rax\njz {}", label));
    }

    /// Widen what is in rax.
    pub fn widen(&mut self, ty: &Type) {
        let text = match ty {
            Type::Int { size: 1, signed: true } => "movsbq %al, %rax",
            Type::Int { size: 1, signed: false } => "movzbl %al, %eax",
            Type::Int { size: 2, signed: true } => "movswq %ax, %rax",
            Type::Int { size: 2, signed: false } => "movzwl %ax, %eax",
            Type::Int { size: 4, signed: true } => "cltq",
            Type::Int { size: 4, signed: false } => "mov %eax, %eax",
            _ => return,
        };
        self.line(text);
    }
//@2

    /// From the address in rax to the value in rax.
    fn load(&mut self, ty: &Type) {
        let text = match ty {
            Type::Int { size: 1, signed: true } => "movsbq (%rax), %rax",
            Type::Int { size: 1, signed: false } => "movzbl (%rax), %eax",
            Type::Int { size: 2, signed: true } => "movswq (%rax), %rax",
            Type::Int { size: 2, signed: false } => "movzwl (%rax), %eax",
            Type::Int { size: 4, signed: true } => "movslq (%rax), %rax",
            Type::Int { size: 4, signed: false } => "mov (%rax), %eax",
//@3
            Type::Function(_) => return,
//@
//@4
            // The value of an array is where it is.
            Type::Array(..) => return,
//@
            _ => "mov (%rax), %rax",
        };
        self.line(text);
    }

    /// The value in rcx to the address in rax.
    fn store(&mut self, ty: &Type) {
        let register = match ty.size() {
            1 => "cl",
            2 => "cx",
            4 => "ecx",
            _ => "rcx",
        };
        self.line(&format!("mov %{}, (%rax)", register));
    }

    fn address(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Local(place) => self.line(&format!("lea -{}(%rbp), %rax", place)),
//@3
            ExprKind::Global(label) => self.line(&format!("lea {}(%rip), %rax", label)),
//@
//@4
            ExprKind::Dereference(pointer) => self.value(pointer),
//@
            _ => unreachable!("the parser lets only what has a place be asked for it"),
        }
    }
//@

    fn value(&mut self, expr: &Expr) {
        match &expr.kind {
            ExprKind::Number(number) => self.line(&format!("mov ${}, %rax", number)),
//@2
            ExprKind::Local(_) => {
                self.address(expr);
                self.load(&expr.ty);
            }
            ExprKind::Assign(target, value) => {
                self.value(value);
                self.push();
                self.address(target);
                self.pop("rcx");
                self.store(&target.ty);
                self.line("mov %rcx, %rax");
            }
            ExprKind::Compound(operator, target, value) => {
                self.value(value);
                self.push();
                self.address(target);
                self.push();
                self.load(&target.ty);
                self.widen(&value.ty);
                self.line("mov 8(%rsp), %rcx");
                self.operate(*operator, &value.ty);
                self.widen(&target.ty);
                self.line("mov %rax, %rcx");
                self.pop("rax");
                self.store(&target.ty);
                self.line("mov %rcx, %rax\nadd $8, %rsp");
                self.depth -= 1;
            }
//@
//@3
            ExprKind::Global(_) => {
                self.address(expr);
                self.load(&expr.ty);
            }
            ExprKind::Call(callee, arguments) => self.call(callee, arguments, &expr.ty),
//@
//@4
            ExprKind::Dereference(_) => {
                self.address(expr);
                self.load(&expr.ty);
            }
            ExprKind::Address(target) => self.address(target),
//@
            ExprKind::Cast(value) => {
                self.value(value);
                self.widen(&expr.ty);
            }
            ExprKind::Negate(value) => {
                self.value(value);
                self.line("neg %rax");
                self.widen(&expr.ty);
            }
            ExprKind::Complement(value) => {
                self.value(value);
                self.line("not %rax");
                self.widen(&expr.ty);
            }
            ExprKind::Not(value) => {
                self.value(value);
                self.line("test %rax, %rax\nsetz %al\nmovzbl %al, %eax");
            }
            ExprKind::Binary(operator, left, right) => {
                self.value(right);
                self.push();
                self.value(left);
                self.pop("rcx");
                self.operate(*operator, &left.ty);
            }
            ExprKind::And(left, right) => self.logical(left, right, "jz", 0),
            ExprKind::Or(left, right) => self.logical(left, right, "jnz", 1),
            ExprKind::Conditional(condition, yes, no) => {
                let (other, end) = (self.new_label(), self.new_label());
                self.jump_if_zero(condition, &other);
                self.value(yes);
                self.line(&format!("jmp {}\n{}:", end, other));
                self.value(no);
                self.line(&format!("{}:", end));
            }
            ExprKind::Comma(left, right) => {
                self.value(left);
                self.value(right);
            }
        }
    }

    fn logical(&mut self, left: &Expr, right: &Expr, jump: &str, decided: i64) {
        let (short, end) = (self.new_label(), self.new_label());
        self.value(left);
        self.line(&format!("test %rax, %rax\n{} {}", jump, short));
        self.value(right);
        self.line(&format!("test %rax, %rax\n{} {}", jump, short));
        self.line(&format!("mov ${}, %eax\njmp {}\n{}:\nmov ${}, %eax\n{}:", 1 - decided, end, short, decided, end));
    }
//@3

    fn call(&mut self, callee: &Expr, arguments: &[Expr], result: &Type) {
        let on_stack = arguments.len().saturating_sub(REGISTERS.len());
        let pad = (self.depth + on_stack) % 2;
        if pad == 1 {
            self.line("sub $8, %rsp");
        }
        self.depth += pad;
        for argument in arguments.iter().rev() {
            self.value(argument);
            self.push();
        }
        let name = match &callee.kind {
            ExprKind::Global(name) if matches!(callee.ty, Type::Function(_)) => name.clone(),
            _ => {
                self.value(callee);
                self.line("mov %rax, %r10");
                "*%r10".into()
            }
        };
        for register in REGISTERS.iter().take(arguments.len()) {
            self.pop(register);
        }
        // al: no argument is in a vector register, which a variadic function asks for.
        self.line(&format!("xor %eax, %eax\ncall {}", name));
        if on_stack + pad > 0 {
            self.line(&format!("add ${}, %rsp", 8 * (on_stack + pad)));
        }
        self.depth -= on_stack + pad;
        self.widen(result);
    }
//@
}
