//! Tokens to the tree: the state that all parts of the parser share, and what stands outside of functions.

use std::collections::HashMap;

use crate::ast::*;
use crate::error::{fail, Result};
use crate::lexer::{Kind, Token};
use crate::types::*;

#[derive(Clone)]
pub enum Symbol {
//@2
    Local { place: usize, ty: Type },
//@
//@3
    Global { label: String, ty: Type, is_defined: bool },
//@
//@4
    Constant(i64),
    Type(Type),
//@
}

#[derive(Default)]
pub struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    /// Names, the innermost block last; the first are those of the file.
    pub scopes: Vec<HashMap<String, Symbol>>,
    pub program: Program,
    /// Of the function that is read.
    pub result: Option<Type>,
//@2
    pub frame_size: usize,
    pub labels: usize,
    /// Where `break` goes, the innermost last, and where `continue` does.
    pub breaks: Vec<Label>,
    pub continues: Vec<Label>,
    /// What the innermost `switch` has found.
    pub switches: Vec<(Vec<(i64, Label)>, Option<Label>)>,
    /// The labels of this function: by name, with the line of a `goto`, and whether it stands somewhere.
    pub named: HashMap<String, (Label, usize, bool)>,
//@
}

pub fn parse(tokens: &[Token]) -> Result<Program> {
    let mut parser = Parser { tokens, scopes: vec![HashMap::new()], ..Parser::default() };
    while parser.token().kind != Kind::End {
        parser.external()?;
    }
    Ok(parser.program)
}

impl<'a> Parser<'a> {
    pub fn token(&self) -> &'a Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)]
    }

    pub fn line(&self) -> usize {
        self.token().line
    }

    pub fn advance(&mut self) -> &'a Token {
        let token = self.token();
        self.at += 1;
        token
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn go_to(&mut self, position: usize) {
        self.at = position;
    }

    pub fn peek(&self, text: &str) -> bool {
        let token = self.token();
        token.text == text && matches!(token.kind, Kind::Word | Kind::Punctuator)
    }

    pub fn accept(&mut self, text: &str) -> bool {
        let found = self.peek(text);
        self.at += found as usize;
        found
    }

    pub fn expect(&mut self, text: &str) -> Result<()> {
        if self.accept(text) {
            return Ok(());
        }
        fail(self.line(), format!("expected '{}' before '{}'", text, self.token().text))
    }

    pub fn name(&mut self) -> Result<String> {
        const KEYWORDS: [&str; 16] = [
            "return", "if", "else", "while", "for", "do", "switch", "case", "default", "break", "continue", "goto",
            "int", "void", "sizeof", "struct",
        ];
        let token = self.advance();
        if token.kind == Kind::Word && !KEYWORDS.contains(&token.text.as_str()) {
            return Ok(token.text.clone());
        }
        fail(token.line, format!("expected a name before '{}'", token.text))
    }

    pub fn find(&self, name: &str) -> Option<&Symbol> {
        self.scopes.iter().rev().find_map(|scope| scope.get(name))
    }
//@2

    pub fn new_label(&mut self) -> Label {
        self.labels += 1;
        self.labels
    }

    /// Room in the frame for a variable.
    pub fn place(&mut self, ty: &Type) -> usize {
        let align = ty.align().max(1);
        self.frame_size = (self.frame_size + ty.size() + align - 1) / align * align;
        self.frame_size
    }

    pub fn declare(&mut self, name: &str, symbol: Symbol, line: usize) -> Result<()> {
        let scope = self.scopes.last_mut().unwrap();
//@5
        if scope.contains_key(name) {
            return fail(line, format!("'{}' is declared twice", name));
        }
//@
        let _ = line;
        scope.insert(name.into(), symbol);
        Ok(())
    }
//@

    /// A function, or declarations of the file.
    fn external(&mut self) -> Result<()> {
        let specifiers = self.specifiers()?;
//@4
        if self.accept(";") {
            return Ok(());
        }
//@
        loop {
            let line = self.line();
            let declared = self.declarator(specifiers.ty.clone())?;
            if self.peek("{") {
                return self.function(&specifiers, declared, line);
            }
//@4
            if specifiers.is_typedef {
                self.declare(&declared.name, Symbol::Type(declared.ty), line)?;
                if !self.accept(",") {
                    return self.expect(";");
                }
                continue;
            }
//@
//@3
            self.global(&specifiers, declared, line)?;
//@
            if !self.accept(",") {
                return self.expect(";");
            }
        }
    }

    fn function(&mut self, specifiers: &Specifiers, declared: Declared, line: usize) -> Result<()> {
        let signature = match &declared.ty {
            Type::Function(signature) => signature.clone(),
            _ => return fail(line, format!("'{}' is no function", declared.name)),
        };
//@3
        self.declare_global(&declared.name, &declared.ty, true, line)?;
//@
        self.result = Some(signature.result.clone());
        self.scopes.push(HashMap::new());
//@2
        self.frame_size = 0;
        self.named.clear();
//@
//@3
        let mut parameters = Vec::new();
        for (name, ty) in declared.parameters.iter().zip(&signature.parameters) {
            let place = self.place(ty);
            self.declare(name, Symbol::Local { place, ty: ty.clone() }, line)?;
            parameters.push((place, ty.clone()));
        }
//@
        self.expect("{")?;
//@2
        let body = self.statements()?;
//@
//@-2
        self.expect("return")?;
        let body = vec![Stmt::Return(Some(self.expression()?))];
        self.expect(";")?;
        self.expect("}")?;
//@
        self.scopes.pop();
//@5
        if let Some((name, (_, line, _))) = self.named.iter().find(|(_, (_, _, stands))| !stands) {
            return fail(*line, format!("there is no label '{}'", name));
        }
//@
        self.program.functions.push(Function {
            name: declared.name,
            is_static: specifiers.is_static,
            body,
//@2
            frame_size: self.frame_size,
//@
//@3
            parameters,
//@
        });
        Ok(())
    }
//@3

    /// A variable or a prototype.
    fn global(&mut self, specifiers: &Specifiers, mut declared: Declared, line: usize) -> Result<()> {
        let is_function = matches!(declared.ty, Type::Function(_));
        let has_value = !is_function && self.accept("=");
        let mut values = Vec::new();
        if has_value {
            values = self.static_values(&mut declared.ty)?;
        }
        let name = declared.name;
        self.declare_global(&name, &declared.ty, has_value, line)?;
        if is_function || specifiers.is_extern && !has_value {
            return Ok(());
        }
        let known = self.program.data.iter().position(|data| data.label == name);
        let data = data_of(&name, specifiers.is_static, &declared.ty, values);
        match known {
            Some(position) if has_value => self.program.data[position] = data,
            Some(_) => {}
            None => self.program.data.push(data),
        }
        Ok(())
    }

    pub fn declare_global(&mut self, name: &str, ty: &Type, defines: bool, line: usize) -> Result<()> {
        let mut is_defined = defines;
        if let Some(Symbol::Global { ty: old, is_defined: before, .. }) = self.scopes[0].get(name) {
//@5
            if defines && *before {
                return fail(line, format!("'{}' is defined twice", name));
            }
            if !agree(old, ty) {
                return fail(line, format!("conflicting types of '{}'", name));
            }
//@
            let _ = (old, line);
            is_defined |= before;
        }
        let symbol = Symbol::Global { label: name.into(), ty: ty.clone(), is_defined };
        self.scopes[0].insert(name.into(), symbol);
        Ok(())
    }
//@
}

//@5
/// Whether two declarations may be of one thing.
fn agree(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Function(f), Type::Function(g)) => f.result == g.result && (f.is_open || g.is_open || f == g),
        (Type::Array(x, m), Type::Array(y, n)) => x == y && (m == n || m.is_none() || n.is_none()),
        _ => a == b,
    }
}

//@
//@3
pub fn data_of(label: &str, is_static: bool, ty: &Type, values: Vec<(usize, usize, Value)>) -> Data {
    Data { label: label.into(), is_static, size: ty.size(), align: ty.align().max(1), values }
}

//@
/// What stands before the names of a declaration.
pub struct Specifiers {
    pub ty: Type,
    pub is_static: bool,
    pub is_extern: bool,
    pub is_typedef: bool,
}

/// One name of a declaration.
#[derive(Clone)]
pub struct Declared {
    pub name: String,
    pub ty: Type,
    /// The parameters' names, of a function.
    pub parameters: Vec<String>,
}
