//! What a machine tells the journal with a step.

use crate::effect::JournalKind;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub kind: JournalKind,
    /// In words, with the numbers.
    pub reason: String,
    /// What ends the state that was entered; none if nothing has to.
    pub until: Option<String>,
}

/// What one input leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<Act> {
    /// To be performed in this order.
    pub acts: Vec<Act>,
    pub note: Option<Note>,
}

impl<Act> Default for Step<Act> {
    fn default() -> Self {
        Self { acts: vec![], note: None }
    }
}

impl<Act> Step<Act> {
    pub(super) fn acts(acts: Vec<Act>) -> Self {
        Self { acts, note: None }
    }

    pub(super) fn told(acts: Vec<Act>, kind: JournalKind, (reason, until): (String, Option<String>)) -> Self {
        Self { acts, note: Some(Note { kind, reason, until }) }
    }
}
