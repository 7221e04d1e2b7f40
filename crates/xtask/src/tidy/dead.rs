//! Files that no `mod` names: Rust that is never compiled and reads as if it were.

use super::Violation;
use super::source::Tree;
use std::collections::{BTreeMap, BTreeSet};
use syn::{Expr, ExprLit, Item, ItemMod, Lit, Meta};

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let texts: BTreeMap<&str, &str> = tree.rust().map(|s| (s.path.as_str(), s.text.as_str())).collect();
    let mut alive = BTreeSet::new();
    for root in texts.keys().filter(|path| is_root(path)) {
        follow(root, &texts, &mut alive);
    }
    texts
        .keys()
        .filter(|path| !alive.contains(**path))
        .map(|path| {
            Violation::new(path, 0, "dead-file", "no `mod` names it: declare it or delete it".to_owned())
        })
        .collect()
}

/// What cargo compiles by itself.
fn is_root(path: &str) -> bool {
    let Some((dir, file)) = path.rsplit_once('/') else { return true };
    let folder = dir.rsplit('/').next().unwrap_or(dir);
    let above = dir.rsplit('/').nth(1).unwrap_or_default();
    match folder {
        "src" => matches!(file, "lib.rs" | "main.rs"),
        "bin" => above == "src",
        "tests" | "benches" | "examples" => above != "src" && !dir.contains("/src/"),
        "fuzz_targets" => true,
        _ => {
            file == "build.rs"
                || (file == "main.rs" && matches!(above, "bin" | "tests" | "benches" | "examples"))
        }
    }
}

fn follow(path: &str, texts: &BTreeMap<&str, &str>, alive: &mut BTreeSet<String>) {
    let Some(text) = texts.get(path) else { return };
    if !alive.insert(path.to_owned()) {
        return;
    }
    let Ok(file) = syn::parse_file(text) else { return };
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    let stem = name.trim_end_matches(".rs");
    let children = if is_root(path) || stem == "mod" { dir.to_owned() } else { format!("{dir}/{stem}") };
    follow_items(&file.items, dir, &children, &mut |child| follow(child, texts, alive));
}

/// Calls `found` with each place where a declared module could be.
fn follow_items(items: &[Item], dir: &str, children: &str, found: &mut dyn FnMut(&str)) {
    for module in
        items.iter().filter_map(|item| if let Item::Mod(module) = item { Some(module) } else { None })
    {
        match (&module.content, path_attribute(module)) {
            (Some((_, inner)), _) => follow_items(inner, dir, &format!("{children}/{}", module.ident), found),
            (None, Some(path)) => found(&format!("{dir}/{path}")),
            (None, None) => {
                found(&format!("{children}/{}.rs", module.ident));
                found(&format!("{children}/{}/mod.rs", module.ident));
            }
        }
    }
}

fn path_attribute(module: &ItemMod) -> Option<String> {
    let value = module.attrs.iter().find_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("path") => Some(&pair.value),
        _ => None,
    })?;
    match value {
        Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(files: &[(&str, &str)]) -> Vec<String> {
        check(&Tree::of(files)).into_iter().map(|v| v.path).collect()
    }

    #[test]
    fn a_file_that_no_mod_names_is_dead() {
        let files = [
            ("c/src/lib.rs", "mod a;\nmod b;\nmod inline { mod deep; }"),
            ("c/src/a.rs", "mod below;"),
            ("c/src/a/below.rs", ""),
            ("c/src/b/mod.rs", "#[cfg(test)]\nmod tests;"),
            ("c/src/b/tests.rs", ""),
            ("c/src/inline/deep.rs", ""),
            ("c/src/forgotten.rs", ""),
            ("c/src/a/forgotten.rs", ""),
        ];
        assert_eq!(dead(&files), ["c/src/a/forgotten.rs", "c/src/forgotten.rs"]);
    }

    #[test]
    fn what_cargo_compiles_by_itself_is_alive_and_only_that() {
        let files = [
            ("c/src/main.rs", ""),
            ("c/src/bin/tool.rs", ""),
            ("c/tests/all.rs", "mod common;"),
            ("c/tests/common/mod.rs", ""),
            ("c/build.rs", ""),
            ("c/src/tests/lost.rs", ""),
        ];
        assert_eq!(dead(&files), ["c/src/tests/lost.rs"]);
    }

    #[test]
    fn a_path_attribute_is_followed() {
        let files = [("c/src/lib.rs", "#[path = \"odd/name.rs\"]\nmod a;"), ("c/src/odd/name.rs", "")];
        assert!(dead(&files).is_empty());
    }
}
