//! A VM comes from another host: what is handed over is kept, and its rings begin with it once this host owns its units.
//!
//! ```text
//! Expected ─Offer: in files─▶ Stored ─all units owned─▶ Importing ─quarantines recorded─▶ Released ─each ring has begun─▶ (gone)
//!     └───────────┴──Withdraw──▶ Withdrawn
//! ```
//! Invariant: a ring is answered at once and begins only from `Released` on; what is handed over is in a file before it is
//! answered and until a ring has put it into its inflight buffer, so that it is never in neither. Rejected: waiting in
//! SET_VRING_KICK, which freezes the front end. It does not know whose word it is that the units are owned.

use super::hand_over::{self, Kept};
use super::vhost_user::{QueueSet, Session};
use crate::dataplane::{OrderReport, Worker};
use std::path::PathBuf;
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::migration::destination::Withdrawn;
use vmpath_core::migration::{DiskHandOver, HandOver, MoveId, QuarantineHandOver, QueueHandOver};
use vmpath_core::router::{RemainingQuarantine, Standing};
use vmpath_core::time::Duration;

/// Descriptors that one queue may have open: QEMU's own limit.
const OPEN_MAX: usize = 1024;
/// A fence that is further away is no duration that any transport promises.
const REMAINING_MAX: Duration = Duration::from_secs(24 * 3600);

/// A VM that comes.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) vm: VmId,
    move_id: MoveId,
    stage: Stage,
    /// A ring has taken its part, here or, for all that is known, in a former process.
    taken: Taken,
    /// A client over NBD has asked for a change of a disk. What it has open otherwise it asks for again at the source.
    changed: Changed,
    /// What has not been taken yet.
    disks: Vec<(DiskId, DiskHandOver)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Expected,
    Stored,
    Importing,
    Released,
    Withdrawn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taken {
    Nothing,
    Something,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Changed {
    Nothing,
    Something,
}

impl Worker {
    fn arrival(&self, vm: VmId) -> Option<usize> {
        self.moves.arrivals.iter().position(|arrival| arrival.vm == vm)
    }

    /// The VM will come by this move.
    pub(crate) fn expect(&mut self, ticket: u64, vm: VmId, move_id: &MoveId) {
        let result = self.begin_arrival(vm, move_id);
        self.tell_order(OrderReport::Expected { ticket, result });
    }

    fn begin_arrival(&mut self, vm: VmId, move_id: &MoveId) -> Result<(), String> {
        if let Some(at) = self.arrival(vm) {
            let known = &self.moves.arrivals[at];
            if known.move_id == *move_id && known.stage != Stage::Withdrawn {
                return Ok(());
            }
            let is_here = self.disks_of(vm).into_iter().any(|disk| self.session_of(disk).is_some());
            if known.taken == Taken::Something && is_here {
                return Err(format!("it is arriving by move {}", known.move_id));
            }
            self.drop_arrival(at);
        }
        let runs = |disk: &DiskId| {
            let session = self.session_of(*disk).map(|at| &self.requests.guests.sessions[at].session);
            session.is_some_and(Session::has_running_ring)
        };
        if let Some(disk) = self.disks_of(vm).iter().find(|disk| runs(disk)) {
            return Err(format!("{} is in use here", self.disk_name(*disk)));
        }
        self.hold(Arrival::new((vm, move_id.clone()), Stage::Expected, Taken::Nothing));
        Ok(())
    }

    fn hold(&mut self, arrival: Arrival) {
        self.comes_anew(arrival.vm);
        for disk in self.disks_of(arrival.vm) {
            self.router.begin_move(disk);
        }
        self.hold_starts_of(arrival.vm);
        self.moves.arrivals.push(arrival);
    }

    fn hold_starts_of(&mut self, vm: VmId) {
        for disk in self.disks_of(vm) {
            if let Some(at) = self.session_of(disk) {
                self.requests.guests.sessions[at].session.hold_starts();
            }
        }
    }

    /// Whether rings of the VM may still wait for what is to come.
    pub(super) fn is_arriving(&self, vm: VmId) -> bool {
        self.arrival(vm).is_some_and(|at| self.moves.arrivals[at].stage != Stage::Released)
    }

    /// What was handed over of a disk and has not been taken: a driver may never start a queue again.
    pub(super) fn untaken(&self, disk: DiskId) -> &[QueueHandOver] {
        let arrival = self.arrival(self.plan.spec.disk(disk).vm).map(|at| &self.moves.arrivals[at]);
        let of = arrival.and_then(|arrival| arrival.disks.iter().find(|(its, _)| *its == disk));
        of.map_or(&[], |(_, of)| &of.queues)
    }

    /// The VM has left: what of its arrival nobody has taken has gone with it.
    pub(super) fn end_arrival(&mut self, vm: VmId) {
        if let Some(at) = self.arrival(vm) {
            self.drop_arrival(at);
        }
    }

    /// What a former process was told is waited for again.
    pub(crate) fn recall_arrivals(&mut self) {
        for disk in self.its_disks.clone() {
            let Some((kept, stage)) = self.recall_file(disk) else { continue };
            let vm = self.plan.spec.disk(disk).vm;
            let taken = match stage {
                hand_over::Stage::Stored => Taken::Nothing,
                hand_over::Stage::Released => Taken::Something,
            };
            match self.arrival(vm) {
                Some(at) if self.moves.arrivals[at].move_id == kept.move_id => {
                    let arrival = &mut self.moves.arrivals[at];
                    arrival.disks.push((disk, kept.disk));
                    arrival.taken = if taken == Taken::Something { taken } else { arrival.taken };
                }
                Some(_) => {}
                None => {
                    let mut arrival = Arrival::new((vm, kept.move_id), Stage::Stored, taken);
                    arrival.disks.push((disk, kept.disk));
                    self.hold(arrival);
                }
            }
        }
    }

    fn recall_file(&self, disk: DiskId) -> Option<(Kept, hand_over::Stage)> {
        let (vm, name) = self.names_of(disk);
        let path = self.hand_over_file(disk);
        match hand_over::read(&path) {
            Ok(found) => found.filter(|(kept, _)| kept.vm == vm && kept.disk.disk == name),
            Err(why) => {
                tracing::error!(
                    "what another host has handed over cannot be read again ({}): {why}",
                    path.display()
                );
                None
            }
        }
    }

    fn names_of(&self, disk: DiskId) -> (String, String) {
        let of = self.plan.spec.disk(disk);
        (self.plan.spec.vm(of.vm).name.clone(), of.name.clone())
    }

    /// A name holds no ':'.
    fn hand_over_file(&self, disk: DiskId) -> PathBuf {
        let (vm, name) = self.names_of(disk);
        self.plan.spec.host.run_dir.join(format!("handover-{vm}:{name}"))
    }

    /// The source hands over.
    pub(crate) fn offer(&mut self, ticket: u64, hand_over: &HandOver) {
        let result = self.keep(hand_over);
        if result.is_ok() {
            self.release_arrivals();
        }
        self.tell_order(OrderReport::Stored { ticket, result });
    }

    fn keep(&mut self, hand_over: &HandOver) -> Result<(), String> {
        let vm = self.plan.spec.vm_ids().find(|vm| self.plan.spec.vm(*vm).name == hand_over.vm);
        let at = vm.and_then(|vm| self.arrival(vm)).ok_or("no such VM is expected here")?;
        let arrival = &self.moves.arrivals[at];
        let (vm, expected) = (arrival.vm, &arrival.move_id);
        if *expected != hand_over.move_id {
            return Err(format!("move {expected} is expected, and this is {}", hand_over.move_id));
        }
        match arrival.stage {
            Stage::Expected => {}
            // The answer was lost.
            Stage::Stored | Stage::Importing | Stage::Released => return Ok(()),
            Stage::Withdrawn => return Err("the move was given up".to_owned()),
        }
        let disks = self.checked(vm, hand_over)?;
        let stored: Result<(), String> = disks.iter().try_for_each(|(disk, of)| {
            let kept =
                Kept { move_id: hand_over.move_id.clone(), vm: hand_over.vm.clone(), disk: of.clone() };
            let path = self.hand_over_file(*disk);
            hand_over::write(&path, &kept)
                .map_err(|error| format!("cannot write {}: {error}", path.display()))
        });
        if stored.is_err() {
            self.remove_files(vm);
        }
        stored?;
        let arrival = &mut self.moves.arrivals[at];
        (arrival.disks, arrival.stage) = (disks, Stage::Stored);
        Ok(())
    }

    /// What is handed over is for this VM as it is configured here, whole, and can be what its rings have left.
    fn checked(&self, vm: VmId, hand_over: &HandOver) -> Result<Vec<(DiskId, DiskHandOver)>, String> {
        let spec = &self.plan.spec;
        let its = self.disks_of(vm);
        if hand_over.disks.len() != its.len() {
            return Err(format!(
                "{} disks are handed over, and it has {} here",
                hand_over.disks.len(),
                its.len()
            ));
        }
        let mut disks = Vec::new();
        for disk in its {
            let (name, unit) = (&spec.disk(disk).name, spec.unit_name(spec.disk(disk).unit));
            let of = hand_over.disks.iter().find(|of| of.disk == *name);
            let of = of.ok_or_else(|| format!("disk {name} is not handed over"))?;
            if of.unit != unit {
                return Err(format!("disk {name} is {} there and {unit} here", of.unit));
            }
            check_disk(of, spec.disk(disk).queues)?;
            disks.push((disk, of.clone()));
        }
        Ok(disks)
    }

    /// Nothing of the move is taken from now on, unless something was.
    pub(crate) fn withdraw(&mut self, ticket: u64, vm: VmId, move_id: &MoveId) {
        let known = self.arrival(vm).filter(|at| self.moves.arrivals[*at].move_id == *move_id);
        let withdrawn = match known {
            Some(at) if self.moves.arrivals[at].taken == Taken::Nothing => {
                let arrival = &mut self.moves.arrivals[at];
                let before = std::mem::replace(&mut arrival.stage, Stage::Withdrawn);
                arrival.disks.clear();
                self.remove_files(vm);
                self.hold_starts_of(vm);
                if before == Stage::Released {
                    self.disks_of(vm).into_iter().for_each(|disk| self.router.begin_move(disk));
                }
                Withdrawn::Untouched
            }
            // Of one that is not known here all may have been taken.
            Some(_) | None => Withdrawn::Taken,
        };
        self.tell_order(OrderReport::Withdrawn { ticket, withdrawn });
    }

    /// The move is over, and nothing of it is here.
    pub(crate) fn forget_arrival(&mut self, vm: VmId, move_id: &MoveId) {
        let known = self.arrival(vm).filter(|at| self.moves.arrivals[*at].move_id == *move_id);
        if let Some(at) = known
            && matches!(self.moves.arrivals[at].stage, Stage::Expected | Stage::Withdrawn)
        {
            self.drop_arrival(at);
        }
    }

    fn drop_arrival(&mut self, at: usize) {
        let vm = self.moves.arrivals.swap_remove(at).vm;
        self.remove_files(vm);
        for disk in self.disks_of(vm) {
            self.router.end_move(disk, self.now);
        }
    }

    fn remove_files(&self, vm: VmId) {
        for disk in self.disks_of(vm) {
            hand_over::remove(&self.hand_over_file(disk));
        }
    }

    /// Those that are here and whose units are all ours: their quarantines hold from now on.
    pub(super) fn release_arrivals(&mut self) {
        for at in 0..self.moves.arrivals.len() {
            let arrival = &self.moves.arrivals[at];
            let spec = &self.plan.spec;
            let is_ours = |disk: DiskId| self.router.is_owned(spec.disk(disk).unit);
            if arrival.stage != Stage::Stored || !self.disks_of(arrival.vm).into_iter().all(is_ours) {
                continue;
            }
            let ranges: Vec<_> =
                arrival.disks.iter().map(|(disk, of)| (spec.disk(*disk).unit, remaining(of))).collect();
            for (unit, ranges) in ranges {
                self.router.import_quarantine(unit, ranges, self.now);
            }
            self.moves.arrivals[at].stage = Stage::Importing;
        }
    }

    /// Rings begin once the quarantines are in the record.
    pub(super) fn advance_arrivals(&mut self) -> bool {
        let importing = |arrival: &Arrival| arrival.stage == Stage::Importing;
        let Some(at) = self.moves.arrivals.iter().position(importing) else { return false };
        let vm = self.moves.arrivals[at].vm;
        for disk in self.disks_of(vm) {
            if let Err(error) = hand_over::release(&self.hand_over_file(disk)) {
                tracing::error!(disk = self.disk_name(disk), %error, "cannot begin with what was handed over");
                return false;
            }
        }
        self.moves.arrivals[at].stage = Stage::Released;
        for disk in self.disks_of(vm) {
            self.router.end_move(disk, self.now);
        }
        for disk in self.disks_of(vm) {
            if let Some(session) = self.session_of(disk) {
                self.admit_session(session, disk);
            }
        }
        self.conclude_arrival(vm);
        true
    }

    /// A front end has attached.
    pub(super) fn attached_on_arrival(&mut self, index: usize, disk: DiskId) {
        let vm = self.plan.spec.disk(disk).vm;
        let Some(at) = self.arrival(vm) else { return };
        self.requests.guests.sessions[index].session.hold_starts();
        if self.moves.arrivals[at].stage == Stage::Released {
            self.admit_session(index, disk);
        }
    }

    fn admit_session(&mut self, index: usize, disk: DiskId) {
        let vm = self.plan.spec.disk(disk).vm;
        let Some(at) = self.arrival(vm) else { return };
        let of = self.moves.arrivals[at].disks.iter().find(|(its, _)| *its == disk);
        let queues = of.map(|(_, of)| of.queues.clone()).unwrap_or_default();
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        match served.session.admit(queues) {
            Ok(changes) => self.changed(index, changes),
            Err(end) => self.detach(index, &end),
        }
    }

    /// Rings have begun with what was handed over, or need it no more.
    pub(super) fn taken_over(&mut self, disk: DiskId, queues: QueueSet) {
        let vm = self.plan.spec.disk(disk).vm;
        let Some(at) = self.arrival(vm) else { return };
        let arrival = &mut self.moves.arrivals[at];
        for (_, of) in arrival.disks.iter_mut().filter(|(its, _)| *its == disk) {
            of.queues.retain(|queue| !queues.contains(queue.queue));
        }
        self.note_taken(at);
        self.conclude_arrival(vm);
    }

    /// It has no ring that begins: its clients' first change is what cannot be taken back. Until then its hypervisor may still fail to
    /// load it, and it is the source's.
    fn is_untouched(&self, at: usize) -> bool {
        let Arrival { vm, taken, changed, .. } = self.moves.arrivals[at];
        let has_rings = |disk: DiskId| self.plan.spec.disk(disk).vhost_user.is_some();
        let untouched = (taken, changed) == (Taken::Nothing, Changed::Nothing);
        untouched && !self.disks_of(vm).into_iter().any(has_rings)
    }

    /// A client over NBD asks for a change of a disk.
    pub(super) fn note_change(&mut self, disk: DiskId) {
        let vm = self.plan.spec.disk(disk).vm;
        let Some(at) = self.arrival(vm) else { return };
        if std::mem::replace(&mut self.moves.arrivals[at].changed, Changed::Something) == Changed::Nothing {
            self.conclude_arrival(vm);
        }
    }

    fn note_taken(&mut self, at: usize) {
        let arrival = &mut self.moves.arrivals[at];
        if std::mem::replace(&mut arrival.taken, Taken::Something) == Taken::Nothing {
            let (vm, move_id) = (arrival.vm, arrival.move_id.clone());
            self.tell_order(OrderReport::Taken { vm, move_id });
        }
    }

    /// Lets go of disks of which everything was taken, and of the move with the last of them.
    fn conclude_arrival(&mut self, vm: VmId) {
        let Some(at) = self.arrival(vm).filter(|at| self.moves.arrivals[*at].stage == Stage::Released) else {
            return;
        };
        let is_done = |(_, of): &mut (DiskId, DiskHandOver)| of.queues.is_empty();
        for (disk, _) in self.moves.arrivals[at].disks.extract_if(.., is_done).collect::<Vec<_>>() {
            hand_over::remove(&self.hand_over_file(disk));
        }
        if self.moves.arrivals[at].disks.is_empty() && !self.is_untouched(at) {
            self.note_taken(at);
            let Arrival { vm, move_id, .. } = self.moves.arrivals.swap_remove(at);
            tracing::info!(vm = self.plan.spec.vm(vm).name, "it has arrived by move {move_id}");
            self.tell_order(OrderReport::Arrived { vm, move_id });
        }
    }
}

impl Arrival {
    fn new((vm, move_id): (VmId, MoveId), stage: Stage, taken: Taken) -> Self {
        Self { vm, move_id, stage, taken, changed: Changed::Nothing, disks: Vec::new() }
    }
}

fn check_disk(of: &DiskHandOver, queues: u16) -> Result<(), String> {
    for (at, queue) in of.queues.iter().enumerate() {
        let (number, name) = (queue.queue, &of.disk);
        if number >= queues || of.queues[..at].iter().any(|other| other.queue == number) {
            return Err(format!("queue {number} of disk {name} is handed over, and it has {queues} here"));
        }
        let mut heads: Vec<u16> = queue.open.iter().map(|open| open.head).collect();
        heads.sort_unstable();
        heads.dedup();
        if heads.len() != queue.open.len() || queue.open.len() > OPEN_MAX {
            return Err(format!("the open requests of queue {number} of disk {name} cannot be"));
        }
    }
    let is_range = |q: &QuarantineHandOver| {
        q.length > 0 && q.offset.checked_add(q.length).is_some() && q.remaining <= REMAINING_MAX
    };
    if of.quarantine.iter().all(is_range) {
        Ok(())
    } else {
        Err(format!("a quarantine of disk {} cannot be", of.disk))
    }
}

/// Whose a range is, is not told: a request that is handed over as unknown claims the one of exactly its range, and what nobody
/// claims is nobody's.
fn remaining(of: &DiskHandOver) -> Vec<RemainingQuarantine> {
    let range = |q: &QuarantineHandOver| RemainingQuarantine {
        range: q.offset..q.offset + q.length,
        remaining: q.remaining,
        standing: Standing::Open,
    };
    of.quarantine.iter().map(range).collect()
}
