//! The routing of every request of one data-plane worker: *whether*, and *over which path*.
//!
//! A request is in exactly one place (queued, parked, delayed or in flight) until it is completed, exactly once. The
//! worker tells what happened (submitted, replied, a connection up or dead) and performs the [`Action`]s that come out.
//! Pure, so that the whole data path runs under seeded failures with a virtual clock. Rejected: routing inside the I/O
//! loop, where no test reaches the orders of events that matter. It does not know sockets, payloads, NBD or clients.

mod attempt;
mod classes;
mod compete;
mod conns;
mod dispatch;
mod entitled;
mod fences;
mod fencing;
mod halt;
mod lanes;
mod load;
mod owner;
mod record;
mod report;
mod samples;
mod shortage;
mod show;

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use crate::ids::{DiskId, PathId, UnitId, VmId, WorkerId};
use crate::mutant::{self, Mutant};
use crate::path::remembered::{Change, Samples};
use crate::plan::{Gate, RoutePlan};
use crate::schedule::{Cost, Receipt, Scheduler};
use crate::select::{Heard, Level, PathState};
use crate::spread::spread;
use crate::time::{Duration, Instant};
use crate::view::HoldReason;
use crate::volume::verdict::TargetError;
use crate::volume::{Clearance, Record, Volume, WriteKey};
pub use crate::volume::{Confirmation, Extent, Fence, RequestKey, Slot, Standing};
use classes::{ClassAt, Classes};
use compete::Competition;
pub use fences::FenceKey;
use fences::Fences;
pub use fencing::{CloseMode, RemainingQuarantine, close_mode};
pub use halt::{Knowledge, held_until};
use lanes::Lane;
use load::PathLoad;
pub use owner::Fate;
use report::ReportMark;
use slab::Slab;
use std::sync::Arc;

/// A connection's place in the router. Valid from [`Router::connection_up`] until [`Router::connection_dead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionKey(pub u32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    /// Discard.
    Trim,
    WriteZeroes(ZeroMode),
    Flush,
}

/// Whether zeroing may deallocate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZeroMode {
    MayPunchHoles,
    KeepAllocated,
}

impl Operation {
    /// Could it take effect late, as a ghost?
    #[must_use]
    pub const fn changes_data(self) -> bool {
        match self {
            Self::Write | Self::Trim | Self::WriteZeroes(_) => true,
            Self::Read | Self::Flush => false,
        }
    }
}

/// When a write may be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// When the target has it.
    Volatile,
    /// When it is on stable storage (NBD FUA).
    Stable,
}

/// Whether a former process may have dispatched it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    New,
    /// The guest had it open when the former process died (vhost-user's inflight region says so). If that one had
    /// dispatched it, it was given back by [`Router::restore`], and this is a resend.
    Replayed,
}

/// What a guest asks. `token` is the worker's own name for it, given back in actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    pub disk: DiskId,
    pub token: u32,
    pub operation: Operation,
    /// Bytes from the start of the unit; checked against its size by the front end.
    pub offset: u64,
    pub length: u32,
    pub durability: Durability,
    pub origin: Origin,
}

impl Request {
    #[must_use]
    pub fn extent(&self) -> Extent {
        self.offset..self.offset + u64::from(self.length)
    }

    fn cost(&self) -> Cost {
        let moved = match self.operation {
            Operation::Read | Operation::Write => u64::from(self.length),
            Operation::Trim | Operation::WriteZeroes(_) | Operation::Flush => 0,
        };
        Cost { bytes: moved }
    }
}

/// What the target's export allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    pub sharing: Sharing,
    pub fua: Support,
    pub flush: Support,
}

/// NBD's multi-conn: whether what one connection has flushed is seen and covered by the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    ManyConnections,
    /// One connection for data at a time.
    OneConnection,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Yes,
    No,
}

/// What the worker is to do, in the order in which it is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send it. `cookie` is unique for each attempt.
    Dispatch { connection: ConnectionKey, cookie: u64, request: Request },
    /// Answer the client. The token is free afterwards.
    Complete { token: u32, result: Result<(), TargetError> },
    /// To be written down where it outlives the process, before any later action is performed; it replaces what the slot
    /// holds. A write that may take effect late: None while its guest has it open, whether in flight or lost; else it
    /// is a ghost, to be kept off until then ([`Instant::FAR_FUTURE`]: until it is answered). What is found there after
    /// a crash goes to [`Router::restore`] as it is.
    Remember { slot: Slot, unit: UnitId, range: Extent, until: Option<Instant> },
    /// Nothing of what the slot holds can come any more. The slot will be used again.
    Forget { slot: Slot },
    /// For the journal: the first request lost with a link has completed over another path.
    FailedOver { unit: UnitId, from: PathId, to: PathId, after: Duration },
}

/// A reply that names no attempt in flight on that connection: the target breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownCookie;

/// What is lost with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The path's link to the unit has other connections.
    OfConnection,
    /// It was the last one. The worker's link report with this number, counted from 1, tells of it.
    OfLink { report: u64 },
}

/// Where a request is. There is no other place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// In its disk's queue.
    Queued,
    /// Waits for a fence, an overlapping write or an identity check of its unit.
    Parked {
        reason: HoldReason,
        since: Instant,
    },
    /// Waits out a target that was short of resources.
    Delayed {
        since: Instant,
        until: Instant,
    },
    /// Its end is known, and is told after the fence of what was lost of it.
    Unfenced {
        result: Result<(), TargetError>,
        since: Instant,
    },
    InFlight {
        connection: ConnectionKey,
        cookie: u64,
        since: Instant,
        level: Level,
    },
}

/// What an attempt does. A durable write to a target without FUA is a write and then a flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Whole,
    /// The write was answered on this connection. Where the cache does not survive the loss of a path, no other's
    /// flush covers it, and if it dies the write is due again; if the target fails the flush, it is so anywhere.
    FlushAfterWrite(ConnectionKey),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Charge {
    Due,
    /// Given back if the request ends without a target's answer.
    Paid(Receipt),
    /// A target has answered it.
    Spent,
}

/// Whether anybody waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Waiting,
    Gone,
}

#[derive(Clone, Debug)]
struct Entry {
    request: Request,
    vm: VmId,
    unit: UnitId,
    place: Place,
    stage: Stage,
    charge: Charge,
    client: Client,
    submitted: Instant,
    /// Paths on which an attempt failed. Empty, and without an allocation, nearly always.
    tried: Vec<PathId>,
    /// How often it was put off by a target that was short of resources or shutting down.
    pauses: u32,
    /// The first connection it was lost with.
    lost: Option<(PathId, Instant)>,
    /// What of it may take effect, as the volume knows it.
    write: Option<WriteKey>,
}

impl Entry {
    /// What is sent now.
    fn attempt(&self) -> Request {
        match self.stage {
            Stage::Whole => self.request,
            Stage::FlushAfterWrite(_) => {
                let durability = Durability::Volatile;
                Request { operation: Operation::Flush, offset: 0, length: 0, durability, ..self.request }
            }
        }
    }
}

#[derive(Clone, Debug)]
struct Connection {
    path: PathId,
    unit: UnitId,
    traits: Traits,
    status: ConnectionStatus,
    in_flight: u32,
    in_flight_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionStatus {
    Open,
    /// No more dispatch; waits to be reaped.
    Closing,
}

#[derive(Clone, Debug, Default)]
struct UnitState {
    volume: Volume,
    connections: Vec<ConnectionKey>,
    /// The one that carries data, where only one may.
    data_connection: Option<ConnectionKey>,
    parked: Vec<RequestKey>,
    /// Those whose end is told after a fence.
    unfenced: Vec<RequestKey>,
    /// Paths lost with requests on them, none of which has completed elsewhere yet.
    losses: Vec<(PathId, Instant)>,
    /// Its export allows one connection for data at a time.
    is_single: bool,
    /// Another host owns it, or may.
    is_foreign: bool,
    /// That it is the unit of.
    disks: Vec<DiskId>,
    /// What it held, to be known again by.
    samples: Samples,
}

/// See the module.
#[derive(Debug)]
pub struct Router {
    worker: WorkerId,
    /// By `VmId`: this worker carries it.
    is_mine: Vec<bool>,
    plan: Arc<RoutePlan>,
    scheduler: Scheduler,
    requests: Slab<Entry>,
    connections: Slab<Connection>,
    /// Those that are cut and not dead yet: nearly always none.
    closing: Vec<ConnectionKey>,
    units: Vec<UnitState>,
    fences: Fences,
    lanes: Vec<Lane>,
    classes: Classes,
    /// By `TargetId`.
    competitions: Vec<Competition>,
    /// VMs with requests at the head of a queue that have been charged: nearly always none.
    retries: Vec<VmId>,
    /// VMs whose gate answers what waits: nearly always none.
    answering: Vec<VmId>,
    /// Those of whom nothing goes in this round, while others of their class may.
    aside: Vec<(VmId, ClassAt)>,
    /// When to look again at those who wait for a fast path though a slow one has room.
    patience_ends: Option<Instant>,
    /// Attempts in flight.
    in_flight: u32,
    paths: Vec<PathLoad>,
    /// What the selector sees of them.
    states: Vec<PathState>,
    /// Those that somebody has claimed in this round.
    claimed: Vec<PathId>,
    delayed: Vec<RequestKey>,
    /// Units to which nothing goes yet, and until when: nearly always none.
    held_units: Vec<(UnitId, Instant)>,
    actions: Vec<Action>,
    record: Record,
    attempts: u64,
    /// The latest time that it was told.
    now: Instant,
    last_report: ReportMark,
}

impl Router {
    /// A worker's own, with its part of each path's window. It carries the VMs that [`crate::spread::spread`] names.
    #[must_use]
    pub fn new(plan: Arc<RoutePlan>, worker: WorkerId, now: Instant) -> Self {
        let spec = &plan.spec;
        let lane = |vm| {
            let disks: Vec<_> = spec.disks_of_vm(vm).map(|disk| (disk, spec.disk(disk).unit)).collect();
            let mut targets: Vec<_> = disks.iter().map(|(_, unit)| spec.unit(*unit).target).collect();
            targets.sort_unstable();
            targets.dedup();
            Lane::new(disks.into_iter(), targets, spec.paths.len())
        };
        let mut units = vec![UnitState::default(); spec.units.len()];
        for disk in spec.disk_ids() {
            units[spec.disk(disk).unit.index()].disks.push(disk);
        }
        let mut router = Self {
            worker,
            scheduler: Scheduler::new(spec),
            requests: Slab::new(),
            connections: Slab::new(),
            closing: Vec::new(),
            units,
            fences: Fences::default(),
            lanes: spec.vm_ids().map(lane).collect(),
            classes: Classes::new(spec.paths.len()),
            competitions: spec
                .targets
                .iter()
                .map(|_| Competition::new(spec.vms.iter().map(|vm| vm.priority)))
                .collect(),
            is_mine: spread(spec).into_iter().map(|at| at == worker).collect(),
            retries: Vec::new(),
            answering: Vec::new(),
            aside: Vec::new(),
            patience_ends: None,
            in_flight: 0,
            claimed: Vec::with_capacity(spec.paths.len()),
            paths: spec.paths.iter().map(PathLoad::new).collect(),
            states: plan
                .paths
                .iter()
                .map(|route| PathState { heard: Heard::LongAgo, ..PathState::new(*route, 0, 1) })
                .collect(),
            delayed: Vec::new(),
            held_units: Vec::new(),
            actions: Vec::new(),
            record: Record::default(),
            attempts: 0,
            now,
            last_report: ReportMark::new(now, spec.vms.len(), spec.paths.len()),
            plan,
        };
        router.adopt_plan(now);
        router
    }

    /// Takes over a newer plan.
    pub fn plan(&mut self, plan: Arc<RoutePlan>) {
        for lane in &mut self.lanes {
            lane.awaits_plan = lane.awaits_plan.filter(|report| *report > plan.reports_of(self.worker));
        }
        let settings_changed = !Arc::ptr_eq(&self.plan.spec, &plan.spec);
        self.plan = plan;
        if settings_changed {
            self.configure();
        }
        self.adopt_plan(self.now);
        for at in 0..self.answering.len() {
            self.answer_waiting(self.answering[at], self.now);
        }
    }

    /// What a plan says of paths and gates.
    fn adopt_plan(&mut self, now: Instant) {
        for path in self.plan.spec.path_ids() {
            self.follow_path(path);
        }
        self.answering.clear();
        for vm in self.plan.spec.vm_ids() {
            if self.gate_answers_some(vm) {
                self.answering.push(vm);
            }
            self.hold_or_free(vm, now);
        }
        self.reclass_all(now);
        self.classes.all_ready();
    }

    /// Takes over settings that a reload has changed.
    fn configure(&mut self) {
        let plan = Arc::clone(&self.plan);
        let spec = &plan.spec;
        self.scheduler.configure(spec, self.now);
        for competition in &mut self.competitions {
            competition.configure(spec.vms.iter().map(|vm| vm.priority));
        }
        self.classes.set_selectors(|path| spec.target(spec.path(path).target).path_selector);
        for (load, path) in self.paths.iter_mut().zip(&spec.paths) {
            load.configure(path);
        }
    }

    /// Takes a request over; it will be completed exactly once, unless its client goes first.
    pub fn submit(&mut self, request: Request, now: Instant) -> RequestKey {
        self.now = self.now.max(now);
        let disk = self.plan.spec.disk(request.disk);
        let (vm, unit) = (disk.vm, disk.unit);
        let entry = Entry {
            request,
            vm,
            unit,
            place: Place::Queued,
            stage: Stage::Whole,
            charge: Charge::Due,
            client: Client::Waiting,
            submitted: now,
            tried: Vec::new(),
            pauses: 0,
            lost: None,
            write: None,
        };
        let key = self.requests.insert(entry) as RequestKey;
        if request.origin == Origin::Replayed && request.operation.changes_data() {
            let claimed = self.on_volume(unit, |volume, record| volume.claim(&request.extent(), record));
            self.requests[key as usize].write = claimed;
            if claimed.is_some() {
                self.unpark(unit, now);
            }
        }
        if self.gate_answers(vm, unit) {
            self.finish(key, Err(TargetError::Io));
        } else {
            self.enqueue(key, End::Back, now);
        }
        key
    }

    /// The client that waited for it is gone: what waits is dropped, what is in flight ends unheard. Its completion
    /// comes all the same, so that the worker can let go of the payload.
    ///
    /// Does nothing if the request has ended already and only its completion has not been taken yet.
    pub fn abandon(&mut self, key: RequestKey, token: u32) {
        let Some(entry) = self.requests.get(key as usize).filter(|e| e.request.token == token) else {
            return;
        };
        match entry.place {
            Place::InFlight { .. } => {
                let (unit, write) = (entry.unit, entry.write);
                self.requests[key as usize].client = Client::Gone;
                if let Some(write) = write {
                    self.on_volume(unit, |volume, record| volume.abandoned(write, record));
                }
            }
            Place::Unfenced { .. } => {
                let unit = entry.unit;
                self.units[unit.index()].unfenced.retain(|k| *k != key);
                self.end(key, Err(TargetError::ShuttingDown));
            }
            Place::Queued | Place::Parked { .. } | Place::Delayed { .. } => {
                self.take_out(key, self.now);
                self.finish(key, Err(TargetError::ShuttingDown));
            }
        }
    }

    /// Decides everything that can be decided now. Returns when to call again if nothing happens before.
    pub fn poll(&mut self, now: Instant) -> Instant {
        self.now = self.now.max(now);
        self.release_units(now);
        self.release_fences(now);
        self.release_delayed(now);
        let limit_wake = self.dispatch_all(now);
        let delays = self.delayed.iter().map(|key| match self.requests[*key as usize].place {
            Place::Delayed { until, .. } => until,
            Place::Queued | Place::Parked { .. } | Place::Unfenced { .. } | Place::InFlight { .. } => now,
        });
        let held = self.held_units.iter().map(|(_, until)| *until);
        self.fences
            .next()
            .into_iter()
            .chain(delays)
            .chain(limit_wake)
            .chain(held)
            .min()
            .unwrap_or(Instant::FAR_FUTURE)
    }

    /// Attempts in flight, on all connections.
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// No request is here, and no action waits to be taken. Quarantines may be left.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.requests.is_empty() && self.actions.is_empty()
    }

    /// The actions decided since the last call, in order.
    pub fn take_actions(&mut self, into: &mut Vec<Action>) {
        into.append(&mut self.actions);
    }

    /// Whether the VM's gate answers what waits for the unit with an error. Not what is being handed over: another host may
    /// have it.
    fn gate_answers(&self, vm: VmId, unit: UnitId) -> bool {
        match &self.plan.vms[vm.index()].gate {
            Gate::Bounce(_) => !self.is_moving(vm),
            Gate::Fail(_, failing) => failing.cut_off.contains(&unit) && !self.is_moving(vm),
            Gate::Open | Gate::Hold(_) => false,
        }
    }

    /// As [`Self::gate_answers`], for any of its units.
    fn gate_answers_some(&self, vm: VmId) -> bool {
        match &self.plan.vms[vm.index()].gate {
            Gate::Bounce(_) => !self.is_moving(vm),
            Gate::Fail(_, failing) => !failing.cut_off.is_empty() && !self.is_moving(vm),
            Gate::Open | Gate::Hold(_) => false,
        }
    }

    fn entry(&self, key: RequestKey) -> &Entry {
        &self.requests[key as usize]
    }

    fn entry_mut(&mut self, key: RequestKey) -> &mut Entry {
        &mut self.requests[key as usize]
    }

    /// Answers what of the VM waits, and its gate answers, with an error; what is in flight goes on.
    fn answer_waiting(&mut self, vm: VmId, now: Instant) {
        for key in self.take_out_answered(vm, now) {
            self.finish(key, Err(TargetError::Io));
        }
    }

    /// What becomes of the request is known. It is told now or after a fence.
    fn finish(&mut self, key: RequestKey, result: Result<(), TargetError>) {
        if self.is_told_later(key, result) {
            self.tell_later(key, result);
        } else {
            self.end(key, result);
        }
    }

    /// The one place where a request ends.
    fn end(&mut self, key: RequestKey, result: Result<(), TargetError>) {
        let entry = self.requests.remove(key as usize);
        if let Some(write) = entry.write.filter(|_| result.is_err()) {
            self.on_volume(entry.unit, |volume, record| volume.given_up(write, record));
            self.note_change(entry.unit, &entry.request, Change::Undefined, self.now);
        }
        if let Charge::Paid(receipt) = entry.charge
            && result.is_err()
        {
            self.scheduler.refund(entry.vm, receipt);
            // Somebody may be within a limit again.
            self.classes.all_ready();
        }
        let counters = &mut self.lanes[entry.vm.index()].counters;
        match result {
            Ok(()) => {
                counters.completed_requests += 1;
                counters.completed_bytes += entry.request.cost().bytes;
            }
            Err(_) if entry.client == Client::Gone => {}
            Err(error) => {
                counters.failed_requests += 1;
                self.note_error(entry.vm, entry.request.disk, error);
            }
        }
        self.actions.push(Action::Complete { token: entry.request.token, result });
        if entry.lost.is_some() && mutant::active(Mutant::CompletedTwice) {
            self.actions.push(Action::Complete { token: entry.request.token, result });
        }
    }

    fn park(&mut self, key: RequestKey, reason: HoldReason, now: Instant) {
        let entry = self.entry_mut(key);
        entry.place = Place::Parked { reason, since: now };
        let unit = entry.unit;
        self.units[unit.index()].parked.push(key);
    }

    /// Something that parked requests of the unit may have waited for has happened: they queue again.
    fn unpark(&mut self, unit: UnitId, now: Instant) {
        let parked = std::mem::take(&mut self.units[unit.index()].parked);
        self.requeue(parked, now);
    }

    /// As [`Self::unpark`], of those that overlap the range.
    fn unpark_over(&mut self, unit: UnitId, range: &Extent, now: Instant) {
        if self.units[unit.index()].parked.is_empty() {
            return;
        }
        let requests = &self.requests;
        let waits = |key: &mut RequestKey| {
            let other = requests[*key as usize].request.extent();
            other.start < range.end && range.start < other.end
        };
        let parked: Vec<_> = self.units[unit.index()].parked.extract_if(.., waits).collect();
        self.requeue(parked, now);
    }

    fn requeue(&mut self, parked: Vec<RequestKey>, now: Instant) {
        // Requeued at the front one by one, so last first keeps their order.
        for key in parked.into_iter().rev() {
            if let Place::Parked { reason, since } = self.entry(key).place {
                self.waited(key, reason, since, now);
            }
            self.enqueue(key, End::Front, now);
        }
    }

    fn release_delayed(&mut self, now: Instant) {
        let due = |r: &Slab<Entry>, key: RequestKey| matches!(r[key as usize].place, Place::Delayed { until, .. } if until <= now);
        while let Some(at) = self.delayed.iter().position(|key| due(&self.requests, *key)) {
            let key = self.delayed.remove(at);
            if let Place::Delayed { since, .. } = self.entry(key).place {
                self.waited(key, HoldReason::RetryLater, since, now);
            }
            self.enqueue(key, End::Front, now);
        }
    }

    fn clearance(&self, key: RequestKey) -> Clearance {
        let entry = self.entry(key);
        let attempt = entry.attempt();
        if attempt.operation.changes_data() {
            self.units[entry.unit.index()].volume.clearance(entry.write, &attempt.extent())
        } else {
            Clearance::Go
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Front,
    Back,
}
