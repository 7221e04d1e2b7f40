//! What guests ask for, and another host that writes where several may.
//!
//! An orderly guest never has two writes open that overlap, as a page cache does; the others race with themselves. It does
//! not know how it is served.

use super::ledger::Op;
use super::scene::{BLOCKS, BLOCKS_PER_REQUEST_MAX, BURST, Front};
use super::world::{Event, Weather, World};
use vmpath_core::event::RunState;
use vmpath_core::ids::DiskId;
use vmpath_core::router::{Operation, Origin, Support, ZeroMode};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;

/// By disk.
pub(super) struct Guests {
    /// The process serves it.
    pub(super) attached: Vec<bool>,
    /// Requests that met an error, with the hypervisor.
    pub(super) kept: Vec<Vec<u32>>,
    /// Final reads asked for.
    pub(super) looked: Vec<u32>,
    /// Writes whose guest went, and when: they may take effect as long as their connections live, and late.
    pub(super) left: Vec<(u32, Instant)>,
}

/// The longest that a connection lives on with what a guest has left on it: the longest ping budget, and more.
const NOTICED_WITHIN: Duration = Duration::from_secs(20);

fn meets(op: &Op, other: &Op) -> bool {
    let overlap = other.first < op.first + op.count && op.first < other.first + other.count;
    other.is_write() && other.unit == op.unit && overlap
}

impl Guests {
    pub(super) fn new(disks: usize) -> Self {
        Self {
            attached: vec![false; disks],
            kept: vec![Vec::new(); disks],
            looked: vec![0; disks],
            left: vec![],
        }
    }
}

impl World {
    /// A front end attaches to the process: what it had open is replayed, or sent again as if it were new.
    pub(super) fn attach(&mut self, disk: usize) {
        let vm = self.scene.spec.disks[disk].vm.index();
        let state = self.processes[vm].state;
        if self.guests.attached[disk] || self.controller.is_none() || state == RunState::Other {
            return;
        }
        let front = self.front_of(disk);
        if front == Front::Vhost && state != RunState::Running {
            return; // its device starts with the VM
        }
        self.guests.attached[disk] = true;
        let mine = |op: &u32| {
            let op = &self.ledger.ops[*op as usize];
            op.disk == disk && op.token.is_none()
        };
        // In the order of their submission.
        let mut open: Vec<u32> = self.ledger.open.iter().copied().filter(mine).collect();
        open.sort_unstable();
        for op in open {
            if self.guests.kept[disk].contains(&op) {
                continue;
            }
            self.tally.replayed += 1;
            let origin = if front == Front::Vhost { Origin::Replayed } else { Origin::New };
            self.ledger.ops[op as usize].parked = None;
            self.hand_over(op, origin);
        }
        if state == RunState::Running {
            for op in std::mem::take(&mut self.guests.kept[disk]) {
                self.hand_over(op, Origin::New);
            }
        }
    }

    /// The guest's next burst of requests.
    pub(super) fn guest(&mut self, disk: usize) {
        if self.weather != Weather::Chaos {
            return;
        }
        let pause = self.rng.millis(1..self.scene.habits[disk].pause + 1);
        self.at(pause, Event::Guest(disk));
        let vm = self.scene.spec.disks[disk].vm.index();
        let open = self.ledger.open.iter().filter(|op| self.ledger.ops[**op as usize].disk == disk).count();
        if !self.processes[vm].runs() || !self.guests.attached[disk] {
            return;
        }
        let room = self.scene.habits[disk].depth.saturating_sub(open);
        for _ in 0..room.min(1 + self.rng.index(BURST as usize)) {
            if let Some(op) = self.next_op(disk) {
                self.submit(op);
            }
        }
    }

    fn next_op(&mut self, disk: usize) -> Option<Op> {
        let spec = &self.scene.spec.disks[disk];
        let (vm, unit) = (spec.vm.index(), spec.unit.index());
        let can_flush = self.scene.traits[unit].flush == Support::Yes;
        let operation = match self.rng.below(100) {
            0..38 => Operation::Read,
            38..82 => Operation::Write,
            82..87 => Operation::Trim,
            87..92 => Operation::WriteZeroes(ZeroMode::KeepAllocated),
            _ if can_flush => Operation::Flush,
            _ => Operation::Read,
        };
        let count = 1 + self.rng.index(BLOCKS_PER_REQUEST_MAX);
        // Some places are hotter than others.
        let span = if self.rng.percent(40) { 8 } else { BLOCKS };
        let first = self.rng.index(span - count);
        let blocks = if operation == Operation::Flush { (0, 0) } else { (first, count) };
        let mut op = Op::new((vm, disk, unit), operation, blocks);
        op.stable = can_flush && operation.changes_data() && self.rng.percent(20);
        if self.scene.habits[disk].orderly && operation.changes_data() && self.meets_open_write(&op) {
            return None;
        }
        Some(op)
    }

    fn meets_open_write(&self, op: &Op) -> bool {
        self.ledger.open.iter().map(|o| &self.ledger.ops[*o as usize]).any(|other| meets(op, other))
    }

    pub(super) fn submit(&mut self, op: Op) {
        self.tally.requests += 1;
        self.storage.enroll(op.first);
        let (operation, blocks, unit) = (op.operation, op.blocks(), op.unit);
        let number = self.ledger.submitted(op);
        self.trace.mix(u64::from(number));
        self.trace.say(self.now, || format!("op {number}: {operation:?} {blocks:?} of unit {unit}"));
        self.hand_over(number, Origin::New);
    }

    /// The guest hears of it.
    pub(super) fn end(&mut self, op: u32, result: Result<(), TargetError>) {
        self.tally.failed += u64::from(result.is_err());
        self.ledger.ended(op, result);
    }

    fn meets_left_write(&mut self, op: &Op) -> bool {
        let (now, late) = (self.now, self.longest_late() + NOTICED_WITHIN);
        self.guests.left.retain(|(_, at)| now.since(*at) < late);
        self.guests
            .left
            .iter()
            .map(|(left, _)| &self.ledger.ops[*left as usize])
            .any(|other| meets(op, other))
    }

    /// Another host, with a lock on what it writes: it waits until nothing of ours is open there, or could still come from
    /// a guest that died with it open, and is served at once.
    pub(super) fn outsider(&mut self, unit: usize) {
        if self.weather != Weather::Chaos {
            return;
        }
        let after = self.rng.millis(5..300);
        self.at(after, Event::Outsider(unit));
        let count = 1 + self.rng.index(BLOCKS_PER_REQUEST_MAX);
        let first = self.rng.index(BLOCKS - count);
        let op = Op::new((usize::MAX, usize::MAX, unit), Operation::Write, (first, count));
        let Some(vm) = self.scene.spec.disks.iter().find(|d| d.unit.index() == unit).map(|d| d.vm) else {
            return;
        };
        if self.meets_open_write(&op)
            || self.meets_left_write(&op)
            || self.processes[vm.index()].state == RunState::Other
        {
            return;
        }
        self.storage.enroll(first);
        self.tally.outsiders += 1;
        let number = self.ledger.submitted(op);
        self.storage.write_through(unit, number, (first, count));
        self.ledger.ended(number, Ok(()));
    }

    /// Everything is read again and again, until nothing late can come any more.
    pub(super) fn read_all(&mut self) {
        for disk in 0..self.guests.attached.len() {
            let spec = &self.scene.spec.disks[disk];
            let (vm, unit) = (spec.vm.index(), spec.unit.index());
            let idle = !self.ledger.open.iter().any(|op| self.ledger.ops[*op as usize].disk == disk);
            if !self.processes[vm].runs() || !self.guests.attached[disk] || !idle {
                continue;
            }
            self.guests.looked[disk] += 1;
            for first in (0..BLOCKS).step_by(BLOCKS_PER_REQUEST_MAX) {
                let op = Op::new((vm, disk, unit), Operation::Read, (first, BLOCKS_PER_REQUEST_MAX));
                self.submit(op);
            }
        }
    }

    /// Nobody is held, and nothing waits.
    pub(super) fn all_run(&self) -> bool {
        self.processes.iter().all(super::hypervisor::Process::runs)
            && self.guests.attached.iter().all(|attached| *attached)
    }

    /// In the calm: what somebody else has stopped goes on, and operators undo what they did.
    pub(super) fn look_after(&mut self, since: Instant) {
        let late = since + self.longest_late() + Duration::from_secs(1);
        if self.now <= late {
            self.read_all();
        }
        self.undo_operators();
    }

    pub(super) fn disk_of(&self, vm: usize) -> impl Iterator<Item = DiskId> + '_ {
        self.scene.spec.disks_of_vm(vmpath_core::ids::VmId::at(vm))
    }
}
