//! Open incidents: at most one for each target.
//!
//! Invariant: one failed component that several paths share is one incident: what fails in a target while its incident
//! is open joins it.
//! Rejected: guessing shared components from the time between failures. The target is known, and a wrong guess would
//! split or merge what an operator has to explain.
//! It does not know when one is over.

use crate::ids::{IncidentId, PathId, TargetId};
use crate::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Incidents {
    last: u64,
    open: Vec<Incident>,
}

#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) id: IncidentId,
    pub(super) target: TargetId,
    pub(super) opened: Instant,
    pub(super) summary: String,
    pub(super) paths: Vec<PathId>,
}

pub(super) enum Opened {
    New(IncidentId),
    Joined(IncidentId),
}

impl Incidents {
    pub(super) fn of(&self, target: TargetId) -> Option<IncidentId> {
        self.open.iter().find(|i| i.target == target).map(|i| i.id)
    }

    pub(super) fn open(&self) -> &[Incident] {
        &self.open
    }

    /// Opens one, or lets `path` join the one that is open. `what` says in words what failed.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        target: TargetId,
        path: Option<PathId>,
        what: &str,
    ) -> Opened {
        if let Some(open) = self.open.iter_mut().find(|i| i.target == target) {
            if let Some(path) = path.filter(|p| !open.paths.contains(p)) {
                open.paths.push(path);
                open.summary = format!("{}; {what}", open.summary);
            }
            return Opened::Joined(open.id);
        }
        self.last += 1;
        let id = IncidentId(self.last);
        let paths = path.into_iter().collect();
        self.open.push(Incident { id, target, opened: now, summary: what.into(), paths });
        Opened::New(id)
    }

    pub(super) fn close(&mut self, id: IncidentId) {
        self.open.retain(|i| i.id != id);
    }

    /// After a reload: what is no longer configured leaves.
    pub(super) fn retain(
        &mut self,
        target_stays: impl Fn(TargetId) -> bool,
        path_stays: impl Fn(PathId) -> bool,
    ) {
        self.open.retain(|i| target_stays(i.target));
        for incident in &mut self.open {
            incident.paths.retain(|p| path_stays(*p));
        }
    }
}
