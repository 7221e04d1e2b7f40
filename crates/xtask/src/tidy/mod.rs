//! Style as a test: every rule that a machine can check, checked in one pass over the tree.
//!
//! A rule is a function from the tree to violations, and has a test with text that violates it, so that each is shown
//! able to fail. Rust is read as tokens (comments and strings cannot trip a rule, macro bodies are seen) and, where
//! signatures matter, by `syn`.
//! Rejected: regular expressions over lines, which find `unsafe` in prose and lose functions in macros.
//! It does not know git: it walks the folder, so that it works in an unpacked archive too.

mod arrows;
mod budget;
mod dead;
mod rooms;
mod signatures;
mod source;
mod words;

use anyhow::Result;
pub(crate) use budget::LIST;
use source::Tree;
use std::fmt;
use std::path::Path;

/// One breach of one rule. `line` is 0 where the whole file is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Violation {
    path: String,
    line: usize,
    rule: &'static str,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, rule: &'static str, message: String) -> Self {
        Self { path: path.to_owned(), line, rule, message }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {} [{}]", self.path, self.message, self.rule),
            line => write!(f, "{}:{line}: {} [{}]", self.path, self.message, self.rule),
        }
    }
}

type Rule = fn(&Tree) -> Vec<Violation>;

const RULES: &[Rule] = &[
    budget::check,
    signatures::check,
    arrows::check,
    rooms::check,
    words::check,
    dead::check,
    source::check,
];

/// Checks the tree under `root`; the violations are in the order of files and lines.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn check(root: &Path) -> Result<Vec<Violation>> {
    let tree = Tree::load(root)?;
    let mut found: Vec<Violation> = RULES.iter().flat_map(|rule| rule(&tree)).collect();
    found.sort();
    Ok(found)
}

/// Prints what it finds. True if the tree is tidy.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn run(root: &Path) -> Result<bool> {
    let found = check(root)?;
    for violation in &found {
        println!("{violation}");
    }
    match found.len() {
        0 => println!("tidy: every rule holds"),
        n => println!("tidy: {n} to mend"),
    }
    Ok(found.is_empty())
}

/// Tests that are marked `#[ignore]`, by file, line and name.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn ignored_tests(root: &Path) -> Result<Vec<String>> {
    Ok(Tree::load(root)?.rust().flat_map(source::ignored_tests).collect())
}
