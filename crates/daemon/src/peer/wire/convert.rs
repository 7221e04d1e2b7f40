//! Between the wire and what core speaks of.
//!
//! Invariant: to the wire and back is the same thing (a reason that was too long is cut, no more). What core would take for
//! an impossible value is refused here: a move's name that is none, two parts of a hand-over for one disk or queue or
//! descriptor, a range beyond the end of numbers.

use super::bounded::fit;
use super::{Disk, DiskHandOver, HandOver, Open, OpenRequest, Prepare, Quarantine, Queue, Room, VmState};
use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::time::Duration;
use vmpath_core::migration::{self as core, MoveId};
use vmpath_core::ownership::UnitEpoch;

impl Prepare {
    #[must_use]
    pub fn of(order: &core::Move) -> Self {
        let disk = |disk: &core::DiskEpoch| Disk {
            disk: disk.disk.clone(),
            unit: disk.unit.unit.clone(),
            epoch: disk.unit.epoch,
        };
        let room = |need: &core::RoomNeed| Room { target: need.target.clone(), rate: need.rate };
        Self {
            id: order.id.to_string(),
            vm: order.vm.clone(),
            from: order.from.clone(),
            to: order.to.clone(),
            home: order.home.clone(),
            fled: order.fled.clone(),
            disks: order.disks.iter().map(disk).collect(),
            instance: order.instance,
            memory: order.memory,
            room: order.room.iter().map(room).collect(),
            settle_ms: u64::try_from(order.settle.as_millis()).unwrap_or(u64::MAX),
            incident: order.incident.as_deref().map(fit),
            vm_state: VmState::of(&order.vm_state),
            rule: fit(&order.rule),
        }
    }

    /// # Errors
    /// What is impossible in it.
    pub fn into_core(self) -> Result<core::Move, String> {
        once("disk", self.disks.iter().map(|disk| disk.disk.as_str()))?;
        once("unit", self.disks.iter().map(|disk| disk.unit.as_str()))?;
        once("target", self.room.iter().map(|room| room.target.as_str()))?;
        let disk = |disk: Disk| core::DiskEpoch {
            disk: disk.disk,
            unit: UnitEpoch { unit: disk.unit, epoch: disk.epoch },
        };
        Ok(core::Move {
            id: move_id(&self.id)?,
            vm: self.vm,
            from: self.from,
            to: self.to,
            home: self.home,
            fled: self.fled,
            disks: self.disks.into_iter().map(disk).collect(),
            instance: self.instance,
            memory: self.memory,
            room: self.room.into_iter().map(|r| core::RoomNeed { target: r.target, rate: r.rate }).collect(),
            settle: Duration::from_millis(self.settle_ms),
            incident: self.incident,
            vm_state: self.vm_state.into_core(),
            rule: self.rule,
        })
    }
}

impl HandOver {
    #[must_use]
    pub fn of(given: &core::HandOver) -> Self {
        Self {
            id: given.move_id.to_string(),
            vm: given.vm.clone(),
            from: given.from.clone(),
            to: given.to.clone(),
            disks: given.disks.iter().map(DiskHandOver::of).collect(),
            incident: given.incident.as_deref().map(fit),
            vm_state: VmState::of(&given.vm_state),
        }
    }

    /// # Errors
    /// What is impossible in it.
    pub fn into_core(self) -> Result<core::HandOver, String> {
        once("disk", self.disks.iter().map(|disk| disk.disk.as_str()))?;
        once("unit", self.disks.iter().map(|disk| disk.unit.as_str()))?;
        Ok(core::HandOver {
            move_id: move_id(&self.id)?,
            vm: self.vm,
            from: self.from,
            to: self.to,
            disks: self.disks.into_iter().map(DiskHandOver::into_core).collect::<Result<_, _>>()?,
            incident: self.incident,
            vm_state: self.vm_state.into_core(),
        })
    }
}

impl VmState {
    fn of(state: &core::VmCarry) -> Self {
        match state {
            core::VmCarry::Running => Self::Running,
            core::VmCarry::Suspended { why } => Self::Suspended { why: fit(why) },
            core::VmCarry::StoppedByOther => Self::StoppedByOther,
        }
    }

    fn into_core(self) -> core::VmCarry {
        match self {
            Self::Running => core::VmCarry::Running,
            Self::Suspended { why } => core::VmCarry::Suspended { why },
            Self::StoppedByOther => core::VmCarry::StoppedByOther,
        }
    }
}

impl DiskHandOver {
    fn of(disk: &core::DiskHandOver) -> Self {
        Self {
            disk: disk.disk.clone(),
            unit: disk.unit.clone(),
            epoch: disk.epoch,
            queues: disk.queues.iter().map(Queue::of).collect(),
            quarantine: disk.quarantine.iter().map(Quarantine::of).collect(),
        }
    }

    fn into_core(self) -> Result<core::DiskHandOver, String> {
        once("queue", self.queues.iter().map(|queue| queue.queue))?;
        Ok(core::DiskHandOver {
            queues: self.queues.into_iter().map(Queue::into_core).collect::<Result<_, _>>()?,
            quarantine: self.quarantine.into_iter().map(Quarantine::into_core).collect::<Result<_, _>>()?,
            disk: self.disk,
            unit: self.unit,
            epoch: self.epoch,
        })
    }
}

impl Queue {
    fn of(queue: &core::QueueHandOver) -> Self {
        let open = |request: &core::OpenRequest| OpenRequest {
            head: request.head,
            state: match request.state {
                core::Open::Unsent => Open::Unsent,
                core::Open::Unknown => Open::Unknown,
                core::Open::Done(status) => Open::Done(status),
            },
        };
        Self { queue: queue.queue, base: queue.base, open: queue.open.iter().map(open).collect() }
    }

    fn into_core(self) -> Result<core::QueueHandOver, String> {
        once("descriptor", self.open.iter().map(|request| request.head))?;
        let open = |request: OpenRequest| core::OpenRequest {
            head: request.head,
            state: match request.state {
                Open::Unsent => core::Open::Unsent,
                Open::Unknown => core::Open::Unknown,
                Open::Done(status) => core::Open::Done(status),
            },
        };
        Ok(core::QueueHandOver {
            queue: self.queue,
            base: self.base,
            open: self.open.into_iter().map(open).collect(),
        })
    }
}

impl Quarantine {
    fn of(range: &core::QuarantineHandOver) -> Self {
        // 584 years are for ever.
        let remaining_ns = u64::try_from(range.remaining.as_nanos()).unwrap_or(u64::MAX);
        Self { offset: range.offset, length: range.length, remaining_ns }
    }

    fn into_core(self) -> Result<core::QuarantineHandOver, String> {
        if self.length == 0 || self.offset.checked_add(self.length).is_none() {
            return Err(format!("a range of {} bytes at {} cannot be", self.length, self.offset));
        }
        Ok(core::QuarantineHandOver {
            offset: self.offset,
            length: self.length,
            remaining: Duration::from_nanos(self.remaining_ns),
        })
    }
}

/// # Errors
/// It is no move's name.
pub fn move_id(text: &str) -> Result<MoveId, String> {
    MoveId::parse(text).ok_or_else(|| format!("{text:?} names no move"))
}

fn once<T: Copy + Hash + Eq + fmt::Display>(
    what: &str,
    mut all: impl Iterator<Item = T>,
) -> Result<(), String> {
    let mut seen = HashSet::new();
    match all.find(|one| !seen.insert(*one)) {
        Some(again) => Err(format!("{what} {again} is there twice")),
        None => Ok(()),
    }
}
