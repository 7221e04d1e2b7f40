//! The virtual clock, the agenda, and the guests. Faults are in [`super::faults`], the way to the target in
//! [`super::wire`].

use super::crash::{Process, Remembered};
use super::driver::{Driver, Mutation};
use super::ledger::{BLOCKS_PER_REQUEST_MAX, Ledger, Rule, Token, Violation, answers, require};
use super::rng::Rng;
use super::scene::{BLOCKS, Scene};
use super::shared::Shared;
use super::storage::{BLOCK, Storage};
use crate::ids::{DiskId, PathId, UnitId};
use crate::plan::RoutePlan;
use crate::router::{Action, Durability, Extent, Operation, Origin, Request, Support, ZeroMode};
use crate::time::{Duration, Instant};
use crate::volume::verdict::TargetError;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How long guests submit and faults happen before each settling.
const CHAOS: Duration = Duration::from_millis(70);
const ROUNDS: usize = 2;
/// Everything must have completed this long after the last fault: the longest chain is a few fences, a few pauses of
/// busy targets and a dozen requests at the lowest limit.
const PATIENCE: Duration = Duration::from_secs(3);
/// More events than this in one run are a loop.
const EVENTS_MAX: u64 = 200_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The time that the router asked for, unless it has asked for another since.
    Wake(u64),
    Submit(usize),
    Send(usize),
    Execute(usize),
    Reply(usize),
    /// A lost attempt takes effect.
    Ghost(usize),
    Trouble,
    /// A frozen link is given up.
    Cut(usize),
    Dead(usize),
    Connect {
        path: usize,
        unit: usize,
    },
    PathUp(usize),
    Well(usize),
    NewPlan,
    Abandon,
    Crash,
    Sample(usize),
    SampleEnds(usize),
    /// What a dead link carried is fenced.
    Confirm(usize),
    Inspect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    Chaos,
    Calm,
}

/// What a run has seen, so that a world in which nothing happens is noticed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) events: u64,
    pub(super) completed: u64,
    pub(super) failed: u64,
    pub(super) lost_writes: u64,
    pub(super) ghosts: u64,
    pub(super) quarantine_holds: u64,
    pub(super) failovers: u64,
    pub(super) fallback_flushes: u64,
    pub(super) samplings: u64,
    pub(super) abandoned_in_flight: u64,
    pub(super) crashes: u64,
    pub(super) restored: u64,
    pub(super) confirmed: u64,
    pub(super) unfenced_holds: u64,
}

impl Tally {
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.completed += other.completed;
        self.failed += other.failed;
        self.lost_writes += other.lost_writes;
        self.ghosts += other.ghosts;
        self.quarantine_holds += other.quarantine_holds;
        self.failovers += other.failovers;
        self.fallback_flushes += other.fallback_flushes;
        self.samplings += other.samplings;
        self.abandoned_in_flight += other.abandoned_in_flight;
        self.crashes += other.crashes;
        self.restored += other.restored;
        self.confirmed += other.confirmed;
        self.unfenced_holds += other.unfenced_holds;
    }
}

/// One direction of a path, and how it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    pub(super) up: bool,
    pub(super) busy_until: Instant,
    /// What its target answers to most of what comes, if it is sick.
    pub(super) sick: Option<TargetError>,
}

/// A comparison of two paths under way.
#[derive(Clone, Debug)]
pub(super) struct Sampling {
    pub(super) ranges: Vec<Extent>,
    /// What the blocks held when writes to them had ceased.
    pub(super) seen: Option<Vec<u32>>,
}

/// Bytes times nanoseconds per second that a VM is ahead of its limits: bytes, then requests.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backlog {
    pub(super) levels: [u128; 2],
    pub(super) at: Instant,
}

pub(super) struct World {
    pub(super) now: Instant,
    agenda: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    agenda_order: u64,
    wakes: u64,
    actions: Vec<Action>,
    pub(super) rng: Rng,
    pub(super) scene: Scene,
    pub(super) plan: RoutePlan,
    pub(super) driver: Driver,
    pub(super) ledger: Ledger,
    pub(super) storage: Storage,
    pub(super) wires: Vec<Wire>,
    /// The link behind each key, by key.
    pub(super) links_by_key: Vec<usize>,
    /// By unit.
    pub(super) samplings: Vec<Option<Sampling>>,
    /// By unit and path: requests lost with a link, none reported as failed over yet.
    pub(super) losses: Vec<Vec<bool>>,
    /// By VM.
    pub(super) backlogs: Vec<Backlog>,
    pub(super) weather: Weather,
    pub(super) tally: Tally,
    pub(super) process: Process,
    pub(super) shared: Shared,
    pub(super) record: Remembered,
}

impl World {
    pub(super) fn new(seed: u64, mutation: Mutation, ignored: &[Rule]) -> Self {
        let mut rng = Rng::new(seed);
        let scene = Scene::new(&mut rng);
        let (units, paths) = (scene.spec.units.len(), scene.spec.paths.len());
        let now = Instant::from_millis(rng.below(100_000));
        let plan = scene.plan(1);
        let wire = Wire { up: true, busy_until: now, sick: None };
        let mut ledger = Ledger::new(units, BLOCKS);
        ledger.ignored = ignored.to_vec();
        ledger.tokens.push(Token::origin(Request {
            disk: DiskId(0),
            token: 0,
            operation: Operation::Write,
            offset: 0,
            length: 0,
            durability: Durability::Stable,
            origin: Origin::New,
        }));
        Self {
            now,
            agenda: BinaryHeap::new(),
            agenda_order: 0,
            wakes: 0,
            actions: Vec::new(),
            driver: Driver::new(plan.clone(), mutation, now),
            ledger,
            storage: Storage::new(units, BLOCKS, scene.spec.targets[0].write_cache),
            wires: vec![wire; paths],
            links_by_key: Vec::new(),
            samplings: vec![None; units],
            losses: vec![vec![false; paths]; units],
            backlogs: vec![Backlog::default(); scene.spec.vms.len()],
            weather: Weather::Calm,
            tally: Tally::default(),
            process: Process::immortal(),
            shared: Shared::default(),
            record: Remembered::new(),
            rng,
            scene,
            plan,
        }
    }

    /// Plays the whole run.
    pub(super) fn run(mut self) -> Result<Tally, Violation> {
        for path in 0..self.wires.len() {
            self.connect_all(path);
        }
        for _ in 0..ROUNDS {
            self.chaos()?;
            self.settle()?;
        }
        self.ledger.check_final(&self.storage);
        self.verdict().map(|()| self.tally)
    }

    fn verdict(&mut self) -> Result<(), Violation> {
        self.ledger.violation.take().map_or(Ok(()), Err)
    }

    pub(super) fn schedule(&mut self, after: Duration, event: Event) {
        self.schedule_at(self.now + after, event);
    }

    pub(super) fn schedule_at(&mut self, at: Instant, event: Event) {
        self.agenda_order += 1;
        self.agenda.push(Reverse((at, self.agenda_order, event)));
    }

    fn chaos(&mut self) -> Result<(), Violation> {
        self.weather = Weather::Chaos;
        for disk in 0..self.scene.spec.disks.len() {
            for _ in 0..self.scene.depth {
                self.again(0..2000, Event::Submit(disk));
            }
            self.again(0..100_000, Event::Sample(disk));
        }
        for event in [Event::Trouble, Event::NewPlan, Event::Abandon, Event::Inspect] {
            self.again(0..10_000, event);
        }
        self.schedule_crash();
        let end = self.now + CHAOS;
        while self.agenda.peek().is_some_and(|Reverse((at, ..))| *at < end) {
            self.step()?;
        }
        Ok(())
    }

    /// No more faults: everything must complete, and everything taken must have been given back.
    fn settle(&mut self) -> Result<(), Violation> {
        self.weather = Weather::Calm;
        self.calm_down();
        let deadline = self.now + PATIENCE;
        self.act();
        while self.agenda.peek().is_some_and(|Reverse((at, ..))| *at < deadline) {
            self.step()?;
        }
        // What is left on the agenda cannot matter any more.
        self.now = deadline;
        self.agenda.clear();
        let open = self.ledger.open.clone();
        let detail = || format!("{} requests hang, one is {:?}", open.len(), open.first());
        let first = open.first().map(|t| format!("{:?}", self.ledger.tokens[*t as usize]));
        require!(self.ledger, open.is_empty(), Rule::Liveness, || format!("{}: {first:?}", detail()));
        self.inspect();
        let view = self.driver.router.view(self.now);
        let quarantined: u32 = view.units.iter().map(|u| u.quarantined_ranges).sum();
        require!(self.ledger, quarantined == 0, Rule::Liveness, || "ranges stay in quarantine".into());
        let left = self.record.len();
        require!(self.ledger, left == 0, Rule::Record, || format!("{left} slots are never forgotten"));
        self.verdict()
    }

    fn step(&mut self) -> Result<(), Violation> {
        let Some(Reverse((at, _, event))) = self.agenda.pop() else { return Ok(()) };
        self.now = at;
        self.tally.events += 1;
        let looping = self.tally.events > EVENTS_MAX;
        require!(self.ledger, !looping, Rule::Liveness, || "events without end".into());
        if self.take_in(event) {
            // The worker writes down that a client has left before it lets the client go.
            let may_die = event != Event::Abandon;
            self.act_mortally(may_die);
        }
        self.verdict()
    }

    /// True if the router has been told something, or asked to be woken: then, and only then, it is polled.
    fn take_in(&mut self, event: Event) -> bool {
        match event {
            Event::Wake(number) => return number == self.wakes,
            Event::Submit(disk) => return self.submit(disk),
            Event::Send(attempt) => self.send(attempt),
            Event::Execute(attempt) => self.execute(attempt),
            Event::Ghost(attempt) => self.haunt(attempt),
            Event::Reply(attempt) => return self.reply(attempt),
            Event::Trouble => return self.trouble(),
            Event::Cut(link) => return self.cut(link),
            Event::Dead(link) => self.bury(link),
            Event::Connect { path, unit } => return self.connect(path, unit),
            Event::PathUp(path) => {
                self.wires[path].up = true;
                self.connect_all(path);
            }
            Event::Well(path) => self.wires[path].sick = None,
            Event::NewPlan => return self.new_plan(),
            Event::Abandon => return self.abandon(),
            Event::Crash => {
                self.process.doom();
                self.schedule_crash();
            }
            Event::Sample(unit) => return self.sample(unit),
            Event::SampleEnds(unit) => return self.end_sample(unit),
            Event::Confirm(link) => return self.confirm(link),
            Event::Inspect => {
                self.inspect();
                self.again(1000..20_000, Event::Inspect);
            }
        }
        matches!(event, Event::Dead(_))
    }

    /// Schedules the next of a kind of event that belongs to the chaos.
    pub(super) fn again(&mut self, micros: std::ops::Range<u64>, event: Event) {
        if self.weather == Weather::Chaos {
            let after = self.rng.micros(micros);
            self.schedule(after, event);
        }
    }

    fn act(&mut self) {
        self.act_mortally(false);
    }

    /// As the worker does: polls and acts until there is nothing to do, or until it dies.
    fn act_mortally(&mut self, may_die: bool) {
        loop {
            let wake = self.driver.poll(self.now);
            let mut actions = std::mem::take(&mut self.actions);
            self.driver.take_actions(&mut actions, &mut self.rng);
            let idle = actions.is_empty();
            if let Some(after) = if may_die { self.process.dies_after(actions.len()) } else { None } {
                self.die(actions, after);
                continue;
            }
            for action in actions.drain(..) {
                self.perform(action);
            }
            self.actions = actions;
            if idle || self.ledger.violation.is_some() {
                let now = self.now;
                require!(self.ledger, wake > now, Rule::Wake, || format!(
                    "wake at {wake}, it is {now} already"
                ));
                self.wakes += 1;
                if wake < Instant::FAR_FUTURE {
                    self.schedule_at(wake, Event::Wake(self.wakes));
                }
                return;
            }
        }
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Dispatch { connection, cookie, request } => self.dispatch(connection, cookie, request),
            Action::Complete { token, result } => self.complete(token, result),
            Action::Remember { slot, unit, range, until } => self.remember(slot, unit, range, until),
            Action::Forget { slot } => self.forget(slot),
            Action::FailedOver { unit, from, to, .. } => {
                let lost = std::mem::take(&mut self.losses[unit.index()][from.index()]);
                require!(self.ledger, lost && from != to, Rule::FailedOver, || {
                    format!("{unit} failed over from {from} to {to} without a loss")
                });
                self.tally.failovers += 1;
            }
        }
    }

    fn complete(&mut self, token: u32, result: Result<(), TargetError>) {
        let (vm, unit) = (self.ledger.tokens[token as usize].vm, self.ledger.tokens[token as usize].unit);
        self.check_told_after_fence(token, result);
        self.ledger.completed(token, result, &self.plan.vms[vm].gate);
        let promised =
            self.scene.traits[unit].flush == Support::Yes || self.scene.traits[unit].fua == Support::Yes;
        if result.is_ok() && promised && !self.ledger.tokens[token as usize].abandoned {
            let volatile = self.scene.spec.targets[0].write_cache == crate::spec::WriteCache::Volatile;
            let request = self.ledger.tokens[token as usize].request;
            if volatile
                || self.ledger.tokens[token as usize].must_be_stable()
                || request.operation == Operation::Flush
            {
                self.ledger.check_durable(token, &self.storage);
            }
        }
        let disk = self.ledger.tokens[token as usize].request.disk.index();
        match result {
            Ok(()) => {
                self.tally.completed += 1;
                self.again(0..self.scene.pause, Event::Submit(disk));
            }
            Err(_) => {
                self.tally.failed += 1;
                self.again(1000..10_000, Event::Submit(disk));
            }
        }
    }

    /// One guest's request. Each disk has `depth` of these events, so at most as many open requests.
    fn submit(&mut self, disk: usize) -> bool {
        if self.weather == Weather::Calm {
            return false;
        }
        let spec = &self.scene.spec.disks[disk];
        let (vm, unit) = (spec.vm.index(), spec.unit.index());
        let can_flush = self.scene.traits[unit].flush == Support::Yes;
        let operation = match self.rng.below(100) {
            0..40 => Operation::Read,
            40..80 => Operation::Write,
            80..86 => Operation::Trim,
            86..92 => Operation::WriteZeroes(ZeroMode::KeepAllocated),
            _ if can_flush => Operation::Flush,
            _ => Operation::Read,
        };
        let count = 1 + self.rng.index(BLOCKS_PER_REQUEST_MAX).min(self.rng.index(BLOCKS_PER_REQUEST_MAX));
        let first = self.rng.index(BLOCKS - count);
        let blocks = if operation == Operation::Flush { 0..0 } else { first..first + count };
        let stable = can_flush && operation.changes_data() && self.rng.percent(25);
        let token = u32::try_from(self.ledger.tokens.len()).expect("few requests");
        let request = Request {
            disk: DiskId::at(disk),
            token,
            operation,
            offset: blocks.start as u64 * BLOCK,
            length: u32::try_from(blocks.len() as u64 * BLOCK).expect("a few blocks"),
            durability: if stable { Durability::Stable } else { Durability::Volatile },
            origin: Origin::New,
        };
        self.storage.enroll(blocks.start);
        self.ledger.submitted(Token::new(request, (vm, unit), blocks));
        self.ledger.tokens[token as usize].may_be_late = self.is_shared(token);
        self.ledger.tokens[token as usize].key = self.driver.submit(request, self.now);
        true
    }

    /// The router's own account against the ledger's.
    pub(super) fn inspect(&mut self) {
        let view = self.driver.router.view(self.now);
        for (path, row) in view.paths.iter().enumerate() {
            let links = self.ledger.links.iter();
            let live = links.filter(|l| l.path == path && l.state != super::ledger::LinkState::Dead);
            let (requests, links) = live.fold((0, 0), |(r, n), l| (r + l.in_flight.len(), n + 1));
            let (pending, shown) = (row.pending_requests as usize, row.connections as usize);
            let agree = (pending, shown) == (requests, links) && (pending > 0 || row.pending_bytes == 0);
            require!(self.ledger, agree, Rule::Counters, || {
                format!("path {path} shows {pending} on {shown}, there are {requests} on {links}")
            });
        }
        for (vm, row) in view.vms.iter().enumerate() {
            let open =
                self.ledger.open.iter().map(|t| &self.ledger.tokens[*t as usize]).filter(|t| t.vm == vm);
            let (flying, held): (Vec<_>, Vec<_>) = open.partition(|t| t.attempt.is_some());
            let agree = (row.in_flight as usize, row.held as usize) == (flying.len(), held.len());
            let reasons: u32 = row.held_reasons.iter().map(|(_, count)| *count).sum();
            let is_late = |t: &&Token| t.may_be_late && t.request.operation.changes_data();
            let gate = &self.plan.vms[vm].gate;
            let waits = held.iter().any(|t| answers(gate, t.unit) && !t.answered && !is_late(t));
            let text = format!("vm {vm} shows {row:?}, there are {} and {}", flying.len(), held.len());
            require!(self.ledger, agree && reasons == row.held, Rule::Counters, || text);
            require!(self.ledger, !waits, Rule::Gate, || format!("vm {vm} keeps what it should answer"));
            for (reason, count) in &row.held_reasons {
                if *reason == crate::view::HoldReason::Quarantine {
                    self.tally.quarantine_holds += u64::from(*count);
                }
                if *reason == crate::view::HoldReason::Acknowledgement {
                    self.tally.unfenced_holds += u64::from(*count);
                }
            }
        }
    }

    pub(super) fn connect_all(&mut self, path: usize) {
        for unit in 0..self.scene.spec.units.len() {
            for _ in 0..self.scene.connections {
                let after = self.rng.micros(100..5000);
                self.schedule(after, Event::Connect { path, unit });
            }
        }
    }

    fn connect(&mut self, path: usize, unit: usize) -> bool {
        let live = self
            .ledger
            .links
            .iter()
            .filter(|l| (l.path, l.unit) == (path, unit) && l.state != super::ledger::LinkState::Dead);
        if !self.wires[path].up || live.count() >= self.scene.connections {
            return false;
        }
        let key = self.driver.connection_up(PathId::at(path), UnitId::at(unit), self.scene.traits[unit]);
        let at = key.0 as usize;
        if self.links_by_key.len() <= at {
            self.links_by_key.resize(at + 1, usize::MAX);
        }
        self.links_by_key[at] = self.ledger.links.len();
        self.ledger.links.push(super::ledger::Link {
            key,
            path,
            unit,
            state: super::ledger::LinkState::Open,
            frozen: false,
            in_flight: Vec::new(),
        });
        true
    }
}
