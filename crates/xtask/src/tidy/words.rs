//! Words that do not belong in the tree: paths of somebody's machine, names of working tools, unfinished code.
//!
//! The words are written with a `|` inside, which is taken out before they are looked for, so that this list does not
//! find itself.

use super::Violation;
use super::source::Tree;

/// Not in any text: they mean something on one machine, or to whoever wrote the line, and nothing to the reader.
const NOWHERE: &[&str] = &[
    "/wo|rk/",
    "/ro|ot/",
    "/fa|rm/",
    "bash|_jobs",
    "clau|de",
    "anth|ropic",
    "chat|gpt",
    "copi|lot",
    "before|-stop",
];

/// Token sequences that may not stand in Rust at all.
const UNFINISHED: &[(&[&str], &str)] =
    &[(&["todo", "!"], "finish it, or say in words what is not there yet"), (&["dbg", "!"], "take it out")];

/// Sleeping in a pure crate's tests means that time is not an argument somewhere.
const SLEEP: &[&str] = &["thread", ":", ":", "sleep"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let nowhere: Vec<String> = NOWHERE.iter().map(|w| w.replace('|', "")).collect();
    for source in &tree.files {
        for (number, line) in (1..).zip(source.text.lines()) {
            let lower = line.to_lowercase();
            for word in nowhere.iter().filter(|w| lower.contains(w.as_str())) {
                let message = format!("`{word}` says nothing to a reader of this project");
                found.push(Violation::new(&source.path, number, "words", message));
            }
        }
        for (sequence, what) in UNFINISHED {
            for line in source.lines_with(sequence) {
                found.push(Violation::new(
                    &source.path,
                    line,
                    "unfinished",
                    format!("{}: {what}", sequence.concat()),
                ));
            }
        }
        if source.path.starts_with("crates/core/") || source.path.starts_with("crates/protocol/") {
            for line in source.lines_with(SLEEP) {
                let message = "never sleeps: pass `now`".to_owned();
                found.push(Violation::new(&source.path, line, "sleep", message));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str) -> Vec<&'static str> {
        check(&Tree::of(&[(path, text)])).iter().map(|v| v.rule).collect()
    }

    #[test]
    fn each_banned_word_is_found_in_prose_and_in_code() {
        for word in NOWHERE.iter().map(|w| w.replace('|', "")) {
            assert_eq!(rules("README.md", &format!("see {word}here")), ["words"], "{word}");
            assert_eq!(rules("a.rs", &format!("// {}", word.to_uppercase())), ["words"], "{word}");
        }
    }

    #[test]
    fn unfinished_code_is_found() {
        assert_eq!(rules("a.rs", "fn f() { todo!() }"), ["unfinished"]);
        assert_eq!(rules("a.rs", "fn f() { dbg!(1); }"), ["unfinished"]);
        assert!(rules("a.rs", "// todo!() and dbg!() are refused").is_empty());
    }

    #[test]
    fn pure_tests_never_sleep() {
        let text = "fn f() { std::thread::sleep(D); }";
        assert_eq!(rules("crates/core/src/a.rs", text), ["sleep"]);
        assert_eq!(rules("crates/protocol/tests/a.rs", text), ["sleep"]);
        assert!(rules("crates/lab/src/a.rs", text).is_empty());
    }
}
