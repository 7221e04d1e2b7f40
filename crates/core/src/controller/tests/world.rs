//! A host in virtual time, driven by a script that is also the record of what has to happen.
//!
//! A script line `@SECONDS words; words` is what happens at that time; the lines `> SECONDS: …` after it are what the
//! controller did, one line for each event that made it do anything: gates that changed, `stop` and `cont`, the
//! journal's kinds by subject, answers. `check` compares the whole text.

use crate::cluster::{Ask, Heard};
use crate::controller::Controller;
use crate::effect::{CommandError, Effect, JournalEntry, Subject, Wanted};
use crate::event::{
    Command, Event, Fault, Force, GuestError, HypervisorReport, LinkChange, LinkReport, LoadReport, RunState,
    StopsOnError, VmLoad,
};
use crate::ids::{DiskId, PathId, TargetId, UnitId, VmId, WorkerId};
use crate::ownership::{Owner, Ownership};
use crate::plan::{Gate, RoutePlan};
use crate::saved::{Before, Saved};
use crate::spec::{
    Access, ByteRate, DiskSpec, Failback, HostSpec, OnNoPath, OnPathLoss, PathSelector, PathSpec, PathUrl,
    Presence, ResumeOn, SchedulerKind, ShedWhen, Spec, TargetSpec, UnitSpec, VmSpec, When, WriteCache,
};
use crate::time::{Duration, Instant};
use crate::volume::verdict::TargetError;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

pub(super) const MIB: u64 = 1 << 20;

/// One target `san0` with two paths of 100 MiB/s, and for each `(name, priority, reserved MiB/s)` a managed VM with one
/// disk on a unit of its own.
pub(super) fn spec(vms: &[(&str, u32, u64)]) -> Spec {
    let mut spec = Spec {
        host: HostSpec {
            name: "kvm1".into(),
            api_socket: "/run/vmpath/vmpath.sock".into(),
            admin_group: "vmpath".into(),
            shed_when: ShedWhen::Unmet,
            shed_after: Duration::from_secs(1),
            state_dir: "/var/lib/vmpath".into(),
            journal_max: 32 << 20,
            journal_age: Duration::from_secs(3600),
            run_dir: "/run/vmpath".into(),
            workers: 1,
            scheduler: SchedulerKind::Vmpath,
            fence_command: None,
        },
        cluster: None,
        groups: vec![],
        targets: vec![target("san0")],
        paths: vec![path("a"), path("b")],
        units: vec![],
        vms: vec![],
        disks: vec![],
    };
    for (name, priority, reserved) in vms {
        add_vm(&mut spec, name, *priority, *reserved);
    }
    spec
}

pub(super) fn target(name: &str) -> TargetSpec {
    TargetSpec {
        name: name.into(),
        failback: Failback::Immediate,
        quiesce: Duration::from_secs(5),
        ping_budget: Duration::from_secs(5),
        repair_after: Duration::from_secs(1),
        write_cache: WriteCache::SurvivesPathLoss,
        connections: 2,
        path_selector: PathSelector::Vmpath,
    }
}

pub(super) fn path(name: &str) -> PathSpec {
    PathSpec {
        target: TargetId(0),
        name: name.into(),
        url: PathUrl::NbdUnix { socket: format!("/tmp/{name}").into(), export: None },
        capacity: Some(ByteRate(100 * MIB)),
        access: Access::Optimized,
        window_max: 4 * MIB,
        via: vec![],
    }
}

pub(super) fn add_vm(spec: &mut Spec, name: &str, priority: u32, reserved: u64) {
    let vm = VmId::at(spec.vms.len());
    spec.vms.push(VmSpec {
        name: name.into(),
        priority,
        shares: 1000,
        reservation: (reserved > 0).then_some(ByteRate(reserved * MIB)),
        limit: None,
        limit_iops: None,
        limit_burst: Duration::from_millis(5),
        group: None,
        qmp: Some(format!("/tmp/{name}.qmp").into()),
        on_path_loss: OnPathLoss::Failover,
        when: When::Always,
        on_no_path: OnNoPath::hold_then_suspend(Duration::from_secs(60)),
        min_paths: 1,
        may_suspend: true,
        may_migrate: true,
        resume: ResumeOn::Repair,
        launch: None,
        returns: false,
        move_dwell: Duration::from_secs(600),
        avoid_paths: vec![],
        presence: Presence::Present,
    });
    add_disk(spec, vm, TargetId(0), name);
}

pub(super) fn add_disk(spec: &mut Spec, vm: VmId, target: TargetId, unit: &str) -> DiskId {
    spec.units.push(UnitSpec { target, name: unit.into(), export: unit.into(), assume_same: false });
    let unit = UnitId::at(spec.units.len() - 1);
    spec.disks.push(DiskSpec {
        vm,
        name: "vda".into(),
        unit,
        nbd_socket: None,
        nbd_tcp: None,
        vhost_user: None,
        queues: 1,
        read_only: false,
        writers: crate::spec::Writers::One,
        presence: Presence::Present,
    });
    DiskId::at(spec.disks.len() - 1)
}

pub(super) fn at(seconds: f64) -> Instant {
    Instant::from_nanos((seconds * 1e9).round() as u64)
}

pub(super) struct World {
    pub(super) spec: Arc<Spec>,
    pub(super) controller: Controller,
    pub(super) now: Instant,
    pub(super) plan: RoutePlan,
    pub(super) journal: Vec<JournalEntry>,
    pub(super) answers: Vec<Result<String, CommandError>>,
    pub(super) asks: Vec<Ask>,
    log: String,
    /// Hypervisors that obey after 5 ms.
    obedient: bool,
    /// Of VMs that were stopped or continued.
    real: BTreeMap<VmId, RunState>,
    later: BTreeMap<Instant, Vec<Event>>,
    ticket: u64,
}

impl World {
    /// At zero: every link up, every VM running under a monitor and stopping on errors. Not in the log.
    pub(super) fn new(spec: Spec) -> Self {
        let mut world = Self::dark(spec);
        let paths: Vec<_> = world.spec.path_ids().collect();
        for path in paths {
            world.links(path, &LinkChange::Up);
        }
        let vms: Vec<_> = world.spec.vm_ids().collect();
        for vm in vms {
            world.report(vm, connected(1, RunState::Running, StopsOnError::Yes));
        }
        world.log.clear();
        world
    }

    /// At zero: nothing heard of any link or VM.
    pub(super) fn dark(spec: Spec) -> Self {
        let spec = Arc::new(spec);
        let (controller, effects) = Controller::new(spec.clone(), Instant::ZERO);
        let Some(Effect::Publish(plan)) = effects.first().cloned() else { panic!("no first plan") };
        let mut world = Self {
            spec,
            controller,
            now: Instant::ZERO,
            plan,
            journal: vec![],
            answers: vec![],
            asks: vec![],
            log: String::new(),
            obedient: false,
            real: BTreeMap::new(),
            later: BTreeMap::new(),
            ticket: 0,
        };
        world.take(&effects[1..]);
        world
    }

    /// Every link comes up and every VM's monitor says that it runs, as one event's worth of decisions: for large hosts.
    pub(super) fn all_at_once(&mut self) {
        let (spec, at) = (self.spec.clone(), self.now);
        let links = spec.path_ids().flat_map(|path| {
            let units = spec.unit_ids().filter(|u| spec.unit(*u).target == spec.path(path).target);
            units.map(|unit| (path, unit)).collect::<Vec<_>>()
        });
        let up = |(path, unit)| {
            Event::Link(LinkReport { worker: WorkerId(0), path, unit, at, change: LinkChange::Up })
        };
        let runs = |vm| Event::Hypervisor { vm, report: connected(1, RunState::Running, StopsOnError::Yes) };
        let events: Vec<_> = links.map(up).chain(spec.vm_ids().map(runs)).collect();
        let effects = self.controller.handle_all(self.now, events);
        self.take(&effects);
    }

    pub(super) fn handle(&mut self, event: Event) {
        let effects = self.controller.handle(self.now, event);
        self.take(&effects);
    }

    /// Lets time pass: ticks at each deadline, and obedient hypervisors answer.
    pub(super) fn pass_until(&mut self, until: Instant) {
        for _ in 0..100_000 {
            let answer = self.later.keys().next().copied();
            let due = answer.into_iter().chain(self.controller.next_deadline()).min();
            let Some(due) = due.filter(|at| *at <= until) else {
                self.now = until;
                return;
            };
            assert!(due > self.now || answer == Some(due), "a deadline that has passed already: {due}");
            self.now = due;
            match self.later.remove(&due) {
                Some(events) => events.into_iter().for_each(|event| self.handle(event)),
                None => self.handle(Event::Tick),
            }
        }
        panic!("time does not pass: the controller wants to be woken all the time");
    }

    /// Another process takes over from what this one has saved, and has heard nothing yet. What hypervisors had begun they
    /// still do, but nobody is told.
    pub(super) fn restart(&mut self, before: Before) {
        let saved = self.controller.save();
        let gates: Vec<_> = self.plan.vms.iter().map(|route| route.gate.clone()).collect();
        self.start_from(saved, before, &gates);
    }

    fn start_from(&mut self, saved: Saved, before: Before, gates: &[Gate]) {
        self.later.clear();
        let (controller, effects) = Controller::restore(self.spec.clone(), saved, before, self.now);
        let Some(Effect::Publish(plan)) = effects.first() else { panic!("no first plan") };
        self.controller = controller;
        self.plan = RoutePlan { generation: 0, ..plan.clone() };
        for (route, gate) in self.plan.vms.iter_mut().zip(gates) {
            route.gate = gate.clone();
        }
        self.take(&effects);
    }

    fn take(&mut self, effects: &[Effect]) {
        let mut said = vec![];
        for effect in effects {
            match effect {
                Effect::Publish(plan) => self.published(plan, &mut said),
                Effect::Stop { vm, .. } => self.asked("stop", *vm, RunState::Paused, &mut said),
                Effect::Continue { vm, .. } => self.asked("cont", *vm, RunState::Running, &mut said),
                Effect::Record(entry) => {
                    said.push(format!("{} {}", self.subject(entry.subject), entry.kind.as_str()));
                    self.journal.push(entry.clone());
                }
                Effect::Cluster(ask) => {
                    said.push(format!("ask {}", ask_word(ask)));
                    self.asks.push(ask.clone());
                }
                Effect::Monitor { vm, wanted: Wanted::Yes } => {
                    said.push(format!("monitor {}", self.spec.vm(*vm).name));
                }
                Effect::Monitor { vm, wanted: Wanted::No } => {
                    said.push(format!("let go of {}", self.spec.vm(*vm).name));
                }
                Effect::Answer { result, .. } => {
                    said.push(match result {
                        Ok(_) => "answer ok".into(),
                        Err(CommandError::Conflict(_)) => "answer conflict".into(),
                        Err(CommandError::Unsupported(_)) => "answer unsupported".into(),
                    });
                    self.answers.push(result.clone());
                }
            }
        }
        if !said.is_empty() {
            let seconds = self.now.as_nanos() as f64 / 1e9;
            writeln!(self.log, "> {seconds}: {}", said.join(", ")).expect("a string");
        }
    }

    fn published(&mut self, plan: &RoutePlan, said: &mut Vec<String>) {
        assert_eq!(plan.generation, self.plan.generation + 1, "generations are consecutive");
        for vm in plan.spec.vm_ids() {
            let gate = gate_word(&plan.vms[vm.index()].gate);
            let before = self.plan.vms.get(vm.index()).map_or("open", |route| gate_word(&route.gate));
            if gate != before {
                said.push(format!("{} {gate}", plan.spec.vm(vm).name));
            }
        }
        self.plan = plan.clone();
    }

    fn asked(&mut self, word: &str, vm: VmId, then: RunState, said: &mut Vec<String>) {
        said.push(format!("{word} {}", self.spec.vm(vm).name));
        if self.obedient {
            self.real.insert(vm, then);
            let event = Event::Hypervisor { vm, report: HypervisorReport::State(then) };
            self.later.entry(self.now + Duration::from_millis(5)).or_default().push(event);
        }
    }

    fn subject(&self, subject: Subject) -> String {
        match subject {
            Subject::Host => "host".into(),
            Subject::Target(t) => self.spec.target(t).name.clone(),
            Subject::Path(p) => self.spec.path(p).name.clone(),
            Subject::Unit(u) => self.spec.unit_name(u),
            Subject::Vm(vm) => self.spec.vm(vm).name.clone(),
        }
    }

    pub(super) fn links(&mut self, path: PathId, change: &LinkChange) {
        let target = self.spec.path(path).target;
        let units: Vec<_> = self.spec.unit_ids().filter(|u| self.spec.unit(*u).target == target).collect();
        for unit in units {
            self.link(path, unit, change.clone());
        }
    }

    pub(super) fn link(&mut self, path: PathId, unit: UnitId, change: LinkChange) {
        self.handle(Event::Link(LinkReport { worker: WorkerId(0), path, unit, at: self.now, change }));
    }

    pub(super) fn report(&mut self, vm: VmId, report: HypervisorReport) {
        self.handle(Event::Hypervisor { vm, report });
    }

    pub(super) fn command(&mut self, command: Command) {
        self.ticket += 1;
        self.handle(Event::Command { ticket: self.ticket, command });
    }

    pub(super) fn reload(&mut self, spec: Spec) {
        self.spec = Arc::new(spec);
        self.handle(Event::Reload(self.spec.clone()));
    }

    pub(super) fn vm(&self, name: &str) -> VmId {
        self.spec.vm_by_name(name).unwrap_or_else(|| panic!("no VM {name}"))
    }

    pub(super) fn path(&self, name: &str) -> PathId {
        let found = self.spec.path_ids().find(|p| self.spec.path(*p).name == name);
        found.unwrap_or_else(|| panic!("no path {name}"))
    }

    /// One sentence a line: because, then what is waited for.
    pub(super) fn explain(&self, name: &str) -> String {
        let view = &self.controller.view(self.now).vms[self.vm(name).index()];
        let mut lines = vec![format!("{} {}", view.state.as_str(), gate_word(&view.gate))];
        lines.extend(view.because.iter().cloned());
        lines.extend(view.waits_for.iter().map(|wait| format!("waits for {wait}")));
        lines.join("\n")
    }

    /// Runs a script's inputs and returns the script with what has really happened.
    pub(super) fn run(&mut self, script: &str) -> String {
        let mut text = String::new();
        for line in script.lines().map(str::trim).filter(|line| line.starts_with('@')) {
            let (time, words) = line[1..].split_once(' ').expect("@SECONDS words");
            self.pass_until(at(time.parse().expect("seconds")));
            text.push_str(&std::mem::take(&mut self.log));
            writeln!(text, "{line}").expect("a string");
            for words in words.split(';') {
                self.act(&words.split_whitespace().collect::<Vec<_>>());
            }
            text.push_str(&std::mem::take(&mut self.log));
        }
        text
    }

    fn act(&mut self, words: &[&str]) {
        match *words {
            ["pass"] => {}
            ["obedient"] => self.obedient = true,
            ["deaf"] => self.obedient = false,
            ["up", path] => self.links(self.path(path), &LinkChange::Up),
            ["up", path, vm] => self.link(self.path(path), UnitId(self.vm(vm).0), LinkChange::Up),
            ["down", path] => self.links(self.path(path), &down(Fault::Reset)),
            ["cut", path] => self.links(self.path(path), &down(Fault::Disabled)),
            ["gone", path] => self.links(self.path(path), &down(Fault::UnitGone("no such export".into()))),
            ["down", path, vm] => {
                self.link(self.path(path), UnitId(self.vm(vm).0), down(Fault::Reset));
            }
            ["down-with", path, vm, requests] => {
                self.link(self.path(path), UnitId(self.vm(vm).0), down_with(requests));
            }
            ["connect", vm, instance] => {
                let instance = instance.parse().expect("an instance");
                self.report(self.vm(vm), connected(instance, RunState::Running, StopsOnError::Yes));
            }
            ["connect-no-werror", vm, instance] => {
                let instance = instance.parse().expect("an instance");
                self.report(self.vm(vm), connected(instance, RunState::Running, StopsOnError::No));
            }
            ["connect-paused", vm, instance] => {
                let instance = instance.parse().expect("an instance");
                self.report(self.vm(vm), connected(instance, RunState::Paused, StopsOnError::Yes));
            }
            ["connect-as-they-are"] => {
                for vm in self.spec.clone().vm_ids() {
                    let state = self.real.get(&vm).copied().unwrap_or(RunState::Running);
                    self.report(vm, connected(1, state, StopsOnError::Yes));
                }
            }
            ["lost", vm] => {
                self.report(self.vm(vm), HypervisorReport::Lost { why: "connection refused".into() });
            }
            ["refuses", vm] => {
                self.report(self.vm(vm), HypervisorReport::Refused { why: "not now".into() });
            }
            ["running", vm] => self.report(self.vm(vm), HypervisorReport::State(RunState::Running)),
            ["paused", vm] => self.report(self.vm(vm), HypervisorReport::State(RunState::Paused)),
            ["io-error", vm] => self.report(self.vm(vm), HypervisorReport::State(RunState::IoError)),
            ["other", vm] => self.report(self.vm(vm), HypervisorReport::State(RunState::Other)),
            ["restart"] => self.restart(Before::Died),
            ["stop-and-start"] => self.restart(Before::Stopped),
            ["boot"] => self.restart(Before::Booted),
            ["connect-io-error", vm, instance] => {
                let instance = instance.parse().expect("an instance");
                self.report(self.vm(vm), connected(instance, RunState::IoError, StopsOnError::Yes));
            }
            ["disable", path] => self.command(Command::DisablePath(self.path(path))),
            ["drain", path] => self.command(Command::DrainPath(self.path(path), Force::No)),
            ["drain-by-force", path] => self.command(Command::DrainPath(self.path(path), Force::Yes)),
            ["enable", path] => self.command(Command::EnablePath(self.path(path))),
            ["non-optimized", path] => {
                self.command(Command::SetAccess(self.path(path), Access::NonOptimized));
            }
            ["erred", vm, ago] => self.erred(self.vm(vm), ago.parse().expect("milliseconds")),
            ["silent", vm] => self.handle(Event::Silent(self.first_disk(self.vm(vm)))),
            ["suspend", vm] => self.command(Command::SuspendVm(self.vm(vm))),
            ["resume", vm] => self.command(Command::ResumeVm(self.vm(vm))),
            ["failback"] => self.command(Command::Failback(TargetId(0))),
            ["load", ref vms @ ..] => self.load(vms),
            ref words => self.act_in_cluster(words),
        }
    }

    fn first_disk(&self, vm: VmId) -> DiskId {
        self.spec.disks_of_vm(vm).next().expect("a disk")
    }

    fn erred(&mut self, vm: VmId, ago: u64) {
        let (disk, ago) = (self.first_disk(vm), Duration::from_millis(ago));
        let errors = vec![GuestError { disk, error: TargetError::Io, ago }];
        self.handle(Event::Load(LoadReport { errors, ..LoadReport::default() }));
    }

    fn act_in_cluster(&mut self, words: &[&str]) {
        match *words {
            ["etcd"] => self.handle(Event::Cluster(Heard::Up { nonce: 0x7f })),
            ["no-etcd"] => self.handle(Event::Cluster(Heard::Down { why: "no quorum".into() })),
            ["owner", host] => self.owner(host),
            ["placed", vm, host] => {
                let (vm, result) = (self.vm(vm), Ok(host.into()));
                self.handle(Event::Cluster(Heard::Placed { vm, result }));
            }
            ["no-place", vm] => {
                let (vm, result) = (self.vm(vm), Err("kvm2: 0 of 2 paths".to_owned()));
                self.handle(Event::Cluster(Heard::Placed { vm, result }));
            }
            ["migrate", vm] => self.command(Command::MigrateVm { vm: self.vm(vm), to: None }),
            ["return", vm] => self.command(Command::ReturnVm(self.vm(vm))),
            ["cancel", vm] => self.command(Command::CancelMigration(self.vm(vm))),
            ref other => panic!("what is {other:?}?"),
        }
    }

    /// What has happened so far is not compared.
    pub(super) fn forget_log(&mut self) {
        self.log.clear();
    }

    /// Of all units, under epoch 3.
    pub(super) fn owner(&mut self, host: &str) {
        for unit in self.spec.clone().unit_ids() {
            let ownership = if host == self.spec.host.name {
                Ownership::Ours { epoch: 3 }
            } else {
                Ownership::Theirs(Owner { host: host.into(), epoch: 3, move_id: None })
            };
            self.handle(Event::Cluster(Heard::Owner { unit, ownership }));
        }
    }

    /// `vm=MiB/s` each, all of them backlogged, every 200 ms for 1.2 s.
    fn load(&mut self, vms: &[&str]) {
        let mut rows = vec![VmLoad::default(); self.spec.vms.len()];
        for word in vms {
            let (vm, mib) = word.split_once('=').expect("vm=MiB/s");
            let mib: u64 = mib.parse().expect("MiB/s");
            rows[self.vm(vm).index()] = VmLoad {
                bytes_completed: mib * MIB / 5,
                requests_completed: mib.max(1),
                backlogged: 1.0,
                open: 1,
            };
        }
        let interval = Duration::from_millis(200);
        for _ in 0..6 {
            self.pass_until(self.now + interval);
            self.handle(Event::Load(LoadReport { interval, vms: rows.clone(), ..LoadReport::default() }));
        }
    }
}

pub(super) fn down(fault: Fault) -> LinkChange {
    LinkChange::Down { fault, requests_outstanding: 0 }
}

fn down_with(requests: &str) -> LinkChange {
    let requests_outstanding = requests.parse().expect("a number");
    LinkChange::Down { fault: Fault::Reset, requests_outstanding }
}

pub(super) fn connected(instance: u64, state: RunState, stops_on_error: StopsOnError) -> HypervisorReport {
    HypervisorReport::Connected { instance, state, stops_on_error }
}

/// The question and whom it is about.
fn ask_word(ask: &Ask) -> String {
    let word = |act: String| act.split([' ', '(']).next().unwrap_or_default().to_lowercase();
    match ask {
        Ask::Place { vm, .. } => format!("place {vm}"),
        Ask::Leave { vm, act, .. } => format!("leave {vm} {}", word(format!("{act:?}"))),
        Ask::Arrive { vm, act, .. } => format!("arrive {vm} {}", word(format!("{act:?}"))),
        Ask::EndLeft { vm, .. } => format!("end-left {vm}"),
        Ask::Decline { .. } => "decline".into(),
    }
}

pub(super) fn gate_word(gate: &Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Hold(_) => "hold",
        Gate::Bounce(_) => "bounce",
        Gate::Fail(..) => "fail",
    }
}

/// Plays the script's inputs and compares everything that happened with the script's `>` lines.
pub(super) fn check(spec: Spec, script: &str) -> World {
    let mut world = World::new(spec);
    check_in(&mut world, script);
    world
}

pub(super) fn check_in(world: &mut World, script: &str) {
    let happened = world.run(script);
    let expected: String =
        script.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
    assert!(happened == expected, "what happened:\n{happened}\nwhat was expected:\n{expected}");
}
