//! What one VM sees of the paths: its units' links, without the paths that it avoids.
//!
//! Invariant: "lost", "usable" and "good again" are decided here and nowhere else, so that a hold and its release can
//! never disagree. A path that the operator took out is neither lost nor usable.
//! It does not know the VM's policy, nor whether it runs.

use crate::event::Fault;
use crate::ids::{DiskId, PathId, TargetId, UnitId, VmId};
use crate::mutant::{self, Mutant};
use crate::path::{Drain, Link, Network, PathState};
use crate::plan::Health;
use crate::spec::{ResumeOn, Spec};
use crate::time::Instant;
use std::collections::BTreeSet;

/// The units of one VM and how it may reach them. Worked out once for each spec.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    pub units: Vec<UnitReach>,
    /// Every path that it may use.
    pub paths: Vec<PathId>,
}

#[derive(Clone, Debug)]
pub struct UnitReach {
    pub unit: UnitId,
    pub target: TargetId,
    /// How many of the VM's disks are on it.
    pub disks: u32,
    pub paths: Vec<PathId>,
}

/// Without the disks that have left.
pub(super) fn reaches(spec: &Spec, left: &BTreeSet<DiskId>) -> Vec<Reach> {
    let mut all = vec![Reach::default(); spec.vms.len()];
    for disk in spec.disk_ids().filter(|disk| !left.contains(disk)) {
        let disk = spec.disk(disk);
        let reach = &mut all[disk.vm.index()];
        if let Some(known) = reach.units.iter_mut().find(|u| u.unit == disk.unit) {
            known.disks += 1;
            continue;
        }
        let avoid = &spec.vm(disk.vm).avoid_paths;
        let paths: Vec<_> = spec.paths_of_unit(disk.unit).filter(|p| !avoid.contains(p)).collect();
        reach.paths.extend(&paths);
        reach.units.push(UnitReach { unit: disk.unit, target: spec.unit(disk.unit).target, disks: 1, paths });
    }
    for reach in &mut all {
        reach.paths.sort_unstable();
        reach.paths.dedup();
    }
    all
}

impl Network {
    #[must_use]
    pub fn reach(&self, vm: VmId) -> &Reach {
        &self.reaches[vm.index()]
    }

    fn in_service(&self, path: PathId) -> bool {
        match self.state(path) {
            PathState::Disabled { .. } | PathState::Draining { stage: Drain::Finishing, .. } => false,
            PathState::Draining { stage: Drain::Shedding, .. } => true,
            PathState::Connecting { .. }
            | PathState::Active { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. } => true,
        }
    }

    /// A request for the unit could go there now.
    #[must_use]
    pub fn usable(&self, path: PathId, unit: UnitId) -> bool {
        self.in_service(path) && matches!(self.link(path, unit), Some(Link::Up { .. }))
    }

    /// It failed, and nobody took it out.
    #[must_use]
    pub fn lost(&self, path: PathId, unit: UnitId) -> bool {
        self.in_service(path) && matches!(self.link(path, unit), Some(Link::Down { .. }))
    }

    fn connecting(&self, path: PathId, unit: UnitId) -> bool {
        self.in_service(path) && matches!(self.link(path, unit), Some(Link::Connecting { .. }))
    }

    /// It carries its share of a reservation: up, trusted, and the unit is there.
    #[must_use]
    pub fn carries(&self, path: PathId, unit: UnitId) -> bool {
        self.usable(path, unit) && self.state(path).health() == Health::Up
    }

    /// The paths that this VM has lost: each with a link to one of its units down.
    #[must_use]
    pub fn lost_paths(&self, vm: VmId) -> Vec<PathId> {
        let reach = self.reach(vm);
        let lost = |p: &&PathId| reach.units.iter().any(|u| u.paths.contains(p) && self.lost(**p, u.unit));
        reach.paths.iter().filter(lost).copied().collect()
    }

    /// The paths that this VM has lost, or that are up again but have not stayed good for long enough. After a restart that
    /// includes a path that had failed and of which its own link is not back yet: it may be lost as soon as that is known.
    #[must_use]
    pub fn shaky_paths(&self, vm: VmId, now: Instant) -> Vec<PathId> {
        let reach = self.reach(vm);
        let probation = |p: PathId| matches!(self.state(p), PathState::Probation { .. });
        let down = |p: PathId| matches!(self.state(p), PathState::Down { .. });
        let shaky = |p: &&PathId| {
            self.in_service(**p)
                && reach.units.iter().filter(|u| u.paths.contains(p)).any(|u| match self.link(**p, u.unit) {
                    Some(Link::Down { .. }) => true,
                    Some(Link::Up { proven_at, .. }) => *proven_at > now || probation(**p),
                    Some(Link::Connecting { .. }) => probation(**p) || down(**p),
                    None => false,
                })
        };
        reach.paths.iter().filter(shaky).copied().collect()
    }

    /// The first of the VM's units that no path leads to, none of them being about to connect for the first time.
    #[must_use]
    pub fn cut_off_unit(&self, vm: VmId) -> Option<UnitId> {
        self.reach(vm).units.iter().find(|u| self.is_cut(u)).map(|u| u.unit)
    }

    /// The same of one of its units.
    #[must_use]
    pub fn is_cut_off(&self, vm: VmId, unit: UnitId) -> bool {
        self.reach(vm).units.iter().any(|u| u.unit == unit && self.is_cut(u))
    }

    fn is_cut(&self, u: &UnitReach) -> bool {
        !u.paths.iter().any(|p| self.usable(*p, u.unit) || self.connecting(*p, u.unit))
    }

    /// The first of the VM's units that no request could be sent to now.
    #[must_use]
    pub fn unserved_unit(&self, vm: VmId) -> Option<UnitId> {
        let unserved = |u: &&UnitReach| !u.paths.iter().any(|p| self.usable(*p, u.unit));
        self.reach(vm).units.iter().find(unserved).map(|u| u.unit)
    }

    /// How many paths a request of this VM for the unit could be sent over now.
    #[must_use]
    pub fn usable_paths(&self, vm: VmId, unit: UnitId) -> usize {
        let reach = self.reach(vm).units.iter().find(|u| u.unit == unit);
        reach.map_or(0, |u| u.paths.iter().filter(|p| self.usable(**p, unit)).count())
    }

    /// The first of the VM's units that fewer than `min` paths lead to, those included that connect for the first time.
    #[must_use]
    pub fn short_unit(&self, vm: VmId, min: u32) -> Option<UnitId> {
        let counts = |u: &UnitReach| {
            let paths = u.paths.iter();
            let there = paths.filter(|p| self.usable(**p, u.unit) || self.connecting(**p, u.unit));
            // On a large host this is asked very often, and further paths change nothing.
            there.take(min as usize).count()
        };
        self.reach(vm).units.iter().find(|u| counts(u) < min as usize).map(|u| u.unit)
    }

    /// Every path that could lead to the unit is told by the target that there is no such unit: waiting is no use.
    #[must_use]
    pub fn gone_for_good(&self, vm: VmId, unit: UnitId) -> bool {
        let gone = |p: &PathId| match self.link(*p, unit) {
            Some(Link::Down { latest: Fault::UnitGone(_), .. }) => true,
            Some(Link::Down { .. } | Link::Connecting { .. } | Link::Up { .. }) | None => false,
        };
        let paths = self.reach(vm).units.iter().find(|u| u.unit == unit).map_or(&[][..], |u| &u.paths);
        let mut tried = paths.iter().filter(|p| self.in_service(**p)).peekable();
        tried.peek().is_some() && tried.all(gone)
    }

    /// The failure of this path is corrected for this VM, as far as its `resume` rule asks.
    #[must_use]
    pub fn good_again(&self, vm: VmId, path: PathId, rule: ResumeOn, now: Instant) -> bool {
        let mut units = self.reach(vm).units.iter().filter(|u| u.paths.contains(&path));
        if mutant::active(Mutant::ResumeAtOnce) {
            return units.all(|u| self.usable(path, u.unit));
        }
        trusted(self.state(path), rule) && units.all(|u| self.proven(path, u.unit, now))
    }

    /// So many paths lead to the unit and are good, as far as the `resume` rule asks.
    #[must_use]
    pub fn serve_again(&self, unit: &UnitReach, rule: ResumeOn, now: Instant) -> usize {
        if mutant::active(Mutant::ResumeAtOnce) {
            return unit.paths.iter().filter(|p| self.usable(**p, unit.unit)).count();
        }
        let good = |p: &&PathId| trusted(self.state(**p), rule) && self.proven(**p, unit.unit, now);
        unit.paths.iter().filter(good).count()
    }

    fn proven(&self, path: PathId, unit: UnitId, now: Instant) -> bool {
        self.proven_at(path, unit).is_some_and(|at| at <= now)
    }

    /// When an up link has stayed good for long enough; none if it is not up.
    #[must_use]
    pub fn proven_at(&self, path: PathId, unit: UnitId) -> Option<Instant> {
        match self.link(path, unit) {
            Some(Link::Up { proven_at, .. }) => Some(*proven_at),
            Some(Link::Connecting { .. } | Link::Down { .. }) | None => None,
        }
    }
}

fn trusted(state: &PathState, rule: ResumeOn) -> bool {
    match (state, rule) {
        (PathState::Active { .. }, ResumeOn::Repair | ResumeOn::Failback)
        | (PathState::Repaired { .. }, ResumeOn::Repair) => true,
        (PathState::Repaired { .. }, ResumeOn::Failback)
        | (
            PathState::Connecting { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Draining { .. }
            | PathState::Disabled { .. },
            ResumeOn::Repair | ResumeOn::Failback,
        ) => false,
    }
}
