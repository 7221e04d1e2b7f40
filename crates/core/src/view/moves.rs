//! One move of a VM, as an operator sees it.

use crate::migration::MoveId;
use crate::time::{Duration, Instant};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveView {
    pub id: MoveId,
    pub vm: String,
    /// Host names.
    pub from: String,
    pub to: String,
    /// What this host is to it.
    pub side: MoveSide,
    /// One word: see [`crate::migration::source::State`] and [`crate::migration::destination::State`].
    pub state: &'static str,
    pub began: Instant,
    /// The rule that applied, in words.
    pub rule: String,
    /// As the source names it.
    pub incident: Option<String>,
    /// While memory is being sent.
    pub transfer: Option<TransferView>,
    /// None while it is under way.
    pub end: Option<MoveEnd>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveSide {
    Source,
    Destination,
}

impl MoveSide {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// Bytes of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransferView {
    pub sent: u64,
    pub left: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MoveEnd {
    pub at: Instant,
    /// Why the VM was not moved, in words; none if it was.
    pub why: Option<String>,
    /// How long the guest stood still, as QEMU says; told at the source.
    pub downtime: Option<Duration>,
}
