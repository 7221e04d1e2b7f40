//! Paths and links over a restart of vmpath.
//!
//! Invariant: what was up must connect again, and is taken at its word when it does; what was down, was proving itself or
//! awaits failback goes on from there; what the operator set stays set.
//! It does not know VMs.

use crate::event::Fault;
use crate::path::{Damping, Link, LinkRow, Network, PathMachine, PathState};
use crate::saved::{Saved, SavedLink, SavedPath};
use crate::spec::Spec;
use crate::time::Instant;

impl Network {
    /// What differs from a fresh start.
    pub(crate) fn save(&self, spec: &Spec) -> (Vec<SavedPath>, Vec<SavedLink>) {
        let path = |path| {
            let saved = SavedPath {
                path,
                state: self.state(path).clone(),
                damping: self.machine(path).damping().clone(),
                access: (spec.path(path).access, self.access(path)),
            };
            let fresh = matches!(saved.state, PathState::Connecting { .. } | PathState::Active { .. })
                && saved.damping == Damping::default()
                && saved.access.0 == saved.access.1;
            (!fresh).then_some(saved)
        };
        let link = |(key, row): ((_, _), &LinkRow)| {
            let down = match row.link() {
                Link::Down { since, cause, .. } => Some((*since, cause.to_string())),
                Link::Connecting { .. } | Link::Up { .. } => None,
            };
            let fresh = down.is_none() && *row.damping() == Damping::default();
            let saved = SavedLink { path: key.0, unit: key.1, down, damping: row.damping().clone() };
            (!fresh).then_some(saved)
        };
        (spec.path_ids().filter_map(path).collect(), self.links.iter().filter_map(link).collect())
    }

    /// Takes up what the process before has saved, in the same boot of the host.
    pub(crate) fn restore(&mut self, spec: &Spec, now: Instant, saved: &Saved) {
        for saved_path in &saved.paths {
            let Some(id) = saved.names.path(spec, saved_path.path) else { continue };
            let state = restored_state(&saved_path.state, now);
            self.paths[id.index()].machine = PathMachine::restored(state, saved_path.damping.clone());
        }
        for link in &saved.links {
            let ids = (saved.names.path(spec, link.path), saved.names.unit(spec, link.unit));
            let (Some(path), Some(unit)) = ids else { continue };
            if let Some(row) = self.links.get_mut((path, unit)) {
                let down = link.down.clone().map(|(since, words)| (since, Fault::Before(words)));
                *row = LinkRow::restored(now, down, link.damping.clone());
            }
        }
        self.restore_access(spec, saved);
    }

    /// After a boot of the host: what the operator has set, and nothing that was measured.
    pub(crate) fn restore_settings(&mut self, spec: &Spec, now: Instant, saved: &Saved) {
        let out =
            |state: &PathState| matches!(state, PathState::Disabled { .. } | PathState::Draining { .. });
        for path in saved.paths.iter().filter(|p| out(&p.state)) {
            if let Some(id) = saved.names.path(spec, path.path) {
                let state = PathState::Disabled { since: now };
                self.paths[id.index()].machine = PathMachine::restored(state, Damping::default());
            }
        }
        self.restore_access(spec, saved);
    }

    /// A configuration that says something else than it did has the last word.
    fn restore_access(&mut self, spec: &Spec, saved: &Saved) {
        for path in &saved.paths {
            let Some(id) = saved.names.path(spec, path.path) else { continue };
            let (configured, set) = path.access;
            if spec.path(id).access == configured {
                self.set_access(id, set);
            }
        }
    }
}

fn restored_state(saved: &PathState, now: Instant) -> PathState {
    match saved {
        PathState::Connecting { .. } | PathState::Active { .. } => PathState::Connecting { since: now },
        // Nobody watched it meanwhile: it proves itself from the beginning.
        PathState::Probation { .. } => {
            let fault = Fault::Before("vmpath was restarted while the path proved itself".into());
            PathState::Down { since: now, fault }
        }
        PathState::Down { since, fault } => {
            PathState::Down { since: *since, fault: Fault::Before(fault.to_string()) }
        }
        PathState::Repaired { since } => PathState::Repaired { since: *since },
        // What was in flight on it ended with the process.
        PathState::Draining { .. } => PathState::Disabled { since: now },
        PathState::Disabled { since } => PathState::Disabled { since: *since },
    }
}
