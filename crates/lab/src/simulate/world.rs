//! The loop around one router: guests, links and the array as events on a virtual clock.
//!
//! The router is polled as a worker polls it: what happened within `TURN` is told together, then it decides. Paths are
//! lost as a reset shows them: links close within a millisecond, are reaped within a few, and the plan that knows of it
//! comes later. Invariant: a run depends on the scene alone; the only clock that is read measures what the router costs.
//! Rejected: one poll for each happening; no worker does that, and a poll that is never late hides what waking up costs.
//! It does not know: what is good or bad.

use super::ledger::{Ledger, Phase};
use super::links::{LinkState, Links};
use super::path::Path;
use super::scene::{Load, Scene, Tier};
use crate::workload::mix::Dice;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Instant as Clock;
use vmpath_core::ids::{DiskId, PathId, UnitId, WorkerId};
use vmpath_core::plan::{Gate, Health, PathRoute, RoutePlan, VmRoute};
use vmpath_core::router::{
    Action, ConnectionKey, Durability, Fence, Loss, Operation, Origin, Request, Router, Sharing, Support,
    Traits,
};
use vmpath_core::spec::{Access, Spec};
use vmpath_core::spread::Parts;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::HoldReason;
use vmpath_core::volume::verdict::TargetError;

/// How long a turn of the worker's loop is.
const TURN: Duration = Duration::from_micros(50);
/// From an answer to the guest's next request.
const THINK: Duration = Duration::from_micros(30);
/// Within this all links of a lost path are seen to be.
const SEEN_WITHIN: Duration = Duration::from_millis(1);
/// Within this after that they are reaped.
const REAPED_WITHIN: Duration = Duration::from_millis(2);
/// From a link report to the plan that knows of it.
const PLANNED_AFTER: Duration = Duration::from_millis(5);
/// How often it is looked who is held and why.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// After the load has ended everything must be answered within this: longer than any quarantine.
const DRAIN_MAX: Duration = Duration::from_secs(30);
const TRAITS: Traits = Traits { sharing: Sharing::ManyConnections, fua: Support::Yes, flush: Support::Yes };

/// What stands between the world and the router, to show that the checkers can fail.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tamper {
    /// Changes what the router is told; the checkers go by the scene.
    pub(super) plan: fn(&mut RoutePlan),
    /// How often an action is performed. The number grows with each completion.
    pub(super) action: fn(u64, &Action) -> u32,
}

impl Tamper {
    pub(super) const NONE: Self = Self { plan: |_| {}, action: |_, _| 1 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Ask {
        vm: usize,
    },
    Reply {
        path: usize,
        epoch: u32,
        connection: ConnectionKey,
        cookie: u64,
    },
    Lose,
    See {
        vm: usize,
        path: usize,
    },
    Reap {
        vm: usize,
        path: usize,
    },
    Repair,
    Publish,
    Look,
    /// The router's own.
    Wake,
}

/// Held requests seen, summed over the looks, by tier and reason.
pub(super) type HeldSums = Vec<(Tier, HoldReason, u64)>;

/// What the router has cost.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    pub(super) router: Duration,
    pub(super) whole: Duration,
}

#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) scene: Scene,
    pub(super) spec: Arc<Spec>,
    pub(super) ledger: Ledger,
    /// For each phase: how often it was looked, and what was seen.
    pub(super) held: Vec<(u64, HeldSums)>,
    pub(super) speed: Speed,
}

pub(super) struct World {
    scene: Scene,
    spec: Arc<Spec>,
    router: Router,
    tamper: Tamper,
    now: Instant,
    heap: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    events: u64,
    dice: Dice,
    ledger: Ledger,
    links: Links,
    array: Vec<Path>,
    /// By path: attempts that the router has in flight, and since when there are none though somebody waits.
    busy: Vec<(u32, Option<Instant>)>,
    /// The next block of each VM's disk: no request overlaps another.
    next_block: Vec<u64>,
    plan: RoutePlan,
    publish_due: bool,
    /// When the heap has a wake-up of the router.
    wake_at: Instant,
    completions: u64,
    held: Vec<(u64, HeldSums)>,
    actions: Vec<Action>,
    spent: Duration,
}

/// The parts of the run that are judged. What is left out: the first second, in which windows and estimates find their
/// level, and 200 ms after each change.
fn phases(scene: &Scene) -> Vec<Phase> {
    let settle = Duration::from_millis(200);
    let whole = scene.paths;
    let left = scene.paths - scene.lose;
    let (lost, end) = (scene.lost_at(), scene.ends_at());
    let repaired = scene.repaired_at();
    let before = Phase { name: "before", from: Instant::from_millis(1000), until: lost, paths: whole };
    let after = Phase { name: "after", from: lost + settle, until: repaired.unwrap_or(end), paths: left };
    let back = repaired.map(|at| Phase { name: "repaired", from: at + settle, until: end, paths: whole });
    [Some(before), Some(after), back].into_iter().flatten().collect()
}

impl World {
    pub(super) fn new(scene: &Scene, tamper: Tamper) -> anyhow::Result<Self> {
        let spec = Arc::new(scene.spec()?);
        let guests = scene.guests();
        let phases = phases(scene);
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        let plan = RoutePlan {
            parts: Parts::default(),
            generation: 0,
            spec: Arc::clone(&spec),
            link_reports: vec![0],
            paths: vec![route; scene.paths],
            vms: vec![VmRoute { gate: Gate::Open }; scene.vms],
        };
        let now = Instant::ZERO;
        let told = tampered(&plan, tamper);
        let mut world = Self {
            router: Router::new(Arc::new(told), WorkerId(0), now),
            tamper,
            now,
            heap: BinaryHeap::new(),
            events: 0,
            dice: Dice::new(scene.seed),
            held: vec![(0, Vec::new()); phases.len()],
            ledger: Ledger::new(guests, &spec, phases),
            links: Links::new(scene.vms, scene.paths),
            array: vec![Path::new(scene.capacity); scene.paths],
            busy: vec![(0, None); scene.paths],
            next_block: vec![0; scene.vms],
            plan,
            publish_due: false,
            wake_at: Instant::FAR_FUTURE,
            completions: 0,
            actions: Vec::new(),
            spent: Duration::ZERO,
            scene: scene.clone(),
            spec,
        };
        world.set_up();
        Ok(world)
    }

    fn set_up(&mut self) {
        for path in 0..self.scene.paths {
            self.connect(path);
        }
        self.at(self.scene.lost_at(), Event::Lose);
        if let Some(at) = self.scene.repaired_at() {
            self.at(at, Event::Repair);
        }
        self.at(self.now + LOOK_EVERY, Event::Look);
        for vm in 0..self.scene.vms {
            let first = match self.ledger.guest(vm).load {
                Load::Paced { .. } => 1,
                Load::Closed { depth } => depth,
            };
            for _ in 0..first {
                let after = self.some(Duration::from_millis(20));
                self.at(self.now + after, Event::Ask { vm });
            }
        }
    }

    fn connect(&mut self, path: usize) {
        for vm in 0..self.scene.vms {
            let key = self.router.connection_up(PathId::at(path), UnitId::at(vm), TRAITS);
            self.links.up(vm, path, key);
        }
    }

    /// At random, up to `most`.
    fn some(&mut self, most: Duration) -> Duration {
        Duration::from_nanos(self.dice.below(most.as_nanos() as u64))
    }

    fn at(&mut self, at: Instant, event: Event) {
        self.events += 1;
        self.heap.push(Reverse((at, self.events, event)));
    }

    /// Runs to the end; `progress` is told each second of virtual time, with the requests completed.
    pub(super) fn run(mut self, mut progress: impl FnMut(Instant, u64)) -> Outcome {
        let began = Clock::now();
        let mut told = Instant::ZERO;
        let end = self.scene.ends_at();
        let mut closed = false;
        while let Some(at) = self.next_turn() {
            if at >= end && !closed {
                self.ledger.close(end);
                closed = true;
            }
            if (closed && self.ledger.open() == 0) || at > end + DRAIN_MAX {
                break;
            }
            self.now = at;
            self.turn();
            if self.now.since(told) >= Duration::from_secs(1) {
                told += Duration::from_secs(1);
                progress(told, self.ledger.completed);
            }
        }
        if !closed {
            self.ledger.close(end);
        }
        self.ledger.drained(self.now);
        Outcome {
            scene: self.scene,
            spec: self.spec,
            ledger: self.ledger,
            held: self.held,
            speed: Speed { router: self.spent, whole: began.elapsed() },
        }
    }

    /// The end of the turn in which the next event happens.
    fn next_turn(&self) -> Option<Instant> {
        let Reverse((at, _, _)) = self.heap.peek()?;
        let turn = TURN.as_nanos() as u64;
        Some(Instant::from_nanos(at.as_nanos().div_ceil(turn) * turn))
    }

    fn turn(&mut self) {
        while let Some(Reverse((at, _, event))) = self.heap.peek().copied() {
            if at > self.now {
                break;
            }
            self.heap.pop();
            self.happen(at, event);
        }
        let mut actions = std::mem::take(&mut self.actions);
        let wake = self.timed(|router, now| {
            let wake = router.poll(now);
            router.take_actions(&mut actions);
            wake
        });
        for action in actions.drain(..) {
            self.perform(&action);
        }
        self.actions = actions;
        if wake < self.wake_at && wake > self.now {
            self.wake_at = wake;
            self.at(wake, Event::Wake);
        }
        self.look_at_idle_paths();
    }

    fn timed<T>(&mut self, act: impl FnOnce(&mut Router, Instant) -> T) -> T {
        let began = Clock::now();
        let result = act(&mut self.router, self.now);
        self.spent += began.elapsed();
        result
    }

    fn happen(&mut self, at: Instant, event: Event) {
        match event {
            Event::Ask { vm } => self.ask(vm),
            Event::Reply { path, epoch, connection, cookie } => {
                if self.links.epoch(path) == epoch {
                    self.reply(path, connection, cookie);
                }
            }
            Event::Lose => self.lose(at),
            Event::See { vm, path } => self.see(vm, path),
            Event::Reap { vm, path } => self.reap(vm, path),
            Event::Repair => self.repair(),
            Event::Publish => self.publish(),
            Event::Look => self.look(),
            Event::Wake => self.wake_at = Instant::FAR_FUTURE,
        }
    }

    fn ask(&mut self, vm: usize) {
        if self.now >= self.scene.ends_at() {
            return;
        }
        let token = self.ledger.submitted(vm, self.now);
        let guest = self.ledger.guest(vm);
        let (length, load) = (guest.size, guest.load);
        let offset = self.next_block[vm];
        self.next_block[vm] += u64::from(length);
        let operation = if self.dice.percent(50) { Operation::Read } else { Operation::Write };
        let disk = DiskId::at(vm);
        let durability = Durability::Volatile;
        let request = Request { disk, token, operation, offset, length, durability, origin: Origin::New };
        self.timed(|router, now| router.submit(request, now));
        if let Load::Paced { pause } = load {
            let after = self.some(pause * 2);
            self.at(self.now + after, Event::Ask { vm });
        }
    }

    fn reply(&mut self, path: usize, connection: ConnectionKey, cookie: u64) {
        self.busy[path].0 -= 1;
        let known = self.timed(|router, now| router.reply(connection, cookie, Ok(()), now));
        if known.is_err() {
            let now = self.now;
            self.ledger.stray(|| format!("{now}: path {path} answered what the router does not know"));
        }
    }

    /// The array lets go of the first paths: nothing is answered from now on.
    fn lose(&mut self, at: Instant) {
        for path in 0..self.scene.lose {
            self.array[path].lose(at);
            self.links.lose(path);
            for vm in 0..self.scene.vms {
                let seen = self.now + self.some(SEEN_WITHIN);
                self.at(seen, Event::See { vm, path });
            }
        }
    }

    fn see(&mut self, vm: usize, path: usize) {
        if let Some(key) = self.links.closing(vm, path) {
            self.timed(|router, _| router.connection_closing(key));
            let reaped = self.now + self.some(REAPED_WITHIN);
            self.at(reaped, Event::Reap { vm, path });
        }
    }

    fn reap(&mut self, vm: usize, path: usize) {
        let Some((key, carried)) = self.links.dead(vm, path) else { return };
        // A tampered run may have lost count; the ledger judges.
        self.busy[path].0 = self.busy[path].0.saturating_sub(carried.len() as u32);
        for token in carried {
            self.ledger.lost(token, self.now);
        }
        self.plan.link_reports[0] += 1;
        let report = self.plan.link_reports[0];
        self.timed(|router, now| {
            router.connection_dead(key, &[], Loss::OfLink { report }, Fence::QuiesceBound, now)
        });
        if !std::mem::replace(&mut self.publish_due, true) {
            self.at(self.now + PLANNED_AFTER, Event::Publish);
        }
    }

    fn repair(&mut self) {
        for path in 0..self.scene.lose {
            self.connect(path);
        }
        self.publish();
    }

    fn publish(&mut self) {
        self.publish_due = false;
        self.plan.generation += 1;
        for (path, route) in self.plan.paths.iter_mut().enumerate() {
            route.health = if self.links.is_up(path) { Health::Up } else { Health::Down };
        }
        let told = Arc::new(tampered(&self.plan, self.tamper));
        self.timed(|router, _| router.plan(told));
    }

    fn perform(&mut self, action: &Action) {
        if matches!(action, Action::Complete { .. }) {
            self.completions += 1;
        }
        for _ in 0..(self.tamper.action)(self.completions, action) {
            match action {
                Action::Dispatch { connection, cookie, request } => {
                    self.dispatch(*connection, *cookie, request.token);
                }
                Action::Complete { token, result } => self.complete(*token, *result),
                Action::Remember { .. } | Action::Forget { .. } | Action::FailedOver { .. } => {}
            }
        }
    }

    fn complete(&mut self, token: u32, result: Result<(), TargetError>) {
        let Some(vm) = self.ledger.answered(token, result, self.now) else { return };
        self.links.landed(token);
        if matches!(self.ledger.guest(vm).load, Load::Closed { .. }) {
            let after = self.some(THINK);
            self.at(self.now + after, Event::Ask { vm });
        }
    }

    fn dispatch(&mut self, connection: ConnectionKey, cookie: u64, token: u32) {
        let now = self.now;
        let Some(bytes) = self.ledger.sent(token, now) else { return };
        let (vm, path) = self.links.owner(connection);
        let state = self.links.flies(token, (vm, path));
        self.busy[path].0 += 1;
        let avoided = self.spec.vms[vm].avoid_paths.contains(&PathId::at(path));
        if avoided || state != LinkState::Up {
            self.ledger
                .stray(|| format!("{now}: VM {vm} sent over path {path}: {state:?}, avoided {avoided}"));
        }
        // A path that is lost and not seen to be takes it, and answers nothing.
        if !self.links.is_lost(path) {
            let done = self.array[path].serve(now, bytes, &mut self.dice);
            let epoch = self.links.epoch(path);
            self.at(done, Event::Reply { path, epoch, connection, cookie });
        }
    }

    /// Work conservation, after the router has decided: a live path with nothing in flight, and somebody who waits.
    fn look_at_idle_paths(&mut self) {
        let somebody_waits = self.ledger.somebody_waits();
        for path in 0..self.busy.len() {
            let (in_flight, since) = self.busy[path];
            let idles = in_flight == 0 && somebody_waits && self.links.is_up(path);
            match (idles, since) {
                (true, None) => self.busy[path].1 = Some(self.now),
                (true, Some(since)) => self.ledger.idled(since, self.now),
                (false, Some(since)) => {
                    self.ledger.idled(since, self.now);
                    self.busy[path].1 = None;
                }
                (false, None) => {}
            }
        }
    }

    fn look(&mut self) {
        let now = self.now;
        if now >= self.scene.ends_at() {
            return;
        }
        self.at(now + LOOK_EVERY, Event::Look);
        let phase = self.ledger.phases.iter().position(|(phase, _)| phase.from <= now && now < phase.until);
        let Some(phase) = phase else { return };
        let view = self.router.view(now);
        let (looks, sums) = &mut self.held[phase];
        *looks += 1;
        for (vm, row) in view.vms.iter().enumerate() {
            let tier = self.ledger.guest(vm).tier;
            for (reason, count) in &row.held_reasons {
                match sums.iter_mut().find(|(t, r, _)| (*t, *r) == (tier, *reason)) {
                    Some((_, _, sum)) => *sum += u64::from(*count),
                    None => sums.push((tier, *reason, u64::from(*count))),
                }
            }
        }
    }
}

fn tampered(plan: &RoutePlan, tamper: Tamper) -> RoutePlan {
    let mut told = plan.clone();
    (tamper.plan)(&mut told);
    told
}
