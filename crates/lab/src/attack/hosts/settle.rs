//! A VM leaves the data plane: what can finish finishes, the rest is cut off, and what is open is told.
//!
//! Invariant: nothing of it is dispatched from the order on until it is revoked; nothing is told while an attempt of it may still be
//! answered. It does not know where the VM goes, nor whether it will.

use super::event::Event;
use super::plane::{OpState, Stage};
use super::scene::BLOCK;
use super::world::World;
use vmpath_core::cluster::Heard;
use vmpath_core::ids::VmId;
use vmpath_core::migration::source::Input;
use vmpath_core::migration::{DiskHandOver, MoveId, Open, OpenRequest, QuarantineHandOver, QueueHandOver};
use vmpath_core::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Finishing,
    Cutting,
    Settled,
}

#[derive(Clone, Debug)]
pub(super) struct Departure {
    id: MoveId,
    by: Instant,
    step: Step,
}

impl Departure {
    pub(super) fn is_settled(&self) -> bool {
        self.step == Step::Settled
    }
}

impl World {
    pub(super) fn settle(&mut self, host: usize, vm: usize, by: Duration) {
        let (now, Some(life)) = (self.now, self.life(host)) else { return };
        let Some(process) = self.process(host) else { return };
        let Some(id) = process.leaving[vm].clone() else { return };
        let seat = &mut process.seats[vm];
        if seat.arrival.as_ref().is_some_and(|arrival| arrival.stage != Stage::Released) {
            let why = "it has not arrived here whole yet".to_owned();
            return self.tell_settled(host, vm, (id, Err(why)));
        }
        seat.departure = Some(Departure { id, by: now + by, step: Step::Finishing });
        self.at(by, Event::Settling { life, vm });
        self.settling(host, vm);
    }

    /// Time has passed, or something has finished.
    pub(super) fn settling(&mut self, host: usize, vm: usize) {
        let (now, Some(life)) = (self.now, self.life(host)) else { return };
        let flying = self.flying_of(host, vm);
        let runs = self.qemu(host, vm).is_some_and(super::qemu::Qemu::runs);
        let Some(process) = self.process(host) else { return };
        let seat = &mut process.seats[vm];
        let attached = seat.attached;
        let Some(departure) = &mut seat.departure else { return };
        let (id, is_over) = (departure.id.clone(), now >= departure.by);
        match departure.step {
            Step::Settled => {}
            Step::Finishing | Step::Cutting if runs || !attached => {
                if is_over {
                    seat.departure = None;
                    let why = if runs { "a ring still runs" } else { "it has no front end" };
                    self.tell_settled(host, vm, (id, Err(why.to_owned())));
                    self.pump_soon(host, vm);
                }
            }
            Step::Finishing | Step::Cutting if flying.is_empty() => {
                departure.step = Step::Settled;
                let disks = self.left_by(host, vm);
                self.tell_settled(host, vm, (id, Ok(disks)));
            }
            Step::Finishing if is_over => {
                departure.step = Step::Cutting;
                departure.by = now + Duration::from_secs(2);
                for attempt in flying {
                    let reaped = self.rng.millis(1..40);
                    self.at(reaped, Event::Cut { life, attempt });
                }
                self.at(Duration::from_secs(2), Event::Settling { life, vm });
            }
            Step::Finishing => {}
            Step::Cutting => {}
        }
    }

    /// A connection is closed and reaped.
    pub(super) fn cut(&mut self, host: usize, attempt: u32) {
        let request = self.array.request_of(attempt);
        self.lose(attempt, self.now + self.scene.quiesce[request.unit]);
        self.settling(host, request.vm);
        self.pump_soon(host, request.vm);
    }

    fn tell_settled(
        &mut self,
        host: usize,
        vm: usize,
        (move_id, disks): (MoveId, Result<Vec<DiskHandOver>, String>),
    ) {
        let Some(life) = self.life(host) else { return };
        let heard = Heard::Leaving { vm: VmId::at(vm), move_id, input: Input::Settled(disks) };
        let after = self.rng.micros(20..2000);
        self.hear(life, after, heard);
    }

    fn left_by(&mut self, host: usize, vm: usize) -> Vec<DiskHandOver> {
        let (now, units, names) = (self.now, self.disks_of(vm), self.disk_names(vm));
        let mut left = vec![];
        for (disk, unit) in units.into_iter().enumerate() {
            let open = |q: &&super::plane::Quarantine| q.until > now;
            let told = self.hosts[host].record[unit].iter().filter(open).map(|q| QuarantineHandOver {
                offset: q.block as u64 * BLOCK,
                length: BLOCK,
                remaining: q.until.since(now),
            });
            let held = self.hosts[host].held[unit];
            let whole = (held > now).then(|| QuarantineHandOver {
                offset: 0,
                length: u64::MAX,
                remaining: held.since(now),
            });
            let quarantine: Vec<_> = told.chain(whole).collect();
            let queue = self.left_in(host, vm, (disk, &names[disk]));
            self.tally.quarantines_handed_over += quarantine.len() as u64;
            self.tally.requests_handed_over += queue.as_ref().map_or(0, |queue| queue.open.len() as u64);
            left.push(DiskHandOver {
                disk: names[disk].clone(),
                unit: self.unit_name(unit),
                epoch: 0,
                queues: queue.into_iter().collect(),
                quarantine,
            });
        }
        self.tally.hand_overs += 1;
        left
    }

    fn left_in(&self, host: usize, vm: usize, (disk, name): (usize, &str)) -> Option<QueueHandOver> {
        // What nobody has taken here goes on as it came.
        if let Some(file) = &self.hosts[host].files[vm] {
            let handed = file.hand_over.disks.iter().find(|handed| handed.disk == name)?;
            return handed.queues.first().cloned();
        }
        let process = self.hosts[host].process.as_ref()?;
        let qemu = self.qemu(host, vm)?;
        let guest = qemu.guest.as_ref()?;
        let heads = qemu.inflight[disk].heads.clone()?;
        let ops = &process.seats[vm].ops;
        let state = |head: u8| {
            let op = ops.iter().find(|op| op.disk == disk && op.head == head);
            let is_write = op.is_some_and(|op| self.array.requests[op.request as usize].write);
            match op.map(|op| (op.state, op.unknown)) {
                Some((OpState::Done(status), _)) if is_write => Open::Done(status),
                // What it has read would be missing from the guest's memory there.
                Some((OpState::Done(_), _)) => Open::Unsent,
                Some((_, true)) if is_write => Open::Unknown,
                Some(_) | None => Open::Unsent,
            }
        };
        let open =
            heads.iter().map(|head| OpenRequest { head: u16::from(*head), state: state(*head) }).collect();
        Some(QueueHandOver { queue: 0, base: guest.disks[disk].base(), open })
    }

    /// The VM stays.
    pub(super) fn revoke(&mut self, host: usize, vm: usize) {
        if let Some(process) = self.process(host) {
            (process.seats[vm].departure, process.seats[vm].barred) = (None, false);
        }
        self.judge_owners(host, vm);
        self.pump_soon(host, vm);
    }

    /// Rings were started or stopped.
    pub(super) fn ring_changed(&mut self, host: usize, vm: usize) {
        if self.process(host).is_some_and(|process| process.seats[vm].departure.is_some()) {
            self.settling(host, vm);
        }
        self.pump_soon(host, vm);
    }
}
