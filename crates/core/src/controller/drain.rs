//! Planned maintenance: a path is taken out without hurting anybody.
//!
//! Invariant: whoever does not fit without the path leaves before it stops to carry, and what is in flight on it finishes
//! there; only then is it said to be empty. Every step has its journal entry.
//! Rejected: to disable the path and let the shortage show who has to leave. It is known before, and nobody need feel it.
//! It does not count requests: a worker cuts a link of such a path when nothing of it is in flight, and says so.

use super::Controller;
use super::commands::{Answer, conflict};
use crate::event::Force;
use crate::ids::{PathId, VmId};
use crate::path::{Drain, PathState, Signal};
use crate::policy::{Cause, Run};
use crate::time::{Duration, Instant};
use crate::view::VmState;

/// Those who leave first have so long; then the path stops to carry all the same. A `stop` takes less when nothing is wrong.
const SHED_FIRST_MAX: Duration = Duration::from_secs(10);

/// VMs that cannot do without a path.
pub(super) struct Needing {
    /// Which, and why, in words.
    pub(super) words: String,
    /// At least one; highest priority first.
    names: Vec<String>,
}

impl Needing {
    pub(super) fn way_out(&self) -> String {
        let them = if self.names.len() == 1 { "it" } else { "them" };
        format!("suspend {them} first (`vmpath vm suspend {}`)", self.names[0])
    }
}

impl Controller {
    pub(super) fn drain(&mut self, path: PathId, force: Force) -> Answer {
        let name = self.spec.path_name(path);
        match self.network.state(path) {
            PathState::Disabled { .. } => return conflict(format!("{name} is disabled already")),
            PathState::Draining { .. } => return conflict(format!("{name} is being drained already")),
            PathState::Connecting { .. }
            | PathState::Active { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. } => {}
        }
        let needing = self.needed_by(path);
        if let (Some(needing), Force::No) = (&needing, force) {
            return conflict(format!(
                "{}: {}, bring another path up, or drain it all the same with --force: then they follow their on_no_path",
                needing.words,
                needing.way_out()
            ));
        }
        if let Some(change) = self.network.signal(&self.spec, self.now, path, Signal::Drain) {
            self.tell_path(path, &change);
        }
        let forced = needing.map(|needing| format!("; by force: {}", needing.words)).unwrap_or_default();
        Ok(format!("{name} is being drained; `vmpath path enable {name}` puts it back{forced}"))
    }

    /// Who could not do without this path; none if everybody can.
    pub(super) fn needed_by(&self, path: PathId) -> Option<Needing> {
        let (name, mut last, mut few) = (self.spec.path_name(path), vec![], vec![]);
        for vm in self.order.iter().filter(|vm| self.is_awake(**vm)) {
            match self.left_without(*vm, path) {
                Some(0) => last.push(self.spec.vm(*vm).name.clone()),
                Some(_) => few.push(self.spec.vm(*vm).name.clone()),
                None => {}
            }
        }
        let mut words = vec![];
        if !last.is_empty() {
            words.push(format!("{name} is the last usable path of {}", last.join(", ")));
        }
        if !few.is_empty() {
            words.push(format!("without {name} fewer than min_paths are left to {}", few.join(", ")));
        }
        let names = [last, few].concat();
        (!names.is_empty()).then(|| Needing { words: words.join("; "), names })
    }

    fn is_awake(&self, vm: VmId) -> bool {
        match self.vm_state(vm) {
            VmState::Suspended | VmState::StoppedByOther | VmState::Elsewhere => false,
            VmState::Running
            | VmState::Suspending
            | VmState::Resuming
            | VmState::Unmanaged
            | VmState::Migrating => true,
        }
    }

    /// How many paths would be left to that unit of the VM which needs this one most; none if it can do without.
    fn left_without(&self, vm: VmId, path: PathId) -> Option<usize> {
        let min = self.spec.vm(vm).min_paths as usize;
        let units = self.network.reach(vm).units.iter().filter(|u| u.paths.contains(&path));
        let needing = units.filter(|u| self.network.usable(path, u.unit));
        let left = needing.map(|u| self.network.usable_paths(vm, u.unit) - 1);
        // One that has too few already loses nothing of what it asks for but its last.
        left.filter(|left| *left == 0 || *left + 1 == min).min()
    }

    /// Stops giving requests to paths for which nobody has to leave any more. Whether there was one.
    pub(super) fn advance_drains(&mut self) -> bool {
        let mut is_left = false;
        for path in self.spec.path_ids() {
            let PathState::Draining { since, stage: Drain::Shedding } = *self.network.state(path) else {
                continue;
            };
            if self.leaves_for(path) && since + SHED_FIRST_MAX > self.now {
                continue;
            }
            if let Some(change) = self.network.signal(&self.spec, self.now, path, Signal::Leave) {
                self.tell_path(path, &change);
                is_left = true;
            }
        }
        is_left
    }

    /// A VM is still on its way out for want of room.
    fn leaves_for(&self, path: PathId) -> bool {
        let leaves = |vm: &VmId| match &self.vms[vm.index()].guest.run {
            Run::Suspending { cause, .. } => {
                Cause::sheds(cause) && self.network.reach(*vm).paths.contains(&path)
            }
            Run::Free { .. }
            | Run::Held { .. }
            | Run::Withdrawing { .. }
            | Run::Suspended { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => false,
        };
        self.order.iter().any(leaves)
    }

    pub(super) fn drain_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.spec.path_ids().filter_map(|path| match self.network.state(path) {
            PathState::Draining { since, stage: Drain::Shedding } => Some(*since + SHED_FIRST_MAX),
            PathState::Draining { stage: Drain::Finishing, .. }
            | PathState::Connecting { .. }
            | PathState::Active { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. }
            | PathState::Disabled { .. } => None,
        })
    }
}
