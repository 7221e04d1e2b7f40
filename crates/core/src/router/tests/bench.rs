//! One router on a table: happenings in, actions out as short words.
//!
//! `3w@b` is token 3's write sent over path b (`r` a read, `f` a flush, `W` a write with FUA); `3` is its completion,
//! `3:Io` its failure.

use crate::ids::{DiskId, PathId, UnitId, VmId, WorkerId};
use crate::plan::{Failing, Gate, GateReason, Health, PathRoute, RoutePlan, VmRoute};
use crate::router::{
    Action, ConnectionKey, Durability, Fence, FenceKey, Loss, Operation, Origin, Request, RequestKey, Router,
    Sharing, Support, Traits,
};
use crate::spec::{Access, Spec, VmSpec};
use crate::time::{Duration, Instant};
use crate::view::{HoldReason, WorkerView};
use crate::volume::verdict::TargetError;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const A: PathId = PathId(0);
pub(super) const B: PathId = PathId(1);
/// The quiesce bound of [`crate::testing::target`].
pub(super) const SAFE: Duration = Duration::from_secs(5);
pub(super) const TRAITS: Traits =
    Traits { sharing: Sharing::ManyConnections, fua: Support::Yes, flush: Support::Yes };

pub(super) fn reason() -> GateReason {
    GateReason { incident: None, text: "a test".into() }
}

/// The requests of these units are answered with errors.
pub(super) fn failing(cut_off: &[UnitId]) -> Gate {
    Gate::Fail(reason(), Failing { cut_off: cut_off.to_vec(), refused: vec![] })
}

/// What their targets refuse is passed on.
pub(super) fn passing(refused: &[UnitId]) -> Gate {
    Gate::Fail(reason(), Failing { cut_off: vec![], refused: refused.to_vec() })
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) connection: ConnectionKey,
    pub(super) cookie: u64,
    pub(super) request: Request,
}

pub(super) struct Bench {
    pub(super) router: Router,
    pub(super) now: Instant,
    plan: RoutePlan,
    wake: Instant,
    keys: BTreeMap<u32, RequestKey>,
    /// Live ones, oldest first; all of unit 0.
    connections: Vec<(ConnectionKey, PathId)>,
    /// Units besides the first that have connections.
    connected: Vec<UnitId>,
    /// By key, whether live or not.
    paths: BTreeMap<ConnectionKey, PathId>,
    in_flight: BTreeMap<u32, Sent>,
    sent: Vec<Sent>,
    words: Vec<String>,
    done: Vec<String>,
    failovers: Vec<(PathId, PathId)>,
    /// What is written down, by slot: the blocks from and to, and until when.
    record: BTreeMap<u32, (u64, u64, Option<Instant>)>,
    /// What connections that die from now on are fenced by, and what the last of them left.
    pub(super) fence: Fence,
    pub(super) left: Option<FenceKey>,
}

impl Bench {
    pub(super) fn new(paths: usize, vms: Vec<VmSpec>) -> Self {
        Self::with(paths, vms, |_| {})
    }

    /// A spec that `change` has been at. Connections are for the first VM's unit, `submit_for` connects its own.
    pub(super) fn with(paths: usize, vms: Vec<VmSpec>, change: impl FnOnce(&mut Spec)) -> Self {
        let mut spec = crate::testing::spec(paths, vms);
        change(&mut spec);
        let now = Instant::from_millis(10_000);
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        let plan = RoutePlan {
            generation: 1,
            link_reports: vec![],
            paths: vec![route; spec.paths.len()],
            vms: vec![VmRoute { gate: Gate::Open }; spec.vms.len()],
            parts: crate::spread::Parts::default(),
            spec: Arc::new(spec),
        };
        Self {
            router: Router::new(Arc::new(plan.clone()), WorkerId(0), now),
            now,
            plan,
            wake: Instant::FAR_FUTURE,
            keys: BTreeMap::new(),
            connections: Vec::new(),
            connected: Vec::new(),
            paths: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            sent: Vec::new(),
            words: Vec::new(),
            done: Vec::new(),
            failovers: Vec::new(),
            record: BTreeMap::new(),
            fence: Fence::QuiesceBound,
            left: None,
        }
    }

    pub(super) fn up(&mut self, path: PathId) {
        self.up_with(path, TRAITS);
    }

    pub(super) fn up_with(&mut self, path: PathId, traits: Traits) {
        let key = self.router.connection_up(path, UnitId(0), traits);
        self.connections.push((key, path));
        self.paths.insert(key, path);
        self.act();
    }

    pub(super) fn closing(&mut self, path: PathId) {
        for (key, _) in self.connections.iter().filter(|(_, p)| *p == path) {
            self.router.connection_closing(*key);
        }
        self.act();
    }

    /// All connections of the path are dead; `unsent` names tokens.
    pub(super) fn dead(&mut self, path: PathId, unsent: &[u32]) {
        self.lost(path, unsent, Loss::OfConnection);
    }

    pub(super) fn lost(&mut self, path: PathId, unsent: &[u32], loss: Loss) {
        let unsent: Vec<u64> = unsent.iter().map(|t| self.in_flight[t].cookie).collect();
        for (key, _) in self.connections.iter().filter(|(_, p)| *p == path) {
            self.left = self.router.connection_dead(*key, &unsent, loss, self.fence, self.now);
        }
        self.connections.retain(|(_, p)| *p != path);
        self.act();
    }

    /// The path's first connection is dead; it has others.
    pub(super) fn first_dead(&mut self, path: PathId) {
        let at = self.connections.iter().position(|(_, p)| *p == path).expect("a connection");
        let (key, _) = self.connections.remove(at);
        self.left = self.router.connection_dead(key, &[], Loss::OfConnection, self.fence, self.now);
        self.act();
    }

    pub(super) fn replan(&mut self, change: impl FnOnce(&mut RoutePlan)) {
        change(&mut self.plan);
        self.plan.generation += 1;
        self.router.plan(Arc::new(self.plan.clone()));
        self.act();
    }

    pub(super) fn read(&mut self, token: u32, block: u64) {
        self.submit(token, Operation::Read, (block, 1));
    }

    pub(super) fn write(&mut self, token: u32, block: u64) {
        self.submit(token, Operation::Write, (block, 1));
    }

    pub(super) fn stable_write(&mut self, token: u32, block: u64) {
        let request = self.request(token, Operation::Write, (block, 1));
        self.ask(Request { durability: Durability::Stable, ..request });
    }

    /// Of the first disk; blocks of 4 KiB from one, and how many.
    pub(super) fn submit(&mut self, token: u32, operation: Operation, blocks: (u64, u64)) {
        let request = self.request(token, operation, blocks);
        self.ask(request);
    }

    /// A read of a VM's only disk, which is connected by every path that the first is, at the first need.
    pub(super) fn submit_for(&mut self, vm: usize, token: u32, blocks: (u64, u64)) {
        let unit = UnitId::at(vm);
        if vm > 0 && !self.connected.contains(&unit) {
            self.connected.push(unit);
            for (_, path) in &self.connections {
                let key = self.router.connection_up(*path, unit, TRAITS);
                self.paths.insert(key, *path);
            }
        }
        self.submit_on(DiskId::at(vm), token, blocks);
    }

    pub(super) fn submit_on(&mut self, disk: DiskId, token: u32, blocks: (u64, u64)) {
        let request = self.request(token, Operation::Read, blocks);
        self.ask(Request { disk, ..request });
    }

    fn request(&self, token: u32, operation: Operation, blocks: (u64, u64)) -> Request {
        let (offset, length) = (blocks.0 * 4096, u32::try_from(blocks.1 * 4096).unwrap());
        Request {
            disk: DiskId(0),
            token,
            operation,
            offset,
            length,
            durability: Durability::Volatile,
            origin: Origin::New,
        }
    }

    fn ask(&mut self, request: Request) {
        self.keys.insert(request.token, self.router.submit(request, self.now));
        self.act();
    }

    pub(super) fn answer(&mut self, token: u32, result: Result<(), TargetError>) {
        self.answer_all(&[(token, result)]);
    }

    /// Answers that the worker takes in before it polls.
    pub(super) fn answer_all(&mut self, answers: &[(u32, Result<(), TargetError>)]) {
        for (token, result) in answers {
            let sent = self.in_flight.remove(token).expect("in flight");
            self.router.reply(sent.connection, sent.cookie, *result, self.now).expect("in flight");
        }
        self.act();
    }

    /// Whoever carried it gives it up with EIO.
    pub(super) fn give_up(&mut self, token: u32) {
        let sent = self.in_flight.remove(&token).expect("in flight");
        let (on, error) = (sent.connection, TargetError::Io);
        self.router.given_up(on, sent.cookie, error, self.fence, self.now).expect("in flight");
        self.act();
    }

    pub(super) fn abandon(&mut self, token: u32) {
        self.router.abandon(self.keys[&token], token);
        self.act();
    }

    /// Time passes, and the worker polls.
    pub(super) fn pass(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
        self.act();
    }

    /// Time passes up to when the router asked to be woken: so long.
    pub(super) fn wake_after(&mut self, millis: u64) {
        assert_eq!(self.wake.since(self.now), Duration::from_millis(millis));
        self.pass(millis);
    }

    pub(super) fn act(&mut self) {
        self.wake = self.router.poll(self.now);
        let mut actions = Vec::new();
        self.router.take_actions(&mut actions);
        for action in actions {
            match action {
                Action::Dispatch { connection, cookie, request } => {
                    self.check_remembered(&request);
                    let sent = Sent { connection, cookie, request };
                    self.in_flight.insert(request.token, sent);
                    self.words.push(self.word(&sent));
                    self.sent.push(sent);
                }
                Action::Complete { token, result: Ok(()) } => self.done.push(token.to_string()),
                Action::Complete { token, result: Err(error) } => {
                    self.done.push(format!("{token}:{error:?}"));
                }
                Action::FailedOver { from, to, .. } => self.failovers.push((from, to)),
                Action::Remember { slot, range, until, .. } => {
                    self.record.insert(slot, (range.start / 4096, range.end / 4096, until));
                }
                Action::Forget { slot } => drop(self.record.remove(&slot).expect("it was remembered")),
            }
        }
    }

    /// A write is in the record, as open, before it leaves.
    fn check_remembered(&self, request: &Request) {
        let blocks = (request.offset / 4096, request.extent().end / 4096);
        let open = |row: &(u64, u64, Option<Instant>)| (row.0, row.1) == blocks && row.2.is_none();
        let is_there = self.record.values().any(open);
        assert!(is_there || !request.operation.changes_data(), "{request:?} is not in {:?}", self.record);
    }

    /// What is written down: `0..1` is open, `0..1<5000` a ghost for so many milliseconds, `0..1<` one until its answer.
    pub(super) fn record(&self) -> String {
        let word = |(from, to, until): &(u64, u64, Option<Instant>)| match until {
            None => format!("{from}..{to}"),
            Some(Instant::FAR_FUTURE) => format!("{from}..{to}<"),
            Some(until) => format!("{from}..{to}<{}", until.since(self.now).as_millis()),
        };
        self.record.values().map(word).collect::<Vec<_>>().join(" ")
    }

    /// The process dies and another takes its place, with the same record and without connections; what it is given
    /// back is said in the router's place.
    pub(super) fn crash(&mut self) {
        self.router = Router::new(Arc::new(self.plan.clone()), WorkerId(0), self.now);
        for (_, (from, to, until)) in std::mem::take(&mut self.record) {
            self.router.restore(UnitId(0), from * 4096..to * 4096, until, self.now);
        }
        self.begin_again();
    }

    /// The same, but the kernel still has what the dead process sent; the fences that wait for that.
    pub(super) fn crash_with_undead(&mut self) -> Vec<FenceKey> {
        self.router = Router::new(Arc::new(self.plan.clone()), WorkerId(0), self.now);
        let mut kept = Vec::new();
        for (_, (from, to, until)) in std::mem::take(&mut self.record) {
            kept.extend(self.router.restore_undead(UnitId(0), from * 4096..to * 4096, until, self.now));
        }
        self.begin_again();
        kept
    }

    fn begin_again(&mut self) {
        self.connections.clear();
        self.connected.clear();
        self.in_flight.clear();
        self.act();
    }

    pub(super) fn replay(&mut self, token: u32, operation: Operation, blocks: (u64, u64)) {
        let request = self.request(token, operation, blocks);
        self.ask(Request { origin: Origin::Replayed, ..request });
    }

    fn word(&self, sent: &Sent) -> String {
        let operation = match (sent.request.operation, sent.request.durability) {
            (Operation::Read, _) => 'r',
            (Operation::Flush, Durability::Volatile) => 'f',
            (Operation::Flush, Durability::Stable) => 'F',
            (_, Durability::Stable) => 'W',
            (_, Durability::Volatile) => 'w',
        };
        let path = self.plan.spec.path(self.path_of(sent)).name.as_str();
        format!("{}{operation}@{path}", sent.request.token)
    }

    pub(super) fn path_of(&self, sent: &Sent) -> PathId {
        self.paths[&sent.connection]
    }

    /// What has been sent since the last look.
    pub(super) fn sent(&mut self) -> String {
        self.sent.clear();
        std::mem::take(&mut self.words).join(" ")
    }

    pub(super) fn drain(&mut self) -> Vec<Sent> {
        self.words.clear();
        std::mem::take(&mut self.sent)
    }

    pub(super) fn done(&mut self) -> String {
        std::mem::take(&mut self.done).join(" ")
    }

    pub(super) fn failovers(&mut self) -> Vec<(PathId, PathId)> {
        std::mem::take(&mut self.failovers)
    }

    pub(super) fn view(&self) -> WorkerView {
        self.router.view(self.now)
    }

    pub(super) fn held(&self) -> Vec<(HoldReason, u32)> {
        self.view().vms[VmId(0).index()].held_reasons.clone()
    }

    /// What is known of each open request, by token.
    pub(super) fn fates(&self) -> String {
        let fate = |(token, key): (&u32, &RequestKey)| Some((*token, self.router.fate(*key, *token)?));
        let words = self.keys.iter().filter_map(fate).map(|(token, fate)| format!("{token}:{fate:?}"));
        words.collect::<Vec<_>>().join(" ")
    }

    pub(super) fn wake(&self) -> Instant {
        self.wake
    }
}
