//! The one loop of a worker: completions in, the router asked, its actions performed.
//!
//! It owns the ring, the connections of both sides and the requests' bytes. Every rule of routing is the router's; what
//! is here is only I/O. Front ends and back ends add their parts in their own rooms. It blocks nowhere but in the ring.

use super::listen::Transport;
use super::poller::Poller;
use super::recover::held_until;
use super::undead::Undead;
use super::{Outfit, Requests, Shared, WorkerOrder, WorkerReport};
use crate::backend::Backends;
use crate::frontend::{Frontends, Moves};
use crate::sys::buffer::Pool;
use crate::sys::clock;
use crate::sys::record::Record;
use crate::sys::uring::{Completion, Ring, Watch};
use anyhow::Context;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};
use tokio::sync::mpsc::UnboundedSender;
use vmpath_core::ids::{DiskId, UnitId, WorkerId};
use vmpath_core::plan::RoutePlan;
use vmpath_core::router::{Action, Router};
use vmpath_core::spread::spread;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::DiskLoadView;

/// How often loads and views are reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How often connections are looked at: their acknowledgements, silence and deadlines.
const INSPECT_EVERY: Duration = Duration::from_millis(50);
/// A worker's staging buffer: small enough to stay in a CPU's cache.
pub(crate) const STAGING_BYTES: usize = 64 * 1024;
/// How long a stop lets requests in flight finish.
const DRAIN_MAX: Duration = Duration::from_millis(1000);
/// The longest that [`super::Dataplane::stop`] takes.
pub const STOP_MAX: Duration = Duration::from_millis(2000);

/// What a completion belongs to, packed into the ring's tag: a kind and an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Doorbell,
    Listener(usize),
    FrontRead(usize),
    FrontWrite(usize),
    BackConnect(usize),
    BackRead(usize),
    BackWrite(usize),
    BackOpen(usize),
    BackBlock(usize),
    Port(usize),
    GuestSession(usize),
    /// Sixteen to a session.
    Kick(usize),
    Network,
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Doorbell => (0, 0),
            Self::Listener(i) => (1, i),
            Self::FrontRead(i) => (2, i),
            Self::FrontWrite(i) => (3, i),
            Self::BackConnect(i) => (4, i),
            Self::BackRead(i) => (5, i),
            Self::BackWrite(i) => (6, i),
            Self::BackOpen(i) => (7, i),
            Self::BackBlock(i) => (8, i),
            Self::Port(i) => (9, i),
            Self::GuestSession(i) => (10, i),
            Self::Kick(i) => (11, i),
            Self::Network => (12, 0),
        };
        kind << 32 | index as u64
    }

    fn unpack(tag: u64) -> Self {
        let index = (tag & 0xffff_ffff) as usize;
        match tag >> 32 {
            0 => Self::Doorbell,
            1 => Self::Listener(index),
            2 => Self::FrontRead(index),
            3 => Self::FrontWrite(index),
            4 => Self::BackConnect(index),
            5 => Self::BackRead(index),
            6 => Self::BackWrite(index),
            7 => Self::BackOpen(index),
            8 => Self::BackBlock(index),
            9 => Self::Port(index),
            10 => Self::GuestSession(index),
            11 => Self::Kick(index),
            12 => Self::Network,
            other => unreachable!("no tag of kind {other} is ever packed"),
        }
    }
}

/// The worker. Its fields are open to the front-end and back-end rooms, which are parts of it.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) ring: Ring,
    pub(crate) router: Router,
    pub(crate) plan: Arc<RoutePlan>,
    pub(crate) requests: Requests,
    pub(crate) pool: Pool,
    /// Where bytes are received whose place is not known yet; one for all connections.
    pub(crate) staging: Vec<u8>,
    pub(crate) fronts: Frontends,
    pub(crate) backs: Backends,
    pub(crate) record: Record,
    pub(crate) moves: Moves,
    pub(super) undead: Undead,
    orders: Receiver<WorkerOrder>,
    pub(crate) reports: UnboundedSender<WorkerReport>,
    /// Link reports sent so far.
    pub(crate) link_reports: u64,
    /// Told at the start of each turn of the loop; good for everything in it.
    pub(crate) now: Instant,
    poller: Poller,
    shared: Arc<Shared>,
    doorbell: Rc<OwnedFd>,
    actions: Vec<Action>,
    next_report: Instant,
    pub(crate) next_inspection: Instant,
    pub(crate) its_disks: Vec<DiskId>,
    pub(crate) its_units: Vec<UnitId>,
}

/// A listening socket with its disk.
pub(crate) type Listening = (DiskId, Transport, OwnedFd);

/// The thread's body.
pub(super) fn run(outfit: Outfit, started: &SyncSender<anyhow::Result<()>>) {
    let told = outfit.reports.clone();
    let _obituary = Obituary(outfit.reports.clone());
    let id = outfit.shared.worker;
    let mut worker = match Worker::new(outfit) {
        Ok(made) => made,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    pin(id);
    let _ = started.send(Ok(()));
    if let Err(error) = worker.serve() {
        let _ = told.send(WorkerReport::Dead(format!("{error:#}")));
    }
}

/// Tells control of a panic: a host without its worker serves nobody, and must not look as if it did.
struct Obituary(UnboundedSender<WorkerReport>);

impl Drop for Obituary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let _ = self
                .0
                .send(WorkerReport::Dead("the data-plane thread panicked (a fault of vmpath's)".into()));
        }
    }
}

/// Stays on one CPU, counted from the last, if the system lets it.
fn pin(worker: WorkerId) {
    let mut cpus = rustix::thread::CpuSet::new();
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
    cpus.set(count - 1 - worker.index() % count);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
        tracing::debug!(%error, "a data-plane thread is not pinned");
    }
}

impl Worker {
    fn new(outfit: Outfit) -> anyhow::Result<Self> {
        let Outfit { shared, listeners, orders, reports, record, recovered, knowledge, former } = outfit;
        let mut ring = Ring::new().context(
            "cannot make an io_uring: vmpath needs Linux 6.1 or newer and the sysctl kernel.io_uring_disabled at 0",
        )?;
        let doorbell = Rc::new(shared.doorbell.try_clone().context("cannot duplicate the event descriptor")?);
        ring.watch(&doorbell, Tag::Doorbell.pack());
        let now = clock::now();
        let plan = shared.plan.load_full();
        let its_vms = spread(&plan.spec);
        let its_disks: Vec<DiskId> = plan
            .spec
            .disk_ids()
            .filter(|disk| its_vms[plan.spec.disk(*disk).vm.index()] == shared.worker)
            .collect();
        let its_units: Vec<UnitId> = plan
            .spec
            .unit_ids()
            .filter(|unit| its_disks.iter().any(|d| plan.spec.disk(*d).unit == *unit))
            .collect();
        let ports = its_disks.iter().filter_map(|d| Some((*d, plan.spec.disk(*d).vhost_user.clone()?)));
        let fronts = Frontends::new(&mut ring, listeners, ports.collect());
        let mut router = Router::new(Arc::clone(&plan), shared.worker, now);
        let marks = (former.0, &former.1);
        let undead = Undead::begin(&mut router, marks, (recovered, knowledge), (&plan.spec, &its_units), now);
        for unit in &its_units {
            let quiesce = plan.spec.target(plan.spec.unit(*unit).target).quiesce;
            if let Some(until) = held_until(knowledge, quiesce, now) {
                router.hold_unit_until(*unit, until);
            }
        }
        let mut worker = Self {
            router,
            requests: Requests::default(),
            pool: Pool::default(),
            staging: vec![0; STAGING_BYTES],
            backs: Backends::new(&plan.spec, &its_units, now),
            fronts,
            record,
            moves: Moves::default(),
            undead,
            orders,
            reports,
            link_reports: 0,
            now,
            poller: Poller::default(),
            shared,
            doorbell,
            actions: Vec::new(),
            next_report: now + REPORT_EVERY,
            next_inspection: now,
            its_disks,
            its_units,
            ring,
            plan,
        };
        // What was recovered is in this worker's record before the old one goes.
        worker.act();
        worker.watch_network();
        worker.begin_ownership();
        worker.recall_arrivals();
        Ok(worker)
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut completions = Vec::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            self.turn(&mut completions)?;
        }
        // No new requests; what live paths can finish is finished.
        self.fronts.stop_reading();
        let deadline = self.now + DRAIN_MAX;
        loop {
            // Answers that have come are told, and forgotten in the record, before the end.
            self.act();
            if self.router.in_flight() == 0 || self.now >= deadline {
                break;
            }
            self.turn(&mut completions)?;
        }
        self.notify_guests_now();
        self.unlink_sockets();
        Ok(())
    }

    /// One turn: act on what is decided, wait, take in what has happened.
    fn turn(&mut self, completions: &mut Vec<Completion>) -> anyhow::Result<()> {
        let mut wake = self.act();
        if self.advance_moves() {
            wake = self.act();
        }
        let until = wake.min(self.next_report).min(self.next_inspection).min(self.moves_until());
        self.await_something(until, completions).context("the io_uring is broken")?;
        self.now = clock::now();
        for completion in completions.drain(..) {
            self.take_in(completion);
        }
        self.read_unread_backs();
        self.read_unread_fronts();
        self.read_unread_sessions();
        self.poll_rings();
        if self.now >= self.next_inspection {
            self.next_inspection = self.now + INSPECT_EVERY;
            self.inspect_backs();
            self.inspect_fronts();
            self.open_ports();
            self.follow_undead();
        }
        if self.now >= self.next_report {
            self.next_report = self.now + REPORT_EVERY;
            self.report();
            self.refresh_samples();
        }
        Ok(())
    }

    /// Waits for a completion, at most until `until`: spinning for a while if that is likely to be enough, then asleep.
    fn await_something(&mut self, until: Instant, completions: &mut Vec<Completion>) -> std::io::Result<()> {
        self.ring.poll(completions)?;
        if !completions.is_empty() || self.backs.has_unread() || self.fronts.has_unread() {
            return Ok(());
        }
        if self.rings_have_work() {
            return Ok(());
        }
        let began = clock::now();
        let spin_until = self.poller.spin_until(began).min(until);
        let mut now = began;
        let mut found = false;
        while !found && now < spin_until {
            // Whoever else wants this CPU may be the one that is waited for.
            rustix::thread::sched_yield();
            self.ring.poll(completions)?;
            found = !completions.is_empty() || self.rings_have_work();
            now = clock::now();
            self.now = now;
            self.notify_guests();
        }
        if !found && now < until {
            self.notify_guests_now();
            let longest = self.stop_polling();
            if longest > Duration::ZERO {
                self.ring.wait(until.since(now).min(longest), completions)?;
                now = clock::now();
            }
        }
        self.poller.waited(now.since(began));
        Ok(())
    }

    /// Asks the router and performs its actions until there are none; returns when it wants to be asked again.
    fn act(&mut self) -> Instant {
        self.reap_fronts();
        self.reap_sessions();
        self.reap_backs();
        let wake = loop {
            let wake = self.router.poll(self.now);
            let mut actions = std::mem::take(&mut self.actions);
            self.router.take_actions(&mut actions);
            if actions.is_empty() {
                self.actions = actions;
                break wake;
            }
            for action in actions.drain(..) {
                match action {
                    Action::Dispatch { connection, cookie, request } => {
                        self.send_attempt(connection, cookie, &request);
                    }
                    Action::Remember { slot, unit, range, until } => {
                        self.record.remember(slot, unit.0, range, until);
                    }
                    Action::Forget { slot } => self.record.forget(slot),
                    Action::Complete { token, result } => self.answer(token, result),
                    Action::FailedOver { unit, from, to, after } => {
                        self.report_failover(unit, from, to, after);
                    }
                }
            }
            self.actions = actions;
        };
        self.flush_all();
        wake
    }

    pub(crate) fn its_disks(&self) -> &[DiskId] {
        &self.its_disks
    }

    pub(crate) fn id(&self) -> WorkerId {
        self.shared.worker
    }

    fn flush_all(&mut self) {
        self.flush_fronts();
        self.flush_backs();
        self.notify_guests();
    }

    fn take_in(&mut self, completion: Completion) {
        match completion {
            Completion::Ready { tag, watch } => match Tag::unpack(tag) {
                Tag::Doorbell => self.called(watch),
                Tag::Listener(listener) => self.listener_ready(listener, watch),
                Tag::FrontRead(front) => self.front_ready(front, watch),
                Tag::BackRead(back) => self.back_ready(back, watch),
                Tag::Port(port) => self.port_ready(port, watch),
                Tag::GuestSession(session) => self.session_ready(session, watch),
                Tag::Network => self.network_changed(watch),
                Tag::Kick(at) => self.kicked(at / 16, (at % 16) as u16, watch),
                other => unreachable!("{other:?} is not watched"),
            },
            Completion::Writable { tag, result } => match Tag::unpack(tag) {
                Tag::BackConnect(back) => self.connected(back, result),
                Tag::BackWrite(back) => self.back_unblocked(back),
                Tag::FrontWrite(front) => self.front_unblocked(front),
                other => unreachable!("{other:?} sends nothing"),
            },
            Completion::Opened { tag, result } => {
                if let Tag::BackOpen(back) = Tag::unpack(tag) {
                    self.block_opened(back, result);
                }
            }
            Completion::Block { tag, cookie, buffer, result } => {
                if let Tag::BackBlock(back) = Tag::unpack(tag) {
                    self.block_done(back, cookie, buffer, &result);
                }
            }
        }
    }

    /// Control has published a plan, gives orders, or wants the worker to stop.
    fn called(&mut self, watch: Watch) {
        if watch == Watch::Ended {
            self.ring.watch(&self.doorbell, Tag::Doorbell.pack());
        }
        self.plan = self.shared.plan.load_full();
        self.router.plan(Arc::clone(&self.plan));
        self.follow_presence();
        while let Ok(order) = self.orders.try_recv() {
            self.perform(order);
        }
    }

    fn perform(&mut self, order: WorkerOrder) {
        match order {
            WorkerOrder::Probe { ticket, units } => self.probe(ticket, units),
            WorkerOrder::Settle { ticket, vm, by } => self.settle(ticket, vm, by),
            WorkerOrder::Revoke { vm } => self.revoke(vm),
            WorkerOrder::Left { vm } => self.left(vm),
            WorkerOrder::Expect { ticket, vm, move_id } => self.expect(ticket, vm, &move_id),
            WorkerOrder::Offer { ticket, hand_over } => self.offer(ticket, &hand_over),
            WorkerOrder::Withdraw { ticket, vm, move_id } => self.withdraw(ticket, vm, &move_id),
            WorkerOrder::Forget { vm, move_id } => self.forget_arrival(vm, &move_id),
            WorkerOrder::Own { units } => self.own(&units),
            WorkerOrder::Disown { units } => self.disown(&units),
        }
    }

    fn report(&mut self) {
        #[cfg(test)]
        crate::sys::counting::publish();
        self.tell_silence();
        let mut load = self.router.load_report(self.now);
        (load.generation, load.fronts) = (self.plan.generation, self.disk_fronts());
        let mut view = self.router.view(self.now);
        for unit in &self.its_units {
            view.units[unit.index()].size = self.backs.export_of(*unit).map(|e| e.size);
        }
        view.disks = self
            .plan
            .spec
            .disk_ids()
            .map(|disk| DiskLoadView {
                disk,
                clients: self.fronts.clients_of(disk) + self.requests.guests.of_disk(disk),
            })
            .collect();
        let _ = self.reports.send(WorkerReport::Load(load));
        self.retire_units();
        let _ = self.reports.send(WorkerReport::View(self.shared.worker, Arc::new(view)));
    }
}
