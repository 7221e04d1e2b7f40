//! A VM leaves this host: what can finish is finished, the rest is cut off, and what is open is told.
//!
//! ```text
//! Finishing ─nothing in flight─────────────────────────▶ Settled ─Revoke─▶ (goes on)
//!     └─ time is up ─▶ Cutting ─dead connections only─────▶ │ └─its front end goes─▶ (disowned)
//! ```
//! Invariant: nothing of the VM is dispatched from the order on, and nothing is told of its requests as long as a connection may
//! still carry one of them. It does not know where the VM goes, nor whether it will.

use super::vhost_user::{Ending, LeftFate, LeftQueue, Session};
use crate::dataplane::{OrderReport, Worker};
use vmpath_core::event::Fault;
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::migration::{DiskHandOver, Open, OpenRequest, QuarantineHandOver, QueueHandOver};
use vmpath_core::router::{ConnectionKey, Fate};
use vmpath_core::time::{Duration, Instant};
use vmpath_protocol::virtio_blk::request::Status;

/// How long the kernel may take to give back what it has of connections that were cut. A device that hangs keeps it for minutes:
/// then the VM stays.
const REAP_MAX: Duration = Duration::from_secs(2);

/// A VM that leaves, or has been told to.
#[derive(Debug)]
pub(super) struct Departure {
    vm: VmId,
    ticket: u64,
    asked: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Finishing { by: Instant },
    Cutting { by: Instant },
    Settled,
}

impl Departure {
    /// When something is due without an event.
    pub(super) fn until(&self, now: Instant) -> Instant {
        match self.stage {
            Stage::Finishing { by } | Stage::Cutting { by } => by.max(now),
            Stage::Settled => Instant::FAR_FUTURE,
        }
    }
}

impl Worker {
    /// The VM is about to leave.
    pub(crate) fn settle(&mut self, ticket: u64, vm: VmId, by: Instant) {
        if self.is_arriving(vm) {
            let why = "it has not arrived here whole yet".to_owned();
            self.tell_order(OrderReport::Settled { ticket, disks: Err(why) });
            return;
        }
        for disk in self.disks_of(vm) {
            self.router.begin_move(disk);
        }
        let departure = Departure { vm, ticket, asked: self.now, stage: Stage::Finishing { by } };
        self.moves.departures.retain(|other| other.vm != vm);
        self.moves.departures.push(departure);
    }

    /// The VM stays.
    pub(crate) fn revoke(&mut self, vm: VmId) {
        if let Some(at) = self.moves.departures.iter().position(|departure| departure.vm == vm) {
            self.moves.departures.swap_remove(at);
            self.stay(vm);
        }
        self.tell_order(OrderReport::Revoked { vm });
    }

    fn stay(&mut self, vm: VmId) {
        for disk in self.disks_of(vm) {
            self.router.end_move(disk, self.now);
        }
    }

    /// A front end has gone. What it had open was told to another host, which may have begun with it.
    pub(super) fn left_after_departure(&mut self, disk: DiskId) {
        let vm = self.plan.spec.disk(disk).vm;
        let settled = |departure: &Departure| departure.vm == vm && departure.stage == Stage::Settled;
        let Some(at) = self.moves.departures.iter().position(settled) else { return };
        for disk in self.disks_of(vm) {
            self.router.disown_unit(self.plan.spec.disk(disk).unit, self.now);
        }
        let is_gone = self.disks_of(vm).into_iter().all(|disk| self.session_of(disk).is_none());
        if is_gone && !self.has_clients(vm) {
            self.moves.departures.swap_remove(at);
            self.end_arrival(vm);
            self.stay(vm);
        }
    }

    /// Whether a client has one of the VM's disks open over NBD.
    pub(super) fn has_clients(&self, vm: VmId) -> bool {
        self.disks_of(vm).into_iter().any(|disk| self.fronts.clients_of(disk) > 0)
    }

    pub(super) fn advance_departures(&mut self) -> bool {
        let mut changed = false;
        for at in (0..self.moves.departures.len()).rev() {
            let (vm, stage) = (self.moves.departures[at].vm, self.moves.departures[at].stage);
            let by = match stage {
                Stage::Settled => continue,
                Stage::Finishing { by } | Stage::Cutting { by } => by,
            };
            let is_over = self.now >= by;
            let (standing, carriers) = (self.stands_still(vm), self.carriers(vm));
            match (standing, carriers.is_empty(), stage) {
                (Err(why), ..) if is_over => self.cannot_leave(at, why),
                (Err(_), ..) => continue,
                (Ok(()), true, _) => self.tell_settled(at),
                (Ok(()), false, Stage::Finishing { .. }) if is_over => self.cut_carriers(at, &carriers),
                (Ok(()), false, Stage::Cutting { .. }) if is_over => {
                    self.cannot_leave(at, "the kernel has not given back what it was asked for".to_owned());
                }
                (Ok(()), false, _) => continue,
            }
            changed = true;
        }
        changed
    }

    /// All its rings are stopped, and it is known what they have open.
    fn stands_still(&self, vm: VmId) -> Result<(), String> {
        for disk in self.disks_of(vm) {
            let unit = self.plan.spec.disk(disk).unit;
            if self.router.has_endless_quarantine(unit) {
                return Err(format!(
                    "what a former vmpath sent to {} may still take effect, and it is not known until when",
                    self.plan.spec.unit_name(unit)
                ));
            }
            let is_nbd = self.plan.spec.disk(disk).vhost_user.is_none();
            let name = || self.disk_name(disk);
            match self.session_of(disk).map(|at| &self.requests.guests.sessions[at].session) {
                None if is_nbd || self.fronts.clients_of(disk) > 0 => {
                    if self.router.has_open(disk) {
                        return Err(format!(
                            "requests of {} are open, and only its hypervisor can keep them",
                            name()
                        ));
                    }
                }
                None => {
                    return Err(format!(
                        "{} has no front end, and what its guest has open is not known",
                        name()
                    ));
                }
                Some(session) if session.has_running_ring() => {
                    return Err(format!("a ring of {} still runs", name()));
                }
                Some(session) if session.left().is_none() => {
                    return Err(format!(
                        "no ring of {} has run here, and what its guest has open is not known",
                        name()
                    ));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn carriers(&self, vm: VmId) -> Vec<ConnectionKey> {
        self.disks_of(vm).into_iter().flat_map(|disk| self.router.carriers(disk)).collect()
    }

    fn cut_carriers(&mut self, at: usize, carriers: &[ConnectionKey]) {
        let departure = &mut self.moves.departures[at];
        departure.stage = Stage::Cutting { by: self.now + REAP_MAX };
        let fault = Fault::Hang { silent_for: self.now.since(departure.asked) };
        for key in carriers {
            self.cut_connection(*key, fault.clone());
        }
    }

    fn cannot_leave(&mut self, at: usize, why: String) {
        let Departure { vm, ticket, .. } = self.moves.departures.swap_remove(at);
        self.stay(vm);
        self.tell_order(OrderReport::Settled { ticket, disks: Err(why) });
    }

    fn tell_settled(&mut self, at: usize) {
        let departure = &mut self.moves.departures[at];
        departure.stage = Stage::Settled;
        let (vm, ticket) = (departure.vm, departure.ticket);
        let disks =
            self.disks_of(vm).into_iter().map(|disk| self.left_by(disk)).collect::<Result<Vec<_>, String>>();
        match disks {
            Ok(disks) => self.tell_order(OrderReport::Settled { ticket, disks: Ok(disks) }),
            Err(why) => self.cannot_leave(at, why),
        }
    }

    fn left_by(&self, disk: DiskId) -> Result<DiskHandOver, String> {
        let spec = &self.plan.spec;
        let unit = spec.disk(disk).unit;
        let session = self.session_of(disk).map(|at| &self.requests.guests.sessions[at].session);
        let left = session.and_then(Session::left).unwrap_or_default();
        let mut queues = left.into_iter().map(|queue| self.left_in(queue)).collect::<Result<Vec<_>, _>>()?;
        for untaken in self.untaken(disk) {
            if !queues.iter().any(|queue| queue.queue == untaken.queue) {
                queues.push(untaken.clone());
            }
        }
        let quarantine = self.router.quarantines(unit, self.now).into_iter().map(|q| QuarantineHandOver {
            offset: q.range.start,
            length: q.range.end - q.range.start,
            remaining: q.remaining,
        });
        Ok(DiskHandOver {
            disk: spec.disk(disk).name.clone(),
            unit: spec.unit_name(unit),
            epoch: 0,
            queues,
            quarantine: quarantine.collect(),
        })
    }

    fn left_in(&self, left: LeftQueue) -> Result<QueueHandOver, String> {
        let LeftQueue { queue, base, open } = left;
        let state = |fate| match fate {
            LeftFate::Untaken(open) => Ok(open),
            // What it has read would be missing from the guest's memory there.
            LeftFate::Ended(Status::Ok, Ending::WithData) => Ok(Open::Unsent),
            LeftFate::Ended(status, _) => Ok(Open::Done(status.code())),
            LeftFate::Routed(token) => {
                let key = self.requests.table.get(token as usize).map(|request| request.key);
                match key.and_then(|key| self.router.fate(key, token)) {
                    Some(Fate::Unsent) => Ok(Open::Unsent),
                    Some(Fate::Unknown) => Ok(Open::Unknown),
                    Some(Fate::InFlight) | None => {
                        Err("a request of it is not where it should be".to_owned())
                    }
                }
            }
        };
        let request =
            |left: super::vhost_user::LeftOpen| Ok(OpenRequest { head: left.head, state: state(left.fate)? });
        Ok(QueueHandOver { queue, base, open: open.into_iter().map(request).collect::<Result<_, String>>()? })
    }
}
