//! What goes wrong; `docs/simulate.md` says it in words. It does not know what would be hard to survive: it tries.

use super::tally::Fault as Kind;
use super::world::{Event, Weather, World};
use vmpath_core::event::{Command, Event as Told, Fault, Force, RunState};
use vmpath_core::ids::{PathId, TargetId, VmId};
use vmpath_core::plan::{Health, PathRoute};
use vmpath_core::spec::Access;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::VmState;
use vmpath_core::volume::verdict::TargetError;

/// If by then too little was asked for, faults become rare.
pub(super) const LULL_AFTER: Instant = Instant::from_millis(100_000);
/// And by then they end, until enough was: proofs of health and pauses between resumes may ask for five minutes each.
const PEACE_AFTER: Instant = Instant::from_millis(200_000);

impl World {
    pub(super) fn trouble(&mut self) {
        if self.weather != Weather::Chaos {
            return;
        }
        let (soonest, latest) = (self.scene.calm_between.start, self.scene.calm_between.end);
        // Guests that are never served ask for nothing: let them.
        let is_short = self.tally.requests < super::world::REQUESTS_MIN;
        let lull = if self.now > LULL_AFTER && is_short { 20 } else { 1 };
        let (soonest, latest) = (soonest * lull, latest * lull);
        let after = self.rng.millis(soonest..latest);
        self.at(after, Event::Trouble);
        if self.now > PEACE_AFTER && is_short && self.tally.faults() >= super::world::FAULTS_MIN {
            return;
        }
        let vm = self.rng.index(self.processes.len());
        if self.rng.percent(70) {
            self.ambush = Some(vm);
        } else {
            let path = self.rng.index(self.scene.spec.paths.len());
            self.strike(path, vm);
        }
    }

    /// A fault on that path or of that VM.
    pub(super) fn strike(&mut self, path: usize, vm: usize) {
        match self.rng.below(100) {
            0..10 => self.reset(path, 0),
            10..14 => self.reset_one(),
            14..20 => self.reset(path, 8000),
            20..32 => self.blackhole(path, 6000),
            32..40 => self.hang(path),
            40..47 => self.stall(path),
            47..52 => self.flap(path),
            52..58 => self.all_paths(path),
            58..64 => self.sick(path),
            64..74 => self.lie(path),
            74..77 => self.unit_gone(),
            77..81 => self.kill(vm),
            81..84 => self.monitor_lost(vm),
            84..87 => self.monitor_deaf(vm),
            87..89 => self.monitor_refuses(vm),
            89..92 => self.somebody_stops(vm),
            _ => self.operator(path, vm),
        }
    }

    pub(super) fn fault(&mut self, kind: Kind, what: usize) {
        self.tally.fault(kind);
        self.trace.mix(kind as u64);
        self.trace.say(self.now, || format!("FAULT {} {what}", kind.word()));
    }

    fn break_path(&mut self, path: usize, longest_ms: u64) {
        let net = &mut self.net.paths[path];
        net.number += 1;
        net.silent_since.get_or_insert(self.now);
        let number = net.number;
        let after = self.rng.millis(100..longest_ms + 101);
        self.at(after, Event::Healed { path, number });
    }

    /// The peer resets everything; for a while nobody listens.
    pub(super) fn reset(&mut self, path: usize, longest_ms: u64) {
        self.fault(if longest_ms > 0 { Kind::Refuse } else { Kind::Reset }, path);
        self.cut_all(path, &Fault::Reset);
        if longest_ms > 0 {
            self.net.paths[path].refuses = true;
            self.break_path(path, longest_ms);
        }
    }

    fn cut_all(&mut self, path: usize, fault: &Fault) {
        if self.controller.is_none() {
            return;
        }
        for worker in 0..self.workers.len() {
            self.cut_path(worker, path, fault);
        }
    }

    fn reset_one(&mut self) {
        let live: Vec<u32> = self.workers.iter().flat_map(|w| w.live.iter().copied()).collect();
        if live.is_empty() || self.controller.is_none() {
            return;
        }
        let conn = self.rng.pick(&live);
        self.fault(Kind::ResetOne, conn as usize);
        self.cut(conn, &Fault::Closed);
    }

    pub(super) fn blackhole(&mut self, path: usize, longest_ms: u64) {
        self.fault(Kind::Blackhole, path);
        self.net.paths[path].swallows = true;
        let now = self.now;
        for conn in self.conns.iter_mut().filter(|c| c.path == path && !c.is_closing()) {
            if !conn.in_flight.is_empty() {
                conn.unacked.get_or_insert(now);
            }
        }
        self.break_path(path, longest_ms);
    }

    fn hang(&mut self, path: usize) {
        self.fault(Kind::Hang, path);
        self.net.paths[path].hangs = true;
        self.break_path(path, 15_000);
    }

    /// The target thinks, for less than the ping budget: no loss.
    fn stall(&mut self, path: usize) {
        self.fault(Kind::Stall, path);
        let budget = self.scene.spec.target(self.scene.spec.paths[path].target).ping_budget;
        self.net.paths[path].hangs = true;
        self.break_path(path, (budget.as_millis() as u64).saturating_sub(500).max(1));
    }

    /// Up and down: at random, or just when a path has been good for long enough to count again.
    fn flap(&mut self, path: usize) {
        self.fault(Kind::Flap, path);
        let repair = self.scene.spec.target(self.scene.spec.paths[path].target).repair_after;
        let adversarial = self.rng.percent(50);
        let times = 2 + self.rng.index(5) as u32;
        let mut at = self.now;
        for round in 0..times {
            let step = repair * (1 << round.min(4)) + Duration::from_millis(700);
            at += if adversarial { step } else { self.rng.millis(50..1500) };
            self.when(at, Event::Flap(path));
        }
        self.reset(path, 300);
    }

    pub(super) fn flap_again(&mut self, path: usize) {
        if self.weather == Weather::Chaos {
            self.reset(path, 300);
        }
    }

    fn all_paths(&mut self, path: usize) {
        self.fault(Kind::AllPaths, path);
        let target = self.scene.spec.paths[path].target;
        let swallow = self.rng.percent(50);
        for path in 0..self.scene.spec.paths.len() {
            if self.scene.spec.paths[path].target == target {
                if swallow { self.blackhole(path, 12_000) } else { self.reset(path, 20_000) }
            }
        }
    }

    fn sick(&mut self, path: usize) {
        use TargetError::{Busy, Io, NoSpace, ShuttingDown};
        self.fault(Kind::Sick, path);
        self.net.paths[path].sick = Some(self.rng.pick(&[Io, Io, Io, Busy, Busy, NoSpace, ShuttingDown]));
        self.net.paths[path].number += 1;
        let number = self.net.paths[path].number;
        let after = self.rng.millis(20..2000);
        self.at(after, Event::Healed { path, number });
    }

    /// The path comes back and shows another unit, for a while.
    fn lie(&mut self, path: usize) {
        let units: Vec<usize> = (0..self.scene.spec.units.len())
            .filter(|u| self.scene.spec.units[*u].target == self.scene.spec.paths[path].target)
            .collect();
        if units.len() < 2 {
            return;
        }
        let (unit, shown) = (self.rng.pick(&units), self.rng.pick(&units));
        if unit == shown {
            return;
        }
        self.fault(Kind::Lie, path);
        let after = self.rng.millis(200..6000);
        let target = self.scene.spec.paths[path].target;
        // No draw of its own: what follows in a seed stays what it was.
        let everywhere = after.as_millis().is_multiple_of(3);
        for other in 0..self.scene.spec.paths.len() {
            if other != path && !(everywhere && self.scene.spec.paths[other].target == target) {
                continue;
            }
            let net = &mut self.net.paths[other];
            net.lies += 1;
            net.lie = Some((unit, shown));
            let number = net.lies;
            self.cut_all(other, &Fault::Reset);
            self.at(after, Event::Truth { path: other, number });
        }
    }

    fn unit_gone(&mut self) {
        let unit = self.rng.index(self.scene.spec.units.len());
        self.fault(Kind::UnitGone, unit);
        self.net.gone[unit] = true;
        let its: Vec<u32> =
            (0..self.conns.len() as u32).filter(|c| self.conns[*c as usize].shows == unit).collect();
        if self.controller.is_some() {
            for conn in its {
                self.cut(conn, &Fault::Closed);
            }
        }
        let after = self.rng.millis(500..15_000);
        self.at(after, Event::UnitBack(unit));
    }

    fn monitor_lost(&mut self, vm: usize) {
        self.fault(Kind::MonitorLost, vm);
        self.lose_monitor(vm);
        let after = self.rng.millis(50..8000);
        self.at(after, Event::Announce(vm));
    }

    fn monitor_deaf(&mut self, vm: usize) {
        self.fault(Kind::MonitorDeaf, vm);
        self.processes[vm].deaf_until = self.now + self.rng.millis(500..25_000);
    }

    fn monitor_refuses(&mut self, vm: usize) {
        self.fault(Kind::MonitorRefuses, vm);
        self.processes[vm].refusals += 1 + self.rng.index(3) as u32;
    }

    /// An administrator pauses it, and lets it go on later.
    fn somebody_stops(&mut self, vm: usize) {
        if !self.processes[vm].runs() || !self.is_managed(vm) || !self.processes[vm].monitored {
            return;
        }
        self.fault(Kind::Foreign, vm);
        self.stands_still(vm, RunState::Paused);
        self.administrator_continues(vm);
    }

    fn operator(&mut self, path: usize, vm: usize) {
        self.fault(Kind::Operator, path);
        let target = TargetId::at(self.rng.index(self.scene.spec.targets.len()));
        let (path, vm) = (PathId::at(path), VmId::at(vm));
        let access = self.rng.pick(&[Access::Optimized, Access::NonOptimized]);
        let force = self.rng.pick(&[Force::No, Force::Yes]);
        let command = match self.rng.below(9) {
            0 => Command::DrainPath(path, force),
            1 => Command::DisablePath(path),
            2 | 3 => Command::EnablePath(path),
            4 => Command::SetAccess(path, access),
            5 => Command::SuspendVm(vm),
            6 => Command::ResumeVm(vm),
            _ => Command::Failback(target),
        };
        self.command(command);
    }

    pub(super) fn command(&mut self, command: Command) {
        let ticket = self.control.next_ticket();
        self.trace.say(self.now, || format!("the operator: {command:?}"));
        self.tell_control(Told::Command { ticket, command });
    }

    /// Everything is repaired.
    pub(super) fn calm_down(&mut self) {
        self.weather = Weather::Calm { since: self.now };
        self.trace.say(self.now, || "from here on all is repaired".into());
        for path in 0..self.net.paths.len() {
            self.net.paths[path].lie = None;
            self.heal_path(path);
        }
        for unit in 0..self.net.gone.len() {
            self.unit_back(unit);
        }
        for vm in 0..self.processes.len() {
            let process = &mut self.processes[vm];
            (process.deaf_until, process.refusals) = (Instant::ZERO, 0);
            if !process.monitored {
                self.announce(vm);
            }
        }
        for path in self.scene.spec.path_ids() {
            self.command(Command::EnablePath(path));
        }
    }

    /// Operators and administrators undo what they did, and what waits for them.
    pub(super) fn undo_operators(&mut self) {
        let Some(controller) = &self.controller else { return };
        let rows = controller.view(self.now).vms;
        for (vm, row) in rows.iter().enumerate() {
            let unseen = row.state == VmState::StoppedByOther || row.state == VmState::Unmanaged;
            if row.state == VmState::StoppedByOther && self.erred_lately(vm) {
                let text =
                    format!("VM {vm} stands on an error that it was answered, and nobody is to continue it");
                self.violated("forgotten", text);
            } else if unseen && !self.processes[vm].runs() {
                self.goes_on(vm);
            } else if row.waits_for.as_deref().is_some_and(|wait| wait.contains("vmpath vm resume")) {
                self.command(Command::ResumeVm(VmId::at(vm)));
            }
        }
        // The order may have met no process.
        let is_out = |route: &PathRoute| matches!(route.health, Health::Disabled | Health::Draining);
        let routes = self.control.spec_plan.as_ref().map_or(&[][..], |plan| &plan.paths);
        let out: Vec<_> = self.scene.spec.path_ids().filter(|p| is_out(&routes[p.index()])).collect();
        for path in out {
            self.command(Command::EnablePath(path));
        }
        let standby =
            self.control.spec_plan.as_ref().is_some_and(|plan| plan.paths.iter().any(|p| !p.preferred));
        if standby {
            for target in 0..self.scene.spec.targets.len() {
                self.command(Command::Failback(TargetId::at(target)));
            }
        }
    }
}
