//! A broken rule, as a checker found it. It does not know which world, nor when.

/// `rule` is one of a closed list of words; `text` says what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) rule: &'static str,
    pub(super) text: String,
}
