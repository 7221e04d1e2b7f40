//! Signatures that a caller can read: at most five parameters (the receiver apart), and no `bool` among those of a
//! function that others call, where `f(true)` would say nothing. What a trait asks for is judged at the trait.

use super::Violation;
use super::source::Tree;
use syn::visit::{self, Visit};
use syn::{FnArg, ImplItemFn, ItemFn, ItemImpl, ItemTrait, Signature, TraitItemFn, Type, Visibility};

const PARAMETERS_MAX: usize = 5;

pub(super) fn check(tree: &Tree) -> Vec<Violation> {
    let mut found = Vec::new();
    for source in tree.rust() {
        let Ok(file) = syn::parse_file(&source.text) else {
            continue; // reported by the rule that reads tokens
        };
        let mut signatures =
            Signatures { path: &source.path, found: Vec::new(), of_trait: false, trait_public: false };
        signatures.visit_file(&file);
        found.append(&mut signatures.found);
    }
    found
}

struct Signatures<'a> {
    path: &'a str,
    found: Vec<Violation>,
    /// Inside `impl Trait for …`: the signature is not ours to choose.
    of_trait: bool,
    trait_public: bool,
}

impl Signatures<'_> {
    fn judge(&mut self, signature: &Signature, public: Visible) {
        let line = signature.ident.span().start().line;
        let name = &signature.ident;
        let parameters: Vec<_> = signature
            .inputs
            .iter()
            .filter_map(|input| match input {
                FnArg::Receiver(_) => None,
                FnArg::Typed(typed) => Some(&*typed.ty),
            })
            .collect();
        if parameters.len() > PARAMETERS_MAX {
            let message = format!(
                "`{name}` takes {} parameters, at most {PARAMETERS_MAX}: give it a struct",
                parameters.len()
            );
            self.found.push(Violation::new(self.path, line, "parameters", message));
        }
        if public == Visible::Yes && parameters.iter().any(|ty| is_bool(ty)) {
            let message = format!("`{name}` takes a bool: give it an enum that the call can be read by");
            self.found.push(Violation::new(self.path, line, "bool-parameter", message));
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Visible {
    Yes,
    No,
}

impl From<&Visibility> for Visible {
    fn from(visibility: &Visibility) -> Self {
        match visibility {
            Visibility::Inherited => Self::No,
            Visibility::Public(_) | Visibility::Restricted(_) => Self::Yes,
        }
    }
}

fn is_bool(ty: &Type) -> bool {
    matches!(ty, Type::Path(path) if path.path.is_ident("bool"))
}

impl<'ast> Visit<'ast> for Signatures<'_> {
    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        self.judge(&item.sig, Visible::from(&item.vis));
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast ImplItemFn) {
        if !self.of_trait {
            self.judge(&item.sig, Visible::from(&item.vis));
        }
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast TraitItemFn) {
        let public = if self.trait_public { Visible::Yes } else { Visible::No };
        self.judge(&item.sig, public);
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        let outer = std::mem::replace(&mut self.of_trait, item.trait_.is_some());
        visit::visit_item_impl(self, item);
        self.of_trait = outer;
    }

    fn visit_item_trait(&mut self, item: &'ast ItemTrait) {
        self.trait_public = Visible::from(&item.vis) == Visible::Yes;
        visit::visit_item_trait(self, item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<&'static str> {
        check(&Tree::of(&[("a.rs", text)])).iter().map(|v| v.rule).collect()
    }

    #[test]
    fn six_parameters_are_too_many_and_the_receiver_is_none() {
        assert_eq!(rules("fn f(a: u8, b: u8, c: u8, d: u8, e: u8, g: u8) {}"), ["parameters"]);
        assert!(rules("impl S { fn f(&self, a: u8, b: u8, c: u8, d: u8, e: u8) {} }").is_empty());
    }

    #[test]
    fn a_public_bool_is_refused_wherever_it_stands() {
        assert_eq!(rules("pub fn f(x: bool) {}"), ["bool-parameter"]);
        assert_eq!(rules("pub(crate) fn f(x: bool) {}"), ["bool-parameter"]);
        assert_eq!(rules("impl S { pub fn f(&self, x: bool) {} }"), ["bool-parameter"]);
        assert_eq!(rules("pub trait T { fn f(&self, x: bool); }"), ["bool-parameter"]);
    }

    #[test]
    fn a_private_bool_and_a_trait_s_signature_pass() {
        assert!(rules("fn f(x: bool) -> bool { x }").is_empty());
        assert!(rules("impl Visitor for S { fn visit_bool(self, v: bool) {} }").is_empty());
        assert!(rules("pub fn f(x: Vec<bool>) {}").is_empty());
    }
}
