//! What is wrong with a program, and where.

pub struct Error {
    pub line: usize,
    pub message: String,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn shown(&self, file: &str) -> String {
        format!("{}:{}: error: {}", file, self.line, self.message)
    }
}

pub fn fail<T>(line: usize, message: impl Into<String>) -> Result<T> {
    Err(Error { line, message: message.into() })
}
