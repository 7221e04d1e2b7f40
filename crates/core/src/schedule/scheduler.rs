//! Who waits where, who is held by a limit, whose turn it is, and what a turn costs.
//!
//! Invariant: whoever waits is either in the tournaments of each class where it waits, or, held by its limit or its group's, among
//! the timers; each step is O(log n) and allocates nothing in the steady state. Rejected: asking each VM at each turn.
//! It does not know why something waits, nor what became of a turn.

use super::class::{Class, OUT};
use super::seats::Seats;
use super::tags::{Paid, Tags, Turns, WEIGHT_MAX};
use super::tree::{NEVER, Tree};
use super::turn::{ClassId, Clock, Cost, GroupKey, Mark, Phase, Receipt, Turn};
use crate::ids::{TargetId, VmId};
use crate::time::Instant;

#[derive(Clone, Debug)]
pub(super) struct Vm {
    pub(super) tags: Tags,
    pub(super) group: Option<u32>,
    /// Its seat, or its place in its group.
    pub(super) place: u32,
    pub(super) priority: u32,
    pub(super) hold: Hold,
    pub(super) waits: ClassSet,
}

#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) key: GroupKey,
    pub(super) name: String,
    pub(super) tags: Tags,
    pub(super) hold: Hold,
    /// Classes where a member waits.
    pub(super) waits: ClassSet,
    /// Members that wait and are not held by limits of their own.
    pub(super) ready: u32,
    /// When members that wait and are held may go on.
    pub(super) timers: Tree,
    pub(super) clock: Clock,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    Free,
    /// By a limit of its own.
    Limit,
}

impl Hold {
    pub(super) fn until(at: u64, now: u64) -> Self {
        if at > now { Self::Limit } else { Self::Free }
    }
}

/// Nearly always one, which then lies in the same cache line.
#[derive(Clone, Debug, Default)]
pub(super) struct ClassSet {
    first: Option<ClassId>,
    more: Vec<ClassId>,
}

impl ClassSet {
    pub(super) fn contains(&self, class: ClassId) -> bool {
        self.first == Some(class) || self.more.contains(&class)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn add(&mut self, class: ClassId) {
        if self.first.is_none() {
            self.first = Some(class);
        } else {
            self.more.push(class);
        }
    }

    pub(super) fn remove(&mut self, class: ClassId) {
        if self.first == Some(class) {
            self.first = self.more.pop();
        } else {
            self.more.retain(|c| *c != class);
        }
    }

    #[inline]
    pub(super) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.first.iter().chain(&self.more).map(|c| c.0 as usize)
    }
}

/// All VMs of one data-plane worker, by `VmId`.
#[derive(Clone, Debug)]
pub struct Scheduler {
    pub(super) vms: Vec<Vm>,
    pub(super) groups: Vec<Group>,
    pub(super) seats: Seats,
    pub(super) classes: Vec<Class>,
    /// By target: classes of one target may share paths.
    pub(super) clocks: Vec<Clock>,
    /// When a VM, or behind all VMs a group, has somebody who may go on.
    pub(super) timers: Tree,
    pub(super) group_keys: u32,
    /// The latest that it was told.
    pub(super) now: u64,
}

impl Scheduler {
    /// A set of paths of a target that some VMs compete for. Virtual times are those of the target.
    pub fn add_class(&mut self, target: TargetId) -> ClassId {
        let id = ClassId(u32::try_from(self.classes.len()).expect("memory ends before"));
        self.classes.push(Class::new(target, &self.seats));
        if self.clocks.len() <= target.index() {
            self.clocks.resize_with(target.index() + 1, Clock::default);
        }
        id
    }

    /// Something of the VM waits in the class from now on. One that was idle starts level with the others; one that moves from
    /// another class of the target is to join before it leaves that.
    pub fn join(&mut self, vm: VmId, class: ClassId, now: Instant) {
        let index = vm.index();
        if self.vms[index].waits.contains(class) {
            return;
        }
        self.see(now);
        let now = self.now;
        let one = &mut self.vms[index];
        if one.waits.is_empty() {
            one.tags.arrive(now);
            one.hold = Hold::until(one.tags.allowed_at(), now);
            if let (Some(group), Hold::Free) = (one.group, one.hold) {
                self.groups[group as usize].ready += 1;
            }
        }
        let target = self.classes[class.0 as usize].target;
        let moves = self.vms[index].waits.iter().any(|other| self.classes[other].target == target);
        self.vms[index].waits.add(class);
        match self.vms[index].group {
            None => {
                // Who comes from another class of the target has not been idle.
                if !moves {
                    let time = self.time_in(class);
                    self.vms[index].tags.catch_up(time);
                }
                self.place_vm(index, None);
            }
            Some(group) => self.join_group(index, group as usize, class),
        }
    }

    fn join_group(&mut self, vm: usize, group: usize, class: ClassId) {
        let now = self.now;
        let time = self.time_in(class);
        let it = &mut self.groups[group];
        let inner = &mut self.classes[class.0 as usize].groups[group];
        inner.waiting += 1;
        if it.waits.is_empty() {
            it.tags.arrive(now);
            it.hold = Hold::until(it.tags.allowed_at(), now);
        }
        if inner.waiting == 1 {
            it.waits.add(class);
            it.tags.catch_up(time);
        }
        self.vms[vm].tags.catch_up(it.clock.time);
        self.place_member(vm, group, None);
        self.place_group(group, None);
    }

    /// Where one who was idle joins: at the weight of the one that last went for its shares. Not at the least of those who wait:
    /// that may be one whose reservation has carried it far ahead of all who are in flight just now.
    pub(super) fn time_in(&self, class: ClassId) -> u64 {
        self.clocks[self.classes[class.0 as usize].target.index()].time
    }

    /// Nothing of the VM waits in the class any more, or it must not go.
    pub fn leave(&mut self, vm: VmId, class: ClassId) {
        let index = vm.index();
        let one = &mut self.vms[index];
        if !one.waits.contains(class) {
            return;
        }
        one.waits.remove(class);
        let (place, idle) = (one.place as usize, one.waits.is_empty());
        let here = &mut self.classes[class.0 as usize];
        match one.group {
            None => {
                here.lists.set(place, OUT);
                if idle && one.hold == Hold::Limit {
                    self.timers.set(index, NEVER);
                }
            }
            Some(group) => {
                let it = &mut self.groups[group as usize];
                let inner = &mut here.groups[group as usize];
                inner.lists.set(place, OUT);
                inner.waiting -= 1;
                if inner.waiting == 0 {
                    it.waits.remove(class);
                }
                match one.hold {
                    Hold::Free if idle => it.ready -= 1,
                    Hold::Limit if idle => it.timers.set(place, NEVER),
                    Hold::Free | Hold::Limit => {}
                }
                here.reseat(&self.seats, group as usize, OUT);
                self.place_group(group as usize, None);
            }
        }
    }

    /// Time has passed: whoever's limit lets it go on is eligible again.
    pub fn advance(&mut self, now: Instant) {
        self.see(now);
        while self.timers.winner().key <= self.now {
            let who = self.timers.winner().who as usize;
            match who.checked_sub(self.vms.len()) {
                None => self.release_vm(who),
                Some(group) => self.release_group(group),
            }
        }
    }

    fn see(&mut self, now: Instant) {
        self.now = self.now.max(now.as_nanos());
    }

    fn release_vm(&mut self, vm: usize) {
        let one = &mut self.vms[vm];
        one.hold = Hold::Free;
        for class in one.waits.iter() {
            one.tags.catch_up_nearly(self.clocks[self.classes[class].target.index()].time);
        }
        self.timers.set(vm, NEVER);
        self.place_vm(vm, None);
    }

    fn release_group(&mut self, group: usize) {
        let now = self.now;
        let it = &mut self.groups[group];
        if it.hold == Hold::Limit && it.tags.allowed_at() <= now {
            it.hold = Hold::Free;
            for class in it.waits.iter() {
                it.tags.catch_up_nearly(self.clocks[self.classes[class].target.index()].time);
            }
        }
        while self.groups[group].timers.winner().key <= now {
            let place = self.groups[group].timers.winner().who as usize;
            let vm = self.seats.groups[group].vms[place] as usize;
            let time = self.groups[group].clock.time;
            let one = &mut self.vms[vm];
            one.hold = Hold::Free;
            if !one.waits.is_empty() {
                one.tags.catch_up_nearly(time);
            }
            self.groups[group].timers.set(place, NEVER);
            self.groups[group].ready += 1;
            self.place_member(vm, group, None);
        }
        self.place_group(group, None);
    }

    /// Who goes next in a class. Time has been told by [`Self::advance`].
    #[must_use]
    pub fn pick(&self, class: ClassId, now: Instant) -> Option<Turn> {
        self.classes[class.0 as usize].pick(class, &self.seats, now.as_nanos())
    }

    /// Takes the VM out of the turns of a class for a while. It goes on waiting: nothing is forfeited.
    pub fn set_aside(&mut self, vm: VmId, class: ClassId) {
        let one = &self.vms[vm.index()];
        let (place, here) = (one.place as usize, &mut self.classes[class.0 as usize]);
        match one.group {
            None => here.lists.set(place, OUT),
            Some(group) => {
                here.groups[group as usize].lists.set(place, OUT);
                self.place_group(group as usize, None);
            }
        }
    }

    /// Ends [`Self::set_aside`].
    pub fn bring_back(&mut self, vm: VmId, class: ClassId) {
        let index = vm.index();
        if !self.vms[index].waits.contains(class) {
            return;
        }
        match self.vms[index].group {
            None => self.place_vm(index, None),
            Some(group) => {
                self.place_member(index, group as usize, None);
                self.place_group(group as usize, None);
            }
        }
    }

    /// Charges a request of the VM at its first dispatch, by the right of a turn in the class.
    pub fn charge(&mut self, vm: VmId, class: ClassId, phase: Phase, cost: Cost, now: Instant) -> Receipt {
        self.see(now);
        let index = vm.index();
        let here = &self.classes[class.0 as usize];
        let target = here.target;
        // Of all classes of the target: one alone may hold only VMs that a reservation has carried far ahead.
        let least =
            self.classes.iter().filter(|c| c.target == target).map(Class::least).min().unwrap_or(NEVER);
        let outer = self.clocks[target.index()].tick(phase, least, self.now);
        let one = &mut self.vms[index];
        let Some(group) = one.group else {
            let own = one.tags.charge(cost, phase, self.now);
            let is_heavy = one.tags.weight >= WEIGHT_MAX;
            self.update_vm(index, Some(class));
            if is_heavy {
                self.rebase(None);
            }
            return Receipt { bytes: cost.bytes, own, group: None, class, outer, inner: Mark::default() };
        };
        let index_of_group = group as usize;
        let it = &mut self.groups[index_of_group];
        let inner = it.clock.tick(phase, here.groups[index_of_group].lists.weights.winner().key, self.now);
        let own = one.tags.charge(cost, phase, self.now);
        let together = it.tags.charge(cost, phase, self.now);
        let key = it.key;
        let heavy = (it.tags.weight >= WEIGHT_MAX, one.tags.weight >= WEIGHT_MAX);
        self.update_member(index, index_of_group, Some(class));
        if heavy.0 {
            self.rebase(None);
        }
        if heavy.1 {
            self.rebase(Some(index_of_group));
        }
        Receipt { bytes: cost.bytes, own, group: Some((key, together)), class, outer, inner }
    }

    /// Takes a charge back, as if it had never been made: tags stand where all that came since would have left them. What others
    /// got meanwhile is not undone.
    #[expect(clippy::needless_pass_by_value, reason = "a receipt is worth one refund")]
    pub fn refund(&mut self, vm: VmId, receipt: Receipt) {
        let Receipt { bytes, own, group, class, outer, inner } = receipt;
        let index = vm.index();
        let target = self.classes[class.0 as usize].target;
        self.clocks[target.index()].undo(outer);
        self.vms[index].tags.refund(own, bytes);
        if let Some((key, paid)) = group {
            self.refund_group(key, paid, inner, bytes);
        }
        match self.vms[index].group {
            None => self.update_vm(index, None),
            Some(group) => self.update_member(index, group as usize, None),
        }
    }

    fn refund_group(&mut self, key: GroupKey, paid: Paid, inner: Mark, bytes: u64) {
        let Some(at) = self.groups.iter().position(|g| g.key == key) else { return };
        let group = &mut self.groups[at];
        group.tags.refund(paid, bytes);
        group.clock.undo(inner);
        group.hold = Hold::until(group.tags.allowed_at(), self.now);
        self.place_group(at, None);
    }

    /// The earliest time at which somebody who waits, and whom a limit holds, may go.
    #[must_use]
    pub fn wake(&self) -> Option<Instant> {
        Some(self.timers.winner().key).filter(|at| *at != NEVER).map(Instant::from_nanos)
    }

    /// When its limits, and its group's, let it go on; not after now if they do.
    #[must_use]
    pub fn allowed_at(&self, vm: VmId) -> Instant {
        let one = &self.vms[vm.index()];
        let group = one.group.map_or(0, |g| self.groups[g as usize].tags.allowed_at());
        Instant::from_nanos(one.tags.allowed_at().max(group))
    }

    #[must_use]
    pub fn priority(&self, vm: VmId) -> u32 {
        self.vms[vm.index()].priority
    }
}

fn turns(class: usize, turn: Option<ClassId>) -> Turns {
    if turn.is_some_and(|t| t.0 as usize == class) { Turns::Here } else { Turns::Elsewhere }
}

/// Bringing the tournaments and timers up to what the tags say.
impl Scheduler {
    #[inline]
    fn update_vm(&mut self, vm: usize, turn: Option<ClassId>) {
        let one = &mut self.vms[vm];
        if one.tags.has_meters() || one.hold == Hold::Limit {
            one.hold = Hold::until(one.tags.allowed_at(), self.now);
        }
        self.place_vm(vm, turn);
    }

    #[inline]
    pub(super) fn place_vm(&mut self, vm: usize, turn: Option<ClassId>) {
        let one = &self.vms[vm];
        let place = one.place as usize;
        if !one.tags.has_meters() && one.hold == Hold::Free {
            for class in one.waits.iter() {
                let lists = &mut self.classes[class].lists;
                lists.weights.set(place, lists.weight_of(place, &one.tags, turns(class, turn)));
            }
            return;
        }
        let due = one.tags.due();
        for class in one.waits.iter() {
            let lists = &mut self.classes[class].lists;
            lists.set(
                place,
                match one.hold {
                    Hold::Free => (lists.weight_of(place, &one.tags, turns(class, turn)), due),
                    Hold::Limit => OUT,
                },
            );
        }
        let held = one.hold == Hold::Limit && !one.waits.is_empty();
        self.timers.set(vm, if held { one.tags.allowed_at() } else { NEVER });
    }

    fn update_member(&mut self, vm: usize, group: usize, turn: Option<ClassId>) {
        let now = self.now;
        let one = &mut self.vms[vm];
        let hold = Hold::until(one.tags.allowed_at(), now);
        let it = &mut self.groups[group];
        if !one.waits.is_empty() {
            match (one.hold, hold) {
                (Hold::Free, Hold::Limit) => it.ready -= 1,
                (Hold::Limit, Hold::Free) => it.ready += 1,
                (Hold::Free, Hold::Free) | (Hold::Limit, Hold::Limit) => {}
            }
        }
        one.hold = hold;
        it.hold = Hold::until(it.tags.allowed_at(), now);
        self.place_member(vm, group, turn);
        self.place_group(group, turn);
    }

    pub(super) fn place_member(&mut self, vm: usize, group: usize, turn: Option<ClassId>) {
        let one = &self.vms[vm];
        let place = one.place as usize;
        let due = one.tags.due();
        for class in one.waits.iter() {
            let lists = &mut self.classes[class].groups[group].lists;
            lists.set(
                place,
                match one.hold {
                    Hold::Free => (lists.weight_of(place, &one.tags, turns(class, turn)), due),
                    Hold::Limit => OUT,
                },
            );
        }
        let held = one.hold == Hold::Limit && !one.waits.is_empty();
        self.groups[group].timers.set(place, if held { one.tags.allowed_at() } else { NEVER });
    }

    /// Its seats in each class, and its timer.
    pub(super) fn place_group(&mut self, group: usize, turn: Option<ClassId>) {
        let it = &self.groups[group];
        for index in it.waits.iter() {
            let class = &mut self.classes[index];
            let keys = match it.hold {
                Hold::Free => {
                    let place = class.group_place(&self.seats, group);
                    (it.tags.weight_against(class.least(), place, turns(index, turn)), it.tags.due())
                }
                Hold::Limit => OUT,
            };
            class.reseat(&self.seats, group, keys);
        }
        let members = it.timers.winner().key;
        let at = match it.hold {
            _ if it.waits.is_empty() => NEVER,
            Hold::Free => members,
            Hold::Limit if it.ready > 0 => it.tags.allowed_at(),
            Hold::Limit => it.tags.allowed_at().max(members),
        };
        self.timers.set(self.vms.len() + group, at);
    }
}
