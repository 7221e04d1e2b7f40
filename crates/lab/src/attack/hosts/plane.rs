//! The data plane of one VM in one process: who is attached, what waits for its rings, when they begin.
//!
//! Invariant: a ring of a VM that comes begins only when its hand-over was released, with all requests that are open or not at all; the
//! inflight buffer, which the hypervisor keeps, says whether it has begun. It does not know whose word it is that units are owned.

use super::event::{Event, Life};
use super::settle::Departure;
use super::world::World;
use vmpath_core::migration::destination::Input;
use vmpath_core::migration::{DiskHandOver, HandOver, MoveId, Open, QueueHandOver};
use vmpath_core::time::{Duration, Instant};

/// What a former host has handed over, on tmpfs until the rings have it.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) hand_over: HandOver,
    /// From then on the quarantines in it count.
    pub(super) since: Instant,
    pub(super) released: bool,
}

/// A range in which a write may still take effect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Quarantine {
    pub(super) block: usize,
    /// The write, which may be repeated; none if that is not known.
    pub(super) request: Option<u32>,
    pub(super) until: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Expected,
    Stored,
    Released,
    Withdrawn,
}

#[derive(Clone, Debug)]
pub(super) struct Arrival {
    pub(super) id: MoveId,
    pub(super) stage: Stage,
    /// What was, or would have been, launched for it is to end.
    pub(super) ended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpState {
    Queued,
    Flying(u32),
    Done(u8),
}

/// A request that was fetched and is not answered.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    /// Of the VM's disks.
    pub(super) disk: usize,
    pub(super) head: u8,
    pub(super) request: u32,
    pub(super) state: OpState,
    /// It was sent, and what became of it is not known.
    pub(super) unknown: bool,
}

#[derive(Debug, Default)]
pub(super) struct Seat {
    pub(super) attached: bool,
    /// Its front end has gone after all of it was told to another host.
    pub(super) barred: bool,
    pub(super) departure: Option<Departure>,
    pub(super) arrival: Option<Arrival>,
    pub(super) ops: Vec<Op>,
    pump_at: Option<Instant>,
}

impl Seat {
    pub(super) fn pumped(&mut self) {
        self.pump_at = None;
    }

    fn may_begin(&self) -> bool {
        let arrives = self.arrival.as_ref().is_some_and(|arrival| arrival.stage != Stage::Released);
        !self.barred && self.departure.is_none() && !arrives
    }
}

impl World {
    /// This process would send a request of the VM to the unit, as soon as there was one.
    pub(super) fn may_dispatch(&self, host: usize, vm: usize, unit: usize) -> bool {
        let Some(process) = &self.hosts[host].process else { return false };
        let seat = &process.seats[vm];
        let owns = process.told_owners[unit].may_dispatch();
        owns && seat.attached && seat.may_begin()
    }

    pub(super) fn pump_soon(&mut self, host: usize, vm: usize) {
        self.pump_at(host, vm, self.now);
    }

    pub(super) fn pump_at(&mut self, host: usize, vm: usize, at: Instant) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = self.process(host) else { return };
        let seat = &mut process.seats[vm];
        if seat.pump_at.is_some_and(|due| due <= at) {
            return;
        }
        seat.pump_at = Some(at);
        self.when(at, Event::Pump { life, vm });
    }

    /// A front end connects, if its process is there.
    pub(super) fn attach(&mut self, host: usize, vm: usize) {
        if self.qemu(host, vm).is_none() {
            return;
        }
        let Some(process) = self.process(host) else { return };
        if process.seats[vm].attached {
            return;
        }
        process.seats[vm].attached = true;
        self.recall_inflight(host, vm);
        self.judge_owners(host, vm);
        self.keep(host);
        self.pump_soon(host, vm);
    }

    /// What a former process has fetched and not answered lies in the hypervisor's buffer.
    fn recall_inflight(&mut self, host: usize, vm: usize) {
        let mut ops = vec![];
        let Some(qemu) = self.qemu(host, vm) else { return };
        let Some(guest) = &qemu.guest else { return };
        for (disk, inflight) in qemu.inflight.iter().enumerate() {
            for head in inflight.heads.iter().flatten() {
                if let Some(request) = guest.disks[disk].open[usize::from(*head)] {
                    // Whether it was sent is in the record.
                    let unit = self.array.requests[request as usize].unit;
                    let sent = self.hosts[host].record[unit].iter();
                    let unknown = sent.filter(|q| q.until > self.now).any(|q| q.request == Some(request));
                    ops.push(Op { disk, head: *head, request, state: OpState::Queued, unknown });
                }
            }
        }
        if let Some(process) = self.process(host) {
            process.seats[vm].ops = ops;
        }
    }

    /// The process of its hypervisor is gone.
    pub(super) fn detach(&mut self, host: usize, vm: usize) {
        let attempts = self.flying_of(host, vm);
        let (now, units) = (self.now, self.disks_of(vm));
        let names: Vec<String> = units.iter().map(|unit| self.unit_name(*unit)).collect();
        let quiesce: Vec<Duration> = units.iter().map(|unit| self.scene.quiesce[*unit]).collect();
        let Some(process) = self.process(host) else { return };
        let seat = &mut process.seats[vm];
        seat.attached = false;
        seat.ops.clear();
        if seat.departure.take().is_some_and(|departure| departure.is_settled()) {
            // Taken for another host's, until its keeper has read whose they are.
            seat.barred = true;
            process.keepers[vm].disown(&names);
        }
        // Nobody waits for what is on its way; where it may still take effect nothing else goes meanwhile.
        let longest = quiesce.into_iter().max().unwrap_or_default();
        for attempt in attempts {
            self.lose(attempt, now + longest);
        }
        self.keep(host);
    }

    /// What was handed over is in the hypervisor's hands from now on, where its rings run.
    pub(super) fn take_hand_over(&mut self, host: usize, vm: usize) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = self.process(host) else { return };
        let seat = &process.seats[vm];
        let Some(arrival) = seat.arrival.clone().filter(|_| seat.attached) else { return };
        let runs = self.qemu(host, vm).is_some_and(super::qemu::Qemu::runs);
        if arrival.stage != Stage::Released || !runs {
            return;
        }
        let Some(file) = self.hosts[host].files[vm].take() else { return };
        let names = self.disk_names(vm);
        let mut ops = vec![];
        for (disk, name) in names.iter().enumerate() {
            let handed = file.hand_over.disks.iter().find(|handed| handed.disk == *name);
            let Some(queue) = handed.and_then(|handed| handed.queues.first()) else { continue };
            match self.begin_ring(host, vm, (disk, queue)) {
                Ok(begun) => ops.extend(begun),
                Err(why) => return self.violated("ring", why),
            }
        }
        self.claim_quarantines(host, &ops);
        if let Some(process) = self.process(host) {
            process.seats[vm].ops = ops;
            process.seats[vm].arrival = None;
        }
        self.trace.say(self.now, || format!("    the rings of vm{vm} begin at kvm{}", host + 1));
        self.hear_taken(life, vm, &arrival.id);
    }

    fn hear_taken(&mut self, life: Life, vm: usize, id: &MoveId) {
        self.hear_arriving(life, vm, id, Input::Taken);
    }

    pub(super) fn disk_names(&self, vm: usize) -> Vec<String> {
        let spec = self.spec();
        let disks = spec.disks_of_vm(vmpath_core::ids::VmId::at(vm));
        disks.map(|disk| spec.disk(disk).name.clone()).collect()
    }

    /// Of one disk: the heads that are open go into the buffer, fetching goes on at the base.
    fn begin_ring(
        &mut self,
        host: usize,
        vm: usize,
        (disk, queue): (usize, &QueueHandOver),
    ) -> Result<Vec<Op>, String> {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return Ok(vec![]) };
        let (Some(guest), inflight) = (&qemu.guest, &mut qemu.inflight[disk]) else { return Ok(vec![]) };
        let ring = &guest.disks[disk];
        if inflight.heads.is_some() {
            // Another driver has begun it: what was handed over is its predecessor's.
            return Ok(vec![]);
        }
        let open = queue.base.wrapping_sub(ring.used);
        if usize::from(open) != queue.open.len() || ring.base() != queue.base {
            return Err(format!(
                "vm{vm} disk {disk}: base {} (its ring says {}), {} used, and {} open ones are handed over",
                queue.base,
                ring.base(),
                ring.used,
                queue.open.len()
            ));
        }
        let mut ops = vec![];
        for handed in &queue.open {
            let head = handed.head as u8;
            let Some(request) = ring.open[usize::from(head)] else {
                return Err(format!(
                    "vm{vm} disk {disk}: head {head} is handed over, and nothing is open there"
                ));
            };
            let (state, unknown) = match handed.state {
                Open::Unsent => (OpState::Queued, false),
                Open::Unknown => (OpState::Queued, true),
                Open::Done(status) => (OpState::Done(status), false),
            };
            ops.push(Op { disk, head, request, state, unknown });
        }
        inflight.heads = Some(ops.iter().map(|op| op.head).collect());
        inflight.base = queue.base;
        Ok(ops)
    }

    /// Whoever repeats a write of unknown outcome is the one whose range that is.
    fn claim_quarantines(&mut self, host: usize, ops: &[Op]) {
        for op in ops.iter().filter(|op| op.unknown) {
            let request = self.array.requests[op.request as usize];
            let record = &mut self.hosts[host].record[request.unit];
            if let Some(free) = record.iter_mut().find(|q| q.block == request.block && q.request.is_none()) {
                free.request = Some(op.request);
            }
        }
    }

    /// This host owns the units: what may still take effect is in its record before anything begins.
    pub(super) fn release_if_owned(&mut self, host: usize, vm: usize) {
        let units = self.disks_of(vm);
        let Some(process) = self.process(host) else { return };
        let owned = units.iter().all(|unit| process.told_owners[*unit].may_dispatch());
        let Some(arrival) = process.seats[vm].arrival.as_mut() else { return };
        if !owned || arrival.stage != Stage::Stored {
            return;
        }
        arrival.stage = Stage::Released;
        let Some(file) = &mut self.hosts[host].files[vm] else { return };
        let was_released = std::mem::replace(&mut file.released, true);
        let (since, disks) = (file.since, file.hand_over.disks.clone());
        if !was_released {
            for disk in &disks {
                self.import_quarantines(host, since, disk);
            }
        }
        self.judge_owners(host, vm);
        self.pump_soon(host, vm);
    }

    fn import_quarantines(&mut self, host: usize, since: Instant, disk: &DiskHandOver) {
        let unit = self.unit_number(&disk.unit);
        for quarantine in &disk.quarantine {
            if quarantine.length > super::scene::BLOCK {
                let held = &mut self.hosts[host].held[unit];
                *held = (since + quarantine.remaining).max(*held);
                continue;
            }
            let block = (quarantine.offset / super::scene::BLOCK) as usize;
            let until = since + quarantine.remaining;
            self.hosts[host].record[unit].push(Quarantine { block, request: None, until });
        }
    }

    /// What a former process was told is waited for again.
    pub(super) fn recall_files(&mut self, host: usize) {
        for vm in 0..self.hosts[host].files.len() {
            let Some(file) = &self.hosts[host].files[vm] else { continue };
            let arrival = Arrival { id: file.hand_over.move_id.clone(), stage: Stage::Stored, ended: false };
            if let Some(process) = &mut self.hosts[host].process {
                process.seats[vm].arrival = Some(arrival);
            }
        }
        let (now, quiesce) = (self.now, self.scene.quiesce.clone());
        for (unit, record) in self.hosts[host].record.iter_mut().enumerate() {
            for quarantine in record.iter_mut().filter(|q| q.until == Instant::FAR_FUTURE) {
                quarantine.until = now + quiesce[unit];
            }
        }
    }
}
