//! The VMs' hypervisors: processes that run, stop on an error, obey late or not at all, and die.
//!
//! `stop` on NBD disks waits for their open requests; on vhost-user disks it stops the rings, and what is answered later is
//! kept. An error stops a VM that is set to; its hypervisor keeps the request and repeats it on `cont`. It does not know why
//! it is told anything.

use super::scene::Front;
use super::tally::Fault as Kind;
use super::world::{Event, World};
use vmpath_core::event::{Event as Told, HypervisorReport, RunState, StopsOnError};
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::router::Origin;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;

#[derive(Debug)]
pub(super) struct Process {
    pub(super) instance: u64,
    pub(super) state: RunState,
    stops: StopsOnError,
    /// Its monitor is connected.
    pub(super) monitored: bool,
    /// Control wants it to be.
    pub(super) wanted: bool,
    /// The monitor answers nothing until then; the next orders are refused.
    pub(super) deaf_until: Instant,
    pub(super) refusals: u32,
    /// A `stop` waits for its open requests.
    draining: bool,
    /// When it stopped on an error, and which process of vmpath answered it.
    pub(super) erred: Option<(Instant, u32)>,
    told_until: Instant,
}

/// So long after it has stopped on an error, control knows whose it was: the slowest reports, and a second.
const ERROR_KNOWN_WITHIN: Duration = Duration::from_secs(9);

impl Process {
    pub(super) fn new(stops: StopsOnError) -> Self {
        Self {
            instance: 1,
            state: RunState::Running,
            stops,
            monitored: true,
            wanted: true,
            deaf_until: Instant::ZERO,
            refusals: 0,
            draining: false,
            erred: None,
            told_until: Instant::ZERO,
        }
    }

    pub(super) fn runs(&self) -> bool {
        self.state == RunState::Running
    }
}

impl World {
    pub(super) fn is_managed(&self, vm: usize) -> bool {
        self.scene.spec.vms[vm].qmp.is_some()
    }

    fn its_disks(&self, vm: usize) -> Vec<usize> {
        self.scene.spec.disks_of_vm(VmId::at(vm)).map(DiskId::index).collect()
    }

    pub(super) fn report(&mut self, vm: usize, report: HypervisorReport) {
        let process = &self.processes[vm];
        if process.monitored && process.wanted && self.is_managed(vm) {
            self.tell_control(Told::Hypervisor { vm: VmId::at(vm), report });
        }
    }

    /// The monitor is connected, for the first time or again.
    pub(super) fn announce(&mut self, vm: usize) {
        let process = &mut self.processes[vm];
        if process.state == RunState::Other {
            return; // it boots, and will be announced then
        }
        process.monitored = true;
        let report = HypervisorReport::Connected {
            instance: process.instance,
            state: process.state,
            stops_on_error: process.stops,
        };
        self.report(vm, report);
    }

    /// The truth has changed.
    fn becomes(&mut self, vm: usize, state: RunState) {
        self.processes[vm].state = state;
        self.trace.say(self.now, || format!("vm {vm} is {state:?}"));
        let verdict = self.policy.guest(self.now, VmId::at(vm), state);
        self.check(verdict);
    }

    pub(super) fn order(&mut self, vm: usize, instance: u64, wanted: RunState) {
        let process = &mut self.processes[vm];
        if process.instance != instance || !process.monitored || self.controller.is_none() {
            return;
        }
        if process.refusals > 0 {
            process.refusals -= 1;
            self.report(vm, HypervisorReport::Refused { why: "not now".into() });
            return;
        }
        let begins = process.deaf_until.max(self.now);
        let after = self.rng.micros(100..20_000);
        self.when(begins + after, Event::Become { vm, instance, wanted });
    }

    /// A `stop` or `cont` is executed.
    pub(super) fn become_state(&mut self, vm: usize, instance: u64, wanted: RunState) {
        let process = &self.processes[vm];
        if process.instance != instance {
            return;
        }
        if process.draining {
            // The monitor does one thing after the other.
            self.at(Duration::from_millis(20), Event::Become { vm, instance, wanted });
            return;
        }
        match wanted {
            RunState::Running => {
                self.tally.continues += 1;
                self.goes_on(vm);
            }
            RunState::Paused | RunState::IoError | RunState::Sent | RunState::Other => {
                self.tally.stops += u64::from(process.runs());
                self.stands_still(vm, RunState::Paused);
            }
        }
    }

    /// Its vCPUs stop.
    pub(super) fn stands_still(&mut self, vm: usize, state: RunState) {
        if self.processes[vm].state == RunState::Other {
            return;
        }
        if self.processes[vm].runs() {
            self.becomes(vm, state);
            for disk in self.its_disks(vm) {
                if self.front_of(disk) == Front::Vhost && self.guests.attached[disk] {
                    let worker = self.worker_of[vm];
                    self.workers[worker].router.pause_disk(DiskId::at(disk));
                    self.poke(worker);
                }
            }
        }
        self.processes[vm].draining = true;
        self.drained(vm);
    }

    /// The answer to a `stop` comes when nothing is open on its NBD disks.
    pub(super) fn drained(&mut self, vm: usize) {
        if !self.processes[vm].draining {
            return;
        }
        let waits = |op: &u32| {
            let op = &self.ledger.ops[*op as usize];
            op.vm == vm && op.token.is_some() && self.front_of(op.disk) == Front::Nbd
        };
        if self.ledger.open.iter().any(waits) {
            return;
        }
        self.processes[vm].draining = false;
        let state = self.processes[vm].state;
        self.say_state(vm, state);
    }

    /// What a monitor tells arrives in order.
    fn say_state(&mut self, vm: usize, state: RunState) {
        let after = self.rng.micros(50..3000);
        let process = &mut self.processes[vm];
        process.told_until = process.told_until.max(self.now + after);
        let (due, instance) = (process.told_until, process.instance);
        self.when(due, Event::State { vm, instance, state });
    }

    pub(super) fn state_is_told(&mut self, vm: usize, instance: u64, state: RunState) {
        if self.processes[vm].instance == instance {
            self.report(vm, HypervisorReport::State(state));
        }
    }

    pub(super) fn goes_on(&mut self, vm: usize) {
        if self.processes[vm].state == RunState::Other {
            return;
        }
        self.becomes(vm, RunState::Running);
        for disk in self.its_disks(vm) {
            match self.front_of(disk) {
                Front::Vhost => self.ring_runs(disk),
                Front::Nbd => self.repeat(disk),
            }
        }
        self.say_state(vm, RunState::Running);
    }

    fn ring_runs(&mut self, disk: usize) {
        let vm = self.scene.spec.disks[disk].vm.index();
        let worker = self.worker_of[vm];
        if self.guests.attached[disk] && self.controller.is_some() {
            self.workers[worker].router.resume_disk(DiskId::at(disk), self.now);
            self.poke(worker);
            let open: Vec<u32> = self
                .ledger
                .open
                .iter()
                .copied()
                .filter(|op| self.ledger.ops[*op as usize].disk == disk)
                .collect();
            for op in open {
                if let Some(result) = self.ledger.ops[op as usize].parked.take() {
                    self.end(op, result);
                }
            }
        } else if self.controller.is_some() {
            self.attach(disk);
        }
    }

    /// What an error kept with the hypervisor is asked again.
    fn repeat(&mut self, disk: usize) {
        if !self.guests.attached[disk] || self.controller.is_none() {
            return;
        }
        for op in std::mem::take(&mut self.guests.kept[disk]) {
            self.hand_over(op, Origin::New);
        }
    }

    /// A request's result reaches the VM's side.
    pub(super) fn deliver(&mut self, op: u32, result: Result<(), TargetError>) {
        let row = &self.ledger.ops[op as usize];
        let (vm, disk) = (row.vm, row.disk);
        match self.front_of(disk) {
            Front::Vhost if !self.processes[vm].runs() => {
                self.tally.parked += 1;
                self.ledger.ops[op as usize].parked = Some(result);
            }
            Front::Vhost => self.end(op, result),
            Front::Nbd => {
                match result {
                    Err(_) if self.processes[vm].stops == StopsOnError::Yes => self.keep(op),
                    _ => self.end(op, result),
                }
                self.drained(vm);
            }
        }
    }

    /// The hypervisor keeps a request that met an error, and stops. One that it has asked again while nobody served it, and
    /// that met an error again, it has kept all the time.
    fn keep(&mut self, op: u32) {
        let (vm, disk) = (self.ledger.ops[op as usize].vm, self.ledger.ops[op as usize].disk);
        if !self.guests.kept[disk].contains(&op) {
            self.guests.kept[disk].push(op);
        }
        if !self.processes[vm].runs() {
            return;
        }
        self.stands_still(vm, RunState::IoError);
        // What the end of our process has done to it the next one may not know.
        self.processes[vm].erred = self.controller.is_some().then_some((self.now, self.epoch));
        if !self.is_managed(vm) {
            self.administrator_continues(vm);
        }
    }

    /// It stands on an error that this process of ours answered, long enough to know it.
    pub(super) fn erred_lately(&self, vm: usize) -> bool {
        let process = &self.processes[vm];
        let known = |(at, epoch)| epoch == self.epoch && at + ERROR_KNOWN_WITHIN < self.now;
        process.state == RunState::IoError
            && process.deaf_until < self.now
            && process.erred.is_some_and(known)
    }

    /// Whoever looks after it lets it go on.
    pub(super) fn administrator_continues(&mut self, vm: usize) {
        let instance = self.processes[vm].instance;
        let after = self.rng.millis(500..8000);
        self.at(after, Event::Become { vm, instance, wanted: RunState::Running });
    }

    /// QEMU is killed: what its guest had open is abandoned.
    pub(super) fn kill(&mut self, vm: usize) {
        self.tally.fault(Kind::Killed);
        let process = &mut self.processes[vm];
        process.instance += 1;
        let instance = process.instance;
        self.report(vm, HypervisorReport::Lost { why: "end of file".into() });
        let process = &mut self.processes[vm];
        (process.monitored, process.draining) = (false, false);
        self.becomes(vm, RunState::Other);
        self.abandon_all(vm);
        let after = self.rng.millis(200..4000);
        self.at(after, Event::Boot { vm, instance });
    }

    /// The guest's side of the VM ends; its front ends detach.
    pub(super) fn abandon_all(&mut self, vm: usize) {
        let worker = self.worker_of[vm];
        let open: Vec<u32> =
            self.ledger.open.iter().copied().filter(|op| self.ledger.ops[*op as usize].vm == vm).collect();
        for op in open {
            let token = self.ledger.ops[op as usize].token;
            self.ledger.abandoned(op);
            self.guests.left.push((op, self.now));
            if let Some(token) = token.filter(|_| self.controller.is_some()) {
                let key = self.ledger.tokens[token as usize].key;
                self.workers[worker].router.abandon(key, token);
                self.poke(worker);
            }
        }
        for disk in self.its_disks(vm) {
            self.guests.kept[disk].clear();
            if self.guests.attached[disk] && self.front_of(disk) == Front::Vhost && self.controller.is_some()
            {
                self.workers[worker].router.resume_disk(DiskId::at(disk), self.now);
            }
            self.guests.attached[disk] = false;
        }
    }

    pub(super) fn boot(&mut self, vm: usize, instance: u64) {
        if self.processes[vm].instance != instance || self.processes[vm].state != RunState::Other {
            return;
        }
        self.becomes(vm, RunState::Running);
        self.announce(vm);
        for disk in self.its_disks(vm) {
            self.attach(disk);
        }
    }
}
