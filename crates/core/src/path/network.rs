//! All links and paths of a host, kept in agreement.
//!
//! Invariant: see [`crate::path`]. Links change by reports, paths only in [`Network::settle`] and by the operator.
//! It does not know why anybody asks.

use crate::event::{Fault, LinkChange, LinkReport, LoadReport};
use crate::ids::{DiskId, PathId, TargetId, UnitId};
use crate::path::reach::{Reach, reaches};
use crate::path::sickness::{Ailment, SickEdge, Sickness};
use crate::path::table::Links;
use crate::path::{Link, LinkEdge, LinkRow, PathChange, PathMachine, PathState, Signal};
use crate::plan::Health;
use crate::spec::{Access, Spec, TargetSpec};
use crate::time::{Duration, Instant};
use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub struct Network {
    pub(super) links: Links,
    pub(super) paths: Vec<Path>,
    /// By `VmId`.
    pub(super) reaches: Vec<Reach>,
    sickness: Sickness,
    /// Disks that left the configuration and are not served any more. Their units have no links.
    left: BTreeSet<DiskId>,
    /// No first connection has been waited for too long before this.
    first_expiry: Instant,
}

#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) target: TargetId,
    pub(super) machine: PathMachine,
    pub(super) access: Access,
}

impl Network {
    #[must_use]
    pub fn new(spec: &Spec, now: Instant) -> Self {
        let mut network = Self {
            links: Links::default(),
            paths: vec![],
            reaches: vec![],
            sickness: Sickness::new(spec.paths.len()),
            left: BTreeSet::new(),
            first_expiry: now,
        };
        network.fill(spec, now);
        network
    }

    /// Adds what the spec has and the network has not.
    fn fill(&mut self, spec: &Spec, now: Instant) {
        self.first_expiry = now;
        for path in spec.path_ids().skip(self.paths.len()) {
            let (target, access) = (spec.path(path).target, spec.path(path).access);
            self.paths.push(Path { target, machine: PathMachine::new(now), access });
        }
        let unused = self.unused_units(spec);
        let used = spec.unit_ids().filter(|unit| !unused.contains(unit));
        let all = used.flat_map(|unit| spec.paths_of_unit(unit).map(move |path| (path, unit)));
        self.links.fill(all, &LinkRow::new(now));
        self.reaches = reaches(spec, &self.left);
    }

    /// Those that only disks that have left are on.
    fn unused_units(&self, spec: &Spec) -> BTreeSet<UnitId> {
        let mut unused: BTreeSet<UnitId> = self.left.iter().map(|disk| spec.disk(*disk).unit).collect();
        for disk in spec.disk_ids().filter(|disk| !self.left.contains(disk)) {
            unused.remove(&spec.disk(disk).unit);
        }
        unused
    }

    /// From now on exactly these disks have left. What their links were is forgotten; those that are back connect anew.
    pub fn leave(&mut self, spec: &Spec, left: BTreeSet<DiskId>, now: Instant) {
        if left == self.left {
            return;
        }
        self.left = left;
        let unused = self.unused_units(spec);
        self.links.retain(|(_, unit)| !unused.contains(&unit));
        self.fill(spec, now);
    }

    /// Moves to a new spec in which the same names have the same ids. What the operator set at run time stays, unless
    /// the new spec says something else than the old one did.
    pub fn rebase(&mut self, old: &Spec, new: &Spec, now: Instant) {
        let same_path = |p: PathId| {
            p.index() < old.paths.len() && p.index() < new.paths.len() && old.path_name(p) == new.path_name(p)
        };
        let same_unit = |u: UnitId| {
            u.index() < old.units.len() && u.index() < new.units.len() && old.unit_name(u) == new.unit_name(u)
        };
        self.links.retain(|(path, unit)| same_path(path) && same_unit(unit));
        self.left.retain(|disk| disk.index() < new.disks.len());
        self.paths.truncate(new.paths.len());
        for (index, path) in self.paths.iter_mut().enumerate() {
            let id = PathId::at(index);
            let (then, wanted) = (old.path(id), new.path(id));
            if !same_path(id) {
                *path = Path { target: wanted.target, machine: PathMachine::new(now), access: wanted.access };
            } else if then.access != wanted.access {
                path.access = wanted.access;
            }
        }
        self.sickness.configure(new.paths.len(), same_path);
        self.fill(new, now);
    }

    /// Takes in what a worker saw of a link. Reports of links that the spec does not have are stale and change nothing.
    pub fn report(&mut self, spec: &Spec, now: Instant, report: &LinkReport) -> LinkEdge {
        let Some(row) = self.links.get_mut((report.path, report.unit)) else { return LinkEdge::Nothing };
        let base = spec.target(spec.path(report.path).target).repair_after;
        let seen = report.at.min(now);
        let state = self.paths[report.path.index()].machine.state();
        let disabled = matches!(state, PathState::Disabled { .. } | PathState::Draining { .. });
        match &report.change {
            LinkChange::Up => row.up(seen, base),
            // The worker had not heard yet that the operator put it back: it connects again, and nothing has failed.
            LinkChange::Down { fault: Fault::Disabled, .. } if !disabled => {
                row.cut_on_purpose(now);
                self.first_expiry = now;
                LinkEdge::Nothing
            }
            LinkChange::Down { fault, requests_outstanding } => {
                row.down(seen, base, fault.clone(), *requests_outstanding)
            }
            LinkChange::FailedOver { .. } => LinkEdge::Nothing,
        }
    }

    /// Links whose first connection has taken too long.
    pub fn expire(&mut self, now: Instant) -> Vec<(PathId, UnitId)> {
        let mut expired = vec![];
        if now < self.first_expiry {
            return expired;
        }
        self.first_expiry = Instant::FAR_FUTURE;
        for (key, row) in self.links.iter_mut() {
            match row.elapsed(now) {
                LinkEdge::Lost => expired.push(key),
                LinkEdge::Nothing | LinkEdge::Connected | LinkEdge::Back { .. } => {}
            }
            if let Link::Connecting { until, .. } = row.link() {
                self.first_expiry = self.first_expiry.min(*until);
            }
        }
        expired
    }

    /// Brings each path into agreement with its links and the time; what changed, in the order in which it did.
    pub fn settle(&mut self, spec: &Spec, now: Instant) -> Vec<(PathId, PathChange)> {
        let mut changes = vec![];
        for path in spec.path_ids() {
            let rules = spec.target(spec.path(path).target);
            let change = self.settle_links(path, now, rules);
            changes.extend(change.map(|c| (path, c)));
            // After a restart, a path that awaits failback must connect again first.
            if self.only_connects(path) {
                continue;
            }
            while let Some(change) = self.paths[path.index()].machine.step(now, Signal::Elapsed, rules) {
                changes.push((path, change));
            }
        }
        changes
    }

    /// Some of its links connect for the first time, and none is up.
    fn only_connects(&self, path: PathId) -> bool {
        let connects = |link: &Link| matches!(link, Link::Connecting { .. });
        let up = |link: &Link| matches!(link, Link::Up { .. });
        self.links_of(path).any(|(_, link)| connects(link)) && !self.links_of(path).any(|(_, link)| up(link))
    }

    fn settle_links(&mut self, path: PathId, now: Instant, rules: &TargetSpec) -> Option<PathChange> {
        let machine = &mut self.paths[path.index()].machine;
        let rows = || self.links.of(path).map(|(_, row)| row.link());
        let is_up = rows().any(|link| matches!(link, Link::Up { .. }));
        if matches!(machine.state(), PathState::Draining { .. }) {
            return if is_up { None } else { machine.step(now, Signal::Emptied, rules) };
        }
        if is_up {
            match machine.state() {
                PathState::Connecting { .. } | PathState::Down { .. } => {}
                PathState::Active { .. }
                | PathState::Probation { .. }
                | PathState::Repaired { .. }
                | PathState::Draining { .. }
                | PathState::Disabled { .. } => return None,
            }
            let first = rows().filter_map(up_since).min()?;
            return machine.step(first, Signal::Up, rules);
        }
        let waits = rows().any(|link| matches!(link, Link::Connecting { .. }));
        match machine.state() {
            PathState::Connecting { .. } if waits => return None,
            PathState::Connecting { .. }
            | PathState::Active { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. }
            | PathState::Draining { .. }
            | PathState::Disabled { .. } => {}
        }
        let last = rows().filter_map(down_since).max_by_key(|(since, _)| *since);
        last.and_then(|(since, fault)| machine.step(since.min(now), Signal::Down(fault), rules))
    }

    /// The operator's or the policy's word to one path.
    pub fn signal(
        &mut self,
        spec: &Spec,
        now: Instant,
        path: PathId,
        signal: Signal<'_>,
    ) -> Option<PathChange> {
        let rules = spec.target(spec.path(path).target);
        let change = self.paths[path.index()].machine.step(now, signal, rules);
        if change == Some(PathChange::Enabled) {
            self.first_expiry = now;
            self.sickness.forget(path);
            self.links.of_mut(path).for_each(|row| row.reconnect(now));
        }
        change
    }

    pub fn set_access(&mut self, path: PathId, access: Access) {
        self.paths[path.index()].access = access;
    }

    #[must_use]
    pub fn state(&self, path: PathId) -> &PathState {
        self.paths[path.index()].machine.state()
    }

    #[must_use]
    pub fn machine(&self, path: PathId) -> &PathMachine {
        &self.paths[path.index()].machine
    }

    #[must_use]
    pub fn access(&self, path: PathId) -> Access {
        self.paths[path.index()].access
    }

    /// As the data plane ranks it: a path that is up but sick is marginal.
    #[must_use]
    pub fn health(&self, path: PathId) -> Health {
        match self.state(path).health() {
            Health::Up if self.sickness.ailment(path).is_some() => Health::Marginal,
            health => health,
        }
    }

    /// What ails it and since when; none of a path that is not up.
    #[must_use]
    pub fn ailment(&self, path: PathId) -> Option<(Ailment, Instant)> {
        self.sickness.ailment(path).filter(|_| self.state(path).health() == Health::Up)
    }

    /// For how long a sick path must look well.
    #[must_use]
    pub fn well_after(&self, path: PathId) -> Duration {
        self.sickness.required(path)
    }

    /// Takes in what a worker measured; who has fallen sick or is well again.
    pub fn feel(&mut self, now: Instant, report: &LoadReport) -> Vec<(PathId, SickEdge)> {
        for (index, load) in report.paths.iter().enumerate().take(self.paths.len()) {
            self.sickness.take(PathId::at(index), &load.vitals);
        }
        let group = |path: &Path| match path.machine.state().health() {
            Health::Up => Some((path.target, path.access)),
            Health::Marginal | Health::Draining | Health::Down | Health::Disabled => None,
        };
        let siblings: Vec<_> = self.paths.iter().map(group).collect();
        self.sickness.judge(now, &siblings)
    }

    /// None if the spec has no such link.
    #[must_use]
    pub fn link(&self, path: PathId, unit: UnitId) -> Option<&Link> {
        self.links.get((path, unit)).map(LinkRow::link)
    }

    #[must_use]
    pub fn row(&self, path: PathId, unit: UnitId) -> Option<&LinkRow> {
        self.links.get((path, unit))
    }

    /// Each link of a path.
    pub fn links_of(&self, path: PathId) -> impl Iterator<Item = (UnitId, &Link)> {
        self.links.of(path).map(|(unit, row)| (unit, row.link()))
    }

    /// The times, later than `now`, at which a link or path may change by itself.
    #[must_use]
    pub fn deadline(&self, spec: &Spec, now: Instant) -> Option<Instant> {
        let links = self.links.iter().filter_map(|(_, row)| row.deadline());
        let paths = self.paths.iter().filter_map(|p| p.machine.deadline(spec.target(p.target)));
        links.chain(paths).filter(|at| *at > now).min()
    }
}

fn up_since(link: &Link) -> Option<Instant> {
    match link {
        Link::Up { since, .. } => Some(*since),
        Link::Connecting { .. } | Link::Down { .. } => None,
    }
}

fn down_since(link: &Link) -> Option<(Instant, &Fault)> {
    match link {
        Link::Down { since, cause, .. } => Some((*since, cause)),
        Link::Connecting { .. } | Link::Up { .. } => None,
    }
}
