//! Statements, and declarations within them.

use std::collections::HashMap;

use crate::ast::*;
use crate::error::{fail, Result};
use crate::lexer::Kind;
use crate::parser::*;
use crate::types::*;

impl<'a> Parser<'a> {
    /// Up to the closing brace.
    pub fn statements(&mut self) -> Result<Vec<Stmt>> {
        let mut found = Vec::new();
        while !self.accept("}") {
            if self.token().kind == Kind::End {
                return fail(self.line(), "expected '}' before the end of the file");
            }
            if self.starts_type() && !self.is_label() {
                self.declaration(&mut found)?;
            } else {
                found.push(self.statement()?);
            }
        }
        Ok(found)
    }

    fn is_label(&mut self) -> bool {
        let at = self.position();
        let is_word = self.advance().kind == Kind::Word;
        let found = is_word && self.peek(":");
        self.go_to(at);
        found
    }

    fn block(&mut self) -> Result<Stmt> {
        self.scopes.push(HashMap::new());
        let body = self.statements();
        self.scopes.pop();
        Ok(Stmt::Block(body?))
    }

    fn declaration(&mut self, out: &mut Vec<Stmt>) -> Result<()> {
        let specifiers = self.specifiers()?;
        if self.accept(";") {
            return Ok(());
        }
        loop {
            let line = self.line();
            let declared = self.declarator(specifiers.ty.clone())?;
            self.local(&specifiers, declared, line, out)?;
            if !self.accept(",") {
                return self.expect(";");
            }
        }
    }

    fn local(&mut self, specifiers: &Specifiers, declared: Declared, line: usize, out: &mut Vec<Stmt>) -> Result<()> {
        let Declared { name, mut ty, .. } = declared;
//@4
        if specifiers.is_typedef {
            return self.declare(&name, Symbol::Type(ty), line);
        }
//@
//@3
        if specifiers.is_extern || matches!(ty, Type::Function(_)) {
            self.declare_global(&name, &ty, false, line)?;
            return self.declare(&name, Symbol::Global { label: name.clone(), ty, is_defined: false }, line);
        }
        if specifiers.is_static {
            let label = format!("{}.{}", name, self.new_label());
            let values = if self.accept("=") { self.static_values(&mut ty)? } else { Vec::new() };
            self.program.data.push(data_of(&label, true, &ty, values));
            return self.declare(&name, Symbol::Global { label, ty, is_defined: true }, line);
        }
//@
        let _ = specifiers;
//@5
        if ty == Type::Void {
            return fail(line, format!("'{}' is declared void", name));
        }
//@
//@4
        if let Type::Array(element, None) = &ty {
            // Its length is known only after its initialiser, in which its name can't be used yet.
            let mut whole = Type::Array(element.clone(), None);
            let at = self.position();
            self.expect("=")?;
            self.initialiser(&mut whole)?;
            self.go_to(at);
            ty = whole;
        }
//@
        let place = self.place(&ty);
        self.declare(&name, Symbol::Local { place, ty: ty.clone() }, line)?;
        if self.accept("=") {
//@4
            if matches!(ty, Type::Array(..)) {
                out.push(Stmt::Clear(place, ty.size()));
            }
//@
            for (offset, ty, value) in self.initialiser(&mut ty)? {
                let target = Expr { kind: ExprKind::Local(place - offset), ty: ty.clone(), line };
                let kind = ExprKind::Assign(Box::new(target), Box::new(value));
                out.push(Stmt::Expr(Expr { kind, ty, line }));
            }
        }
        Ok(())
    }

    fn statement(&mut self) -> Result<Stmt> {
        let token = self.token();
        let line = token.line;
        if token.kind == Kind::Word && self.is_label() && token.text != "default" {
            return self.named_label();
        }
        match token.text.as_str() {
            "{" => {
                self.advance();
                return self.block();
            }
            ";" => {
                self.advance();
                return Ok(Stmt::Block(Vec::new()));
            }
            "return" => {
                self.advance();
                return self.return_statement();
            }
            "if" => {
                self.advance();
                let condition = self.condition()?;
                let then = Box::new(self.statement()?);
                let otherwise = if self.accept("else") { Some(Box::new(self.statement()?)) } else { None };
                return Ok(Stmt::If(condition, then, otherwise));
            }
            "while" => {
                self.advance();
                let condition = Some(self.condition()?);
                return self.loop_statement(condition, None);
            }
            "do" => {
                self.advance();
                return self.do_statement();
            }
            "for" => {
                self.advance();
                self.scopes.push(HashMap::new());
                let stmt = self.for_statement();
                self.scopes.pop();
                return stmt;
            }
            "switch" => {
                self.advance();
                return self.switch_statement();
            }
            "case" | "default" => {
                self.advance();
                return self.case(token.text == "case", line);
            }
            "goto" => {
                self.advance();
                let name = self.name()?;
                let label = self.label_named(&name, line, false);
                self.expect(";")?;
                return Ok(Stmt::Jump(label));
            }
            word @ ("break" | "continue") => {
                self.advance();
                let targets = if word == "break" { &self.breaks } else { &self.continues };
                let target = match targets.last() {
                    Some(target) => *target,
                    None => return fail(line, format!("'{}' outside of a loop", word)),
                };
                self.expect(";")?;
                return Ok(Stmt::Jump(target));
            }
            _ => {}
        }
        let expr = self.expression()?;
        self.expect(";")?;
        Ok(Stmt::Expr(expr))
    }

    fn return_statement(&mut self) -> Result<Stmt> {
        if self.accept(";") {
            return Ok(Stmt::Return(None));
        }
        let value = self.expression()?;
        let result = self.result.clone().unwrap();
        let value = self.converted(value, &result)?;
        self.expect(";")?;
        Ok(Stmt::Return(Some(value)))
    }

    fn condition(&mut self) -> Result<Expr> {
        self.expect("(")?;
        let line = self.line();
        let expr = self.expression()?;
        self.expect(")")?;
        self.scalar(expr, line)
    }

    /// The body of a loop whose head was read.
    fn loop_statement(&mut self, condition: Option<Expr>, step: Option<Expr>) -> Result<Stmt> {
        let (next, end) = (self.new_label(), self.new_label());
        let body = self.body(next, end)?;
        Ok(Stmt::Loop { condition, step, body: Box::new(body), tests_last: false, next, end })
    }

    fn body(&mut self, next: Label, end: Label) -> Result<Stmt> {
        self.breaks.push(end);
        self.continues.push(next);
        let body = self.statement();
        self.breaks.pop();
        self.continues.pop();
        body
    }

    fn do_statement(&mut self) -> Result<Stmt> {
        let (next, end) = (self.new_label(), self.new_label());
        let body = Box::new(self.body(next, end)?);
        self.expect("while")?;
        let condition = Some(self.condition()?);
        self.expect(";")?;
        Ok(Stmt::Loop { condition, step: None, body, tests_last: true, next, end })
    }

    fn for_statement(&mut self) -> Result<Stmt> {
        let mut parts = Vec::new();
        self.expect("(")?;
        if self.starts_type() {
            self.declaration(&mut parts)?;
        } else if !self.accept(";") {
            parts.push(Stmt::Expr(self.expression()?));
            self.expect(";")?;
        }
        let condition = if self.peek(";") { None } else { Some(self.expression()?) };
        self.expect(";")?;
        let step = if self.peek(")") { None } else { Some(self.expression()?) };
        self.expect(")")?;
        parts.push(self.loop_statement(condition, step)?);
        Ok(Stmt::Block(parts))
    }

    fn switch_statement(&mut self) -> Result<Stmt> {
        let value = self.condition()?;
        let promoted = value.ty.promoted();
        let value = self.converted(value, &promoted)?;
        let end = self.new_label();
        self.breaks.push(end);
        self.switches.push((Vec::new(), None));
        let body = self.statement();
        self.breaks.pop();
        let (cases, default) = self.switches.pop().unwrap();
        Ok(Stmt::Switch { value, cases, default, body: Box::new(body?), end })
    }

    fn case(&mut self, has_value: bool, line: usize) -> Result<Stmt> {
        let value = if has_value { Some(self.constant()?) } else { None };
        self.expect(":")?;
        let label = self.new_label();
        let (cases, default) = match self.switches.last_mut() {
            Some(switch) => switch,
            None => return fail(line, "'case' outside of a switch"),
        };
        match value {
//@5
            Some(value) if cases.iter().any(|(other, _)| *other == value) => {
                return fail(line, format!("the case {} stands twice", value));
            }
//@
            Some(value) => cases.push((value, label)),
            None => *default = Some(label),
        }
        Ok(Stmt::Block(vec![Stmt::Label(label), self.statement()?]))
    }

    fn named_label(&mut self) -> Result<Stmt> {
        let line = self.line();
        let name = self.name()?;
        self.expect(":")?;
        let label = self.label_named(&name, line, true);
        Ok(Stmt::Block(vec![Stmt::Label(label), self.statement()?]))
    }

    fn label_named(&mut self, name: &str, line: usize, stands: bool) -> Label {
        let new = self.new_label();
        let known = self.named.entry(name.into()).or_insert((new, line, false));
        known.2 |= stands;
        known.0
    }
}
