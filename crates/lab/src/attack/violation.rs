//! What a checker has found: the rule that is broken, and how.

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) rule: &'static str,
    /// In words, with names and numbers.
    pub(super) text: String,
}
