//! Disks that stand still: their ring is stopped, another host may own their unit, or something of a former process may still
//! reach it.
//!
//! What such a disk has queued is not seen by the scheduler, so that it is neither picked nor charged, and its VM's other
//! disks go on. What it has in flight goes on too, and what is lost, refused or unparked comes back to its queue.

use super::Router;
use crate::ids::{DiskId, UnitId};
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Instant};
use crate::view::HoldReason;

/// Why a disk's queue stands still. All may be at once, each begun and ended by somebody else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "causes that know nothing of each other, not a state")]
pub(super) struct Halt {
    stopped: bool,
    fenced: bool,
    /// This host does not own its unit.
    pub(super) foreign: bool,
    /// Its open requests go to another host, or come from one.
    pub(super) moving: bool,
}

impl Halt {
    pub(super) fn reason(self) -> Option<HoldReason> {
        match (self.foreign || self.moving, self.stopped, self.fenced) {
            (true, _, _) => Some(HoldReason::Owner),
            (false, true, _) => Some(HoldReason::Stopped),
            (false, false, true) => Some(HoldReason::Fence),
            (false, false, false) => None,
        }
    }
}

/// Whether the records of former processes tell all that may still take effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    #[default]
    Complete,
    /// Whoever left the last of those that cannot be read was dead then.
    Incomplete { since: Instant },
}

/// Until when nothing goes to a unit at all, for [`Router::hold_unit_until`]: what was sent before the boot of the host may come
/// until one bound after it, and what an unreadable record would have told of until one bound from then. None if that is over.
#[must_use]
pub fn held_until(knowledge: Knowledge, booted: Instant, quiesce: Duration, now: Instant) -> Option<Instant> {
    let until = match knowledge {
        Knowledge::Complete if mutant::active(Mutant::BootNotWaited) => return None,
        Knowledge::Complete => booted + quiesce,
        Knowledge::Incomplete { since } => since + quiesce,
    };
    (now < until).then_some(until)
}

impl Router {
    /// The disk's ring is stopped: nothing of it is dispatched until [`Self::resume_disk`]. What is in flight goes on, and
    /// its completions come; a gate that answers, and [`Self::abandon`], work as ever.
    pub fn pause_disk(&mut self, disk: DiskId) {
        self.set_halt(disk, |halt| halt.stopped = true, self.now);
    }

    /// The ring runs again. Its requests are where they were: none is a resend for having waited.
    pub fn resume_disk(&mut self, disk: DiskId, now: Instant) {
        self.set_halt(disk, |halt| halt.stopped = false, now);
    }

    /// Nothing at all goes to the unit before then: a former process, or this host before its boot, may have left writes
    /// there that no record tells of. The later of two such times counts.
    pub fn hold_unit_until(&mut self, unit: UnitId, until: Instant) {
        match self.held_units.iter_mut().find(|(u, _)| *u == unit) {
            Some((_, known)) => *known = until.max(*known),
            None => self.held_units.push((unit, until)),
        }
        for disk in self.disks_on(unit) {
            self.set_halt(disk, |halt| halt.fenced = true, self.now);
        }
    }

    pub(super) fn release_units(&mut self, now: Instant) {
        while let Some(at) = self.held_units.iter().position(|(_, until)| *until <= now) {
            let (unit, _) = self.held_units.swap_remove(at);
            for disk in self.disks_on(unit) {
                self.set_halt(disk, |halt| halt.fenced = false, now);
            }
        }
    }

    /// How much longer nothing goes to the unit at all; none if something may.
    pub(super) fn unit_held_for(&self, unit: UnitId, now: Instant) -> Option<Duration> {
        let held = self.held_units.iter().find(|(held, until)| *held == unit && *until > now);
        held.map(|(_, until)| until.since(now))
    }

    pub(super) fn disks_on(&self, unit: UnitId) -> Vec<DiskId> {
        self.plan.spec.disk_ids().filter(|disk| self.plan.spec.disk(*disk).unit == unit).collect()
    }

    pub(super) fn set_halt(&mut self, disk: DiskId, change: impl FnOnce(&mut Halt), now: Instant) {
        let vm = self.plan.spec.disk(disk).vm;
        let at = self.lanes[vm.index()].place_of(disk);
        self.account(vm, at, now);
        let lane = &mut self.lanes[vm.index()];
        let queue = &mut lane.queues[at];
        let before = queue.halt.reason().is_none();
        change(&mut queue.halt);
        let after = queue.halt.reason().is_none();
        let count = u32::try_from(queue.keys.len()).expect("fewer requests");
        match (before, after) {
            (true, false) => lane.queued -= count,
            (false, true) => lane.queued += count,
            (true, true) | (false, false) => return,
        }
        self.rejoin(vm, now);
    }
}
