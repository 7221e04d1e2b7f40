//! Requests on their way between guests, hosts and the array; what happens to those whose path is lost.
//!
//! Invariant: a write is in the record before it is sent, and a lost one stays there until its fence; nothing else is sent into its
//! range. It does not know who owns a unit, only what this process may send.

use super::array::{Attempt, Flight};
use super::event::Event;
use super::guest::STATUS_OK;
use super::plane::{OpState, Quarantine};
use super::qemu::Qemu;
use super::world::{Host, World};
use vmpath_core::time::{Duration, Instant};

impl World {
    /// What this process has on its way of the VM.
    pub(super) fn flying_of(&self, host: usize, vm: usize) -> Vec<u32> {
        let Some(process) = &self.hosts[host].process else { return vec![] };
        let ops = process.seats[vm].ops.iter();
        ops.filter_map(|op| if let OpState::Flying(attempt) = op.state { Some(attempt) } else { None })
            .collect()
    }

    /// Whatever can go on goes on: rings begin, requests are fetched, sent, and answered.
    pub(super) fn pump(&mut self, host: usize, vm: usize) {
        let Some(process) = self.process(host) else { return };
        process.seats[vm].pumped();
        self.take_hand_over(host, vm);
        let runs = self.qemu(host, vm).is_some_and(Qemu::runs);
        if !runs || !self.process(host).is_some_and(|process| process.seats[vm].attached) {
            return;
        }
        self.answer_done(host, vm);
        for (disk, unit) in self.disks_of(vm).into_iter().enumerate() {
            if self.may_dispatch(host, vm, unit) {
                self.fetch(host, vm, disk);
            }
        }
        self.send_queued(host, vm);
    }

    fn fetch(&mut self, host: usize, vm: usize, disk: usize) {
        let Host { qemus, process, .. } = &mut self.hosts[host];
        let (Some(qemu), Some(process)) = (&mut qemus[vm], process) else { return };
        let (Some(guest), Some(heads)) = (&mut qemu.guest, &mut qemu.inflight[disk].heads) else { return };
        while let Some(head) = guest.disks[disk].available.pop_front() {
            let Some(request) = guest.disks[disk].open[usize::from(head)] else { continue };
            heads.push(head);
            let state = OpState::Queued;
            process.seats[vm].ops.push(super::plane::Op { disk, head, request, state, unknown: false });
        }
    }

    fn answer_done(&mut self, host: usize, vm: usize) {
        let Some(process) = self.process(host) else { return };
        let seat = &mut process.seats[vm];
        if seat.departure.is_some() {
            return;
        }
        let done: Vec<_> =
            seat.ops.iter().filter(|op| matches!(op.state, OpState::Done(_))).copied().collect();
        seat.ops.retain(|op| !matches!(op.state, OpState::Done(_)));
        for op in done {
            self.answer_guest(host, vm, (op.disk, op.head));
        }
    }

    /// The used ring.
    fn answer_guest(&mut self, host: usize, vm: usize, (disk, head): (usize, u8)) {
        let Some(qemu) = &mut self.hosts[host].qemus[vm] else { return };
        if let Some(heads) = &mut qemu.inflight[disk].heads {
            heads.retain(|other| *other != head);
        }
        let request = qemu.guest.as_mut().and_then(|guest| guest.answered(disk, head));
        match request {
            Some(request) => {
                let verdict = self.array.acknowledged(request);
                self.check(verdict);
            }
            None => {
                self.violated("exactly-once", format!("head {head} of vm{vm} is answered, and is not open"));
            }
        }
    }

    fn send_queued(&mut self, host: usize, vm: usize) {
        let units = self.disks_of(vm);
        let Some(process) = &self.hosts[host].process else { return };
        if !process.open_gates[vm] {
            return;
        }
        let queued: Vec<usize> = (0..process.seats[vm].ops.len())
            .filter(|at| process.seats[vm].ops[*at].state == OpState::Queued)
            .collect();
        let mut again: Option<Instant> = None;
        for at in queued {
            let Some(process) = &self.hosts[host].process else { return };
            let op = process.seats[vm].ops[at];
            if !self.may_dispatch(host, vm, units[op.disk]) {
                continue;
            }
            match self.held_until(host, op.request) {
                Some(until) => again = Some(again.map_or(until, |again| again.min(until))),
                None => self.send(host, vm, at),
            }
        }
        if let Some(at) = again.filter(|at| *at != Instant::FAR_FUTURE) {
            self.pump_at(host, vm, at);
        }
    }

    /// Another write may still take effect there.
    fn held_until(&self, host: usize, number: u32) -> Option<Instant> {
        let request = self.array.requests[number as usize];
        let held = self.hosts[host].held[request.unit];
        if held > self.now {
            return Some(held);
        }
        if !request.write {
            return None;
        }
        let bars =
            |q: &&Quarantine| q.block == request.block && q.until > self.now && q.request != Some(number);
        self.hosts[host].record[request.unit].iter().filter(bars).map(|q| q.until).max()
    }

    fn send(&mut self, host: usize, vm: usize, at: usize) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = &self.hosts[host].process else { return };
        let op = process.seats[vm].ops[at];
        let unit = self.array.requests[op.request as usize].unit;
        let target = self.spec().units[unit].target;
        let paths = 0..self.spec().paths.len();
        let usable = |path: &usize| self.spec().paths[*path].target == target && process.routes[*path].up;
        let paths: Vec<usize> = paths.filter(usable).collect();
        if paths.is_empty() {
            return;
        }
        let path = self.rng.pick(&paths);
        let attempt = Attempt { request: op.request, host, life: life.number, path, flight: Flight::Flying };
        let attempt = self.array.sent(attempt);
        self.judge_sent(host, vm, unit);
        self.tally.dispatched += 1;
        if let Some(process) = self.process(host) {
            process.seats[vm].ops[at].state = OpState::Flying(attempt);
        }
        let after = self.rng.micros(200..8000);
        self.at(after, Event::Execute(attempt));
    }

    pub(super) fn execute(&mut self, attempt: u32) {
        let Attempt { host, path, flight, .. } = self.array.attempts[attempt as usize];
        if flight != Flight::Flying || !self.net.carries(host, path, self.spec()) {
            return;
        }
        self.judge_writer(attempt);
        let verdict = self.array.execute(attempt);
        self.check(verdict);
        let flying = &mut self.array.attempts[attempt as usize];
        flying.flight = Flight::Executed;
        let number = flying.life;
        let after = self.rng.micros(100..4000);
        self.at(after, Event::Reply { life: super::event::Life { host, number }, attempt });
    }

    pub(super) fn reply(&mut self, host: usize, attempt: u32) {
        let Attempt { path, flight, .. } = self.array.attempts[attempt as usize];
        if flight != Flight::Executed {
            return;
        }
        if !self.net.carries(host, path, self.spec()) {
            return;
        }
        self.array.attempts[attempt as usize].flight = Flight::Over;
        let vm = self.array.request_of(attempt).vm;
        let runs = self.qemu(host, vm).is_some_and(Qemu::runs);
        let Some(process) = self.process(host) else { return };
        let seat = &mut process.seats[vm];
        let Some(at) = seat.ops.iter().position(|op| op.state == OpState::Flying(attempt)) else { return };
        if runs && seat.attached && seat.departure.is_none() {
            let op = seat.ops.remove(at);
            self.answer_guest(host, vm, (op.disk, op.head));
        } else {
            seat.ops[at].state = OpState::Done(STATUS_OK);
        }
        self.settling(host, vm);
    }

    /// What may no longer be answered: its connection is dead. Until `fence` it may still take effect.
    pub(super) fn lose(&mut self, attempt: u32, fence: Instant) {
        let flying = self.array.attempts[attempt as usize];
        if matches!(flying.flight, Flight::Lost | Flight::Over) {
            return;
        }
        let was_executed = flying.flight == Flight::Executed;
        self.array.attempts[attempt as usize].flight = Flight::Lost;
        let request = self.array.request_of(attempt);
        if was_executed {
            // Nobody knows.
            self.array.requests[flying.request as usize].executed_by = None;
        }
        if request.write {
            self.tally.lost_writes += 1;
            let quarantine = Quarantine { block: request.block, request: Some(flying.request), until: fence };
            self.hosts[flying.host].record[request.unit].push(quarantine);
            if !was_executed && self.rng.percent(60) {
                let quiesce = self.scene.quiesce[request.unit];
                let after = self.rng.within(quiesce);
                self.at(after, Event::Ghost(attempt));
            }
        }
        if let Some(process) = self.process(flying.host) {
            for op in &mut process.seats[request.vm].ops {
                if op.state == OpState::Flying(attempt) {
                    (op.state, op.unknown) = (OpState::Queued, true);
                }
            }
        }
    }

    /// A lost write takes effect after all.
    pub(super) fn ghost(&mut self, attempt: u32) {
        let request = self.array.request_of(attempt);
        let target = self.spec().units[request.unit].target.index();
        if self.net.arrays_down[target] > 0 {
            return;
        }
        self.tally.ghosts_executed += 1;
        let host = self.array.attempts[attempt as usize].host;
        self.tally.ghosts_of_former_owners += u64::from(self.store.owner(request.unit) != Some(host));
        self.judge_writer(attempt);
        let verdict = self.array.execute(attempt);
        self.check(verdict);
    }

    /// A path is found lost by this host's process: nothing on it will be answered.
    pub(super) fn bury_path(&mut self, host: usize, path: usize) {
        for vm in 0..self.spec().vms.len() {
            for attempt in self.flying_of(host, vm) {
                if self.array.attempts[attempt as usize].path == path {
                    let unit = self.array.request_of(attempt).unit;
                    self.lose(attempt, self.now + self.scene.quiesce[unit]);
                }
            }
            self.settling(host, vm);
            self.pump_soon(host, vm);
        }
    }

    /// The process dies, and with it all of its connections. The next one knows of what it finds in the record.
    pub(super) fn connections_die(&mut self, host: usize) {
        for vm in 0..self.spec().vms.len() {
            let done: Vec<u32> = self.process(host).map_or_else(Vec::new, |process| {
                let ops = process.seats[vm].ops.iter();
                ops.filter(|op| matches!(op.state, OpState::Done(_))).map(|op| op.request).collect()
            });
            // That they were executed, and not answered yet, only it knew: they are repeated with the same bytes.
            for request in done {
                self.array.requests[request as usize].executed_by = None;
            }
            for attempt in self.flying_of(host, vm) {
                self.lose(attempt, Instant::FAR_FUTURE);
            }
        }
    }

    /// A guest asks for something, and again later.
    pub(super) fn guest(&mut self, host: usize, vm: usize, (instance, chain): (u64, u32)) {
        let blocks_from = self.rng.index(super::scene::BLOCKS);
        let (write, units) = (self.rng.percent(75), self.disks_of(vm));
        let disk = self.rng.index(units.len());
        let number = self.array.requests.len() as u32;
        let Some(qemu) = self.hosts[host].qemus[vm].as_mut().filter(|qemu| qemu.instance == instance) else {
            return;
        };
        if !qemu.runs() || qemu.chain != chain {
            return;
        }
        let Some(guest) = &mut qemu.guest else { return };
        let ring = &mut guest.disks[disk];
        let requests = &self.array.requests;
        let block = ring.quiet_block(blocks_from, |request| requests[request as usize].block);
        if let (Some(head), Some(block)) = (ring.free_head(), block) {
            ring.make(head, number);
            let request = super::array::Request {
                vm,
                unit: units[disk],
                block,
                write,
                executed_by: None,
                made: self.now,
            };
            self.array.requests.push(request);
            self.tally.requests += 1;
            self.pump_soon(host, vm);
        }
        let after = if self.is_calm() { self.rng.millis(200..900) } else { self.rng.millis(10..160) };
        self.at(after, Event::Guest { host, vm, instance, chain });
    }

    /// Records of what is over are of no use.
    pub(super) fn prune(&mut self) {
        let long_ago = self.now - Duration::from_secs(60);
        for host in &mut self.hosts {
            for record in &mut host.record {
                record.retain(|q| q.until > long_ago);
            }
        }
    }
}
