//! How far a VM without enough paths has come on its `on_no_path` ladder.
//!
//! Invariant: it starts again from the first rung with each new loss, so a path that comes and goes cannot push a VM down
//! the ladder; within one loss it never goes back up. A rung is named by its action, of which a ladder has one each, so
//! that a reload may change the ladder under it.
//! Rejected: to leave the ladder with the suspend rung. Nothing would then end a suspend that has a bound.
//! It does not know what the rungs are; [`crate::policy::Run`] says how far a suspend has come.

use crate::ids::{IncidentId, UnitId};
use crate::spec::NoPathAction;
use crate::time::{Duration, Instant};

/// What is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// No path leads to the unit.
    NoPath,
    /// Some do, but fewer than the VM's `min_paths`: its requests go on.
    FewPaths,
    /// Some do, but the target is short of resources and refuses everything: its requests are held and tried again.
    Short,
}

/// A lack, from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub since: Instant,
    pub unit: UnitId,
    pub incident: IncidentId,
    pub lack: Lack,
}

/// ```text
///          lack                 over              over
///  Clear ─────────► Waiting ──────────► Suspended ──────► Failing (its guest sees errors)
///    ▲                 │  └──────────────────┼──────────►
///    │                 │ no rung can be done │ no rung can be done
///    │                 └──────► Stranded ◄───┘
///    └──── the lack is over, from anywhere; also when something else has suspended the VM
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ladder {
    Clear,
    /// On `hold`; or on a `suspend` that cannot be done, for as long as that may last. Without any path the router holds
    /// its requests: there is nowhere to send them.
    Waiting {
        loss: Loss,
        rung: NoPathAction,
        /// Of the rung.
        since: Instant,
    },
    /// On `suspend`, counted from the decision.
    Suspended {
        loss: Loss,
        since: Instant,
    },
    /// Past the last rung that can be done: it stays as it is, held or suspended, until the lack is over.
    Stranded {
        loss: Loss,
        /// Why each rung is impossible, in words.
        why: String,
        retell: Retell,
    },
    /// Its requests are answered with errors.
    Failing {
        loss: Loss,
        /// The rule, in words.
        rule: String,
    },
}

/// When a state without a bound of its own is told again: each time after twice as long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retell {
    pub at: Instant,
    pub every: Duration,
}

const RETELL_FIRST: Duration = Duration::from_secs(60);
/// Often enough for whoever looks at the journal of a day.
const RETELL_MAX: Duration = Duration::from_secs(3600);

impl Retell {
    #[must_use]
    pub fn first(now: Instant) -> Self {
        Self { at: now + RETELL_FIRST, every: RETELL_FIRST }
    }

    /// After it was told again.
    #[must_use]
    pub fn next(self, now: Instant) -> Self {
        let every = (self.every * 2).min(RETELL_MAX);
        Self { at: now + every, every }
    }
}

impl Ladder {
    /// What the VM lacks, since when, and in which incident.
    #[must_use]
    pub fn loss(&self) -> Option<Loss> {
        match self {
            Self::Clear => None,
            Self::Waiting { loss, .. }
            | Self::Suspended { loss, .. }
            | Self::Stranded { loss, .. }
            | Self::Failing { loss, .. } => Some(*loss),
        }
    }
}
