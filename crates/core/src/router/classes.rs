//! Classes: the sets of paths over which queues can go now. VMs of one class compete for exactly the same paths, so that
//! what stops one for want of room stops all that come after it, and a round need not look at them.
//!
//! Invariant: a queue's class is the set of paths with an open connection to its unit, less those that its VM must not
//! use and those that the plan forbids. A class that has had no new request, and whose paths have had no reply, since it was last
//! looked at, is not looked at. It does not know whose turn it is.

use super::{ConnectionStatus, Router};
use crate::ids::{PathId, TargetId, UnitId, VmId};
use crate::schedule::ClassId;
use crate::select::{Level, Rank};
use crate::spec::PathSelector;
use crate::time::Instant;
use crate::view::HoldReason;

/// A class's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClassAt(u32);

#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) id: ClassId,
    pub(super) target: TargetId,
    /// In order.
    pub(super) paths: Vec<PathId>,
    pub(super) selector: PathSelector,
    /// Classes that have a path of it, itself included.
    neighbours: Vec<ClassAt>,
    /// Queues whose class this is.
    queues: u32,
    /// VMs that have joined.
    waiting: u32,
    is_ready: bool,
    pub(super) reach: Reach,
}

/// For whom a round has found room in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    All,
    /// Whose turn it is waits for room that the VMs from this level on share. What is left is headroom: for those whose turn it
    /// will be, not for those who have had more already.
    Nobody(Level),
}

impl Class {
    /// Why what waits here waits.
    pub(super) fn reason(&self, level: Level) -> HoldReason {
        match self.reach {
            Reach::Nobody(from) if from > Level::TOP && level >= from => HoldReason::Headroom,
            Reach::All | Reach::Nobody(_) => HoldReason::Window,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    table: Vec<Class>,
    /// Those to look at in the next round.
    ready: Vec<ClassAt>,
    /// By `PathId`.
    of_path: Vec<Vec<ClassAt>>,
    /// Places of classes that no queue is in any more.
    free: Vec<ClassAt>,
}

impl Classes {
    pub(super) fn new(paths: usize) -> Self {
        Self { of_path: vec![Vec::new(); paths], ..Self::default() }
    }

    pub(super) fn of(&self, at: ClassAt) -> &Class {
        &self.table[at.0 as usize]
    }

    pub(super) fn of_mut(&mut self, at: ClassAt) -> &mut Class {
        &mut self.table[at.0 as usize]
    }

    /// Some unit has a connection over the path.
    pub(super) fn is_reachable(&self, path: PathId) -> bool {
        self.of_path[path.index()].iter().any(|at| self.of(*at).queues > 0)
    }

    /// A queue has come into the class, or left it.
    fn moved(&mut self, from: Option<ClassAt>, to: Option<ClassAt>) {
        if let Some(at) = from {
            self.of_mut(at).queues -= 1;
        }
        if let Some(at) = to {
            self.of_mut(at).queues += 1;
        }
    }

    /// The place behind the last.
    fn next(&self) -> ClassAt {
        ClassAt(u32::try_from(self.table.len()).expect("fewer classes"))
    }

    fn find(&self, paths: &[PathId]) -> Option<ClassAt> {
        let first = paths.first()?;
        self.of_path[first.index()].iter().copied().find(|at| self.of(*at).paths == paths)
    }

    /// A place that a class of the target has left, with its id.
    fn reuse(&mut self, target: TargetId) -> Option<(ClassAt, ClassId)> {
        let at = self.free.iter().position(|at| self.of(*at).target == target)?;
        let at = self.free.swap_remove(at);
        Some((at, self.of(at).id))
    }

    /// Paths come and go in any order, and each set of them would stay for ever.
    fn retire_if_unused(&mut self, at: ClassAt) {
        if self.of(at).queues > 0 || self.of(at).waiting > 0 {
            return;
        }
        for other in std::mem::take(&mut self.of_mut(at).neighbours) {
            self.of_mut(other).neighbours.retain(|n| *n != at);
        }
        for path in std::mem::take(&mut self.of_mut(at).paths) {
            self.of_path[path.index()].retain(|n| *n != at);
        }
        self.free.push(at);
    }

    fn add(&mut self, at: ClassAt, class: Class) {
        let paths = class.paths.clone();
        let shares_a_path = |other: &Class| other.paths.iter().any(|p| paths.contains(p));
        let mut neighbours = vec![at];
        for (index, other) in self.table.iter_mut().enumerate().filter(|(_, other)| shares_a_path(other)) {
            other.neighbours.push(at);
            neighbours.push(ClassAt(u32::try_from(index).expect("fewer classes")));
        }
        for path in &paths {
            self.of_path[path.index()].push(at);
        }
        let class = Class { neighbours, ..class };
        match self.table.get_mut(at.0 as usize) {
            // It may still be among those to look at.
            Some(place) => *place = Class { is_ready: place.is_ready, ..class },
            None => self.table.push(class),
        }
        self.ready.reserve(self.table.len());
    }

    pub(super) fn joined(&mut self, at: ClassAt) {
        self.of_mut(at).waiting += 1;
        self.ready(at);
    }

    pub(super) fn left(&mut self, at: ClassAt) {
        self.of_mut(at).waiting -= 1;
    }

    /// Something may go in it. Whoever shares a path with it is looked at too: what it claims there holds for a round.
    pub(super) fn ready(&mut self, at: ClassAt) {
        if self.of(at).is_ready {
            return;
        }
        for index in 0..self.of(at).neighbours.len() {
            let other = self.of(at).neighbours[index];
            let class = self.of_mut(other);
            if class.waiting > 0 && !class.is_ready {
                class.is_ready = true;
                self.ready.push(other);
            }
        }
    }

    /// As [`Self::ready`], if anybody waits there.
    pub(super) fn look_at(&mut self, at: ClassAt) {
        if self.of(at).waiting > 0 {
            self.ready(at);
        }
    }

    /// There may be room on the path.
    pub(super) fn ready_on(&mut self, path: PathId) {
        for index in 0..self.of_path[path.index()].len() {
            let at = self.of_path[path.index()][index];
            self.look_at(at);
        }
    }

    pub(super) fn all_ready(&mut self) {
        for (index, class) in self.table.iter_mut().enumerate() {
            if class.waiting > 0 && !class.is_ready {
                class.is_ready = true;
                self.ready.push(ClassAt(u32::try_from(index).expect("fewer classes")));
            }
        }
    }

    /// Those to look at; [`Self::end_round`] is due.
    pub(super) fn begin_round(&mut self) -> usize {
        for index in 0..self.ready.len() {
            let at = self.ready[index];
            self.of_mut(at).reach = Reach::All;
        }
        self.ready.len()
    }

    pub(super) fn in_round(&self, index: usize) -> ClassAt {
        self.ready[index]
    }

    pub(super) fn end_round(&mut self) {
        for at in self.ready.drain(..) {
            self.table[at.0 as usize].is_ready = false;
        }
    }

    pub(super) fn set_selectors(&mut self, selector_of: impl Fn(PathId) -> PathSelector) {
        for class in &mut self.table {
            if let Some(path) = class.paths.first() {
                class.selector = selector_of(*path);
            }
        }
    }
}

impl Router {
    /// The unit's connections have changed, or what may be used of them: its queues may have another class.
    pub(super) fn reclass_unit(&mut self, unit: UnitId, now: Instant) {
        for index in 0..self.units[unit.index()].disks.len() {
            let disk = self.units[unit.index()].disks[index];
            self.reclass_disk(self.plan.spec.disk(disk).vm, disk, now);
        }
    }

    pub(super) fn reclass_all(&mut self, now: Instant) {
        for unit in self.plan.spec.unit_ids() {
            self.reclass_unit(unit, now);
        }
    }

    fn reclass_disk(&mut self, vm: VmId, disk: crate::ids::DiskId, now: Instant) {
        let at = self.lanes[vm.index()].place_of(disk);
        let unit = self.lanes[vm.index()].queues[at].unit;
        let class = self.class_for(vm, unit);
        if self.lanes[vm.index()].queues[at].class != class {
            self.account(vm, at, now);
            let former = std::mem::replace(&mut self.lanes[vm.index()].queues[at].class, class);
            self.classes.moved(former, class);
            self.rejoin(vm, now);
            if let Some(former) = former {
                self.classes.retire_if_unused(former);
            }
        }
    }

    fn class_for(&mut self, vm: VmId, unit: UnitId) -> Option<ClassAt> {
        let avoid = &self.plan.spec.vm(vm).avoid_paths;
        let mut paths: Vec<PathId> = self.units[unit.index()]
            .connections
            .iter()
            .map(|key| &self.connections[key.0 as usize])
            .filter(|c| c.status == ConnectionStatus::Open)
            .map(|c| c.path)
            .filter(|path| !avoid.contains(path) && Rank::of(self.plan.paths[path.index()]).is_some())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        if paths.is_empty() {
            return None;
        }
        if let Some(known) = self.classes.find(&paths) {
            return Some(known);
        }
        let target = self.plan.spec.path(paths[0]).target;
        let selector = self.plan.spec.target(target).path_selector;
        let (at, id) = match self.classes.reuse(target) {
            Some(former) => former,
            None => (self.classes.next(), self.scheduler.add_class(target)),
        };
        let (neighbours, reach) = (Vec::new(), Reach::All);
        let class =
            Class { id, target, paths, selector, neighbours, queues: 0, waiting: 0, is_ready: false, reach };
        self.classes.add(at, class);
        Some(at)
    }
}
