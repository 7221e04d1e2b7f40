//! What a configuration may say, what is said about a bad one, and what a reload may change.

mod allocation;
mod cluster;
mod faults;
mod faults_vm;
mod good;
mod leaving;
mod mutations;
mod reload;

use super::{Fault, Parsed, Source, Spec, parse};

/// One target with two paths and one VM with one disk: the smallest thing that makes sense, without a warning.
const SMALL: &str = r#"
[[target]]
name = "san0"
[[target.path]]
name = "a"
url = "nbd://10.0.1.5"
[[target.path]]
name = "b"
url = "nbd://10.0.2.5"
[[vm]]
name = "db1"
[[vm.disk]]
name = "vda"
unit = "san0/root"
nbd = "/run/vmpath/db1-vda.sock"
"#;

fn parsed(text: &str) -> Result<Parsed, Vec<Fault>> {
    parse(&[Source { name: "vmpath.toml", text }])
}

fn good(text: &str) -> Spec {
    match parsed(text) {
        Ok(parsed) => parsed.spec,
        Err(faults) => panic!("{}", lines(&faults).join("\n")),
    }
}

/// `LINE:COLUMN MESSAGE` of each.
fn lines(faults: &[Fault]) -> Vec<String> {
    faults.iter().map(|f| format!("{}:{} {}", f.line, f.column, f.message)).collect()
}

/// `SMALL` with one piece replaced, which must be there.
fn small_with(piece: &str, replacement: &str) -> String {
    assert!(SMALL.contains(piece), "{piece}");
    SMALL.replacen(piece, replacement, 1)
}

/// What is said about `text`, which must be something.
fn faults(text: &str) -> Vec<String> {
    lines(&parsed(text).expect_err(text))
}

/// Adds lines below a line of `SMALL` and compares what is said.
fn check(below: &str, cases: &[(&str, &[&str])]) {
    for (more, expected) in cases {
        assert_eq!(faults(&small_with(below, &format!("{below}\n{more}"))), *expected, "{more}");
    }
}
