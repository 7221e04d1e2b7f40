//! Open incidents: at most one for each target.
//!
//! Invariant: one failed component that several paths share is one incident: what fails in a target while its incident
//! is open joins it.
//! Rejected: guessing shared components from the time between failures. The target is known, and a wrong guess would
//! split or merge what an operator has to explain.
//! It does not know when one is over.

use crate::ids::{IncidentId, PathId, TargetId};
use crate::saved::SavedIncident;
use crate::time::Instant;

#[derive(Clone, Debug, Default)]
pub(super) struct Incidents {
    last: u64,
    open: Vec<Incident>,
}

#[derive(Clone, Debug)]
pub(super) struct Incident {
    pub(super) id: IncidentId,
    pub(super) target: TargetId,
    pub(super) opened: Instant,
    /// What failed, in words, in the order of failing; once for each path.
    failures: Vec<(Option<PathId>, String)>,
}

impl Incident {
    pub(super) fn save(&self) -> SavedIncident {
        let Self { id, target, opened, failures } = self.clone();
        SavedIncident { id, target, opened, failures }
    }

    pub(super) fn restored(
        id: IncidentId,
        target: TargetId,
        opened: Instant,
        failures: Vec<(Option<PathId>, String)>,
    ) -> Self {
        Self { id, target, opened, failures }
    }

    pub(super) fn summary(&self) -> String {
        self.failures.iter().map(|(_, what)| what.as_str()).collect::<Vec<_>>().join("; ")
    }

    /// The paths that failed in it.
    pub(super) fn paths(&self) -> impl Iterator<Item = PathId> {
        self.failures.iter().filter_map(|(path, _)| *path)
    }
}

pub(super) enum Opened {
    New(IncidentId),
    Joined(IncidentId),
}

impl Incidents {
    /// The number of the newest.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Takes over those of the process before; numbers go on after `last`.
    pub(super) fn restore(&mut self, last: u64, open: Vec<Incident>) {
        self.last = open.iter().map(|incident| incident.id.0).fold(last, u64::max);
        self.open = open;
    }

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
        let failure = (path, what.to_owned());
        if let Some(open) = self.open.iter_mut().find(|i| i.target == target) {
            match open.failures.iter_mut().find(|(known, _)| *known == path) {
                Some(known) if path.is_some() => *known = failure,
                Some(_) => {}
                None => open.failures.push(failure),
            }
            return Opened::Joined(open.id);
        }
        self.last += 1;
        let id = IncidentId(self.last);
        self.open.push(Incident { id, target, opened: now, failures: vec![failure] });
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
            incident.failures.retain(|(path, _)| path.is_none_or(&path_stays));
        }
    }
}
