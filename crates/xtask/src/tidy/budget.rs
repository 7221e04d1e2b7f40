//! Lengths of files and functions, and the committed list of exceptions to them.
//!
//! The list may only shrink: an entry that is not needed, or allows more than is used, is itself a violation that
//! names the value to write. A longer function is found inside macros too, for it is found by its tokens.

use super::Violation;
use super::source::{Token, Tree};
use std::collections::BTreeMap;

pub(crate) const LIST: &str = "crates/xtask/tidy-budget.txt";
const FILE_LINES_MAX: usize = 800;
const FUNCTION_LINES_MAX: usize = 70;

/// Lines allowed, by `path` or `path::function`, each with its own line in the list.
type Allowed = BTreeMap<String, (usize, usize)>;

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    let allowed = read_list(tree.text_of(LIST).unwrap_or_default(), &mut found);
    let mut measured: BTreeMap<String, usize> = BTreeMap::new();
    for source in tree.rust() {
        let lines = source.text.lines().count();
        measured.insert(source.path.clone(), lines);
        let limit = limit_of(&allowed, &source.path, FILE_LINES_MAX);
        if lines > limit {
            let message = format!("{lines} lines, at most {limit}: split it by what it is about");
            found.push(Violation::new(&source.path, 0, "file-length", message));
        }
        for function in functions(&source.tokens) {
            let key = format!("{}::{}", source.path, function.name);
            let limit = limit_of(&allowed, &key, FUNCTION_LINES_MAX);
            if function.lines > limit {
                let message = format!("`{}` has {} lines, at most {limit}", function.name, function.lines);
                found.push(Violation::new(&source.path, function.line, "function-length", message));
            }
            let longest = measured.entry(key).or_default();
            *longest = function.lines.max(*longest);
        }
    }
    check_list(&allowed, &measured, &mut found);
    found
}

fn limit_of(allowed: &Allowed, key: &str, default: usize) -> usize {
    allowed.get(key).map_or(default, |(lines, _)| *lines)
}

fn read_list(text: &str, found: &mut Vec<Violation>) -> Allowed {
    let mut allowed = Allowed::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match line.rsplit_once(' ').map(|(key, max)| (key.trim(), max.parse())) {
            Some((key, Ok(max))) => _ = allowed.insert(key.to_owned(), (max, number)),
            _ => {
                let message = "write `path lines` or `path::function lines`".to_owned();
                found.push(Violation::new(LIST, number, "budget-list", message));
            }
        }
    }
    allowed
}

/// The list may only shrink.
fn check_list(allowed: &Allowed, measured: &BTreeMap<String, usize>, found: &mut Vec<Violation>) {
    for (key, (max, number)) in allowed {
        let default = if key.ends_with(".rs") { FILE_LINES_MAX } else { FUNCTION_LINES_MAX };
        let message = match measured.get(key) {
            None => format!("`{key}` is not there any more: take the entry out"),
            Some(lines) if *lines <= default => {
                format!("`{key}` needs no exception any more: take the entry out")
            }
            Some(lines) if lines < max => {
                format!("`{key}` has {lines} lines: write {lines} instead of {max}")
            }
            Some(_) => continue,
        };
        found.push(Violation::new(LIST, *number, "budget-list", message));
    }
}

struct Function<'a> {
    name: &'a str,
    line: usize,
    lines: usize,
}

fn functions(tokens: &[Token]) -> Vec<Function<'_>> {
    let starts = tokens.windows(2).enumerate().filter(|(_, w)| w[0].text == "fn" && is_name(&w[1].text));
    starts
        .filter_map(|(at, w)| {
            let last = body_end(&tokens[at + 2..])?;
            Some(Function { name: &w[1].text, line: w[0].line, lines: last - w[0].line + 1 })
        })
        .collect()
}

fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The line of the brace that closes the body; none for a declaration without one.
fn body_end(after_name: &[Token]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut body = false;
    for token in after_name {
        match token.text.as_str() {
            ";" if depth == 0 => return None,
            "(" | "[" => depth += 1,
            "{" => {
                body |= depth == 0;
                depth += 1;
            }
            ")" | "]" | "}" => {
                depth = depth.checked_sub(1)?;
                if body && depth == 0 {
                    return Some(token.line);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(path: &str, text: &str, list: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text), (LIST, list)])).iter().map(ToString::to_string).collect()
    }

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_may_have_seventy_lines_and_no_more() {
        assert!(check_one("a.rs", &function_of(70), "").is_empty());
        assert!(check_one("a.rs", &function_of(71), "")[0].contains("`long` has 71 lines"));
    }

    #[test]
    fn a_function_in_a_macro_counts() {
        let text = format!("proptest! {{\n#[test]\n{}}}\n", function_of(90));
        assert!(check_one("a.rs", &text, "")[0].contains("90 lines"));
    }

    #[test]
    fn a_file_may_have_eight_hundred_lines_and_no_more() {
        assert!(check_one("a.rs", &"\n".repeat(800), "").is_empty());
        assert!(check_one("a.rs", &"\n".repeat(801), "")[0].contains("801 lines"));
    }

    #[test]
    fn the_list_excuses_exactly_what_is_there() {
        assert!(check_one("a.rs", &function_of(90), "# why\na.rs::long 90\n").is_empty());
        assert!(check_one("a.rs", &"\n".repeat(900), "a.rs 900").is_empty());
    }

    #[test]
    fn the_list_may_only_shrink() {
        let slack = check_one("a.rs", &function_of(80), "a.rs::long 90");
        assert!(slack[0].contains("write 80 instead of 90"), "{slack:?}");
        assert!(check_one("a.rs", &function_of(60), "a.rs::long 90")[0].contains("no exception"));
        assert!(check_one("a.rs", "", "b.rs 900")[0].contains("not there"));
        assert!(check_one("a.rs", "", "nonsense")[0].contains("write `path"));
    }

    #[test]
    fn declarations_and_pointers_have_no_body() {
        let text = "trait T { fn f(&self); }\ntype P = fn(u8) -> u8;\nfn g(x: [u8; 2]) {}\n";
        let tree = Tree::of(&[("a.rs", text)]);
        let names: Vec<_> = functions(&tree.files[0].tokens).iter().map(|f| f.name.to_owned()).collect();
        assert_eq!(names, ["g"]);
    }
}
