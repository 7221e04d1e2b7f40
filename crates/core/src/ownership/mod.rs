//! Who may dispatch for a unit: one host at a time, under an epoch that only grows.
//!
//! Invariant: a host dispatches only for what it has itself read to be its own, or has itself written; what is known stays
//! known while the store that hosts share is away; only the owner ever gives a unit away, or whoever has fenced it.
//! Rejected: a lease. A host that is cut off from the store goes on writing when its lease is over.
//! It does not know the store, nor what is done with requests of a unit that belongs to somebody else.

mod judge;
pub mod keeper;
pub mod takeover;

use crate::migration::MoveId;
use std::fmt;

pub use judge::{Change, Judged, judge};
pub use keeper::Keeper;

/// What the store says of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub host: String,
    /// Grows by one with each change.
    pub epoch: u64,
    /// By which move it came there.
    pub move_id: Option<MoveId>,
}

/// A unit as its owner claims it to be: what a change of the store compares.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitEpoch {
    /// `target/unit`.
    pub unit: String,
    pub epoch: u64,
}

/// What a linearizable read of the store has found. None: the unit has no owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// `target/unit`.
    pub unit: String,
    pub owner: Option<Owner>,
}

/// What this host knows of one unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Nothing was read yet.
    Unknown,
    Free,
    Ours {
        epoch: u64,
    },
    Theirs(Owner),
    /// A change was asked for, and it is not known whether it took effect.
    Uncertain,
}

impl Ownership {
    /// The one state in which requests go to the unit.
    #[must_use]
    pub fn may_dispatch(&self) -> bool {
        match self {
            Self::Ours { .. } => true,
            Self::Unknown | Self::Free | Self::Theirs(_) | Self::Uncertain => false,
        }
    }

    /// Why the unit's requests are held, in words; none if they are not.
    #[must_use]
    pub fn hold_words(&self) -> Option<String> {
        match self {
            Self::Ours { .. } => None,
            Self::Unknown => Some("its owner was not read yet".into()),
            Self::Free => Some("it has no owner yet".into()),
            Self::Theirs(owner) => Some(format!("owned by {owner}")),
            Self::Uncertain => Some("it is not known whether its owner has changed".into()),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (epoch {})", self.host, self.epoch)
    }
}
