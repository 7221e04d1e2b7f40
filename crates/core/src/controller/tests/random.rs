//! Seeded worlds: anything may happen in any order, and the rules of `checker` hold; and once everything is repaired,
//! every VM that somebody else did not stop runs again.

use super::checker::Checker;
use super::world::{add_disk, add_vm, gate_word, path, spec, target};
use crate::controller::Controller;
use crate::effect::Effect;
use crate::event::{
    Command, Event, Fault, Force, HypervisorReport, LinkChange, LinkReport, LoadReport, RunState,
    StopsOnError, VmLoad,
};
use crate::ids::{IncidentId, PathId, TargetId, UnitId, VmId, WorkerId};
use crate::plan::{Gate, GateReason, Health};
use crate::saved::Before;
use crate::spec::{Access, ByteRate, Failback, OnPathLoss, ResumeOn, ShedWhen, Spec, When};
use crate::time::{Duration, Instant};
use crate::view::{LinkState, VmState};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }

    fn one_in(&mut self, sides: u64) -> bool {
        self.roll(sides) == 0
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.roll(from.len() as u64)).expect("small")].clone()
    }
}

/// A hypervisor process as it really is.
struct Process {
    instance: u64,
    state: RunState,
    stops: StopsOnError,
    monitored: bool,
    /// Not stopped by us: it need not run in the end.
    foreign: bool,
    /// A monitor executes one command after the other.
    busy_until: Instant,
    /// The orders that it has not executed yet; at most one of a kind.
    orders: Vec<RunState>,
}

/// What happens by itself after a while.
enum Later {
    Event(Event),
    /// The monitor of a VM is connected again after a restart of ours.
    Announce(VmId),
    /// A `stop` (`Paused`) or `cont` (`Running`) takes effect, or the guest meets an EIO (`IoError`).
    Become {
        vm: VmId,
        instance: u64,
        state: RunState,
    },
}

/// A deliberate fault between the controller and the checker.
#[derive(Clone, Copy, PartialEq)]
enum Tamper {
    Nothing,
    PublishTwice,
    ContinueAnyProcess,
    ContinueUnasked,
    ContinueBeforeTheGateOpens,
    BounceEverybody,
    StopWithoutAWord,
    ForgetTheEnd,
    ForgetOverRestart,
    ForgetNumbersOverRestart,
}

struct Sim {
    dice: Dice,
    spec: Arc<Spec>,
    controller: Controller,
    checker: Checker,
    now: Instant,
    processes: Vec<Process>,
    later: BTreeMap<(Instant, u64), Later>,
    serial: u64,
    /// Nothing goes wrong any more.
    calm: bool,
    tamper: Tamper,
    restarts: bool,
    trace: String,
}

fn random_spec(dice: &mut Dice) -> Spec {
    let mut spec = spec(&[]);
    spec.paths.push(path("c"));
    if dice.one_in(2) {
        spec.targets.push(target("san1"));
        for name in ["d", "e"] {
            let mut path = path(name);
            path.target = TargetId(1);
            spec.paths.push(path);
        }
    }
    for (index, name) in ["gold", "silver", "bronze", "tin"].into_iter().enumerate() {
        let (priority, reserved) = (dice.pick(&[10, 10, 50, 100]), dice.pick(&[0, 40, 80, 120]));
        add_vm(&mut spec, name, priority, reserved);
        if spec.targets.len() > 1 && (index == 0 || dice.one_in(2)) {
            add_disk(&mut spec, VmId::at(index), TargetId(1), &format!("{name}-data"));
        }
    }
    mutate_spec(&mut spec, dice);
    spec
}

/// Rolls everything that a reload may change.
fn mutate_spec(spec: &mut Spec, dice: &mut Dice) {
    spec.host.shed_when = dice.pick(&[ShedWhen::Unmet, ShedWhen::Reserved]);
    for target in &mut spec.targets {
        let after = Failback::After(Duration::from_secs(7));
        target.failback = dice.pick(&[Failback::Immediate, Failback::Immediate, after, Failback::Manual]);
    }
    for path in &mut spec.paths {
        path.capacity = dice.pick(&[None, Some(100), Some(100), Some(60)]).map(|mib| ByteRate(mib << 20));
    }
    for vm in &mut spec.vms {
        vm.on_path_loss = dice.pick(&[
            OnPathLoss::Failover,
            OnPathLoss::Suspend,
            OnPathLoss::FailoverSuspend,
            OnPathLoss::Migrate,
            OnPathLoss::FailoverMigrate,
        ]);
        vm.when = dice.pick(&[When::Always, When::Outranked]);
        vm.resume = dice.pick(&[ResumeOn::Repair, ResumeOn::Failback]);
        vm.may_suspend = dice.one_in(2);
        let then =
            dice.pick(&["suspend", "migrate, then suspend, then fail", "fail", "suspend 20s, then fail"]);
        vm.min_paths = dice.pick(&[1, 1, 1, 2]);
        let ladder = format!("hold {}s, then {then}", dice.roll(12));
        vm.on_no_path = ladder.parse().expect("a ladder");
        vm.avoid_paths = if dice.one_in(4) { vec![PathId(dice.pick(&[0, 1, 2]))] } else { vec![] };
    }
}

impl Sim {
    fn new(seed: u64, tamper: Tamper) -> Result<Self, String> {
        let mut dice = Dice(seed);
        let spec = Arc::new(random_spec(&mut dice));
        let (controller, effects) = Controller::new(spec.clone(), Instant::ZERO);
        let [Effect::Publish(plan), ..] = &effects[..] else { panic!("no first plan") };
        let processes = spec
            .vms
            .iter()
            .map(|_| Process {
                instance: 1,
                state: RunState::Running,
                stops: StopsOnError::Yes,
                monitored: true,
                foreign: false,
                busy_until: Instant::ZERO,
                orders: vec![],
            })
            .collect();
        let mut sim = Self {
            dice,
            checker: Checker::new(plan),
            spec,
            controller,
            now: Instant::ZERO,
            processes,
            later: BTreeMap::new(),
            serial: 0,
            calm: false,
            tamper,
            restarts: false,
            trace: String::new(),
        };
        for vm in 0..sim.processes.len() {
            sim.processes[vm].stops =
                sim.dice.pick(&[StopsOnError::Yes, StopsOnError::Yes, StopsOnError::No]);
            sim.announce(VmId::at(vm))?;
        }
        Ok(sim)
    }

    fn at(&mut self, delay_ms: u64, what: Later) {
        self.serial += 1;
        self.later.insert((self.now + Duration::from_millis(delay_ms), self.serial), what);
    }

    fn announce(&mut self, vm: VmId) -> Result<(), String> {
        let process = &self.processes[vm.index()];
        let report = HypervisorReport::Connected {
            instance: process.instance,
            state: process.state,
            stops_on_error: process.stops,
        };
        self.handle(Event::Hypervisor { vm, report })
    }

    fn handle(&mut self, event: Event) -> Result<(), String> {
        if let Event::Reload(spec) = &event {
            self.spec = spec.clone();
        }
        self.checker.before(&event);
        let line = match &event {
            Event::Reload(_) => format!("{} a reload", self.now),
            other => format!("{} {other:?}", self.now),
        };
        let effects = self.controller.handle(self.now, event);
        writeln!(self.trace, "{line}").expect("a string");
        self.perform(effects)
    }

    fn perform(&mut self, mut effects: Vec<Effect>) -> Result<(), String> {
        self.tamper_with(&mut effects);
        let verdict = self.checker.after(&effects, &self.controller);
        for effect in &effects {
            writeln!(self.trace, "    {}", shown(effect)).expect("a string");
        }
        verdict?;
        for effect in &effects {
            match effect {
                Effect::Publish(plan) => {
                    self.eio(&plan.vms.iter().map(|r| r.gate.clone()).collect::<Vec<_>>());
                }
                Effect::Stop { vm, instance } => self.obey(*vm, *instance, RunState::Paused),
                Effect::Continue { vm, instance } => self.obey(*vm, *instance, RunState::Running),
                Effect::Monitor { .. } | Effect::Cluster(_) | Effect::Record(_) | Effect::Answer { .. } => {}
            }
        }
        Ok(())
    }

    /// A guest with requests open stops on the EIO that its gate answers.
    fn eio(&mut self, gates: &[Gate]) {
        for (index, gate) in gates.iter().enumerate() {
            let instance = self.processes[index].instance;
            if answers_eio(gate) && self.dice.one_in(2) {
                let delay = self.dice.pick(&[0, 2]);
                self.at(delay, Later::Become { vm: VmId::at(index), instance, state: RunState::IoError });
            }
        }
    }

    fn obey(&mut self, vm: VmId, instance: u64, state: RunState) {
        let process = &self.processes[vm.index()];
        if process.instance != instance || !process.monitored || process.orders.contains(&state) {
            return;
        }
        if !self.calm && self.dice.one_in(4) {
            if self.dice.one_in(2) {
                let report = HypervisorReport::Refused { why: "not now".into() };
                self.at(1, Later::Event(Event::Hypervisor { vm, report }));
            }
            return;
        }
        let takes = if self.calm { 5 } else { self.dice.pick(&[0, 5, 5, 3000, 15_000]) };
        let done = self.processes[vm.index()].busy_until.max(self.now) + Duration::from_millis(takes);
        self.processes[vm.index()].busy_until = done;
        self.processes[vm.index()].orders.push(state);
        self.serial += 1;
        self.later.insert((done, self.serial), Later::Become { vm, instance, state });
    }

    fn become_state(&mut self, vm: VmId, instance: u64, wanted: RunState) -> Result<(), String> {
        let gate = self.controller.view(self.now).vms[vm.index()].gate.clone();
        let process = &mut self.processes[vm.index()];
        process.orders.retain(|order| *order != wanted);
        let runs = process.state == RunState::Running;
        let happens = process.instance == instance
            && match wanted {
                RunState::IoError => runs && process.stops == StopsOnError::Yes && answers_eio(&gate),
                RunState::Paused => runs || !process.foreign,
                RunState::Running | RunState::Sent | RunState::Other => true,
            };
        if !happens {
            return Ok(());
        }
        // What our EIO stops while nobody looks is taken for somebody else's stop.
        process.foreign = wanted == RunState::IoError && !process.monitored;
        if runs || wanted == RunState::Running {
            process.state = wanted;
        }
        if !process.monitored {
            return Ok(());
        }
        let report = HypervisorReport::State(process.state);
        self.handle(Event::Hypervisor { vm, report })
    }

    /// Until `until`: what was put off, and the controller's own deadlines.
    fn pass_until(&mut self, until: Instant) -> Result<(), String> {
        for _ in 0..100_000 {
            let due = self.later.keys().next().map(|(at, _)| *at);
            let next = due.into_iter().chain(self.controller.next_deadline()).min();
            let Some(next) = next.filter(|at| *at <= until) else {
                self.now = until;
                return Ok(());
            };
            self.now = self.now.max(next);
            match self.later.first_entry() {
                Some(entry) if entry.key().0 <= self.now => match entry.remove() {
                    Later::Event(event) => self.handle(event)?,
                    Later::Announce(vm) => {
                        self.processes[vm.index()].monitored = true;
                        self.announce(vm)?;
                    }
                    Later::Become { vm, instance, state } => self.become_state(vm, instance, state)?,
                },
                Some(_) | None => self.handle(Event::Tick)?,
            }
        }
        Err("time does not pass".into())
    }

    /// This process of ours ends, and another goes on from what it saved. Links connect again or do not, monitors too; a
    /// guest that ran may have met the absence of its disks.
    fn restart(&mut self) -> Result<(), String> {
        let before = self.dice.pick(&[Before::Died, Before::Stopped]);
        writeln!(self.trace, "{} a restart: {before:?}", self.now).expect("a string");
        let mut saved = self.controller.save();
        match self.tamper {
            Tamper::ForgetOverRestart => saved.vms.clear(),
            Tamper::ForgetNumbersOverRestart => (saved.last_incident, saved.incidents) = (0, vec![]),
            _ => {}
        }
        let up: Vec<_> = self.links_up();
        let (controller, effects) = Controller::restore(self.spec.clone(), saved, before, self.now);
        let [Effect::Publish(plan), ..] = &effects[..] else { panic!("no first plan") };
        self.controller = controller;
        self.checker.restarted(plan);
        self.later.retain(|_, later| matches!(later, Later::Become { .. }));
        self.perform(effects)?;
        for (path, unit) in up {
            let delay = self.dice.pick(&[0, 5, 300, 3000, 12_000]);
            let change = if self.dice.one_in(8) {
                LinkChange::Down { fault: Fault::ConnectTimeout, requests_outstanding: 0 }
            } else {
                LinkChange::Up
            };
            let at = self.now + Duration::from_millis(delay);
            self.at(
                delay,
                Later::Event(Event::Link(LinkReport { worker: WorkerId(0), path, unit, at, change })),
            );
        }
        for vm in 0..self.processes.len() {
            let process = &mut self.processes[vm];
            if !std::mem::take(&mut process.monitored) {
                continue;
            }
            if process.state == RunState::Running && process.stops == StopsOnError::Yes && self.dice.one_in(3)
            {
                process.state = RunState::IoError;
            }
            let delay = self.dice.pick(&[0, 5, 300, 3000]);
            self.at(delay, Later::Announce(VmId::at(vm)));
        }
        Ok(())
    }

    fn links_up(&self) -> Vec<(PathId, UnitId)> {
        let view = self.controller.view(self.now);
        let rows =
            view.units.iter().flat_map(|u| u.links.iter().map(|link| (link.path, u.unit, &link.state)));
        rows.filter(|(_, _, state)| **state == LinkState::Up).map(|(path, unit, _)| (path, unit)).collect()
    }

    fn trouble(&mut self) -> Result<(), String> {
        let vm = VmId(u16::try_from(self.dice.roll(4)).expect("small"));
        let paths = self.spec.paths.len() as u64;
        let path = PathId(u16::try_from(self.dice.roll(paths)).expect("small"));
        match self.dice.roll(14) {
            0..=3 => return self.fail_path(path),
            4 | 5 => return self.repair_path(path),
            6 => return self.one_link(path),
            7 => return self.hypervisor_trouble(vm),
            8 => return self.hypervisor_trouble(vm),
            9 => {
                let target =
                    TargetId(u16::try_from(self.dice.roll(self.spec.targets.len() as u64)).expect("small"));
                let commands = [
                    Command::DisablePath(path),
                    Command::DrainPath(path, Force::No),
                    Command::DrainPath(path, Force::Yes),
                    Command::EnablePath(path),
                    Command::SetAccess(path, Access::NonOptimized),
                    Command::SuspendVm(vm),
                    Command::ResumeVm(vm),
                    Command::ResumeVm(vm),
                    Command::Failback(target),
                ];
                let command = self.dice.pick(&commands);
                return self.handle(Event::Command { ticket: 1, command });
            }
            10 if self.dice.one_in(3) => {
                let mut spec = (*self.spec).clone();
                mutate_spec(&mut spec, &mut self.dice);
                return self.handle(Event::Reload(Arc::new(spec)));
            }
            _ => {}
        }
        let vms = (0..4)
            .map(|_| VmLoad {
                bytes_completed: self.dice.roll(100) << 20,
                requests_completed: 9,
                backlogged: self.dice.pick(&[0.0, 1.0]),
                open: 1,
            })
            .collect();
        self.handle(Event::Load(LoadReport {
            interval: Duration::from_secs(1),
            vms,
            ..LoadReport::default()
        }))
    }

    fn fail_path(&mut self, path: PathId) -> Result<(), String> {
        let gone = Fault::UnitGone("no such export".into());
        let fault = self.dice.pick(&[Fault::Reset, Fault::Closed, Fault::ConnectTimeout, gone]);
        self.each_link(path, &LinkChange::Down { fault, requests_outstanding: 3 })
    }

    fn repair_path(&mut self, path: PathId) -> Result<(), String> {
        self.each_link(path, &LinkChange::Up)
    }

    fn each_link(&mut self, path: PathId, change: &LinkChange) -> Result<(), String> {
        let spec = self.spec.clone();
        for unit in spec.unit_ids().filter(|u| spec.unit(*u).target == spec.path(path).target) {
            self.handle(Event::Link(LinkReport {
                worker: WorkerId(0),
                path,
                unit,
                at: self.now,
                change: change.clone(),
            }))?;
        }
        Ok(())
    }

    fn one_link(&mut self, path: PathId) -> Result<(), String> {
        let unit = UnitId(u16::try_from(self.dice.roll(self.spec.units.len() as u64)).expect("small"));
        let down = LinkChange::Down { fault: Fault::Reset, requests_outstanding: 1 };
        let moved = LinkChange::FailedOver { to: PathId(0), after: Duration::from_millis(3) };
        let change = self.dice.pick(&[LinkChange::Up, down, moved]);
        self.handle(Event::Link(LinkReport { worker: WorkerId(0), path, unit, at: self.now, change }))
    }

    fn hypervisor_trouble(&mut self, vm: VmId) -> Result<(), String> {
        let roll = self.dice.roll(6);
        let process = &mut self.processes[vm.index()];
        // While a `stop` drains disks, QEMU's main loop does nothing for anybody else.
        let free = process.monitored && process.busy_until <= self.now;
        match roll {
            0 => {
                process.monitored = false;
                let report = HypervisorReport::Lost { why: "end of file".into() };
                return self.handle(Event::Hypervisor { vm, report });
            }
            1 => {
                process.instance += 1;
                (process.state, process.foreign) = (RunState::Running, false);
                process.monitored = true;
                process.orders.clear();
            }
            2 => process.monitored = true,
            3 | 4 if free && process.state == RunState::Running => {
                process.state = if roll == 3 { RunState::Paused } else { RunState::IoError };
                process.foreign = true;
                let report = HypervisorReport::State(process.state);
                return self.handle(Event::Hypervisor { vm, report });
            }
            5 if free => {
                (process.state, process.foreign) = (RunState::Running, false);
                let report = HypervisorReport::State(RunState::Running);
                return self.handle(Event::Hypervisor { vm, report });
            }
            _ => return Ok(()),
        }
        self.announce(vm)
    }

    fn chaos(&mut self, steps: u32) -> Result<(), String> {
        for _ in 0..steps {
            let gap = self.dice.pick(&[0, 10, 300, 1500, 1500, 9000]);
            self.pass_until(self.now + Duration::from_millis(gap))?;
            if self.restarts && self.dice.one_in(12) {
                self.restart()?;
            }
            self.trouble()?;
        }
        Ok(())
    }

    /// Everything is repaired, enabled and failed back; what only the operator can resume, the operator resumes.
    fn heal(&mut self) -> Result<(), String> {
        self.calm = true;
        self.pass_until(self.now + Duration::from_secs(60))?;
        for path in self.spec.clone().path_ids() {
            self.handle(Event::Command { ticket: 0, command: Command::EnablePath(path) })?;
            self.repair_path(path)?;
        }
        for vm in self.spec.clone().vm_ids() {
            self.processes[vm.index()].monitored = true;
            self.announce(vm)?;
        }
        for _ in 0..3 {
            self.pass_until(self.now + Duration::from_secs(700))?;
            for target in 0..self.spec.targets.len() {
                let command = Command::Failback(TargetId::at(target));
                self.handle(Event::Command { ticket: 0, command })?;
            }
            self.pass_until(self.now + Duration::from_secs(100))?;
            for vm in self.spec.clone().vm_ids() {
                if self.waits_for_the_operator(vm) {
                    self.handle(Event::Command { ticket: 0, command: Command::ResumeVm(vm) })?;
                }
            }
        }
        self.pass_until(self.now + Duration::from_secs(100))
    }

    fn waits_for_the_operator(&self, vm: VmId) -> bool {
        let row = &self.controller.view(self.now).vms[vm.index()];
        row.waits_for.as_deref().is_some_and(|wait| wait.contains("the operator: `vmpath vm resume"))
    }

    fn all_is_well(&self) -> Result<(), String> {
        let view = self.controller.view(self.now);
        for (row, process) in view.vms.iter().zip(&self.processes) {
            let well = match row.state {
                VmState::Running => process.state == RunState::Running,
                VmState::StoppedByOther => process.foreign,
                VmState::Suspending
                | VmState::Suspended
                | VmState::Resuming
                | VmState::Unmanaged
                | VmState::Migrating
                | VmState::Elsewhere => false,
            };
            if !well || row.gate != Gate::Open {
                return Err(format!("not well in the end: {row:?}, really {:?}", process.state));
            }
        }
        if !view.incidents.is_empty() {
            return Err(format!("open in the end: {:?}", view.incidents));
        }
        match view.paths.iter().find(|p| p.health != Health::Up || !p.preferred) {
            Some(path) => Err(format!("not back in the end: {path:?}")),
            None => Ok(()),
        }
    }

    fn tamper_with(&mut self, effects: &mut Vec<Effect>) {
        let monitored = self.processes[0].monitored;
        match self.tamper {
            Tamper::Nothing | Tamper::ForgetOverRestart | Tamper::ForgetNumbersOverRestart => {}
            Tamper::PublishTwice => {
                if let Some(Effect::Publish(plan)) = effects.first().cloned() {
                    effects.insert(0, Effect::Publish(plan));
                }
            }
            Tamper::ContinueAnyProcess => {
                for effect in effects {
                    if let Effect::Continue { instance, .. } = effect {
                        *instance += 1;
                    }
                }
            }
            Tamper::ContinueUnasked if monitored => {
                effects.push(Effect::Continue { vm: VmId(0), instance: self.processes[0].instance });
            }
            Tamper::ContinueUnasked => {}
            Tamper::ContinueBeforeTheGateOpens => {
                if effects.iter().any(|e| matches!(e, Effect::Continue { .. })) {
                    effects.retain(|e| !matches!(e, Effect::Publish(_)));
                }
            }
            Tamper::BounceEverybody => {
                if let Some(Effect::Publish(plan)) = effects.first_mut() {
                    let reason = GateReason { incident: Some(IncidentId(1)), text: "because".into() };
                    plan.vms.iter_mut().for_each(|vm| vm.gate = Gate::Bounce(reason.clone()));
                }
            }
            Tamper::StopWithoutAWord => effects.retain(|e| !matches!(e, Effect::Record(_))),
            Tamper::ForgetTheEnd => {
                for effect in effects {
                    if let Effect::Record(entry) = effect {
                        entry.until = None;
                    }
                }
            }
        }
    }
}

fn answers_eio(gate: &Gate) -> bool {
    matches!(gate, Gate::Bounce(_) | Gate::Fail(..))
}

fn shown(effect: &Effect) -> String {
    match effect {
        Effect::Publish(plan) => {
            let health: Vec<_> = plan.paths.iter().map(|p| p.health.to_string()).collect();
            let gates: Vec<_> = plan.vms.iter().map(|vm| gate_word(&vm.gate)).collect();
            format!("plan {}: {} / {}", plan.generation, health.join(" "), gates.join(" "))
        }
        Effect::Stop { .. }
        | Effect::Continue { .. }
        | Effect::Monitor { .. }
        | Effect::Cluster(_)
        | Effect::Record(_)
        | Effect::Answer { .. } => format!("{effect:?}"),
    }
}

fn live(seed: u64, tamper: Tamper, steps: u32) -> Result<String, String> {
    live_in(Sim::new(seed, tamper)?, seed, steps)
}

fn live_with_restarts(seed: u64, tamper: Tamper, steps: u32) -> Result<String, String> {
    let mut sim = Sim::new(seed, tamper)?;
    sim.restarts = true;
    live_in(sim, seed, steps)
}

fn live_in(mut sim: Sim, seed: u64, steps: u32) -> Result<String, String> {
    let lived = sim.chaos(steps).and_then(|()| sim.heal()).and_then(|()| sim.all_is_well());
    match lived {
        Ok(()) => Ok(sim.trace),
        Err(why) => {
            let tail: Vec<_> = sim.trace.lines().rev().take(400).collect();
            let tail: Vec<_> = tail.into_iter().rev().collect();
            Err(format!("seed {seed} at {}: {why}\n{}", sim.now, tail.join("\n")))
        }
    }
}

fn live_all(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(why) = live(seed, Tamper::Nothing, 60) {
            panic!("{why}");
        }
    }
}

#[test]
fn the_rules_hold_and_everybody_runs_in_the_end() {
    live_all(0..100);
}

#[test]
fn the_same_events_lead_to_the_same_effects() {
    for seed in 0..5 {
        assert_eq!(live(seed, Tamper::Nothing, 60), live(seed, Tamper::Nothing, 60));
    }
}

#[test]
fn the_checker_sees_each_deliberate_fault() {
    let faults = [
        (Tamper::PublishTwice, "plans for one event"),
        (Tamper::ContinueAnyProcess, "but it is"),
        (Tamper::ContinueUnasked, "which we did not stop"),
        (Tamper::ContinueBeforeTheGateOpens, "behind a shut gate"),
        (Tamper::BounceEverybody, "EIO for a guest that may not stop on it"),
        (Tamper::StopWithoutAWord, "an untold stop"),
        (Tamper::ForgetTheEnd, "no end"),
    ];
    for (tamper, words) in faults {
        let found = (0..40).filter_map(|seed| live(seed, tamper, 60).err()).any(|why| why.contains(words));
        assert!(found, "nobody noticed: {words}");
    }
}

#[test]
fn the_rules_hold_over_restarts() {
    for seed in 0..60 {
        if let Err(why) = live_with_restarts(seed, Tamper::Nothing, 60) {
            panic!("{why}");
        }
    }
}

#[test]
fn what_is_forgotten_over_a_restart_is_noticed() {
    let faults = [
        (Tamper::ForgetOverRestart, "not well in the end"),
        (Tamper::ForgetNumbersOverRestart, "after Some(IncidentId("),
    ];
    for (tamper, words) in faults {
        let found = (0..40)
            .filter_map(|seed| live_with_restarts(seed, tamper, 60).err())
            .any(|why| why.contains(words));
        assert!(found, "nobody noticed: {words}");
    }
}
