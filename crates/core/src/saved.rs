//! What a controller leaves to the next one after a restart: plain data, with its own tables of names.
//!
//! Ids in here are positions in [`Names`], not in any spec, so that the configuration may have changed in between.
//! Times are of the host's monotonic clock, and mean nothing after a boot.
//! It does not know how it is kept.

use crate::ids::{IncidentId, PathId, TargetId, UnitId};
use crate::migration::{MoveId, destination, source};
use crate::path::{Damping, PathState};
use crate::policy::{Dwell, Ladder, Reason, Run};
use crate::spec::{Access, Spec};
use crate::time::Instant;

/// Everything that an operator expects to survive a restart of vmpath, and that paths and hypervisors do not say anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    pub names: Names,
    /// Of the newest incident, open or closed.
    pub last_incident: u64,
    /// Open ones.
    pub incidents: Vec<SavedIncident>,
    /// Those of which there is something to remember.
    pub paths: Vec<SavedPath>,
    pub links: Vec<SavedLink>,
    pub vms: Vec<SavedVm>,
}

/// What the ids of a [`Saved`] stand for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    pub targets: Vec<String>,
    /// `target/path`.
    pub paths: Vec<String>,
    /// `target/unit`.
    pub units: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedIncident {
    pub id: IncidentId,
    pub target: TargetId,
    /// Others whose paths failed in it because they share a component with those.
    pub also: Vec<TargetId>,
    pub opened: Instant,
    /// What failed, in words, and as which path.
    pub failures: Vec<(Option<PathId>, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedPath {
    pub path: PathId,
    pub state: PathState,
    pub damping: Damping,
    /// As configured, and as the operator has set it.
    pub access: (Access, Access),
}

/// A link that was down, or has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedLink {
    pub path: PathId,
    pub unit: UnitId,
    /// Since when it is down, and what broke it, in words.
    pub down: Option<(Instant, String)>,
    pub damping: Damping,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedVm {
    pub name: String,
    pub run: Run,
    pub ladder: Ladder,
    pub pardon: Option<IncidentId>,
    pub blocked: Option<(IncidentId, String)>,
    /// The incident in which it was held for as long as it may be.
    pub hold_spent: Option<IncidentId>,
    pub dwell: Dwell,
    /// The hypervisor process that was last seen running.
    pub ran: Option<u64>,
}

/// What one controller leaves to the next of its moves. Kept beside [`Saved`], because after a boot it is still worth
/// something: the hypervisor at the other end may live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SavedMoves {
    pub leaving: Vec<SavedLeaving>,
    pub arriving: Vec<destination::Saved>,
    pub travels: Vec<SavedTravel>,
    pub discards: Vec<SavedDiscard>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedLeaving {
    pub reason: Reason,
    pub machine: source::Saved,
}

/// A destination that has not said yet that it has ended what it had begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedDiscard {
    pub vm: String,
    pub move_id: MoveId,
    pub to: String,
    /// In words.
    pub why: String,
    /// Then it has given up waiting by itself.
    pub until: Instant,
}

/// What is known of a VM that is not on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTravel {
    pub vm: String,
    /// The host that it left for.
    pub elsewhere: Option<String>,
    pub arrived: Option<Instant>,
    pub home: Option<String>,
    /// As in [`crate::policy::Travel`].
    pub fled: Vec<String>,
}

/// How the process before ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It was asked to.
    Stopped,
    /// It was killed, or it crashed.
    Died,
    /// The host was booted since: no hypervisor process of then is left.
    Booted,
}

impl Names {
    pub(crate) fn of(spec: &Spec) -> Self {
        Self {
            targets: spec.targets.iter().map(|t| t.name.clone()).collect(),
            paths: spec.path_ids().map(|p| spec.path_name(p)).collect(),
            units: spec.unit_ids().map(|u| spec.unit_name(u)).collect(),
        }
    }

    /// The target of this name in a spec; none if it has left.
    pub(crate) fn target(&self, spec: &Spec, id: TargetId) -> Option<TargetId> {
        spec.target_by_name(self.targets.get(id.index())?)
    }

    pub(crate) fn path(&self, spec: &Spec, id: PathId) -> Option<PathId> {
        spec.path_by_name(self.paths.get(id.index())?)
    }

    pub(crate) fn unit(&self, spec: &Spec, id: UnitId) -> Option<UnitId> {
        let name = self.units.get(id.index())?;
        spec.unit_ids().find(|unit| spec.unit_name(*unit) == *name)
    }
}
