//! Units that another host owns, disks whose requests are being handed to one, and what is told of an open request then.
//!
//! Rule: nothing of such a disk is dispatched, whatever else would let it; what was in flight goes on, and what is lost of it
//! waits here. Rejected: a gate of the plan, which comes late and which a policy could open. It does not know other hosts, nor
//! who says whose a unit is.

use super::{Client, ConnectionKey, Place, RequestKey, Router};
use crate::ids::{DiskId, UnitId, VmId};
use crate::spec::Writers;
use crate::time::Instant;

/// What is known of a request that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A connection carries it.
    InFlight,
    /// Nothing of it can take effect any more: never sent, answered with a refusal, or a read.
    Unsent,
    /// It is a write that was lost with a connection, and its range is in quarantine.
    Unknown,
}

impl Router {
    /// Nothing of the unit's disks is dispatched until [`Self::own_unit`]: another host may write to it. Disks with several
    /// writers have no owner and go on.
    pub fn disown_unit(&mut self, unit: UnitId, now: Instant) {
        self.now = self.now.max(now);
        if self.is_shared(unit) {
            return;
        }
        // Others may change what is remembered.
        self.units[unit.index()].samples.forget();
        self.units[unit.index()].is_foreign = true;
        for disk in self.disks_on(unit) {
            self.set_halt(disk, |halt| halt.foreign = true, self.now);
        }
    }

    /// This host owns the unit: what waited for that may go.
    pub fn own_unit(&mut self, unit: UnitId, now: Instant) {
        self.now = self.now.max(now);
        self.units[unit.index()].is_foreign = false;
        for disk in self.disks_on(unit) {
            self.set_halt(disk, |halt| halt.foreign = false, self.now);
        }
    }

    #[must_use]
    pub fn is_owned(&self, unit: UnitId) -> bool {
        !self.units[unit.index()].is_foreign
    }

    /// The disk's open requests are being handed to another host, or are to be taken from one: nothing of it is dispatched
    /// until [`Self::end_move`], whoever owns its unit and whether or not its ring runs; and no gate answers what waits.
    pub fn begin_move(&mut self, disk: DiskId) {
        self.set_halt(disk, |halt| halt.moving = true, self.now);
        let vm = self.plan.spec.disk(disk).vm;
        self.answering.retain(|other| *other != vm);
    }

    /// The requests go on here.
    pub fn end_move(&mut self, disk: DiskId, now: Instant) {
        self.set_halt(disk, |halt| halt.moving = false, now);
        let vm = self.plan.spec.disk(disk).vm;
        if self.gate_answers_some(vm) && !self.answering.contains(&vm) {
            self.answering.push(vm);
            self.answer_waiting(vm, now);
        }
    }

    pub(super) fn is_moving(&self, vm: VmId) -> bool {
        self.lanes[vm.index()].queues.iter().any(|queue| queue.halt.moving)
    }

    /// What is known of an open request; none if it has ended. For a hand-over: no request of its disk may be in flight then.
    #[must_use]
    pub fn fate(&self, key: RequestKey, token: u32) -> Option<Fate> {
        let entry = self.requests.get(key as usize).filter(|entry| entry.request.token == token)?;
        let volume = &self.units[entry.unit.index()].volume;
        Some(match entry.place {
            Place::InFlight { .. } => Fate::InFlight,
            Place::Queued | Place::Parked { .. } | Place::Delayed { .. } | Place::Unfenced { .. } => {
                match entry.write {
                    Some(write) if volume.is_quarantined(write) => Fate::Unknown,
                    Some(_) | None => Fate::Unsent,
                }
            }
        })
    }

    /// The connections that carry requests of the disk, those of clients that have gone too. Looks at every request: not for the
    /// I/O path.
    #[must_use]
    pub fn carriers(&self, disk: DiskId) -> Vec<ConnectionKey> {
        let carrier = |place| match place {
            Place::InFlight { connection, .. } => Some(connection),
            Place::Queued | Place::Parked { .. } | Place::Delayed { .. } | Place::Unfenced { .. } => None,
        };
        let its = self.requests.iter().filter(|(_, entry)| entry.request.disk == disk);
        let mut keys: Vec<_> = its.filter_map(|(_, entry)| carrier(entry.place)).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Whether somebody waits for the end of a request of the disk. Looks at every request.
    #[must_use]
    pub fn has_open(&self, disk: DiskId) -> bool {
        self.requests.iter().any(|(_, entry)| entry.request.disk == disk && entry.client == Client::Waiting)
    }

    /// Whether the configuration lets several hosts write to the unit at once.
    pub(super) fn is_shared(&self, unit: UnitId) -> bool {
        let disks = &self.units[unit.index()].disks;
        disks.iter().any(|disk| self.plan.spec.disk(*disk).writers == Writers::Many)
    }
}
