//! A host around the real controller, without any data: links that fail in every way, hypervisors that obey late or not at
//! all, operators, measurements, restarts. Everything passes the checkers.

use super::config::{Dice, parsed, random};
use super::tamper::Tamper;
use crate::attack::policy::PolicyChecks;
use crate::attack::violation::Violation;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use vmpath_core::controller::Controller;
use vmpath_core::effect::Effect;
use vmpath_core::event::{
    Command, Event, Fault, Force, HypervisorReport, LinkChange, LinkReport, LoadReport, RunState,
    StopsOnError, VmLoad,
};
use vmpath_core::ids::{PathId, TargetId, UnitId, VmId, WorkerId};
use vmpath_core::plan::Gate;
use vmpath_core::saved::Before;
use vmpath_core::spec::Spec;
use vmpath_core::time::{Duration, Instant};

/// A hypervisor process as it really is.
struct Process {
    instance: u64,
    state: RunState,
    stops: StopsOnError,
    monitored: bool,
    /// Somebody else stopped it.
    foreign: bool,
}

enum Later {
    Event(Event),
    /// A path comes or goes.
    Path(PathId, bool),
    Announce(VmId),
    Become {
        vm: VmId,
        instance: u64,
        state: RunState,
    },
}

pub(super) struct World {
    dice: Dice,
    spec: Arc<Spec>,
    controller: Controller,
    checks: PolicyChecks,
    now: Instant,
    processes: Vec<Process>,
    /// By `PathId`: it is there.
    there: Vec<bool>,
    gates: Vec<Gate>,
    later: BTreeMap<(Instant, u64), Later>,
    serial: u64,
    calm: bool,
    tamper: Tamper,
    pub(super) trace: String,
    /// Of the controller's start.
    first: Vec<Effect>,
}

type Lived = Result<(), Violation>;

impl World {
    pub(super) fn new(seed: u64, tamper: Tamper) -> Self {
        let mut dice = Dice(seed);
        let spec = Arc::new(parsed(&random(&mut dice)));
        let (controller, effects) = Controller::new(spec.clone(), Instant::ZERO);
        let processes = spec.vms.iter().map(|_| Process {
            instance: 1,
            state: RunState::Running,
            stops: StopsOnError::Yes,
            monitored: true,
            foreign: false,
        });
        let mut world = Self {
            processes: processes.collect(),
            there: vec![false; spec.paths.len()],
            gates: vec![],
            checks: PolicyChecks::new(spec.clone(), Instant::ZERO),
            dice,
            spec,
            controller,
            now: Instant::ZERO,
            later: BTreeMap::new(),
            serial: 0,
            calm: false,
            tamper,
            trace: String::new(),
            first: vec![],
        };
        world.first = effects;
        world
    }

    pub(super) fn live(&mut self, steps: u32) -> Lived {
        let lived = self.begin().and_then(|()| self.chaos(steps)).and_then(|()| self.heal());
        lived.and_then(|()| self.checks.end(self.now, &self.controller))
    }

    fn begin(&mut self) -> Lived {
        let first = std::mem::take(&mut self.first);
        self.perform(first)?;
        for path in self.spec.clone().path_ids() {
            self.path(path, true)?;
        }
        for vm in self.spec.clone().vm_ids() {
            let stops = self.dice.pick(&[StopsOnError::Yes, StopsOnError::Yes, StopsOnError::No]);
            self.processes[vm.index()].stops = stops;
            self.announce(vm)?;
        }
        Ok(())
    }

    fn put_off(&mut self, delay_ms: u64, what: Later) {
        self.serial += 1;
        self.later.insert((self.now + Duration::from_millis(delay_ms), self.serial), what);
    }

    fn handle(&mut self, event: Event) -> Lived {
        _ = writeln!(self.trace, "{} {event:?}", self.now);
        self.checks.event(self.now, &event);
        let effects = self.controller.handle(self.now, event);
        self.perform(effects)
    }

    fn perform(&mut self, mut effects: Vec<Effect>) -> Lived {
        self.tamper.apply(&mut effects, &self.spec);
        for effect in &effects {
            match effect {
                Effect::Publish(plan) => {
                    self.gates = plan.vms.iter().map(|vm| vm.gate.clone()).collect();
                    let gates: Vec<_> = self.gates.iter().map(gate_word).collect();
                    let paths: Vec<_> = plan.paths.iter().map(|p| p.health.to_string()).collect();
                    _ = writeln!(self.trace, "    plan: {} / {}", paths.join(" "), gates.join(" "));
                }
                other => _ = writeln!(self.trace, "    {other:?}"),
            }
        }
        self.checks.effects(self.now, &self.controller, &effects)?;
        for effect in &effects {
            match effect {
                Effect::Publish(_) => self.eio(),
                Effect::Stop { vm, instance } => self.obey(*vm, *instance, RunState::Paused),
                Effect::Continue { vm, instance } => self.obey(*vm, *instance, RunState::Running),
                Effect::Monitor { .. } | Effect::Cluster(_) | Effect::Record(_) | Effect::Answer { .. } => {}
            }
        }
        Ok(())
    }

    fn eio(&mut self) {
        for index in 0..self.gates.len() {
            if answers_eio(&self.gates[index]) && self.dice.one_in(2) {
                let (vm, instance) = (VmId::at(index), self.processes[index].instance);
                self.put_off(2, Later::Become { vm, instance, state: RunState::IoError });
            }
        }
    }

    fn obey(&mut self, vm: VmId, instance: u64, state: RunState) {
        let process = &self.processes[vm.index()];
        if process.instance != instance || !process.monitored {
            return;
        }
        if !self.calm && self.dice.one_in(8) {
            if self.dice.one_in(2) {
                let report = HypervisorReport::Refused { why: "not now".into() };
                self.put_off(1, Later::Event(Event::Hypervisor { vm, report }));
            }
            return;
        }
        let takes = if self.calm { 5 } else { self.dice.pick(&[0, 5, 5, 5, 900]) };
        self.put_off(takes, Later::Become { vm, instance, state });
    }

    fn become_state(&mut self, vm: VmId, instance: u64, wanted: RunState) -> Lived {
        let stops_on_eio = answers_eio(&self.gates[vm.index()]);
        let process = &mut self.processes[vm.index()];
        let runs = process.state == RunState::Running;
        let happens = match wanted {
            RunState::IoError => {
                runs && process.stops == StopsOnError::Yes && process.monitored && stops_on_eio
            }
            RunState::Paused => runs || !process.foreign,
            RunState::Running | RunState::Sent | RunState::Other => true,
        };
        if process.instance != instance || !happens {
            return Ok(());
        }
        process.foreign = false;
        if runs || wanted == RunState::Running {
            process.state = wanted;
        }
        self.say(vm)
    }

    /// The world and, if it listens, the controller learn a process's state.
    fn say(&mut self, vm: VmId) -> Lived {
        let process = &self.processes[vm.index()];
        let (state, monitored) = (process.state, process.monitored);
        self.checks.guest(self.now, vm, state)?;
        if !monitored {
            return Ok(());
        }
        self.handle(Event::Hypervisor { vm, report: HypervisorReport::State(state) })
    }

    fn announce(&mut self, vm: VmId) -> Lived {
        let process = &mut self.processes[vm.index()];
        process.monitored = true;
        let (instance, state, stops) = (process.instance, process.state, process.stops);
        self.checks.guest(self.now, vm, state)?;
        let report = HypervisorReport::Connected { instance, state, stops_on_error: stops };
        self.handle(Event::Hypervisor { vm, report })
    }

    fn path(&mut self, path: PathId, up: bool) -> Lived {
        if std::mem::replace(&mut self.there[path.index()], up) == up {
            return Ok(());
        }
        let fault = self.dice.pick(&[Fault::Reset, Fault::Closed, Fault::ConnectTimeout]);
        let change = if up { LinkChange::Up } else { LinkChange::Down { fault, requests_outstanding: 1 } };
        let spec = self.spec.clone();
        for unit in spec.unit_ids().filter(|u| spec.unit(*u).target == spec.path(path).target) {
            self.link(path, unit, change.clone())?;
        }
        Ok(())
    }

    fn link(&mut self, path: PathId, unit: UnitId, change: LinkChange) -> Lived {
        self.handle(Event::Link(LinkReport { worker: WorkerId(0), path, unit, at: self.now, change }))
    }

    fn pass(&mut self, ms: u64) -> Lived {
        let until = self.now + Duration::from_millis(ms);
        for _ in 0..1_000_000 {
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
                    Later::Path(path, up) => self.path(path, up)?,
                    Later::Announce(vm) => self.announce(vm)?,
                    Later::Become { vm, instance, state } => self.become_state(vm, instance, state)?,
                },
                Some(_) | None => self.handle(Event::Tick)?,
            }
        }
        panic!("time does not pass");
    }

    fn chaos(&mut self, steps: u32) -> Lived {
        for _ in 0..steps {
            let gap = self.dice.pick(&[0, 10, 300, 1500, 4000, 12_000, 40_000]);
            self.pass(gap)?;
            self.trouble()?;
        }
        Ok(())
    }

    fn trouble(&mut self) -> Lived {
        let path = PathId::at(self.dice.roll(self.spec.paths.len() as u64) as usize);
        let vm = VmId::at(self.dice.roll(self.spec.vms.len() as u64) as usize);
        match self.dice.roll(16) {
            0 | 1 => self.path(path, false),
            2 | 3 => self.path(path, true),
            // A target whose paths come and go together.
            4 | 5 => {
                let target = self.spec.path(path).target;
                let (lost, back) = (self.dice.roll(400), 1 + self.dice.pick(&[200, 3000, 15_000, 60_000]));
                for path in self.spec.clone().path_ids() {
                    if self.spec.path(path).target == target {
                        self.put_off(lost, Later::Path(path, false));
                        self.put_off(lost + back, Later::Path(path, true));
                    }
                }
                Ok(())
            }
            6 => {
                for flap in 0..1 + self.dice.roll(5) {
                    let gap = self.dice.pick(&[1300, 2500, 6000]);
                    self.put_off(flap * gap, Later::Path(path, false));
                    self.put_off(flap * gap + gap / 2, Later::Path(path, true));
                }
                Ok(())
            }
            7 => self.one_link(path),
            8 => self.hypervisor_trouble(vm),
            9 => {
                let target = TargetId::at(self.dice.roll(self.spec.targets.len() as u64) as usize);
                let command = self.dice.pick(&[
                    Command::DisablePath(path),
                    Command::DrainPath(path, Force::No),
                    Command::EnablePath(path),
                    Command::EnablePath(path),
                    Command::SuspendVm(vm),
                    Command::ResumeVm(vm),
                    Command::Failback(target),
                ]);
                self.handle(Event::Command { ticket: self.serial, command })
            }
            10 if self.dice.one_in(2) => self.restart(),
            11..=14 => {
                for _ in 0..8 {
                    self.load()?;
                    self.pass(200)?;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn load(&mut self) -> Lived {
        let (short, dice) = (self.dice.one_in(6), &mut self.dice);
        let row = |_: &_| VmLoad {
            bytes_completed: if short { 1 << 20 } else { dice.roll(40) << 20 },
            requests_completed: 9,
            backlogged: dice.pick(&[0.0, 1.0, 1.0, 1.0]),
            open: 1,
        };
        let vms = self.spec.vms.iter().map(row).collect();
        let report = LoadReport { interval: Duration::from_millis(200), vms, ..LoadReport::default() };
        self.handle(Event::Load(report))
    }

    fn one_link(&mut self, path: PathId) -> Lived {
        let target = self.spec.path(path).target;
        let units: Vec<_> = self.spec.unit_ids().filter(|u| self.spec.unit(*u).target == target).collect();
        if units.is_empty() || !self.there[path.index()] {
            return Ok(());
        }
        let unit = self.dice.pick(&units);
        let fault = self.dice.pick(&[Fault::Reset, Fault::UnitGone("no such export".into())]);
        self.link(path, unit, LinkChange::Down { fault, requests_outstanding: 1 })?;
        let back = self.dice.pick(&[100, 5000, 20_000]);
        let at = self.now + Duration::from_millis(back);
        let change = LinkChange::Up;
        self.put_off(
            back,
            Later::Event(Event::Link(LinkReport { worker: WorkerId(0), path, unit, at, change })),
        );
        Ok(())
    }

    fn hypervisor_trouble(&mut self, vm: VmId) -> Lived {
        let roll = self.dice.roll(6);
        let process = &mut self.processes[vm.index()];
        match roll {
            0 | 1 => {
                process.monitored = false;
                let back = self.dice.pick(&[300, 5000, 30_000]);
                self.put_off(back, Later::Announce(vm));
                let report = HypervisorReport::Lost { why: "end of file".into() };
                self.handle(Event::Hypervisor { vm, report })
            }
            2 => {
                process.instance += 1;
                (process.state, process.foreign) = (RunState::Running, false);
                self.announce(vm)
            }
            3 if process.monitored && process.state == RunState::Running => {
                (process.state, process.foreign) = (RunState::Paused, true);
                self.say(vm)
            }
            4 if process.monitored && process.foreign => {
                (process.state, process.foreign) = (RunState::Running, false);
                self.say(vm)
            }
            _ => Ok(()),
        }
    }

    fn restart(&mut self) -> Lived {
        let before = self.dice.pick(&[Before::Died, Before::Stopped]);
        _ = writeln!(self.trace, "{} a restart: {before:?}", self.now);
        let mut saved = self.controller.save();
        self.tamper.apply_to_saved(&mut saved);
        let (controller, effects) = Controller::restore(self.spec.clone(), saved, before, self.now);
        self.controller = controller;
        // Orders that were on their way to a hypervisor still arrive; what it says meanwhile is not heard.
        self.later.retain(|_, later| matches!(later, Later::Become { .. } | Later::Path(..)));
        self.checks.restarted(self.now, &self.controller);
        self.perform(effects)?;
        for path in self.spec.clone().path_ids() {
            if std::mem::take(&mut self.there[path.index()]) {
                let delay = self.dice.pick(&[0, 5, 300, 3000]);
                self.put_off(delay, Later::Path(path, true));
            }
        }
        for vm in 0..self.processes.len() {
            self.processes[vm].monitored = false;
            let delay = self.dice.pick(&[0, 5, 300]);
            self.put_off(delay, Later::Announce(VmId::at(vm)));
        }
        Ok(())
    }

    /// Everything is repaired, and only what is the operator's is done by the operator.
    fn heal(&mut self) -> Lived {
        self.calm = true;
        self.pass(70_000)?;
        for path in self.spec.clone().path_ids() {
            self.handle(Event::Command { ticket: 0, command: Command::EnablePath(path) })?;
            self.there[path.index()] = false;
            self.path(path, true)?;
        }
        for vm in self.spec.clone().vm_ids() {
            self.announce(vm)?;
        }
        for _ in 0..2 {
            self.pass(400_000)?;
            for target in 0..self.spec.targets.len() {
                let command = Command::Failback(TargetId::at(target));
                self.handle(Event::Command { ticket: 0, command })?;
            }
        }
        self.pass(700_000)
    }
}

fn answers_eio(gate: &Gate) -> bool {
    matches!(gate, Gate::Bounce(_) | Gate::Fail(..))
}

fn gate_word(gate: &Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Hold(_) => "hold",
        Gate::Bounce(_) => "bounce",
        Gate::Fail(..) => "fail",
    }
}
