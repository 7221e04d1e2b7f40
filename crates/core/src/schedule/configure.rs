//! From a spec to the trees: the first time, after a reload, and when weights have grown large.
//!
//! Trees are rebuilt as a whole; tags are carried over, those of groups by name. Rejected: changing trees in place; a reload may
//! change every priority, and so every place. It does not know which numbers changed.

use super::class::Class;
use super::scheduler::{ClassSet, Group, Hold, Scheduler, Vm};
use super::seats::{Holder, Seats, group_of, terms_of};
use super::tags::{Tags, Terms, WEIGHT_MAX};
use super::tree::Tree;
use super::turn::{ClassId, Clock, GroupKey};
use crate::ids::VmId;
use crate::spec::{GroupSpec, Spec};
use crate::time::Instant;

/// What a rebase takes off. Who lags by more than what is left then counts as lagging by that: at one share, 32 TiB.
const REBASE: u64 = WEIGHT_MAX / 2;

/// Who was held stays so until the timers are next looked at: on being released it is given no credit.
fn held_still(hold: Hold, at: u64, now: u64) -> Hold {
    match hold {
        Hold::Limit => Hold::Limit,
        Hold::Free => Hold::until(at, now),
    }
}

fn terms_of_group(group: &GroupSpec) -> Terms {
    Terms {
        shares: group.shares,
        reservation: group.reservation.map(|r| r.0),
        limit: group.limit.map(|l| l.0),
        limit_iops: group.limit_iops,
        limit_burst: group.limit_burst,
    }
}

impl Scheduler {
    /// With `spec.host.scheduler` none there is no reservation, no limit and no group, and shares are equal.
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        let mut scheduler = Self {
            vms: Vec::new(),
            groups: Vec::new(),
            seats: Seats::default(),
            classes: Vec::new(),
            clocks: Vec::new(),
            timers: Tree::new(0),
            group_keys: 0,
            now: 0,
        };
        scheduler.configure(spec, Instant::ZERO);
        scheduler
    }

    /// Takes over changed numbers, also for what waits. What was used of a limit stays used, in bytes and requests. A VM that has
    /// come into a group, or out of one, starts level with the others there.
    pub fn configure(&mut self, spec: &Spec, now: Instant) {
        self.now = self.now.max(now.as_nanos());
        let old_groups = self.carry_groups(spec);
        self.seats = Seats::new(spec);
        let mut moved = Vec::new();
        for (index, vm) in spec.vms.iter().enumerate() {
            let terms = terms_of(spec, vm);
            if index == self.vms.len() {
                self.vms.push(Vm {
                    tags: Tags::new(&terms, self.now),
                    group: None,
                    place: 0,
                    priority: 0,
                    hold: Hold::Free,
                    waits: ClassSet::default(),
                });
            }
            let group = group_of(spec, vm);
            let key = group.map(|g| self.groups[g as usize].key);
            let one = &mut self.vms[index];
            let old_key = one.group.and_then(|g| old_groups.get(g as usize).copied());
            one.tags.configure(&terms, self.now);
            one.hold = held_still(one.hold, one.tags.allowed_at(), self.now);
            (one.priority, one.group) = (vm.priority, group);
            if old_key != key {
                one.tags.restart();
                let waits = std::mem::take(&mut one.waits);
                moved.extend(waits.iter().map(|class| (VmId::at(index), ClassId(class as u32))));
            }
        }
        self.find_places();
        self.rebuild();
        for (vm, class) in moved {
            self.join(vm, class, now);
        }
        self.advance(now);
    }

    /// Returns the keys that the groups had.
    fn carry_groups(&mut self, spec: &Spec) -> Vec<GroupKey> {
        let mut old = std::mem::take(&mut self.groups);
        let keys = old.iter().map(|g| g.key).collect();
        for group in &spec.groups {
            let terms = terms_of_group(group);
            let known = old.iter().position(|g| g.name == group.name);
            let mut it = known.map_or_else(
                || {
                    self.group_keys += 1;
                    Group {
                        key: GroupKey(self.group_keys),
                        name: group.name.clone(),
                        tags: Tags::new(&terms, self.now),
                        hold: Hold::Free,
                        waits: ClassSet::default(),
                        ready: 0,
                        timers: Tree::new(0),
                        clock: Clock::default(),
                    }
                },
                |at| old.swap_remove(at),
            );
            it.tags.configure(&terms, self.now);
            it.hold = held_still(it.hold, it.tags.allowed_at(), self.now);
            self.groups.push(it);
        }
        keys
    }

    fn find_places(&mut self) {
        for (at, seat) in self.seats.seats.iter().enumerate() {
            if let Holder::Vm(vm) = seat.holder {
                self.vms[vm as usize].place = at as u32;
            }
        }
        for group in &self.seats.groups {
            for (at, vm) in group.vms.iter().enumerate() {
                self.vms[*vm as usize].place = at as u32;
            }
        }
    }

    /// All trees and counts from the tags and from who waits where.
    pub(super) fn rebuild(&mut self) {
        for class in &mut self.classes {
            *class = Class::new(class.target, &self.seats);
        }
        self.timers = Tree::new(self.vms.len() + self.groups.len());
        for (group, members) in self.groups.iter_mut().zip(&self.seats.groups) {
            group.timers = Tree::new(members.vms.len());
            group.waits = ClassSet::default();
            group.ready = 0;
        }
        // From the least weight on, so that each is set against the least there is.
        let mut order: Vec<usize> =
            (0..self.vms.len()).filter(|vm| !self.vms[*vm].waits.is_empty()).collect();
        order.sort_by_key(|vm| self.vms[*vm].tags.weight);
        for vm in order {
            let Some(group) = self.vms[vm].group.map(|g| g as usize) else {
                self.place_vm(vm, None);
                continue;
            };
            for class in self.vms[vm].waits.iter() {
                let inner = &mut self.classes[class].groups[group];
                inner.waiting += 1;
                if inner.waiting == 1 {
                    self.groups[group].waits.add(ClassId(class as u32));
                }
            }
            if self.vms[vm].hold == Hold::Free {
                self.groups[group].ready += 1;
            }
            self.place_member(vm, group, None);
        }
        for group in 0..self.groups.len() {
            self.place_group(group, None);
        }
    }

    /// Takes the same off every weight of those who compete with one another: of all at the top, or of a group's members.
    pub(super) fn rebase(&mut self, group: Option<usize>) {
        let inside = group.map(|g| g as u32);
        match group {
            Some(group) => self.groups[group].clock.rebase(REBASE),
            None => {
                self.clocks.iter_mut().for_each(|clock| clock.rebase(REBASE));
                self.groups.iter_mut().for_each(|group| group.tags.rebase(REBASE));
            }
        }
        for vm in self.vms.iter_mut().filter(|vm| vm.group == inside) {
            vm.tags.rebase(REBASE);
        }
        self.rebuild();
    }
}
