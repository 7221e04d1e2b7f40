//! The one loop of a worker: completions in, the router asked, its actions performed.
//!
//! It owns the ring, the connections of both sides and the requests' bytes. Every rule of routing is the router's; what
//! is here is only I/O. Front ends and back ends add their parts in their own rooms. It blocks nowhere but in the ring.

use super::listen::Transport;
use super::{FrontRequest, Shared, WorkerReport};
use crate::backend::Backends;
use crate::frontend::Frontends;
use crate::sys::clock;
use crate::sys::uring::{Completion, Ring};
use anyhow::Context;
use slab::Slab;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use tokio::sync::mpsc::UnboundedSender;
use vmpath_core::ids::DiskId;
use vmpath_core::plan::RoutePlan;
use vmpath_core::router::{Action, Router};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::DiskLoadView;

/// How often loads and views are reported.
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// How often connections are looked at: their acknowledgements, silence and deadlines.
const INSPECT_EVERY: Duration = Duration::from_millis(50);
/// How long a stop lets requests in flight finish.
const DRAIN_MAX: Duration = Duration::from_millis(1000);

/// What a completion belongs to, packed into the ring's tag: a kind and an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    Doorbell,
    Listener(usize),
    FrontReceive(usize),
    FrontSend(usize),
    BackConnect(usize),
    BackReceive(usize),
    BackSend(usize),
}

impl Tag {
    pub(crate) fn pack(self) -> u64 {
        let (kind, index) = match self {
            Self::Doorbell => (0, 0),
            Self::Listener(i) => (1, i),
            Self::FrontReceive(i) => (2, i),
            Self::FrontSend(i) => (3, i),
            Self::BackConnect(i) => (4, i),
            Self::BackReceive(i) => (5, i),
            Self::BackSend(i) => (6, i),
        };
        kind << 32 | index as u64
    }

    fn unpack(tag: u64) -> Self {
        let index = (tag & 0xffff_ffff) as usize;
        match tag >> 32 {
            0 => Self::Doorbell,
            1 => Self::Listener(index),
            2 => Self::FrontReceive(index),
            3 => Self::FrontSend(index),
            4 => Self::BackConnect(index),
            5 => Self::BackReceive(index),
            6 => Self::BackSend(index),
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
    pub(crate) requests: Slab<FrontRequest>,
    pub(crate) fronts: Frontends,
    pub(crate) backs: Backends,
    pub(crate) reports: UnboundedSender<WorkerReport>,
    /// Link reports sent so far.
    pub(crate) link_reports: u64,
    /// Told at the start of each turn of the loop; good for everything in it.
    pub(crate) now: Instant,
    shared: Arc<Shared>,
    doorbell: Rc<OwnedFd>,
    actions: Vec<Action>,
    next_report: Instant,
    next_inspection: Instant,
}

/// A listening socket with its disk.
pub(crate) type Listening = (DiskId, Transport, OwnedFd);

/// The thread's body.
pub(super) fn run(
    shared: Arc<Shared>,
    listeners: Vec<Listening>,
    reports: UnboundedSender<WorkerReport>,
    started: &SyncSender<anyhow::Result<()>>,
) {
    let told = reports.clone();
    let _obituary = Obituary(reports.clone());
    let mut worker = match Worker::new(shared, listeners, reports) {
        Ok(worker) => worker,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    pin();
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

/// Stays on one CPU, the last, if the system lets it.
fn pin() {
    let mut cpus = rustix::thread::CpuSet::new();
    let last = std::thread::available_parallelism().map_or(0, |n| n.get() - 1);
    cpus.set(last);
    if let Err(error) = rustix::thread::sched_setaffinity(None, &cpus) {
        tracing::debug!(%error, "the data-plane thread is not pinned");
    }
}

impl Worker {
    fn new(
        shared: Arc<Shared>,
        listeners: Vec<Listening>,
        reports: UnboundedSender<WorkerReport>,
    ) -> anyhow::Result<Self> {
        let mut ring = Ring::new().context(
            "cannot make an io_uring: vmpath needs Linux 6.1 or newer and the sysctl kernel.io_uring_disabled at 0",
        )?;
        let doorbell = Rc::new(shared.doorbell.try_clone().context("cannot duplicate the event descriptor")?);
        ring.wake(&doorbell, Tag::Doorbell.pack());
        let now = clock::now();
        let plan = shared.plan.load_full();
        let fronts = Frontends::new(&mut ring, listeners);
        Ok(Self {
            router: Router::new(Arc::clone(&plan), now),
            requests: Slab::new(),
            backs: Backends::new(&plan.spec, now),
            fronts,
            reports,
            link_reports: 0,
            now,
            shared,
            doorbell,
            actions: Vec::new(),
            next_report: now + REPORT_EVERY,
            next_inspection: now,
            ring,
            plan,
        })
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut completions = Vec::new();
        while !self.shared.stop.load(Ordering::Acquire) {
            self.turn(&mut completions)?;
        }
        // No new requests; what live paths can finish is finished.
        self.fronts.stop_reading();
        let deadline = self.now + DRAIN_MAX;
        while !self.requests.is_empty() && self.now < deadline {
            self.turn(&mut completions)?;
        }
        self.flush_all();
        self.ring.submit_and_wait(Duration::from_millis(20), &mut completions)?;
        Ok(())
    }

    /// One turn: act on what is decided, wait, take in what has happened.
    fn turn(&mut self, completions: &mut Vec<Completion>) -> anyhow::Result<()> {
        let wake = self.act();
        let until = wake.min(self.next_report).min(self.next_inspection);
        self.ring
            .submit_and_wait(until.since(clock::now()), completions)
            .context("the io_uring is broken")?;
        self.now = clock::now();
        for completion in completions.drain(..) {
            self.take_in(completion);
        }
        if self.now >= self.next_inspection {
            self.next_inspection = self.now + INSPECT_EVERY;
            self.inspect_backs();
            self.inspect_fronts();
        }
        if self.now >= self.next_report {
            self.next_report = self.now + REPORT_EVERY;
            self.report();
        }
        Ok(())
    }

    /// Asks the router and performs its actions until there are none; returns when it wants to be asked again.
    fn act(&mut self) -> Instant {
        self.reap_fronts();
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

    fn flush_all(&mut self) {
        self.fronts.flush(&mut self.ring);
        self.backs.flush(&mut self.ring);
    }

    fn take_in(&mut self, completion: Completion) {
        match completion {
            Completion::Woken => {
                self.ring.wake(&self.doorbell, Tag::Doorbell.pack());
                self.plan = self.shared.plan.load_full();
                self.router.plan(Arc::clone(&self.plan));
            }
            Completion::Accepted { tag, result } => {
                if let Tag::Listener(listener) = Tag::unpack(tag) {
                    self.accepted(listener, result);
                }
            }
            Completion::Writable { tag, result } => {
                if let Tag::BackConnect(back) = Tag::unpack(tag) {
                    self.connected(back, result);
                }
            }
            Completion::Received { tag, buffer, result } => match Tag::unpack(tag) {
                Tag::FrontReceive(front) => self.front_received(front, buffer, &result),
                Tag::BackReceive(back) => self.back_received(back, buffer, &result),
                other => unreachable!("{other:?} receives nothing"),
            },
            Completion::Sent { tag, segments, result } => match Tag::unpack(tag) {
                Tag::FrontSend(front) => self.front_sent(front, segments, result),
                Tag::BackSend(back) => self.back_sent(back, segments, result),
                other => unreachable!("{other:?} sends nothing"),
            },
        }
    }

    fn report(&mut self) {
        let load = self.router.load_report(self.now);
        let mut view = self.router.view(self.now);
        for unit in self.plan.spec.unit_ids() {
            view.units[unit.index()].size = self.backs.export_of(unit).map(|e| e.size);
        }
        view.disks = self
            .plan
            .spec
            .disk_ids()
            .map(|disk| DiskLoadView { disk, clients: self.fronts.clients_of(disk) })
            .collect();
        let _ = self.reports.send(WorkerReport::Load(load));
        let _ = self.reports.send(WorkerReport::View(Arc::new(view)));
    }
}
