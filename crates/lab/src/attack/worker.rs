//! A data-plane worker's loop around its router: what it is told, and its actions performed.
//!
//! It does what the daemon's worker does, with the world's wires instead of sockets. The rules held against it here are those
//! of the moment of a dispatch: gates, the record, the connection that carries data, ranges that are being compared.

use super::identity::Comparison;
use super::ledger::{Attempt, Progress, answers, require};
use super::scene::{BLOCK, Front};
use super::wire::ConnState;
use super::world::{Event, World};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use vmpath_core::event::{Event as Told, Fault, LinkChange, LinkReport};
use vmpath_core::ids::{DiskId, PathId, UnitId, WorkerId};
use vmpath_core::plan::{Gate, RoutePlan};
use vmpath_core::router::{
    Action, ConnectionKey, Durability, Extent, Operation, Origin, Request, Router, Sharing, Slot, Support,
};
use vmpath_core::spec::WriteCache;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;

/// How often loads are reported, by [`World::pace`].
const REPORT_EVERY: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(8)];

/// What is written down, by slot.
pub(super) type Record = BTreeMap<Slot, (UnitId, Extent, Option<Instant>)>;

/// One path's way to one unit.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) path: usize,
    pub(super) unit: usize,
    pub(super) failures: u32,
    pub(super) next_attempt: Instant,
    /// Connections in any state but dead.
    pub(super) conns: u32,
    pub(super) active: u32,
    pub(super) told: Option<Fault>,
}

pub(super) struct Worker {
    pub(super) router: Router,
    pub(super) plan: Arc<RoutePlan>,
    /// On their way, newest last.
    pub(super) plans: VecDeque<Arc<RoutePlan>>,
    pub(super) plan_due: Instant,
    pub(super) links: Vec<Link>,
    /// Connections that are not dead.
    pub(super) live: Vec<u32>,
    /// By connection key.
    pub(super) by_key: Vec<u32>,
    pub(super) link_reports: u64,
    /// Reports arrive in order.
    pub(super) told_until: Instant,
    pub(super) record: Record,
    pub(super) wakes: u64,
    /// By unit.
    pub(super) comparisons: Vec<Option<Comparison>>,
    pub(super) waiting: Vec<VecDeque<u32>>,
    /// By unit: a first connection has said what it is.
    pub(super) known: Vec<bool>,
    pub(super) used_at: Vec<Instant>,
    actions: Vec<Action>,
}

impl Worker {
    pub(super) fn new(plan: Arc<RoutePlan>, id: usize, its_vms: &[usize], now: Instant) -> Self {
        let spec = &plan.spec;
        let mine = |unit: UnitId| spec.disks.iter().any(|d| d.unit == unit && its_vms[d.vm.index()] == id);
        let mut links = Vec::new();
        for unit in spec.unit_ids().filter(|unit| mine(*unit)) {
            for path in spec.paths_of_unit(unit) {
                links.push(Link {
                    path: path.index(),
                    unit: unit.index(),
                    failures: 0,
                    next_attempt: now,
                    conns: 0,
                    active: 0,
                    told: None,
                });
            }
        }
        let units = spec.units.len();
        Self {
            router: Router::new(Arc::clone(&plan), WorkerId::at(id), now),
            plans: VecDeque::new(),
            plan_due: now,
            links,
            live: Vec::new(),
            by_key: Vec::new(),
            link_reports: 0,
            told_until: now,
            record: Record::new(),
            wakes: 0,
            comparisons: (0..units).map(|_| None).collect(),
            waiting: vec![VecDeque::new(); units],
            known: vec![false; units],
            used_at: vec![Instant::ZERO; units],
            actions: Vec::new(),
            plan,
        }
    }
}

impl World {
    /// The worker has been told something: it acts before the next event.
    pub(super) fn poke(&mut self, worker: usize) {
        if !self.poked.contains(&worker) {
            self.poked.push(worker);
        }
    }

    pub(super) fn act_all(&mut self) {
        while let Some(worker) = self.poked.pop() {
            if self.controller.is_some() {
                self.act(worker);
            }
        }
        if self.doomed.is_some() {
            self.die();
        }
    }

    fn act(&mut self, at: usize) {
        loop {
            let now = self.now;
            let worker = &mut self.workers[at];
            let wake = worker.router.poll(now);
            let mut actions = std::mem::take(&mut worker.actions);
            worker.router.take_actions(&mut actions);
            if self.doomed.is_some() && !actions.is_empty() {
                let performed = self.rng.index(actions.len() + 1);
                actions.truncate(performed);
            }
            let idle = actions.is_empty();
            for action in actions.drain(..) {
                self.perform(at, action);
            }
            self.workers[at].actions = actions;
            if idle || self.doomed.is_some() || self.ledger.violation().is_some() {
                let worker = &mut self.workers[at];
                worker.wakes += 1;
                let number = worker.wakes;
                require!(
                    self.ledger,
                    wake > now || self.doomed.is_some(),
                    "wake",
                    "wake at {wake}, it is {now} already"
                );
                if wake < Instant::FAR_FUTURE {
                    self.when(wake, Event::Wake { worker: at, number });
                }
                return;
            }
        }
    }

    fn perform(&mut self, at: usize, action: Action) {
        match action {
            Action::Dispatch { connection, cookie, request } => {
                self.dispatch(at, connection, cookie, request);
            }
            Action::Complete { token, result } => self.complete(at, token, result),
            Action::Remember { slot, unit, range, until } => {
                self.workers[at].record.insert(slot, (unit, range, until));
            }
            Action::Forget { slot } => {
                self.workers[at].record.remove(&slot);
            }
            Action::FailedOver { unit, from, to, after } => {
                self.tally.failovers += 1;
                let change = LinkChange::FailedOver { to, after };
                self.tell_link(at, (from.index(), unit.index()), change);
            }
        }
    }

    fn dispatch(&mut self, at: usize, key: ConnectionKey, cookie: u64, request: Request) {
        let conn = self.workers[at].by_key[key.0 as usize];
        let token = request.token;
        let op = self.ledger.tokens[token as usize].op;
        self.trace.mix(u64::from(op) << 32 | u64::from(conn));
        self.check_dispatch(at, conn, &request);
        let attempt = Attempt {
            op,
            token,
            conn,
            cookie,
            operation: request.operation,
            fua: request.durability == Durability::Stable,
            progress: Progress::Unsent,
            values: [0; super::scene::BLOCKS_PER_REQUEST_MAX],
        };
        let index = self.ledger.dispatched(attempt, self.now);
        let (now, unit) = (self.now, self.conns[conn as usize].unit);
        self.trace.say(now, || {
            format!("op {op} {:?} {:?} over connection {conn}", request.operation, request.extent())
        });
        self.tally.dispatched += 1;
        self.workers[at].used_at[unit] = now;
        self.hand_to_socket(index, u64::from(request.length));
    }

    /// What must hold at the moment of a dispatch.
    fn check_dispatch(&mut self, at: usize, conn: u32, request: &Request) {
        let token = self.ledger.tokens[request.token as usize].clone();
        let op = &self.ledger.ops[token.op as usize];
        let (vm, unit) = (op.vm, op.unit);
        let gate = &self.workers[at].plan.vms[vm].gate;
        let open = match gate {
            Gate::Open => true,
            Gate::Hold(_) => false,
            // What was on its way when the gate came: the flush that follows a write.
            Gate::Bounce(_) | Gate::Fail(..) => token.answered || !answers(gate, unit),
        };
        require!(self.ledger, open, "gate", "op {} of a VM that is held goes", token.op);
        let alive = matches!(self.conns[conn as usize].state, ConnState::Active { .. });
        require!(self.ledger, alive, "dead-first", "op {} goes over connection {conn} that is cut", token.op);
        let conn_unit = self.conns[conn as usize].unit;
        require!(
            self.ledger,
            conn_unit == unit,
            "unit-crossed",
            "op {} of unit {unit} goes to {conn_unit}",
            token.op
        );
        let extent = request.extent();
        if request.operation.changes_data() {
            let held = self.workers[at].comparisons[unit]
                .as_ref()
                .is_some_and(|c| c.ranges.iter().any(|r| r.start < extent.end && extent.start < r.end));
            require!(self.ledger, !held, "identity-hold", "op {} writes what is being compared", token.op);
            let noted =
                |row: &(UnitId, Extent, Option<Instant>)| *row == (UnitId::at(unit), extent.clone(), None);
            let is_noted = self.workers[at].record.values().any(noted);
            require!(self.ledger, is_noted, "record", "op {} leaves and is not in the record", token.op);
        }
        let traits = self.scene.traits[unit];
        let spec = &self.scene.spec;
        let volatile = spec.target(spec.units[unit].target).write_cache == WriteCache::Volatile;
        let must =
            request.operation.changes_data() && (volatile || self.ledger.ops[token.op as usize].stable);
        let asks = request.durability == Durability::Stable || traits.fua == Support::No;
        require!(self.ledger, asks || !must, "durable", "op {} asks for no FUA", token.op);
        if traits.sharing == Sharing::OneConnection {
            let others = self.workers[at].live.iter().map(|c| (*c, &self.conns[*c as usize]));
            let rival =
                others.filter(|(c, _)| *c != conn).find(|(_, c)| c.unit == unit && !c.in_flight.is_empty());
            let rival = rival.map(|(c, _)| c);
            require!(
                self.ledger,
                rival.is_none(),
                "one-connection",
                "connection {conn} carries data while {rival:?} does"
            );
        }
    }

    /// The router's answer to a request.
    fn complete(&mut self, at: usize, token: u32, result: Result<(), TargetError>) {
        let op = self.ledger.tokens[token as usize].op;
        let row = &self.ledger.ops[op as usize];
        let (vm, unit, stable, operation) = (row.vm, row.unit, row.stable, row.operation);
        self.ledger.completed(token, result, &self.workers[at].plan.vms[vm].gate);
        self.trace.mix(u64::from(op) << 1 | u64::from(result.is_ok()));
        self.trace.say(self.now, || format!("op {op} is answered: {result:?}"));
        if self.ledger.tokens[token as usize].abandoned {
            return;
        }
        let traits = self.scene.traits[unit];
        let promised = traits.flush == Support::Yes || traits.fua == Support::Yes;
        let spec = &self.scene.spec;
        let volatile = spec.target(spec.units[unit].target).write_cache == WriteCache::Volatile;
        if result.is_ok() && promised && (volatile || stable || operation == Operation::Flush) {
            self.ledger.check_durable(op, &self.storage);
        }
        self.deliver(op, result);
    }

    /// A guest's request goes to the router of its VM.
    pub(super) fn hand_over(&mut self, op: u32, origin: Origin) {
        let row = &self.ledger.ops[op as usize];
        let (vm, worker) = (row.vm, self.worker_of[row.vm]);
        let (disk, operation, stable) = (row.disk, row.operation, row.stable);
        let (offset, length) = (row.first as u64 * BLOCK, row.count as u64 * BLOCK);
        let token = self.ledger.token(op, origin);
        let request = Request {
            disk: DiskId::at(disk),
            token,
            operation,
            offset,
            length: length as u32,
            durability: if stable { Durability::Stable } else { Durability::Volatile },
            origin,
        };
        self.ledger.excused(vm, &self.workers[worker].plan.vms[vm].gate);
        let key = self.workers[worker].router.submit(request, self.now);
        self.ledger.tokens[token as usize].key = key;
        self.poke(worker);
    }

    pub(super) fn front_of(&self, disk: usize) -> Front {
        self.scene.habits[disk].front
    }

    pub(super) fn plan_arrives(&mut self, at: usize) {
        let worker = &mut self.workers[at];
        // A newer one replaces those that have not been looked at.
        let Some(plan) = worker.plans.pop_front() else { return };
        worker.plan = Arc::clone(&plan);
        worker.router.plan(Arc::clone(&plan));
        for (vm, route) in plan.vms.iter().enumerate() {
            self.ledger.excused(vm, &route.gate);
        }
        self.poke(at);
    }

    pub(super) fn report_load(&mut self, at: usize) {
        let pace = self.pace();
        self.at(REPORT_EVERY[pace], Event::Load(at));
        let now = self.now;
        let worker = &mut self.workers[at];
        let mut load = worker.router.load_report(now);
        load.generation = worker.plan.generation;
        if pace == 0 {
            let view = worker.router.view(now);
            let quarantine = vmpath_core::view::HoldReason::Quarantine;
            let held =
                view.vms.iter().flat_map(|vm| &vm.held_reasons).filter(|(reason, _)| *reason == quarantine);
            self.tally.quarantine_holds += held.map(|(_, count)| u64::from(*count)).sum::<u64>();
        }
        self.poke(at);
        let after = self.rng.micros(20..1000);
        self.at(after, Event::Told(Box::new(Told::Load(load))));
    }

    /// A link report goes to control, behind those before it.
    pub(super) fn tell_link(&mut self, at: usize, (path, unit): (usize, usize), change: LinkChange) {
        let slow = self.rng.percent(5);
        let after = if slow { self.rng.millis(20..300) } else { self.rng.micros(20..2000) };
        let now = self.now;
        let worker = &mut self.workers[at];
        worker.link_reports += 1;
        let due = worker.told_until.max(now + after);
        worker.told_until = due;
        self.trace.say(now, || format!("path {path} unit {unit}: {change:?}"));
        let report = LinkReport {
            worker: WorkerId::at(at),
            path: PathId::at(path),
            unit: UnitId::at(unit),
            at: now,
            change,
        };
        self.when(due, Event::Told(Box::new(Told::Link(report))));
    }
}
