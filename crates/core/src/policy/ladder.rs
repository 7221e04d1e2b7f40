//! How far a VM without a path has come on its `on_no_path` ladder.
//!
//! Invariant: it starts again from the first rung with each new loss, so a path that comes and goes cannot push a VM
//! down the ladder. The suspend rung leaves the ladder: from there on [`crate::policy::Run`] says what becomes of it.
//! It does not know what the rungs are.

use crate::ids::{IncidentId, UnitId};
use crate::time::Instant;

/// ```text
///          no path             hold is over, or the unit is gone
///  Clear ──────────► Holding ───────────────────────► Stranded (no rung can be done)
///    ▲                  │   └───────────────────────► Failing
///    └──── a path is up, from anywhere; also when the VM is being suspended
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ladder {
    Clear,
    /// The router holds its requests: there is nowhere to send them.
    Holding {
        since: Instant,
        unit: UnitId,
        incident: IncidentId,
    },
    /// Past the hold, and no rung is possible now: still held.
    Stranded {
        since: Instant,
        unit: UnitId,
        incident: IncidentId,
        /// Why each rung is impossible, in words.
        why: String,
    },
    /// Its requests are answered with errors.
    Failing {
        since: Instant,
        unit: UnitId,
        incident: IncidentId,
        /// The rule, in words.
        rule: String,
    },
}

impl Ladder {
    /// Since when there is no path, to which unit, in which incident.
    #[must_use]
    pub fn loss(&self) -> Option<(Instant, UnitId, IncidentId)> {
        match self {
            Self::Clear => None,
            Self::Holding { since, unit, incident }
            | Self::Stranded { since, unit, incident, .. }
            | Self::Failing { since, unit, incident, .. } => Some((*since, *unit, *incident)),
        }
    }
}
