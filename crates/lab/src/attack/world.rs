//! One seed's world: what happens when, on a virtual clock.
//!
//! The process under test is core's own `Controller` and `Router`s; around them stand the worker's loop (`worker`, `links`,
//! `identity`), the wire and the targets (`wire`, `storage`), the control owner (`control`), hypervisors (`hypervisor`), guests
//! (`guests`) and what goes wrong (`faults`, `crash`). Invariant: everything follows from the seed; two runs take the same
//! events in the same order. Rejected: threads or a model of the process; what is tested must be what runs.

use super::control::Control;
use super::hypervisor::Process;
use super::identity::Sample;
use super::ledger::Ledger;
use super::policy::PolicyChecks;
use super::rng::Rng;
use super::scene::{BLOCKS, Scene};
use super::storage::Storage;
use super::tally::Tally;
use super::trace::Trace;
use super::violation::Violation;
use super::wire::{Conn, Network};
use super::worker::Worker;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use vmpath_core::controller::Controller;
use vmpath_core::event::{Event as Told, RunState};
use vmpath_core::plan::{Gate, Health};
use vmpath_core::router::{CloseMode, close_mode};
use vmpath_core::saved::Before;
use vmpath_core::spec::WriteCache;
use vmpath_core::spread::spread;
use vmpath_core::time::{Duration, Instant};

/// A seed plays at least this long, with so many requests and faults.
pub(super) const VIRTUAL_MIN: Duration = Duration::from_secs(60);
pub(super) const REQUESTS_MIN: u64 = 2000;
pub(super) const FAULTS_MIN: u64 = 5;
/// The chaos lasts at least so long, and until enough has been asked for; guests that are held ask for nothing.
const CHAOS_MIN: Duration = Duration::from_secs(45);
const CHAOS_LULL: Duration = Duration::from_secs(100);
const CHAOS_MAX: Duration = Duration::from_secs(3600);
/// How long everything that is still open may take after the last fault.
const CALM_MAX: Duration = Duration::from_secs(1800);
/// More events than this, and something turns in a circle.
const EVENTS_MAX: u64 = 3_000_000;

/// What happens by itself. What belongs to the process under test ends with it.
#[derive(Debug)]
pub(super) enum Event {
    Wake { worker: usize, number: u64 },
    Inspect(usize),
    Load(usize),
    Plan { worker: usize },
    Reap(u32),
    Answers(u32),
    Refused(u32),
    Compared { new: u32, side: usize },
    Sampled { conn: u32, sample: Sample },
    Told(Box<Told>),
    Tick(u64),
    Committed,
    Start(Before),

    Send(u32),
    Execute(u32),
    Reply(u32),
    Ghost(u32),
    Healed { path: usize, number: u64 },
    Flap(usize),
    Strike { path: usize, vm: usize },
    Truth { path: usize, number: u64 },
    UnitBack(usize),
    Order { vm: usize, instance: u64, wanted: RunState },
    Become { vm: usize, instance: u64, wanted: RunState },
    State { vm: usize, instance: u64, state: RunState },
    Announce(usize),
    Boot { vm: usize, instance: u64 },
    Attach { disk: usize },
    Guest(usize),
    Outsider(usize),
    Trouble,
    Crash,
    Change,
    Look,
}

impl Event {
    /// It ends with the process under test.
    fn is_of_the_process(&self) -> bool {
        match self {
            Self::Wake { .. }
            | Self::Inspect(_)
            | Self::Load(_)
            | Self::Plan { .. }
            | Self::Reap(_)
            | Self::Answers(_)
            | Self::Refused(_)
            | Self::Compared { .. }
            | Self::Sampled { .. }
            | Self::Told(_)
            | Self::Tick(_)
            | Self::Committed => true,
            Self::Start(_)
            | Self::Send(_)
            | Self::Execute(_)
            | Self::Reply(_)
            | Self::Ghost(_)
            | Self::Healed { .. }
            | Self::Flap(_)
            | Self::Strike { .. }
            | Self::State { .. }
            | Self::Truth { .. }
            | Self::UnitBack(_)
            | Self::Order { .. }
            | Self::Become { .. }
            | Self::Announce(_)
            | Self::Boot { .. }
            | Self::Attach { .. }
            | Self::Guest(_)
            | Self::Outsider(_)
            | Self::Trouble
            | Self::Crash
            | Self::Change
            | Self::Look => false,
        }
    }
}

struct Due {
    at: Instant,
    serial: u64,
    /// Of the process that it belongs to.
    epoch: u32,
    event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        self.serial == other.serial
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.serial).cmp(&(other.at, other.serial))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Chaos,
    /// Everything is repaired; guests only read, until nothing late can come any more.
    Calm {
        since: Instant,
    },
}

pub(super) struct World {
    pub(super) rng: Rng,
    /// Of `settings`.
    pub(super) extra: Rng,
    pub(super) scene: Scene,
    pub(super) now: Instant,
    pub(super) weather: Weather,
    heap: BinaryHeap<Reverse<Due>>,
    serial: u64,
    /// Counts processes.
    pub(super) epoch: u32,
    /// None while the process is down.
    pub(super) controller: Option<Controller>,
    pub(super) control: Control,
    pub(super) workers: Vec<Worker>,
    /// By VM.
    pub(super) worker_of: Vec<usize>,
    /// By unit: until when nothing is sent to it after the last boot.
    pub(super) boot_fences: Vec<Instant>,
    /// Workers that have been told something.
    pub(super) poked: Vec<usize>,
    pub(super) conns: Vec<Conn>,
    pub(super) net: Network,
    pub(super) storage: Storage,
    pub(super) processes: Vec<Process>,
    pub(super) guests: super::guests::Guests,
    pub(super) ledger: Ledger,
    pub(super) policy: PolicyChecks,
    pub(super) violation: Option<Violation>,
    /// A fault that waits for a write on its way.
    pub(super) ambush: Option<usize>,
    /// The process dies in the middle of what a worker does next.
    pub(super) doomed: Option<Before>,
    pub(super) tally: Tally,
    pub(super) trace: Trace,
}

impl World {
    pub(super) fn new(seed: u64, trace: Trace, blind: &[&'static str]) -> Self {
        let now = Instant::from_millis(1000);
        let mut rng = Rng::new(seed);
        let mut extra = Rng::new(!seed);
        let is_rich = extra.percent(50) && !super::runner::is_plain(seed);
        let scene = Scene::new(seed, &mut rng, is_rich.then_some(&mut extra));
        let spec = scene.spec.clone();
        let caches: Vec<WriteCache> =
            spec.unit_ids().map(|unit| spec.target(spec.unit(unit).target).write_cache).collect();
        let mut ledger = Ledger::new(spec.units.len(), BLOCKS);
        ledger.blind = blind.to_vec();
        let mut world = Self {
            now,
            weather: Weather::Chaos,
            heap: BinaryHeap::new(),
            serial: 0,
            epoch: 0,
            controller: None,
            control: Control::default(),
            workers: Vec::new(),
            boot_fences: vec![Instant::ZERO; spec.units.len()],
            worker_of: spread(&spec).into_iter().map(vmpath_core::ids::WorkerId::index).collect(),
            poked: Vec::new(),
            conns: Vec::new(),
            net: Network::new(&spec),
            storage: Storage::new(&caches, BLOCKS),
            processes: scene.stops.iter().map(|stops| Process::new(*stops)).collect(),
            guests: super::guests::Guests::new(spec.disks.len()),
            ledger,
            policy: PolicyChecks::new(spec, now),
            violation: None,
            ambush: None,
            doomed: None,
            tally: Tally::default(),
            trace,
            rng,
            extra,
            scene,
        };
        world.begin();
        if is_rich {
            world.at(Duration::from_secs(2), Event::Change);
        }
        world
    }

    fn begin(&mut self) {
        self.trace.say(self.now, || format!("the configuration:\n{}", self.scene.text));
        self.start(None);
        for disk in 0..self.scene.spec.disks.len() {
            let after = self.rng.millis(1..400);
            self.at(after, Event::Guest(disk));
        }
        for unit in 0..self.scene.shared.len() {
            if self.scene.shared[unit] {
                self.at(Duration::from_secs(1), Event::Outsider(unit));
            }
        }
        let after = self.rng.millis(500..4000);
        self.at(after, Event::Trouble);
        for _ in 0..self.scene.crashes {
            let after = self.rng.millis(3000..44_000);
            self.at(after, Event::Crash);
        }
        self.at(Duration::from_secs(1), Event::Look);
    }

    pub(super) fn at(&mut self, after: Duration, event: Event) {
        self.when(self.now + after, event);
    }

    pub(super) fn when(&mut self, at: Instant, event: Event) {
        self.serial += 1;
        self.heap.push(Reverse(Due { at, serial: self.serial, epoch: self.epoch, event }));
    }

    pub(super) fn is_calm(&self) -> bool {
        self.weather != Weather::Chaos
    }

    /// 0 in the chaos, 1 after it, 2 when nothing late can come any more and only long waits are left.
    pub(super) fn pace(&self) -> usize {
        match self.weather {
            Weather::Chaos => 0,
            Weather::Calm { since } => {
                let late = since + self.longest_late() + Duration::from_secs(4);
                if self.now > late && self.ledger.open.is_empty() { 2 } else { 1 }
            }
        }
    }

    /// Plays to the end, or to the first broken rule.
    pub(super) fn run(mut self) -> (Tally, Trace, Option<Violation>) {
        let mut events = 0u64;
        while self.violation.is_none() && self.ledger.violation().is_none() {
            let Some(Reverse(due)) = self.heap.pop() else { break };
            if due.event.is_of_the_process() && due.epoch != self.epoch {
                continue;
            }
            if matches!(due.event, Event::Look) && self.is_over(due.at) {
                break;
            }
            events += 1;
            if events > EVENTS_MAX {
                self.violated("liveness", "events without end".into());
                break;
            }
            self.now = due.at;
            self.trace.note(due.at, &due.event);
            self.take(due.event);
            self.act_all();
        }
        self.finish();
        self.tally.virtual_ms = self.now.as_nanos() / 1_000_000;
        self.tally.events = events;
        let violation = self.violation.take().or_else(|| self.ledger.violation().cloned());
        (self.tally, self.trace, violation)
    }

    pub(super) fn violated(&mut self, rule: &'static str, text: String) {
        if self.violation.is_none() {
            self.violation = Some(Violation { rule, text });
        }
    }

    pub(super) fn check(&mut self, verdict: Result<(), Violation>) {
        if let (Err(violation), None) = (verdict, &self.violation)
            && !self.ledger.blind.contains(&violation.rule)
        {
            self.violation = Some(violation);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Wake { worker, number } => {
                if self.workers[worker].wakes == number {
                    self.poke(worker);
                }
            }
            Event::Inspect(worker) => self.inspect(worker),
            Event::Load(worker) => self.report_load(worker),
            Event::Plan { worker } => self.plan_arrives(worker),
            Event::Reap(conn) => self.reap(conn),
            Event::Answers(conn) => self.answers(conn),
            Event::Refused(conn) => self.refused(conn),
            Event::Compared { new, side } => self.compared(new, side),
            Event::Sampled { conn, sample } => self.sampled(conn, sample),
            Event::Told(told) => self.tell_control(*told),
            Event::Tick(number) => self.tick(number),
            Event::Committed => self.committed(),
            Event::Start(before) => self.start(Some(before)),
            Event::Send(attempt) => self.send(attempt),
            Event::Execute(attempt) => self.execute(attempt),
            Event::Reply(attempt) => self.reply(attempt),
            Event::Ghost(attempt) => self.haunt(attempt),
            Event::Healed { path, number } => self.path_healed(path, number),
            Event::Flap(path) => self.flap_again(path),
            Event::Strike { path, vm } => {
                if !self.is_calm() {
                    self.strike(path, vm);
                }
            }
            Event::State { vm, instance, state } => self.state_is_told(vm, instance, state),
            Event::Truth { path, number } => self.path_tells_the_truth(path, number),
            Event::UnitBack(unit) => self.unit_back(unit),
            Event::Order { vm, instance, wanted } => self.order(vm, instance, wanted),
            Event::Become { vm, instance, wanted } => self.become_state(vm, instance, wanted),
            Event::Announce(vm) => self.announce(vm),
            Event::Boot { vm, instance } => self.boot(vm, instance),
            Event::Attach { disk } => self.attach(disk),
            Event::Guest(disk) => self.guest(disk),
            Event::Outsider(unit) => self.outsider(unit),
            Event::Trouble => self.trouble(),
            Event::Crash => self.crash_soon(),
            Event::Change => self.change(),
            Event::Look => self.look(),
        }
    }

    /// Once a second: whether the chaos has lasted long enough, and in the calm, what is still missing.
    fn look(&mut self) {
        self.at(Duration::from_secs(1), Event::Look);
        let passed = self.now.since(Instant::from_millis(1000));
        let enough =
            passed >= CHAOS_MIN && self.tally.requests >= REQUESTS_MIN && self.tally.faults() >= FAULTS_MIN;
        match self.weather {
            Weather::Chaos if enough || passed >= CHAOS_MAX => self.calm_down(),
            Weather::Chaos if passed > CHAOS_LULL => self.undo_operators(),
            Weather::Chaos => {}
            Weather::Calm { since } => self.look_after(since),
        }
    }

    /// After what has been repaired, how long something may still take effect.
    pub(super) fn longest_late(&self) -> Duration {
        let lingers = close_mode() == CloseMode::Linger;
        self.scene.longest_quiesce + if lingers { super::wire::LINGER_MAX } else { Duration::ZERO }
    }

    /// All that could come late has come, and everything that was open has ended.
    fn is_over(&self, now: Instant) -> bool {
        let Weather::Calm { since } = self.weather else { return false };
        let late = since + self.longest_late() + Duration::from_secs(2);
        let quiet = now > late && now > Instant::ZERO + VIRTUAL_MIN + Duration::from_secs(1);
        (quiet && self.ledger.open.is_empty() && self.all_run() && self.all_is_decided())
            || now.since(since) > CALM_MAX
    }

    /// Paths and gates are as if nothing had happened.
    fn all_is_decided(&self) -> bool {
        self.control.spec_plan.as_ref().is_some_and(|plan| {
            let paths = plan.paths.iter().all(|p| p.health == Health::Up && p.preferred);
            paths && plan.vms.iter().all(|vm| vm.gate == Gate::Open)
        })
    }

    fn finish(&mut self) {
        if self.violation.is_some() || self.ledger.violation().is_some() {
            return;
        }
        if let Some(stuck) = self.ledger.open.first() {
            let op = format!("op {stuck} is never answered: {:?}", self.ledger.ops[*stuck as usize]);
            self.ledger.violated("lost-request", || op);
        }
        if let Some(controller) = &self.controller {
            let verdict = self.policy.end(self.now, controller);
            self.check(verdict);
        }
        if !self.all_run() {
            let states: Vec<_> = self.processes.iter().map(|p| p.state).collect();
            self.ledger.violated("forgotten", || format!("in the end the VMs are {states:?}"));
        }
        self.ledger.check_final(&self.storage);
        for unit in 0..self.scene.spec.units.len() {
            let survives = self.scene.spec.target(self.scene.spec.units[unit].target).write_cache
                == WriteCache::SurvivesPathLoss;
            let orderly = self
                .scene
                .habits
                .iter()
                .zip(&self.scene.spec.disks)
                .all(|(habit, disk)| disk.unit.index() != unit || habit.orderly);
            if survives && orderly {
                self.tally.registers += 1;
                self.ledger.check_registers(unit);
            }
        }
        let enough = self.tally.requests >= REQUESTS_MIN
            && self.tally.faults() >= FAULTS_MIN
            && self.now.since(Instant::ZERO) >= VIRTUAL_MIN;
        if !enough {
            let text =
                format!("{} s, {} requests, {} faults", self.now, self.tally.requests, self.tally.faults());
            self.ledger.violated("too-little", || text);
        }
    }
}
