//! A small C compiler: `cc FILE.c... -o PROGRAM`. It writes assembly text; `as` and `ld` do the rest.

//@-5
// Some of what follows is there before its use.
#![allow(unused, dead_code)]

//@
mod ast;
mod codegen;
mod constant;
mod declare;
mod error;
mod expression;
mod lexer;
mod operate;
mod operators;
mod parser;
//@2
mod statement;
//@
mod types;

use std::path::{Path, PathBuf};
use std::process::{exit, Command};

/// Where the C library's start files lie.
const LIBRARIES: [&str; 3] = ["/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib"];

fn main() {
    let mut sources = Vec::new();
    let mut libraries = Vec::new();
    let mut output = String::from("a.out");
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        if word == "-o" {
            output = words.next().unwrap_or_else(|| usage());
        } else if word.starts_with("-l") {
            libraries.push(word);
        } else {
            sources.push(word);
        }
    }
    if sources.is_empty() {
        usage();
    }
    let mut objects = Vec::new();
    let mut failed = false;
    for (number, source) in sources.iter().enumerate() {
        match assembly(source) {
            Ok(text) => objects.push(assemble(&text, &format!("{}.{}", output, number))),
            Err(message) => {
                eprintln!("{}", message);
                failed = true;
            }
        }
    }
    if !failed {
        failed = !link(&objects, &libraries, &output);
    }
    for object in &objects {
        let _ = std::fs::remove_file(object);
    }
    exit(failed as i32);
}

fn usage() -> ! {
    eprintln!("usage: cc FILE.c... -o PROGRAM");
    exit(2);
}

/// The assembly of one file; an error as `FILE:LINE: error: TEXT`.
fn assembly(source: &str) -> Result<String, String> {
    let text = std::fs::read(source).map_err(|error| format!("{}: {}", source, error))?;
    let tokens = lexer::tokenize(&text).map_err(|error| error.shown(source))?;
    let program = parser::parse(&tokens).map_err(|error| error.shown(source))?;
    Ok(codegen::generate(&program))
}

fn assemble(text: &str, stem: &str) -> PathBuf {
    let (asm, object) = (format!("{}.s", stem), PathBuf::from(format!("{}.o", stem)));
    std::fs::write(&asm, text).expect("the assembly can't be written");
    let done = Command::new("as").arg("-o").arg(&object).arg(&asm).status();
    let _ = std::fs::remove_file(&asm);
    if !done.map_or(false, |status| status.success()) {
        eprintln!("cc: as failed");
        exit(3);
    }
    object
}

fn link(objects: &[PathBuf], libraries: &[String], output: &str) -> bool {
    let folder = LIBRARIES.iter().find(|it| Path::new(it).join("crt1.o").exists()).unwrap_or(&LIBRARIES[0]);
    let done = Command::new("ld")
        .args(["-o", output, "-dynamic-linker", "/lib64/ld-linux-x86-64.so.2"])
        .arg(format!("-L{}", folder))
        .args([format!("{}/crt1.o", folder), format!("{}/crti.o", folder)])
        .args(objects)
        .args(libraries)
        .args(["-lc".to_string(), format!("{}/crtn.o", folder)])
        .status();
    done.map_or(false, |status| status.success())
}
