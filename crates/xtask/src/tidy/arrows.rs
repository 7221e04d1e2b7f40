//! Which crate may depend on what: read from the manifests, so that the compiler then enforces it.
//!
//! `core` and `protocol` know neither each other nor anything that could do I/O: what their manifests may hold is
//! listed here. The arrows among our own crates are listed for all of them.

use super::Violation;
use super::source::Tree;
use toml::Table;

/// A crate of ours, which of ours it may depend on, and, if it must stay pure, what else.
struct Crate {
    folder: &'static str,
    package: &'static str,
    ours: &'static [&'static str],
    others: Option<&'static [&'static str]>,
}

const CRATES: &[Crate] = &[
    Crate { folder: "core", package: "vmpath-core", ours: &[], others: Some(&["slab", "thiserror", "toml"]) },
    Crate {
        folder: "protocol",
        package: "vmpath-protocol",
        ours: &[],
        others: Some(&["serde", "serde_json", "thiserror", "zerocopy", "crc32c"]),
    },
    Crate { folder: "lab", package: "vmpath-lab", ours: &["vmpath-core", "vmpath-protocol"], others: None },
    Crate {
        folder: "daemon",
        package: "vmpath",
        ours: &["vmpath-core", "vmpath-protocol", "vmpath-lab"],
        others: None,
    },
    Crate { folder: "xtask", package: "xtask", ours: &["vmpath-core", "vmpath-lab"], others: None },
];

/// What the pure crates may use in their tests.
const TEST_ONLY: &[&str] = &["proptest", "insta", "stats_alloc", "criterion"];
/// What a pure crate's root must say.
const FORBID_UNSAFE: &[&str] = &["#", "!", "[", "forbid", "(", "unsafe_code", ")", "]"];

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for krate in CRATES {
        let path = format!("crates/{}/Cargo.toml", krate.folder);
        let Some(text) = tree.text_of(&path) else { continue };
        match text.parse::<Table>() {
            Ok(manifest) => check_manifest(krate, &path, &manifest, &mut found),
            Err(e) => found.push(Violation::new(&path, 0, "arrows", format!("not a manifest: {e}"))),
        }
        if krate.others.is_some() {
            check_root(krate, tree, &mut found);
        }
    }
    found
}

fn check_manifest(krate: &Crate, path: &str, manifest: &Table, found: &mut Vec<Violation>) {
    for (section, test_only) in
        [("dependencies", &[][..]), ("build-dependencies", &[]), ("dev-dependencies", TEST_ONLY)]
    {
        let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else { continue };
        for (key, value) in table {
            let name = value.get("package").and_then(toml::Value::as_str).unwrap_or(key);
            if let Some(message) = objection(krate, name, test_only) {
                found.push(Violation::new(path, 0, "arrows", message));
            }
        }
    }
    if krate.others.is_some() && manifest.contains_key("target") {
        let message = "dependencies by target are not for a pure crate".to_owned();
        found.push(Violation::new(path, 0, "arrows", message));
    }
}

fn objection(krate: &Crate, name: &str, test_only: &[&str]) -> Option<String> {
    let own = CRATES.iter().any(|c| c.package == name);
    match krate.others {
        _ if own && krate.ours.contains(&name) => None,
        _ if own => Some(format!("{} must not know {name}", krate.package)),
        Some(list) if !list.contains(&name) && !test_only.contains(&name) => Some(format!(
            "{} is pure: `{name}` is not on its list. If it does no I/O, reads no clock and is worth it, add it to the \
             list in tidy's arrows",
            krate.package
        )),
        _ => None,
    }
}

fn check_root(krate: &Crate, tree: &Tree, found: &mut Vec<Violation>) {
    let path = format!("crates/{}/src/lib.rs", krate.folder);
    let Some(root) = tree.rust().find(|s| s.path == path) else { return };
    if root.lines_with(FORBID_UNSAFE).next().is_none() {
        let message = "a pure crate says #![forbid(unsafe_code)] at its root".to_owned();
        found.push(Violation::new(&path, 1, "arrows", message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        check(&Tree::of(&[(path, text)])).into_iter().map(|v| v.message).collect()
    }

    #[test]
    fn core_holds_only_what_is_listed() {
        let manifest =
            "[dependencies]\ntoml.workspace = true\ntokio = \"1\"\n[dev-dependencies]\nproptest = \"1\"\n";
        let found = messages("crates/core/Cargo.toml", manifest);
        assert_eq!(found.len(), 1);
        assert!(found[0].contains("`tokio`"));
    }

    #[test]
    fn core_and_protocol_do_not_know_each_other() {
        let core = messages("crates/core/Cargo.toml", "[dependencies]\nvmpath-protocol.workspace = true\n");
        assert_eq!(core, ["vmpath-core must not know vmpath-protocol"]);
        let protocol =
            messages("crates/protocol/Cargo.toml", "[dev-dependencies]\nvmpath-core.workspace = true\n");
        assert_eq!(protocol, ["vmpath-protocol must not know vmpath-core"]);
    }

    #[test]
    fn the_lab_does_not_know_the_daemon_even_renamed() {
        let manifest = "[dependencies]\nd = { package = \"vmpath\", path = \"../daemon\" }\n";
        assert_eq!(messages("crates/lab/Cargo.toml", manifest), ["vmpath-lab must not know vmpath"]);
    }

    #[test]
    fn a_pure_crate_forbids_unsafe() {
        let files =
            [("crates/core/Cargo.toml", ""), ("crates/core/src/lib.rs", "// #![forbid(unsafe_code)]\n")];
        assert_eq!(check(&Tree::of(&files)).len(), 1);
        let files = [("crates/core/Cargo.toml", ""), ("crates/core/src/lib.rs", "#![forbid(unsafe_code)]\n")];
        assert!(check(&Tree::of(&files)).is_empty());
    }
}
