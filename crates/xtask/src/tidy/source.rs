//! The tree as the rules see it: each text file with its path, and Rust files as a flat list of tokens with lines.

use super::Violation;
use anyhow::{Context, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use std::fs;
use std::path::Path;

/// Folders that hold nothing of ours.
const SKIPPED: &[&str] = &["target", ".git", "node_modules", "corpus", "artifacts"];
/// Longer files are data, not text.
const TEXT_BYTES_MAX: u64 = 1 << 20;

#[derive(Debug, Default)]
pub(crate) struct Tree {
    pub(crate) files: Vec<Source>,
}

#[derive(Debug)]
pub(crate) struct Source {
    /// From the root, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    /// Empty for files that are not Rust.
    pub(crate) tokens: Vec<Token>,
    /// Why a Rust file could not be read as tokens.
    pub(crate) broken: Option<String>,
}

/// An identifier, a literal, one punctuation character, or one delimiter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
}

impl Tree {
    pub(crate) fn load(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.walk(root, "")?;
        tree.files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(tree)
    }

    #[cfg(test)]
    pub(crate) fn of(files: &[(&str, &str)]) -> Self {
        Self {
            files: files
                .iter()
                .map(|(path, text)| Source::new((*path).to_owned(), (*text).to_owned()))
                .collect(),
        }
    }

    fn walk(&mut self, dir: &Path, prefix: &str) -> Result<()> {
        for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                self.walk(&entry.path(), &path)?;
            } else if kind.is_file() && entry.metadata()?.len() <= TEXT_BYTES_MAX {
                let bytes = fs::read(entry.path()).with_context(|| format!("cannot read {path}"))?;
                if let Ok(text) = String::from_utf8(bytes) {
                    self.files.push(Source::new(path, text));
                }
            }
        }
        Ok(())
    }

    pub(crate) fn rust(&self) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(|s| s.path.ends_with(".rs"))
    }

    pub(crate) fn text_of(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|s| s.path == path).map(|s| s.text.as_str())
    }
}

impl Source {
    fn new(path: String, text: String) -> Self {
        let mut tokens = Vec::new();
        let mut broken = None;
        if path.ends_with(".rs") {
            match text.parse::<TokenStream>() {
                Ok(stream) => flatten(stream, &mut tokens),
                Err(e) => broken = Some(e.to_string()),
            }
        }
        Self { path, text, tokens, broken }
    }

    /// Lines on which this sequence of tokens stands.
    pub(crate) fn lines_with<'a>(&'a self, sequence: &'a [&'a str]) -> impl Iterator<Item = usize> + 'a {
        self.tokens
            .windows(sequence.len())
            .filter(move |w| w.iter().zip(sequence).all(|(token, wanted)| token.text == *wanted))
            .map(|w| w[0].line)
    }
}

/// Every Rust file can be read at all.
pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let broken = |s: &Source| {
        s.broken.as_ref().map(|why| Violation::new(&s.path, 0, "parse", format!("not Rust: {why}")))
    };
    tree.rust().filter_map(broken).collect()
}

/// Functions below an `#[ignore]`, as a reader would look them up.
pub(super) fn ignored_tests(source: &Source) -> Vec<String> {
    let tokens = &source.tokens;
    let marks = tokens
        .windows(3)
        .enumerate()
        .filter(|(_, w)| w[0].text == "#" && w[1].text == "[" && w[2].text == "ignore");
    let named = |at: usize| tokens[at..].windows(2).find(|w| w[0].text == "fn").map(|w| w[1].text.clone());
    marks
        .filter_map(|(at, w)| {
            Some(format!("{}:{}: {} is marked #[ignore]", source.path, w[0].line, named(at)?))
        })
        .collect()
}

fn flatten(stream: TokenStream, out: &mut Vec<Token>) {
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                out.push(Token { text: open.to_owned(), line });
                flatten(group.stream(), out);
                out.push(Token { text: close.to_owned(), line: group.span_close().start().line });
            }
            other => out.push(Token { text: other.to_string(), line }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_strings_are_not_code() {
        let tree = Tree::of(&[("a.rs", "// unsafe\nfn f() { g(\"unsafe\"); }\nfn h() { unsafe {} }")]);
        assert_eq!(tree.files[0].lines_with(&["unsafe"]).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn ignored_tests_are_named() {
        let tree = Tree::of(&[(
            "a.rs",
            "#[test]\n#[ignore = \"needs a disk\"]\nfn slow() {}\n#[test]\nfn fast() {}",
        )]);
        assert_eq!(ignored_tests(&tree.files[0]), ["a.rs:2: slow is marked #[ignore]"]);
    }

    #[test]
    fn a_file_that_is_not_rust_is_reported() {
        assert_eq!(check(&Tree::of(&[("a.rs", "fn f() {")])).len(), 1);
    }
}
