//! Who waits in one class: a tournament by weight and one by reservation over all seats, and the same within each group.
//!
//! Invariant: a seat is in the tournaments if and only if it, or a member of its group and priority, waits here and is held by no
//! limit, neither its own nor the group's. It does not know tags: it is told keys.

use super::seats::{Holder, Seats};
use super::tags::{Tags, Turns};
use super::tree::{NEVER, Node, Tree};
use super::turn::{ClassId, Phase, Turn};
use crate::ids::{TargetId, VmId};
use std::ops::Range;

#[derive(Clone, Debug)]
pub(super) struct Lists {
    pub(super) weights: Tree,
    pub(super) dues: Tree,
}

impl Lists {
    pub(super) fn new(places: usize) -> Self {
        Self { weights: Tree::new(places), dues: Tree::new(places) }
    }

    pub(super) fn set(&mut self, place: usize, keys: (u64, u64)) {
        self.weights.set(place, keys.0);
        self.dues.set(place, keys.1);
    }

    #[inline]
    pub(super) fn weight_of(&self, place: usize, tags: &Tags, turn: Turns) -> u64 {
        tags.weight_against(self.weights.winner().key, self.weights.key(place), turn)
    }
}

/// Out of the tournaments.
pub(super) const OUT: (u64, u64) = (NEVER, NEVER);

#[derive(Clone, Debug)]
pub(super) struct Inner {
    pub(super) lists: Lists,
    /// Members that wait here, held or not.
    pub(super) waiting: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) target: TargetId,
    pub(super) lists: Lists,
    pub(super) groups: Vec<Inner>,
}

fn places(range: (u32, u32)) -> Range<usize> {
    range.0 as usize..range.1 as usize
}

impl Class {
    pub(super) fn new(target: TargetId, seats: &Seats) -> Self {
        let inner = |vms: usize| Inner { lists: Lists::new(vms), waiting: 0 };
        Self {
            target,
            lists: Lists::new(seats.seats.len()),
            groups: seats.groups.iter().map(|g| inner(g.vms.len())).collect(),
        }
    }

    /// The least weight of those that may go.
    pub(super) fn least(&self) -> u64 {
        self.lists.weights.winner().key
    }

    pub(super) fn pick(&self, id: ClassId, seats: &Seats, now: u64) -> Option<Turn> {
        if self.lists.dues.winner().key <= now
            && let Some(turn) = self.due(id, seats, now)
        {
            return Some(turn);
        }
        let first = self.lists.weights.winner();
        if first.key == NEVER {
            return None;
        }
        let seat = &seats.seats[first.who as usize];
        let turn = |vm: u32, priority, inner| Turn {
            vm: VmId(vm as u16),
            class: id,
            phase: Phase::Weight,
            priority,
            order: first.key,
            inner,
        };
        Some(match seat.holder {
            Holder::Vm(vm) => turn(vm, seat.priority, 0),
            Holder::Group(group) => {
                // The group's turn: any of its members, the seat only says that there is one.
                let members = &seats.groups[group as usize];
                let inner = &self.groups[group as usize].lists.weights;
                let first = inner.winner();
                turn(members.vms[first.who as usize], members.bands.priority(first.who), first.key)
            }
        })
    }

    /// The highest priority that a reservation is due at, and there the longest due.
    fn due(&self, id: ClassId, seats: &Seats, now: u64) -> Option<Turn> {
        let dues = &self.lists.dues;
        let longest = dues.winner();
        let band = seats.seats[longest.who as usize].band;
        let first = if band.0 == 0 {
            longest
        } else {
            let leftmost = dues.first_up_to(now)?;
            if leftmost >= band.0 as usize {
                longest
            } else {
                dues.least(leftmost..seats.seats[leftmost].band.1 as usize)
            }
        };
        let seat = &seats.seats[first.who as usize];
        let (vm, inner) = match seat.holder {
            Holder::Vm(vm) => (vm, 0),
            Holder::Group(group) => {
                let lists = &self.groups[group as usize].lists;
                let of = |node: Node| seats.groups[group as usize].vms[node.who as usize];
                let own = lists.dues.least(places(seat.members));
                let weight = lists.weights.least(places(seat.members));
                if own.key <= now { (of(own), 0) } else { (of(weight), weight.key) }
            }
        };
        Some(Turn {
            vm: VmId(vm as u16),
            class: id,
            phase: Phase::Reservation,
            priority: seat.priority,
            order: first.key,
            inner,
        })
    }

    /// The weight that the group has here.
    pub(super) fn group_place(&self, seats: &Seats, group: usize) -> u64 {
        let keys = seats.groups[group].seats.iter().map(|seat| self.lists.weights.key(*seat as usize));
        keys.min().unwrap_or(NEVER)
    }

    /// Takes over into the group's seats what its members' tournaments say.
    pub(super) fn reseat(&mut self, seats: &Seats, group: usize, keys: (u64, u64)) {
        for seat in &seats.groups[group].seats {
            let members = places(seats.seats[*seat as usize].members);
            let inner = &self.groups[group].lists;
            let keys = if inner.weights.least(members.clone()).key == NEVER {
                OUT
            } else {
                (keys.0, keys.1.min(inner.dues.least(members).key))
            };
            self.lists.set(*seat as usize, if keys.0 == NEVER { OUT } else { keys });
        }
    }
}
