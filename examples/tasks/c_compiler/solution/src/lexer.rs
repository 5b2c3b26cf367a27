//! Text to tokens.

use crate::error::{fail, Result};

#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// A name or a keyword.
    Word,
    /// An operator or a bracket.
    Punctuator,
    /// Its value, and the type that it asks for.
    Number { value: i64, size: usize, signed: bool },
//@4
    /// The bytes of a string without the zero at its end.
    Text(Vec<u8>),
//@
    End,
}

#[derive(Clone, Debug)]
pub struct Token {
    pub kind: Kind,
    pub text: String,
    pub line: usize,
}

/// The longest first.
const PUNCTUATORS: [&str; 46] = [
    "<<=", ">>=", "...", "==", "!=", "<=", ">=", "&&", "||", "<<", ">>", "+=", "-=", "*=", "/=", "%=", "&=", "|=",
    "^=", "++", "--", "->", "+", "-", "*", "/", "%", "=", "<", ">", "!", "~", "&", "|", "^", "?", ":", ";", ",", "(",
    ")", "{", "}", "[", "]", ".",
];

struct Lexer<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

pub fn tokenize(text: &[u8]) -> Result<Vec<Token>> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space()?;
        let token = lexer.token()?;
        let is_end = token.kind == Kind::End;
        tokens.push(token);
        if is_end {
            return Ok(tokens);
        }
    }
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        *self.text.get(self.at + ahead).unwrap_or(&0)
    }

    fn next(&mut self) -> u8 {
        let byte = self.byte(0);
        self.line += (byte == b'\n') as usize;
        self.at += 1;
        byte
    }

    fn skip_space(&mut self) -> Result<()> {
        loop {
            if self.text[self.at.min(self.text.len())..].starts_with(b"//") {
                while self.at < self.text.len() && self.byte(0) != b'\n' {
                    self.next();
                }
            } else if self.text[self.at.min(self.text.len())..].starts_with(b"/*") {
                let line = self.line;
                self.at += 2;
                while !self.text[self.at..].starts_with(b"*/") {
                    if self.at >= self.text.len() {
                        return fail(line, "a comment that does not end");
                    }
                    self.next();
                }
                self.at += 2;
            } else if self.byte(0).is_ascii_whitespace() {
                self.next();
            } else {
                return Ok(());
            }
        }
    }

    fn token(&mut self) -> Result<Token> {
        let (start, line) = (self.at, self.line);
        if start >= self.text.len() {
            return Ok(Token { kind: Kind::End, text: "the end of the file".into(), line });
        }
        let first = self.byte(0);
        let kind = if first.is_ascii_digit() {
            self.number()?
        } else if first.is_ascii_alphabetic() || first == b'_' {
            while self.byte(0).is_ascii_alphanumeric() || self.byte(0) == b'_' {
                self.next();
            }
            Kind::Word
        } else if first == b'\'' {
            self.next();
            let value = self.character(b'\'')? as i8 as i64;
            if self.next() != b'\'' {
                return fail(line, "a character constant that does not end");
            }
            Kind::Number { value, size: 4, signed: true }
//@4
        } else if first == b'"' {
            self.string()?
//@
        } else {
            let rest = &self.text[start..];
            match PUNCTUATORS.iter().find(|it| rest.starts_with(it.as_bytes())) {
                Some(found) => self.at += found.len(),
                None => return fail(line, format!("unknown character '{}'", first as char)),
            }
            Kind::Punctuator
        };
        let text = String::from_utf8_lossy(&self.text[start..self.at]).into_owned();
        Ok(Token { kind, text, line })
    }

    fn number(&mut self) -> Result<Kind> {
        let (line, start) = (self.line, self.at);
        while self.byte(0).is_ascii_alphanumeric() {
            self.next();
        }
        let text = String::from_utf8_lossy(&self.text[start..self.at]).to_lowercase();
        let is_hexadecimal = text.starts_with("0x");
        let digits = text.trim_end_matches(|c| c == 'u' || c == 'l');
        let suffix = &text[digits.len()..];
        let parsed = if is_hexadecimal {
            u64::from_str_radix(&digits[2..], 16)
        } else if digits.len() > 1 && digits.starts_with('0') {
            u64::from_str_radix(&digits[1..], 8)
        } else {
            digits.parse()
        };
        let value = match parsed {
            Ok(value) => value,
            Err(_) => return fail(line, format!("'{}' is no number", text)),
        };
        // The first type that holds it; a decimal number is never unsigned by itself.
        let is_unsigned = suffix.contains('u');
        let may_be_unsigned = is_unsigned || text.starts_with('0');
        let types = [(4, true, 0x7fff_ffff), (4, false, 0xffff_ffff), (8, true, i64::MAX as u64), (8, false, u64::MAX)];
        let fits = |&&(size, signed, most): &&(usize, bool, u64)| {
            let asked = size == 8 || !suffix.contains('l');
            asked && value <= most && if signed { !is_unsigned } else { may_be_unsigned }
        };
        let (size, signed, _) = *types.iter().find(fits).unwrap_or(&types[3]);
        Ok(Kind::Number { value: value as i64, size, signed })
    }

    /// One character of a constant or a string, after its escape.
    fn character(&mut self, quote: u8) -> Result<u8> {
        let line = self.line;
        let byte = self.next();
        if self.at > self.text.len() || byte == b'\n' {
            return fail(line, format!("a closing {} is missing", quote as char));
        }
        if byte != b'\\' {
            return Ok(byte);
        }
        let escape = self.next();
        Ok(match escape {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'a' => 7,
            b'b' => 8,
            b'v' => 11,
            b'f' => 12,
            b'x' => self.code(16, 8, 0),
            b'0'..=b'7' => self.code(8, 2, escape - b'0'),
            b'\\' | b'\'' | b'"' | b'?' => escape,
            _ => return fail(line, format!("unknown escape '\\{}'", escape as char)),
        })
    }

    fn code(&mut self, radix: u32, most: usize, first: u8) -> u8 {
        let mut value = first;
        for _ in 0..most {
            match (self.byte(0) as char).to_digit(radix) {
                Some(digit) => value = value.wrapping_mul(radix as u8).wrapping_add(digit as u8),
                None => break,
            }
            self.next();
        }
        value
    }
//@4

    /// A string, joined with those that follow it.
    fn string(&mut self) -> Result<Kind> {
        let mut bytes = Vec::new();
        loop {
            self.next();
            while self.byte(0) != b'"' {
                bytes.push(self.character(b'"')?);
            }
            self.next();
            let (end, line) = (self.at, self.line);
            self.skip_space()?;
            if self.byte(0) != b'"' {
                self.at = end;
                self.line = line;
                return Ok(Kind::Text(bytes));
            }
        }
    }
//@
}
