//! The types of C, as far as they are known here.

use std::rc::Rc;

#[derive(Clone, PartialEq, Debug)]
pub enum Type {
    Void,
    Int { size: usize, signed: bool },
//@4
    Pointer(Rc<Type>),
    /// The number of elements is None until an initialiser says it.
    Array(Rc<Type>, Option<usize>),
//@
    Function(Rc<Signature>),
}

#[derive(Clone, PartialEq, Debug)]
pub struct Signature {
    pub result: Type,
    pub parameters: Vec<Type>,
    /// More arguments may follow: `...`, or nothing was said.
    pub is_open: bool,
}

pub const INT: Type = Type::Int { size: 4, signed: true };
//@4
pub const LONG: Type = Type::Int { size: 8, signed: true };
pub const UNSIGNED_LONG: Type = Type::Int { size: 8, signed: false };
pub const CHAR: Type = Type::Int { size: 1, signed: true };
//@

impl Type {
    pub fn size(&self) -> usize {
        match self {
            Type::Void | Type::Function(_) => 1,
            Type::Int { size, .. } => *size,
//@4
            Type::Pointer(_) => 8,
            Type::Array(element, length) => element.size() * length.unwrap_or(0),
//@
        }
    }

    pub fn align(&self) -> usize {
        match self {
//@4
            Type::Array(element, _) => element.align(),
//@
            _ => self.size(),
        }
    }

    pub fn is_integer(&self) -> bool {
        matches!(self, Type::Int { .. })
    }

    pub fn is_signed(&self) -> bool {
        matches!(self, Type::Int { signed: true, .. })
    }

    /// What a value of this type must be to be tested or compared.
    pub fn is_scalar(&self) -> bool {
//@4
        if matches!(self, Type::Pointer(_)) {
            return true;
        }
//@
        self.is_integer()
    }
//@4

    pub fn pointer(self) -> Type {
        Type::Pointer(Rc::new(self))
    }

    /// What it points to, or is made of.
    pub fn element(&self) -> Option<&Type> {
        match self {
            Type::Pointer(element) | Type::Array(element, _) => Some(element),
            _ => None,
        }
    }
//@

    /// At least an int.
    pub fn promoted(&self) -> Type {
        match self {
            Type::Int { size, .. } if *size < 4 => INT,
            other => other.clone(),
        }
    }

    /// The type in which two integers are combined.
    pub fn common(&self, other: &Type) -> Type {
        let (a, b) = (self.promoted(), other.promoted());
        if a.size() == b.size() {
            return if a.is_signed() { b } else { a };
        }
        if a.size() > b.size() { a } else { b }
    }
}
