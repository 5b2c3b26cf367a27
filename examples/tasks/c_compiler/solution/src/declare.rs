//! Types as they are written, and initialisers.

use std::rc::Rc;

//@2
use crate::ast::*;
//@
use crate::error::{fail, Result};
//@4
use crate::lexer::Kind;
//@
use crate::parser::*;
use crate::types::*;

impl<'a> Parser<'a> {
    pub fn starts_type(&self) -> bool {
        const WORDS: [&str; 15] = [
            "int", "void", "char", "short", "long", "unsigned", "signed", "const", "volatile", "static", "extern",
            "typedef", "enum", "register", "inline",
        ];
        let text = self.token().text.as_str();
//@4
        if matches!(self.find(text), Some(Symbol::Type(_))) {
            return true;
        }
//@
        WORDS.contains(&text)
    }

    pub fn specifiers(&mut self) -> Result<Specifiers> {
        let mut found = Specifiers { ty: INT, is_static: false, is_extern: false, is_typedef: false };
        let line = self.line();
//@4
        let (mut size, mut signed) = (4, true);
//@
        let mut is_named = false;
        loop {
            let word = self.token().text.as_str();
            match word {
                "int" => is_named = true,
                "void" => {
                    found.ty = Type::Void;
                    is_named = true;
                }
                "static" => found.is_static = true,
                "extern" => found.is_extern = true,
//@4
                "char" | "short" | "long" | "unsigned" | "signed" => {
                    match word {
                        "char" => size = 1,
                        "short" => size = 2,
                        "long" => size = 8,
                        _ => signed = word == "signed",
                    }
                    found.ty = Type::Int { size, signed };
                    is_named = true;
                }
                "const" | "volatile" | "register" | "inline" => {}
                "typedef" => found.is_typedef = true,
                "enum" => {
                    self.advance();
                    self.enumeration()?;
                    is_named = true;
                    continue;
                }
                _ if !is_named => match self.find(word) {
                    Some(Symbol::Type(ty)) => {
                        found.ty = ty.clone();
                        is_named = true;
                    }
                    _ => break,
                },
//@
                _ => break,
            }
            self.advance();
        }
        if !is_named {
            return fail(line, format!("expected a declaration before '{}'", self.token().text));
        }
        Ok(found)
    }
//@4

    /// `enum NAME { ... }`: its names are constants, and its type is int.
    fn enumeration(&mut self) -> Result<()> {
        if self.token().kind == Kind::Word {
            self.advance();
        }
        if !self.accept("{") {
            return Ok(());
        }
        let mut value = 0;
        while !self.accept("}") {
            let line = self.line();
            let name = self.name()?;
            if self.accept("=") {
                value = self.constant()?;
            }
            self.declare(&name, Symbol::Constant(value), line)?;
            value += 1;
            if !self.accept(",") && !self.peek("}") {
                return fail(self.line(), "expected ',' or '}'");
            }
        }
        Ok(())
    }
//@

    /// A name with what makes another type of the one before it. In a type name the name is missing.
    pub fn declarator(&mut self, base: Type) -> Result<Declared> {
        let mut ty = base;
//@4
        while self.accept("*") {
            ty = ty.pointer();
            while self.accept("const") || self.accept("volatile") || self.accept("restrict") {}
        }
        if self.peek("(") && !self.is_parameters() {
            // What is within applies to what follows: so that is read first.
            self.advance();
            let inner = self.position();
            self.declarator(INT)?;
            self.expect(")")?;
            let outer = self.suffixes(ty)?;
            let end = self.position();
            self.go_to(inner);
            let mut declared = self.declarator(outer.ty)?;
            self.go_to(end);
            if declared.parameters.is_empty() {
                declared.parameters = outer.parameters;
            }
            return Ok(declared);
        }
        if self.token().kind != Kind::Word {
            return self.suffixes(ty);
        }
//@
        let name = self.name()?;
        ty = ty.clone();
        Ok(Declared { name, ..self.suffixes(ty)? })
    }
//@4

    /// Whether a parenthesis begins parameters, not an inner declarator.
    fn is_parameters(&mut self) -> bool {
        let at = self.position();
        self.advance();
        let found = self.peek(")") || self.starts_type();
        self.go_to(at);
        found
    }
//@

    fn suffixes(&mut self, base: Type) -> Result<Declared> {
        let mut declared = Declared { name: String::new(), ty: base, parameters: Vec::new() };
        if self.accept("(") {
            let (types, names, is_open) = self.parameters()?;
            let result = declared.ty.clone();
            declared.ty = Type::Function(Rc::new(Signature { result, parameters: types, is_open }));
            declared.parameters = names;
        }
//@4
        if self.accept("[") {
            let line = self.line();
            let length = if self.peek("]") { None } else { Some(self.constant()?) };
            self.expect("]")?;
//@5
            if length.map_or(false, |length| length < 0) {
                return fail(line, "an array of negative length");
            }
//@
            let _ = line;
            let element = self.suffixes(declared.ty)?.ty;
            declared.ty = Type::Array(Rc::new(element), length.map(|length| length as usize));
        }
//@
        Ok(declared)
    }

    fn parameters(&mut self) -> Result<(Vec<Type>, Vec<String>, bool)> {
        let (mut types, mut names) = (Vec::new(), Vec::new());
        if self.accept(")") {
            return Ok((types, names, true));
        }
        if self.accept("void") {
            if self.accept(")") {
                return Ok((types, names, false));
            }
            self.go_to(self.position() - 1);
        }
        loop {
            if self.accept("...") {
                self.expect(")")?;
                return Ok((types, names, true));
            }
            let specifiers = self.specifiers()?;
//@4
            let declared = self.declarator(specifiers.ty)?;
            names.push(declared.name);
            types.push(match declared.ty {
                Type::Array(element, _) => Type::Pointer(element),
                Type::Function(_) => declared.ty.pointer(),
                other => other,
            });
//@
//@-4
            names.push(if self.peek(",") || self.peek(")") { String::new() } else { self.name()? });
            types.push(specifiers.ty);
//@
            if !self.accept(",") {
                self.expect(")")?;
                return Ok((types, names, false));
            }
        }
    }
//@3

    /// The initialiser of something static.
    pub fn static_values(&mut self, ty: &mut Type) -> Result<Vec<(usize, usize, Value)>> {
        let mut found = Vec::new();
        for (offset, ty, expr) in self.initialiser(ty)? {
            let line = expr.line;
            match static_value(&expr) {
                Some(value) => found.push((offset, ty.size(), value)),
                None => return fail(line, "the initialiser of a global is no constant"),
            }
        }
        found.sort_by_key(|(offset, _, _)| *offset);
        Ok(found)
    }
//@
//@2

    /// An initialiser as values at offsets. It tells an array how long it is.
    pub fn initialiser(&mut self, ty: &mut Type) -> Result<Vec<(usize, Type, Expr)>> {
        let mut found = Vec::new();
//@4
        if matches!(ty, Type::Array(..)) {
            let length = self.array_values(ty, 0, &mut found)?;
            if let Type::Array(element, None) = ty {
                *ty = Type::Array(element.clone(), Some(length));
            }
            return Ok(found);
        }
        let is_braced = self.accept("{");
//@
        let expr = self.assignment()?;
        found.push((0, ty.clone(), self.converted(expr, ty)?));
//@4
        if is_braced {
            self.accept(",");
            self.expect("}")?;
        }
//@
        Ok(found)
    }
//@
//@4

    /// The elements of an array; gives how many there are.
    fn array_values(&mut self, ty: &Type, offset: usize, found: &mut Vec<(usize, Type, Expr)>) -> Result<usize> {
        let element = ty.element().unwrap().clone();
        if let (Kind::Text(bytes), true) = (&self.token().kind, element.size() == 1) {
            let line = self.advance().line;
            let most = if let Type::Array(_, Some(length)) = ty { *length } else { bytes.len() + 1 };
            for (index, byte) in bytes.iter().chain(&[0]).take(most).enumerate() {
                let kind = ExprKind::Number(*byte as i8 as i64);
                found.push((offset + index, element.clone(), Expr { kind, ty: CHAR, line }));
            }
            return Ok(most);
        }
        let is_braced = self.accept("{");
        let (mut index, mut longest) = (0, 0);
        while !self.peek("}") {
            if is_braced && self.accept("[") {
                index = self.constant()? as usize;
                self.expect("]")?;
                self.expect("=")?;
            }
            let at = offset + index * element.size();
            if matches!(element, Type::Array(..)) {
                self.array_values(&element, at, found)?;
            } else {
                let expr = self.assignment()?;
                found.push((at, element.clone(), self.converted(expr, &element)?));
            }
            index += 1;
            longest = longest.max(index);
            let is_full = matches!(ty, Type::Array(_, Some(length)) if index == *length);
            if !is_braced && is_full {
                return Ok(longest);
            }
            if !self.accept(",") {
                break;
            }
        }
        if is_braced {
            self.expect("}")?;
        }
        Ok(longest)
    }
//@
}
//@3

/// A value that is known before the program runs.
fn static_value(expr: &Expr) -> Option<Value> {
    if let Some(number) = crate::constant::evaluate(expr) {
        return Some(Value::Number(number));
    }
//@4
    match &expr.kind {
        ExprKind::Cast(inner) => return static_value(inner),
        ExprKind::Address(target) => return static_address(target),
        ExprKind::Binary(operator, left, right) => {
            let by = crate::constant::evaluate(right)?;
            if let Value::Address(label, added) = static_value(left)? {
                let added = if *operator == Operator::Subtract { added - by } else { added + by };
                return Some(Value::Address(label, added));
            }
        }
        _ => {}
    }
//@
    None
}
//@
//@4

fn static_address(target: &Expr) -> Option<Value> {
    match &target.kind {
        ExprKind::Global(label) => Some(Value::Address(label.clone(), 0)),
        ExprKind::Dereference(pointer) => static_value(pointer),
        _ => None,
    }
}
//@
