//! The process dies at any moment, in the middle of its actions too, and another takes its place; or the whole host does.
//!
//! What is left: the record on tmpfs, what was on disk, and what guests had open. It does not know what the next one makes
//! of it.

use super::scene::{BLOCK, Front};
use super::tally::Fault as Kind;
use super::wire::ConnState;
use super::worker::Worker;
use super::world::{Event, Weather, World};
use std::sync::Arc;
use vmpath_core::event::HypervisorReport;
use vmpath_core::plan::RoutePlan;
use vmpath_core::router::Extent;
use vmpath_core::saved::Before;
use vmpath_core::time::Duration;

impl World {
    /// It dies in the middle of what it does next.
    pub(super) fn crash_soon(&mut self) {
        if self.weather != Weather::Chaos || self.controller.is_none() {
            return;
        }
        let boots = self.rng.percent(12);
        if self.ledger.open.is_empty() && self.rng.percent(90) {
            // Better in the middle of something.
            let after = self.rng.millis(1..50);
            self.at(after, Event::Crash);
            return;
        }
        self.doomed = Some(if boots { Before::Booted } else { Before::Died });
        let worker = self.rng.index(self.workers.len());
        self.poke(worker);
    }

    pub(super) fn die(&mut self) {
        let Some(before) = self.doomed.take() else { return };
        let booted = before == Before::Booted;
        self.tally.fault(if booted { Kind::Boot } else { Kind::Crash });
        self.trace.say(self.now, || format!("FAULT the process dies: {before:?}"));
        self.poked.clear();
        self.controller = None;
        self.control.died();
        self.epoch += 1;
        for conn in 0..self.conns.len() as u32 {
            if self.conns[conn as usize].state != ConnState::Dead {
                self.bury(conn);
            }
        }
        for token in 0..self.ledger.tokens.len() as u32 {
            self.forget_token(token);
        }
        self.guests.attached.fill(false);
        for vm in 0..self.processes.len() {
            if booted {
                self.kill(vm);
            } else {
                self.serverless(vm);
            }
        }
        let after = self.rng.millis(20..2500);
        self.at(after, Event::Start(before));
    }

    fn forget_token(&mut self, token: u32) {
        let row = &self.ledger.tokens[token as usize];
        let op = &self.ledger.ops[row.op as usize];
        if op.token == Some(token) || row.abandoned {
            self.ledger.forgotten(token);
        }
    }

    /// A client whose server is gone waits for the next one, or gives its requests back with an error.
    fn serverless(&mut self, vm: usize) {
        self.drained(vm);
        let nbd = self.disk_of(vm).any(|disk| self.scene.habits[disk.index()].front == Front::Nbd);
        if nbd && self.processes[vm].runs() && self.rng.percent(25) {
            let open: Vec<u32> = self
                .ledger
                .open
                .iter()
                .copied()
                .filter(|op| self.ledger.ops[*op as usize].vm == vm)
                .collect();
            for op in open {
                // It may still take effect: who was told is the guest, not another host.
                self.guests.left.push((op, self.now));
                self.deliver(op, Err(vmpath_core::volume::verdict::TargetError::Io));
            }
        }
    }

    /// The workers of a new process, with the record of the one before.
    pub(super) fn start_workers(&mut self, plan: &Arc<RoutePlan>, before: Option<Before>) {
        let now = self.now;
        let mut records: Vec<_> = self.workers.iter_mut().map(|w| std::mem::take(&mut w.record)).collect();
        if before == Some(Before::Booted) {
            records.clear();
        }
        let count = usize::from(self.scene.spec.host.workers);
        self.workers = (0..count).map(|at| Worker::new(Arc::clone(plan), at, &self.worker_of, now)).collect();
        let fence = |unit| now + self.scene.spec.target(self.scene.spec.unit(unit).target).quiesce;
        let fences: Vec<_> = self.scene.spec.unit_ids().map(fence).collect();
        let rows = records.iter().flat_map(|record| record.values());
        let blocks = |range: &Extent| (range.start / BLOCK) as usize..(range.end / BLOCK) as usize;
        let open = rows.filter(|(_, _, until)| until.is_none());
        let open = open.map(|(unit, range, _)| (unit.index(), blocks(range))).collect();
        self.ledger.restored(&fences, open, now);
        if before == Some(Before::Booted) {
            // No process of this boot may forget it, however often one dies meanwhile.
            self.boot_fences = fences;
        }
        for (at, record) in records.into_iter().enumerate() {
            for (unit, range, until) in record.into_values() {
                self.tally.restored += 1;
                self.workers[at].router.restore(unit, range, until, now);
            }
        }
        for at in 0..count {
            for (unit, until) in self.scene.spec.unit_ids().zip(&self.boot_fences) {
                if *until > now {
                    self.workers[at].router.hold_unit_until(unit, *until);
                }
            }
            self.poke(at);
            let after = self.rng.millis(1..50);
            self.at(after, Event::Inspect(at));
            self.at(Duration::from_millis(200), Event::Load(at));
        }
    }

    pub(super) fn lose_monitor(&mut self, vm: usize) {
        if self.processes[vm].monitored {
            let report = HypervisorReport::Lost { why: "end of file".into() };
            self.report(vm, report);
            self.processes[vm].monitored = false;
        }
    }
}
