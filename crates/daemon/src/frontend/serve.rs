//! Serving guests: a disk's vhost-user socket, its one front end at a time, and the requests that its rings bring.
//!
//! A disk listens only while it can serve a handshake (its unit is known) and has no front end: QEMU never attaches again
//! to a connection that was accepted and dropped, while one that is refused is tried again each second.
//! It does not know paths, nor how a ring works.

use super::guests::{GuestSlot, QUEUES_MAX, Served, Stage};
use super::vhost_user::{
    self, Changes, Fault, Fetched, GuestRequest, Handled, QueueSet, Session, SessionEnd, Shape,
};
use crate::dataplane::{
    Client, FrontRequest, OrderReport, Payload, Tag, Worker, WorkerReport, is_served, listen_unix,
};
use crate::sys::uring::{Ring, Watch};
use rustix::io::Errno;
use rustix::net::{Shutdown, SocketFlags};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use vmpath_core::ids::DiskId;
use vmpath_core::router::{Durability, Operation, Origin, Request, ZeroMode};
use vmpath_core::time::Duration;
use vmpath_core::volume::verdict::TargetError;
use vmpath_protocol::nbd::ExportInfo;
use vmpath_protocol::virtio_blk::request::{Access, Operation as GuestOperation, Status};

/// Requests taken from one ring before others have their turn.
const FETCHES_PER_TURN: usize = 64;
/// Messages taken from one front end before others have their turn.
const MESSAGES_PER_TURN: usize = 16;
/// A front end that begins does so within milliseconds of its connection.
const SILENT_FOR: Duration = Duration::from_secs(3);
/// How often a ring whose driver has no way to kick is looked at.
const POLL_WITHOUT_KICK: Duration = Duration::from_millis(1);
/// How often a kick's watch may end by itself (a completion queue that was full ends it, too).
const KICK_ENDS_MAX: u32 = 100;
/// Answers are shown when they are this part (one fourth) of what is in flight, or after `NOTIFY_WITHIN`.
const WORTH_A_WAKE: u32 = 4;
const NOTIFY_WITHIN: Duration = Duration::from_micros(30);
/// The largest request that a guest may send, whatever the target takes.
const REQUEST_MAX: u32 = 32 << 20;
/// What virtio-blk calls a sector; a block is no smaller.
const SECTOR: u32 = 512;
/// The block size that guests are told to prefer where the target prefers a larger one.
const PHYSICAL_BLOCK_MAX: u32 = 4096;

/// A disk's vhost-user socket.
#[derive(Debug)]
pub(super) struct Port {
    pub(super) disk: DiskId,
    pub(super) path: PathBuf,
    pub(super) state: PortState,
    /// The last accept failed (out of descriptors, say).
    must_retry: bool,
}

/// ```text
/// Closed ─unit known, no front end─▶ Listening ─accepted─▶ Closed (serving)
/// ```
#[derive(Debug)]
pub(super) enum PortState {
    Closed,
    Listening(Rc<OwnedFd>),
    /// It could not be bound; that is told once.
    Failed,
    /// The disk has left the configuration, and the socket's file with it.
    Left,
}

impl Port {
    pub(super) fn new(disk: DiskId, path: PathBuf) -> Self {
        Self { disk, path, state: PortState::Closed, must_retry: false }
    }

    /// The path, if this process may have made the socket there.
    pub(super) fn bound(&self) -> Option<&PathBuf> {
        match self.state {
            PortState::Closed | PortState::Listening(_) => Some(&self.path),
            PortState::Failed | PortState::Left => None,
        }
    }
}

impl Worker {
    /// Opens the ports of disks that can be served and are not.
    pub(crate) fn open_ports(&mut self) {
        for at in 0..self.fronts.ports.len() {
            let port = &self.fronts.ports[at];
            let unit = self.plan.spec.disk(port.disk).unit;
            let is_free = !matches!(port.state, PortState::Listening(_))
                && self.requests.guests.of_disk(port.disk) == 0
                && !self.is_closed(port.disk);
            if is_free && self.fronts.is_reading() && self.backs.export_of(unit).is_some() {
                self.open_port(at);
            } else if self.fronts.ports[at].must_retry {
                self.port_ready(at, Watch::Armed);
            }
        }
    }

    fn open_port(&mut self, at: usize) {
        let port = &mut self.fronts.ports[at];
        let listening = match port.state {
            // Somebody else may have come to listen there meanwhile.
            PortState::Left | PortState::Failed if is_served(&port.path) => {
                Err(anyhow::anyhow!("another process serves this socket"))
            }
            PortState::Left | PortState::Failed | PortState::Closed | PortState::Listening(_) => {
                listen_unix(&port.path)
            }
        };
        match listening {
            Ok(socket) => {
                let socket = Rc::new(socket);
                self.ring.watch(&socket, Tag::Port(at).pack());
                port.state = PortState::Listening(socket);
            }
            Err(error) => {
                if !matches!(port.state, PortState::Failed) {
                    let (disk, path) = (port.disk, port.path.clone());
                    port.state = PortState::Failed;
                    tracing::error!(
                        disk = self.disk_name(disk),
                        "cannot listen on {}: {error:#}",
                        path.display()
                    );
                }
            }
        }
    }

    /// A front end may have connected.
    pub(crate) fn port_ready(&mut self, at: usize, watch: Watch) {
        let port = &mut self.fronts.ports[at];
        let PortState::Listening(listener) = &port.state else { return };
        if watch == Watch::Ended {
            self.ring.watch(listener, Tag::Port(at).pack());
        }
        let socket = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return,
            Err(error) => {
                // It is still in the queue, and nothing tells of it again: the port is looked at again soon.
                let disk = port.disk;
                if !std::mem::replace(&mut port.must_retry, true) {
                    tracing::warn!(disk = self.disk_name(disk), %error, "cannot accept a front end yet");
                }
                return;
            }
        };
        port.must_retry = false;
        // A second one is refused: nobody listens any more.
        self.ring.cancel_all(listener);
        port.state = PortState::Closed;
        let disk = port.disk;
        self.attach(disk, socket);
    }

    fn attach(&mut self, disk: DiskId, socket: OwnedFd) {
        let unit = self.plan.spec.disk(disk).unit;
        let Some(export) = self.backs.export_of(unit) else { return };
        let shape = self.shape(disk, &export);
        let session = match Session::new(UnixStream::from(socket), shape) {
            Ok(session) => session.with_note(self.memory_note(disk)),
            Err(error) => {
                tracing::warn!(disk = self.disk_name(disk), %error, "cannot serve a front end");
                return;
            }
        };
        tracing::info!(disk = self.disk_name(disk), "front end attached");
        let entry = self.requests.guests.sessions.vacant_entry();
        let index = entry.key();
        self.ring.watch(session.socket(), Tag::GuestSession(index).pack());
        entry.insert(Served {
            disk,
            session,
            stage: Stage::Open,
            silent_since: Some(self.now),
            outstanding: 0,
            socket_watches: 1,
            kicks: [const { None }; QUEUES_MAX],
            kick_watches: [0; QUEUES_MAX],
            kick_ends: [0; QUEUES_MAX],
            polled: QueueSet::default(),
            misfits: QueueSet::default(),
            has_news: false,
        });
        self.attached_on_arrival(index, disk);
    }

    /// A name holds no ':'.
    fn memory_note(&self, disk: DiskId) -> PathBuf {
        let of = self.plan.spec.disk(disk);
        self.plan.spec.host.run_dir.join(format!("memory-{}:{}", self.plan.spec.vm(of.vm).name, of.name))
    }

    fn shape(&self, disk: DiskId, export: &ExportInfo) -> Shape {
        let of = self.plan.spec.disk(disk);
        let block_size = export.block.min().max(SECTOR);
        let read_only = of.read_only || export.flags.read_only();
        Shape {
            size: export.size / u64::from(block_size) * u64::from(block_size),
            block_size,
            physical_block: export.block.preferred().clamp(block_size, PHYSICAL_BLOCK_MAX.max(block_size)),
            optimal_io: 0,
            request_max: export.block.max().min(REQUEST_MAX),
            access: if read_only { Access::ReadOnly } else { Access::ReadWrite },
            flush: export.flags.can_flush(),
            discard: export.flags.can_trim(),
            write_zeroes: export.flags.can_write_zeroes(),
            serial: format!("{}-{}", self.plan.spec.vm(of.vm).name, of.name),
            queues: of.queues,
        }
    }

    /// Reports front ends that have attached and say nothing.
    pub(crate) fn tell_silence(&mut self) {
        for (_, served) in &mut self.requests.guests.sessions {
            let is_over = served.session.has_begun() || served.stage == Stage::Closing;
            let is_due = served.silent_since.is_some_and(|since| self.now.since(since) >= SILENT_FOR);
            if is_over || is_due {
                served.silent_since = None;
            }
            if is_due && !is_over {
                let _ = self.reports.send(WorkerReport::Silent(served.disk));
            }
        }
    }

    /// A front end has said something.
    pub(crate) fn session_ready(&mut self, index: usize, watch: Watch) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        if watch == Watch::Ended {
            served.socket_watches -= 1;
            if served.stage == Stage::Open {
                self.ring.watch(served.session.socket(), Tag::GuestSession(index).pack());
                served.socket_watches += 1;
            }
        }
        for _ in 0..MESSAGES_PER_TURN {
            let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
            if served.stage == Stage::Closing {
                return;
            }
            match served.session.handle_message() {
                Ok(Handled::Starved) => return,
                Ok(Handled::Done(changes)) => self.changed(index, changes),
                Err(end) => return self.detach(index, &end),
            }
        }
        self.fronts.unread_sessions.push(index);
    }

    /// Rings were started or stopped, or are kicked otherwise; a driver may be gone.
    pub(super) fn changed(&mut self, index: usize, changes: Changes) {
        self.tell_of(index, &changes);
        let abandons = !changes.abandoned.is_empty();
        self.abandon(changes.abandoned);
        for queue in changes.kicks.iter() {
            self.watch_kick(index, queue);
        }
        let any = changes.started.iter().next().is_some() || changes.stopped.iter().next().is_some();
        if any || abandons {
            self.pause_or_resume(index);
        }
        self.serve_started(index, changes.started);
        if changes.taken != QueueSet::default()
            && let Some(served) = self.requests.guests.sessions.get(index)
        {
            self.taken_over(served.disk, changes.taken);
        }
    }

    fn serve_started(&mut self, index: usize, started: QueueSet) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        let (disk, before) = (served.disk, served.misfits);
        started.iter().for_each(|queue| served.misfits.remove(queue));
        for queue in started.iter() {
            self.serve_ring(index, queue);
        }
        let now = self.requests.guests.sessions.get(index).map(|served| served.misfits);
        if before != QueueSet::default() && now == Some(QueueSet::default()) {
            self.tell_order(OrderReport::Fits { disk });
        }
    }

    fn tell_of(&self, index: usize, changes: &Changes) {
        let Some(served) = self.requests.guests.sessions.get(index) else { return };
        if changes.presumed {
            tracing::info!(
                disk = self.disk_name(served.disk),
                "the front end goes on without a handshake: its guest did not run when the former process ended"
            );
        }
        if let Some(error) = &changes.unnoted {
            tracing::warn!(
                disk = self.disk_name(served.disk),
                "where the guest's memory is cannot be noted: {error}; should vmpath be killed while the VM is stopped, the VM must be \
                 powered off and on"
            );
        }
    }

    /// Requests whose driver is gone: nobody is to be answered, and their place in the session may be used again.
    fn abandon(&mut self, all: Vec<vhost_user::Abandoned>) {
        for abandoned in all {
            let Some(request) = self.requests.table.get_mut(abandoned.token as usize) else { continue };
            if let Client::Guest(slot) = request.client
                && let Some(served) = self.requests.guests.served(slot.session)
            {
                served.outstanding -= 1;
            }
            request.client = Client::Gone;
            request.payload = abandoned.kept.map_or(Payload::Discard, Payload::Kept);
            let key = request.key;
            self.router.abandon(key, abandoned.token);
        }
    }

    /// Nothing of a disk is sent while a ring that has requests open is stopped.
    fn pause_or_resume(&mut self, index: usize) {
        let Some(served) = self.requests.guests.sessions.get(index) else { return };
        let session = &served.session;
        let is_stopped = session.open().any(|(queue, ..)| !session.is_running(queue));
        if is_stopped && served.stage == Stage::Open {
            self.router.pause_disk(served.disk);
        } else {
            self.router.resume_disk(served.disk, self.now);
        }
    }

    fn watch_kick(&mut self, index: usize, queue: u16) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        let at = usize::from(queue);
        if let Some(old) = served.kicks[at].take() {
            self.ring.cancel_all(&old);
        }
        if let Some(kick) = served.session.kick(queue) {
            served.kicks[at] = Some(Rc::clone(kick));
            served.kick_watches[at] += 1;
            self.ring.watch(kick, kick_tag(index, queue));
        }
    }

    /// A driver has kicked.
    pub(crate) fn kicked(&mut self, index: usize, queue: u16, watch: Watch) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        let at = usize::from(queue);
        if watch == Watch::Ended {
            served.kick_watches[at] -= 1;
            // One that ends again and again cannot be watched: its ring is polled.
            let is_lame = served.kick_ends[at] >= KICK_ENDS_MAX;
            if served.kick_watches[at] == 0 && is_lame {
                served.kicks[at] = None;
            }
            if served.kick_watches[at] == 0
                && let Some(kick) = served.kicks[at].as_ref()
            {
                self.ring.watch(kick, kick_tag(index, queue));
                served.kick_watches[at] += 1;
                served.kick_ends[at] += 1;
            }
        }
        self.serve_ring(index, queue);
    }

    /// Takes what a ring has, and polls it from now on.
    fn serve_ring(&mut self, index: usize, queue: u16) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        if !served.polled.contains(queue) && served.session.is_running(queue) {
            served.polled.insert(queue);
            served.session.suppress_kicks(queue);
            self.fronts.polled.push((index, queue));
        }
        self.fetch(index, queue);
    }

    fn fetch(&mut self, index: usize, queue: u16) {
        if !self.fronts.is_reading() {
            return;
        }
        for _ in 0..FETCHES_PER_TURN {
            let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
            match served.session.fetch(queue) {
                Fetched::Empty => return,
                Fetched::Request(request) => self.submit_guest(index, &request),
                Fetched::Answered => self.has_news(index),
                Fetched::Broken(fault) => {
                    let disk = served.disk;
                    if let Fault::HandOver(why) = fault {
                        served.misfits.insert(queue);
                        self.tell_order(OrderReport::Misfit { disk, why: why.to_string() });
                    }
                    tracing::warn!(
                        disk = self.disk_name(disk),
                        "queue {queue} needs a reset: its driver sent {fault}; other queues and VMs go on"
                    );
                    return;
                }
            }
        }
    }

    fn submit_guest(&mut self, index: usize, request: &GuestRequest) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        let slot = GuestSlot { session: index as u32, queue: request.queue, head: request.head };
        let entry = self.requests.table.vacant_entry();
        let token = entry.key() as u32;
        let routed = Request {
            disk: served.disk,
            token,
            origin: match request.origin {
                vhost_user::Origin::New => Origin::New,
                vhost_user::Origin::Replayed => Origin::Replayed,
            },
            operation: operation(request.operation),
            offset: request.offset,
            length: request.length,
            durability: if served.session.writes_through() {
                Durability::Stable
            } else {
                Durability::Volatile
            },
        };
        served.session.opened(request.queue, request.head, token);
        served.outstanding += 1;
        let key = self.router.submit(routed, self.now);
        let payload = match routed.operation {
            Operation::Read | Operation::Write => Payload::Guest,
            Operation::Flush | Operation::Trim | Operation::WriteZeroes(_) => Payload::None,
        };
        entry.insert(FrontRequest { client: Client::Guest(slot), key, payload });
    }

    /// Completes a guest's request.
    pub(super) fn answer_guest(&mut self, slot: GuestSlot, result: Result<(), TargetError>) {
        let index = slot.session as usize;
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        served.outstanding -= 1;
        let status = if result.is_ok() { Status::Ok } else { Status::IoErr };
        served.session.complete(slot.queue, slot.head, status);
        let is_parked = !served.session.is_running(slot.queue);
        self.has_news(index);
        if is_parked {
            // It may have been the last that its disk stood still for.
            self.pause_or_resume(index);
        }
    }

    fn has_news(&mut self, index: usize) {
        if self.fronts.answers == 0 {
            self.fronts.answered_at = self.now;
        }
        self.fronts.answers += 1;
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        if !std::mem::replace(&mut served.has_news, true) {
            self.fronts.news.push(index);
        }
    }

    /// Shows the drivers what has been completed, if it is worth waking them for: a good part of what they wait for, or
    /// for some time now. A driver that is woken for each of many answers sends its next requests one by one, too.
    pub(crate) fn notify_guests(&mut self) {
        let is_worth = self.fronts.answers * WORTH_A_WAKE >= self.router.in_flight();
        let is_late = self.now.since(self.fronts.answered_at) >= NOTIFY_WITHIN;
        if is_worth || is_late {
            self.notify_guests_now();
        }
    }

    /// The same, worth it or not: before a sleep.
    pub(crate) fn notify_guests_now(&mut self) {
        self.fronts.answers = 0;
        while let Some(index) = self.fronts.news.pop() {
            if let Some(served) = self.requests.guests.sessions.get_mut(index) {
                served.has_news = false;
                served.session.notify();
            }
        }
    }

    /// Whether a ring that is polled has something.
    pub(crate) fn rings_have_work(&self) -> bool {
        let sessions = &self.requests.guests.sessions;
        self.fronts.is_reading()
            && self
                .fronts
                .polled
                .iter()
                .any(|(index, queue)| sessions.get(*index).is_some_and(|s| s.session.poll_avail(*queue)))
    }

    /// Takes what the polled rings have.
    pub(crate) fn poll_rings(&mut self) {
        for at in 0..self.fronts.polled.len() {
            let (index, queue) = self.fronts.polled[at];
            self.fetch(index, queue);
        }
    }

    /// Lets the drivers kick again, before a sleep. Returns how long it may be: not at all if one of them has put something
    /// into its ring meanwhile.
    pub(crate) fn stop_polling(&mut self) -> Duration {
        let mut longest = Duration::MAX;
        if !self.fronts.is_reading() {
            return longest;
        }
        let sessions = &mut self.requests.guests.sessions;
        self.fronts.polled.retain(|(index, queue)| {
            let Some(served) = sessions.get_mut(*index) else { return false };
            if !served.session.is_running(*queue) {
                served.polled.remove(*queue);
                return false;
            }
            if served.kicks[usize::from(*queue)].is_none() {
                longest = longest.min(POLL_WITHOUT_KICK);
                return true;
            }
            if served.session.enable_kicks(*queue) {
                served.session.suppress_kicks(*queue);
                longest = Duration::ZERO;
                return true;
            }
            served.polled.remove(*queue);
            false
        });
        longest
    }

    /// The front end has gone, or must go. Its requests end unheard.
    pub(super) fn detach(&mut self, index: usize, end: &SessionEnd) {
        let Some(served) = self.requests.guests.sessions.get_mut(index) else { return };
        let disk = served.disk;
        let had_misfits = std::mem::take(&mut served.misfits) != QueueSet::default();
        served.stage = Stage::Closing;
        let abandoned = served.session.close();
        let open: Vec<u32> = served.session.open().map(|(_, _, token)| token).collect();
        if served.socket_watches > 0 {
            self.ring.cancel_all(served.session.socket());
        }
        cancel_kicks(&mut self.ring, served);
        // Whoever waits for an answer there shall not wait until all requests are over.
        let _ = rustix::net::shutdown(served.session.socket(), Shutdown::Both);
        tracing::info!(disk = self.disk_name(disk), open = open.len(), "front end gone: {end}");
        self.abandon(abandoned);
        if had_misfits {
            self.tell_order(OrderReport::Fits { disk });
        }
        for token in open {
            if let Some(request) = self.requests.table.get(token as usize) {
                let key = request.key;
                self.router.abandon(key, token);
            }
        }
        self.left_after_departure(disk);
        self.router.resume_disk(disk, self.now);
        self.fronts.closing_sessions.push(index);
        self.follow_presence();
        self.open_ports();
    }

    /// Lets go of sessions that have ended and of which nothing is on its way any more.
    pub(crate) fn reap_sessions(&mut self) {
        let sessions = &mut self.requests.guests.sessions;
        self.fronts.closing_sessions.retain(|index| {
            let Some(served) = sessions.get(*index) else { return false };
            let is_idle = served.outstanding == 0
                && served.socket_watches == 0
                && served.kick_watches.iter().all(|count| *count == 0);
            if is_idle {
                sessions.remove(*index);
            }
            !is_idle
        });
    }

    /// Front ends that had more to say than one turn takes.
    pub(crate) fn read_unread_sessions(&mut self) {
        for index in std::mem::take(&mut self.fronts.unread_sessions) {
            self.session_ready(index, Watch::Armed);
        }
    }
}

fn cancel_kicks(ring: &mut Ring, served: &mut Served) {
    for kick in served.kicks.iter_mut().filter_map(Option::take) {
        ring.cancel_all(&kick);
    }
}

fn kick_tag(index: usize, queue: u16) -> u64 {
    Tag::Kick(index * QUEUES_MAX + usize::from(queue)).pack()
}

fn operation(of: GuestOperation) -> Operation {
    match of {
        GuestOperation::Read => Operation::Read,
        GuestOperation::Write => Operation::Write,
        GuestOperation::Flush => Operation::Flush,
        GuestOperation::Discard => Operation::Trim,
        GuestOperation::WriteZeroes { may_unmap: true } => Operation::WriteZeroes(ZeroMode::MayPunchHoles),
        GuestOperation::WriteZeroes { may_unmap: false } => Operation::WriteZeroes(ZeroMode::KeepAllocated),
    }
}
