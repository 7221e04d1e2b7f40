//! Open incidents: at most one for each target.
//!
//! Invariant: one failed component that several paths share is one incident: what fails in a target while its incident
//! is open joins it, and so does a target's first failure where the path shares a component (`via`) with one that failed.
//! Rejected: guessing shared components from the time between failures; a wrong guess would split or merge what an
//! operator has to explain. And merging two that are open already: their numbers are in the journal.
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
    /// The first is the one it began in.
    pub(super) targets: Vec<TargetId>,
    pub(super) opened: Instant,
    /// What failed, in words, in the order of failing; once for each path.
    failures: Vec<(Option<PathId>, String)>,
}

impl Incident {
    pub(super) fn save(&self) -> SavedIncident {
        let Self { id, targets, opened, failures } = self.clone();
        SavedIncident { id, target: targets[0], also: targets[1..].to_vec(), opened, failures }
    }

    pub(super) fn restored(
        id: IncidentId,
        targets: Vec<TargetId>,
        opened: Instant,
        failures: Vec<(Option<PathId>, String)>,
    ) -> Self {
        Self { id, targets, opened, failures }
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
    /// It is not the first time that it fails in it.
    Again(IncidentId),
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
        self.open.iter().find(|i| i.targets.contains(&target)).map(|i| i.id)
    }

    pub(super) fn open(&self) -> &[Incident] {
        &self.open
    }

    /// Opens one, or lets `path` join the one that is open, of its target or else of a path that shares a component with
    /// it. `what` says in words what failed.
    pub(super) fn enter(
        &mut self,
        now: Instant,
        target: TargetId,
        (path, what): (Option<PathId>, &str),
        shares: impl Fn(PathId) -> bool,
    ) -> Opened {
        let failure = (path, what.to_owned());
        let own = self.open.iter().position(|i| i.targets.contains(&target));
        let joined = own.or_else(|| self.open.iter().position(|i| i.paths().any(&shares)));
        if let Some(open) = joined.map(|at| &mut self.open[at]) {
            if own.is_none() {
                open.targets.push(target);
            }
            match open.failures.iter_mut().find(|(known, _)| *known == path) {
                Some(known) if path.is_some() => *known = failure,
                Some(_) => {}
                None => {
                    open.failures.push(failure);
                    return Opened::Joined(open.id);
                }
            }
            return Opened::Again(open.id);
        }
        self.last += 1;
        let id = IncidentId(self.last);
        self.open.push(Incident { id, targets: vec![target], opened: now, failures: vec![failure] });
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
        for incident in &mut self.open {
            incident.targets.retain(|target| target_stays(*target));
        }
        self.open.retain(|i| !i.targets.is_empty());
        for incident in &mut self.open {
            incident.failures.retain(|(path, _)| path.is_none_or(&path_stays));
        }
    }
}
