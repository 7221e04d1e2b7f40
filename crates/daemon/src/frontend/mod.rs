//! Where guests attach: NBD exports and vhost-user-blk devices, one or both a disk.
//!
//! A front end turns a client's bytes into the router's requests and completions into replies. Clients are untrusted: a
//! bad request gets the protocol's error, a lost frame ends the connection, and a client that does not read its replies
//! is not read from either. It does not know paths. What an NBD client says is in [`nbd`].

mod arrive;
mod depart;
mod guests;
mod hand_over;
mod leave;
mod left;
mod moves;
mod nbd;
mod serve;
mod vhost_user;

use crate::dataplane::{Body, Client, FrontRequest, Head, Name, NbdClient, Payload, Stream, Tag, Worker};
use crate::dataplane::{Listening, Transport};
use crate::sys::uring::{Ring, Watch};
pub(crate) use guests::{GuestSlot, Guests};
use left::Standing;
pub(crate) use moves::Moves;
use nbd::Phase;
use rustix::io::Errno;
use rustix::net::{SocketFlags, sockopt};
use slab::Slab;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use vmpath_core::ids::DiskId;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;
use vmpath_protocol::nbd::{Command, NbdError, Request as NbdRequest};

/// Bytes of requests that one client may have open; beyond, no further request of it is read.
const CLIENT_BYTES_MAX: usize = 32 << 20;
/// Requests and replies that one client may have open.
const CLIENT_REQUESTS_MAX: usize = 1024;
/// Connections that one disk serves at once: as many as a client of several connections uses. With the bound on each, a
/// disk's clients hold at most 512 MiB and the requests that are just being received.
const CLIENTS_PER_DISK_MAX: u32 = 16;
/// A TCP client that has gone without a word is noticed after this long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// A client that has not opened its export by then is in the way.
const HANDSHAKE_MAX: Duration = Duration::from_secs(20);
/// How long an export whose unit no path has shown yet is waited for.
const EXPORT_WAIT_MAX: Duration = Duration::from_secs(5);

#[derive(Debug)]
struct Listener {
    disk: DiskId,
    transport: Transport,
    state: Accepting,
}

#[derive(Clone, Debug)]
enum Accepting {
    Watched(Rc<OwnedFd>),
    /// The last accept failed (out of descriptors, say): the next one is tried at the next inspection.
    Paused(Rc<OwnedFd>),
    /// The disk has left the configuration.
    Closed,
    /// It is back, and cannot be listened for; that is told once.
    Failed,
}

impl Accepting {
    fn socket(&self) -> Option<&Rc<OwnedFd>> {
        match self {
            Self::Watched(socket) | Self::Paused(socket) => Some(socket),
            Self::Closed | Self::Failed => None,
        }
    }
}

/// A client's connection.
#[derive(Debug)]
struct Front {
    disk: DiskId,
    stream: Stream,
    phase: Phase,
    standing: Standing,
    /// Tokens of its requests that are with the router.
    open: Vec<u32>,
    /// Bytes of those, and of the write being received.
    open_bytes: usize,
    /// It has sent more than it may have open; nothing tells of that again.
    waits_for_room: bool,
    since: Instant,
}

/// All of a worker's front-end connections.
#[derive(Debug)]
pub(crate) struct Frontends {
    listeners: Vec<Listener>,
    fronts: Slab<Front>,
    /// Those with something new to send.
    dirty: Vec<usize>,
    /// Those that go when the kernel has let go of them. Removed in one place only, between the turns' completions, so that
    /// no index is reused while somebody still holds it.
    closing: Vec<usize>,
    /// Those with something left to read.
    unread: Vec<usize>,
    /// Disks' vhost-user sockets.
    ports: Vec<serve::Port>,
    /// Rings that are polled: session and queue.
    polled: Vec<(usize, u16)>,
    /// Sessions with results to show, with more to say, and that have ended.
    news: Vec<usize>,
    /// Results that no driver has been shown yet, and since when.
    answers: u32,
    answered_at: Instant,
    unread_sessions: Vec<usize>,
    closing_sessions: Vec<usize>,
    reading: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    /// The worker is stopping: no new requests.
    Stopped,
}

impl Frontends {
    pub(crate) fn new(ring: &mut Ring, listeners: Vec<Listening>, ports: Vec<(DiskId, PathBuf)>) -> Self {
        let ports = ports.into_iter().map(|(disk, path)| serve::Port::new(disk, path)).collect();
        let mut listener = |(index, (disk, transport, socket))| {
            let socket = Rc::new(socket);
            ring.watch(&socket, Tag::Listener(index).pack());
            Listener { disk, transport, state: Accepting::Watched(socket) }
        };
        let listeners: Vec<_> = listeners.into_iter().enumerate().map(&mut listener).collect();
        Self {
            listeners,
            fronts: Slab::new(),
            dirty: Vec::new(),
            closing: Vec::new(),
            unread: Vec::new(),
            ports,
            polled: Vec::new(),
            news: Vec::new(),
            answers: 0,
            answered_at: Instant::ZERO,
            unread_sessions: Vec::new(),
            closing_sessions: Vec::new(),
            reading: Reading::On,
        }
    }

    pub(crate) fn clients_of(&self, disk: DiskId) -> u32 {
        let of = |f: &Front| f.disk == disk && matches!(f.phase, Phase::Session(_));
        self.fronts.iter().filter(|(_, f)| of(f)).count() as u32
    }

    pub(crate) fn has_unread(&self) -> bool {
        !self.unread.is_empty() || !self.unread_sessions.is_empty()
    }

    fn is_reading(&self) -> bool {
        self.reading == Reading::On
    }

    pub(crate) fn stop_reading(&mut self) {
        self.reading = Reading::Stopped;
    }
}

impl Front {
    /// Whether what the client sends next may be read: the rest of a write, for which there is memory already, or another
    /// request.
    fn has_room(&self) -> bool {
        self.phase.is_within_payload()
            || (self.open.len() + self.stream.queued_messages() < CLIENT_REQUESTS_MAX
                && self.open_bytes + self.stream.queued_bytes() < CLIENT_BYTES_MAX)
    }

    /// The client has taken its leave and everything that it asked for is done.
    fn is_finished(&self) -> bool {
        self.phase.is_ending() && self.open.is_empty() && self.stream.queued_bytes() == 0
    }
}

impl Worker {
    /// A listener has new connections.
    pub(crate) fn listener_ready(&mut self, listener: usize, watch: Watch) {
        let Some(socket) = self.fronts.listeners[listener].state.socket() else { return };
        if watch == Watch::Ended {
            self.ring.watch(socket, Tag::Listener(listener).pack());
        }
        self.accept_all(listener);
    }

    fn accept_all(&mut self, listener: usize) {
        loop {
            let from = &mut self.fronts.listeners[listener];
            let Some(socket) = from.state.socket().cloned() else { return };
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match rustix::net::accept_with(&socket, flags) {
                Ok(socket) => self.accepted(listener, socket),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error) => {
                    from.state = Accepting::Paused(socket);
                    let disk = from.disk;
                    tracing::warn!(disk = self.disk_name(disk), %error, "cannot accept a client");
                    return;
                }
            }
        }
    }

    fn accepted(&mut self, listener: usize, socket: OwnedFd) {
        let from = &self.fronts.listeners[listener];
        let (disk, transport) = (from.disk, from.transport);
        let serving = self.fronts.fronts.iter().filter(|(_, f)| f.disk == disk).count();
        if serving as u32 >= CLIENTS_PER_DISK_MAX || self.fronts.reading == Reading::Stopped {
            tracing::warn!(disk = self.disk_name(disk), "too many clients of one disk; one is turned away");
            return;
        }
        if transport == Transport::Tcp {
            let _ = sockopt::set_tcp_nodelay(&socket, true);
            let _ = sockopt::set_tcp_keepidle(&socket, KEEPALIVE_IDLE);
            let _ = sockopt::set_socket_keepalive(&socket, true);
        }
        let standing = self.standing_of(disk);
        let entry = self.fronts.fronts.vacant_entry();
        let index = entry.key();
        let tags = (Tag::FrontRead(index).pack(), Tag::FrontWrite(index).pack());
        let mut stream = Stream::new(Rc::new(socket), tags);
        stream.watch(&mut self.ring);
        entry.insert(Front {
            disk,
            stream,
            phase: Phase::handshake(&self.plan.spec, disk),
            standing,
            open: Vec::new(),
            open_bytes: 0,
            waits_for_room: false,
            since: self.now,
        });
        // The server speaks first.
        self.read_front(index);
    }

    /// The ring says that something has come.
    pub(crate) fn front_ready(&mut self, index: usize, watch: Watch) {
        let front = &mut self.fronts.fronts[index];
        front.stream.watched(&mut self.ring, watch);
        self.read_front(index);
    }

    /// The socket is writable again.
    pub(crate) fn front_unblocked(&mut self, index: usize) {
        self.fronts.fronts[index].stream.unblocked();
        self.fronts.dirty.push(index);
    }

    /// Clients that had more to read than one turn takes.
    pub(crate) fn read_unread_fronts(&mut self) {
        let mut unread = std::mem::take(&mut self.fronts.unread);
        for index in unread.drain(..) {
            if self.fronts.fronts.contains(index) {
                self.read_front(index);
            }
        }
        unread.append(&mut self.fronts.unread);
        self.fronts.unread = unread;
    }

    /// Sends replies, and reads on from clients that waited for room.
    pub(crate) fn flush_fronts(&mut self) {
        let mut dirty = std::mem::take(&mut self.fronts.dirty);
        for index in dirty.drain(..) {
            let Some(front) = self.fronts.fronts.get_mut(index) else { continue };
            let sent = front.stream.flush(&mut self.ring, &mut self.pool, &self.requests);
            if front.phase.is_ending() {
                // It may have gone at once after its leave; what it asked for is done all the same.
                if front.is_finished() || (sent.is_err() && front.open.is_empty()) {
                    self.close_front(index);
                }
            } else if sent.is_err() {
                self.close_front(index);
            } else if front.waits_for_room && front.has_room() {
                front.waits_for_room = false;
                self.fronts.unread.push(index);
            }
        }
        dirty.append(&mut self.fronts.dirty);
        self.fronts.dirty = dirty;
    }

    /// Whether it may be read from.
    fn is_readable(&self, index: usize) -> bool {
        let front = &self.fronts.fronts[index];
        let open = match &front.phase {
            Phase::Closing => false,
            Phase::Handshake(_) | Phase::Session(_) => !front.phase.is_ending() && front.has_room(),
        };
        open && self.fronts.is_reading()
    }

    /// Its requests are dropped or end unheard; the connection goes when the kernel has let go of it.
    pub(super) fn close_front(&mut self, index: usize) {
        let front = &mut self.fronts.fronts[index];
        if matches!(front.phase, Phase::Closing) {
            return;
        }
        front.phase = Phase::Closing;
        let disk = front.disk;
        front.stream.shut(&mut self.ring);
        for token in std::mem::take(&mut front.open) {
            let request = &mut self.requests.table[token as usize];
            request.client = Client::Gone;
            let key = request.key;
            self.router.abandon(key, token);
        }
        self.fronts.closing.push(index);
        if !self.has_clients(self.plan.spec.disk(disk).vm) {
            self.left_after_departure(disk);
        }
    }

    /// Lets go of the connections of which the kernel holds nothing any more.
    pub(crate) fn reap_fronts(&mut self) {
        let before = self.fronts.fronts.len();
        for index in std::mem::take(&mut self.fronts.closing) {
            if self.fronts.fronts[index].stream.is_idle() {
                self.fronts.fronts.remove(index);
            } else {
                self.fronts.closing.push(index);
            }
        }
        if self.fronts.fronts.len() < before {
            self.follow_presence();
        }
    }

    /// Connections that wait for a unit or take too long to begin, and listeners that could not accept.
    pub(crate) fn inspect_fronts(&mut self) {
        let indices: Vec<usize> = self.fronts.fronts.iter().map(|(index, _)| index).collect();
        for index in indices {
            let front = &self.fronts.fronts[index];
            match &front.phase {
                Phase::Closing | Phase::Session(_) => {}
                Phase::Handshake(h) if h.wants_export() => {
                    if self.answer_export(index) == nbd::Turn::Close {
                        self.close_front(index);
                    } else {
                        self.read_front(index);
                    }
                }
                Phase::Handshake(_) if self.now.since(front.since) > HANDSHAKE_MAX => self.close_front(index),
                Phase::Handshake(_) => {}
            }
        }
        for at in 0..self.fronts.listeners.len() {
            match self.fronts.listeners[at].state.clone() {
                Accepting::Watched(_) | Accepting::Closed => {}
                Accepting::Paused(socket) => {
                    self.fronts.listeners[at].state = Accepting::Watched(socket);
                    self.accept_all(at);
                }
                Accepting::Failed if self.is_closed(self.fronts.listeners[at].disk) => {}
                Accepting::Failed => self.reopen_listener(at),
            }
        }
    }

    /// Completes a request: the reply goes to its client, if that is still there, and the token is free.
    pub(crate) fn answer(&mut self, token: u32, result: Result<(), TargetError>) {
        let request = self.requests.table.remove(token as usize);
        match request.client {
            Client::Gone => self.recycle(request.payload),
            Client::Nbd(client) => self.answer_nbd(token, client, request, result),
            Client::Guest(slot) => {
                self.recycle(request.payload);
                self.answer_guest(slot, result);
            }
        }
    }

    fn recycle(&mut self, payload: Payload) {
        if let Payload::Buffer(buffer) = payload {
            self.pool.give(buffer);
        }
    }

    fn answer_nbd(
        &mut self,
        token: u32,
        client: NbdClient,
        request: FrontRequest,
        result: Result<(), TargetError>,
    ) {
        let front = &mut self.fronts.fronts[client.front];
        let Phase::Session(session) = &front.phase else { return self.recycle(request.payload) };
        let style = session.style;
        if let Some(at) = front.open.iter().position(|t| *t == token) {
            front.open.swap_remove(at);
        }
        front.open_bytes -= request.payload_bytes();
        match (result, client.command, request.payload) {
            (Ok(()), Command::Read, Payload::Buffer(data)) => {
                let head = style.read_head(client.cookie, client.offset, client.length);
                front.stream.push(Name::default(), Head::new(head.as_bytes()), Body::Buffer(data));
            }
            (result, command, payload) => {
                let head = style.status(command, client.cookie, result.map_err(wire_error));
                front.stream.push(Name::default(), Head::new(head.as_bytes()), Body::None);
                self.recycle(payload);
            }
        }
        self.fronts.dirty.push(client.front);
    }

    pub(super) fn disk_name(&self, disk: DiskId) -> String {
        let spec = &self.plan.spec;
        format!("{}/{}", spec.vm(spec.disk(disk).vm).name, spec.disk(disk).name)
    }
}

fn wire_error(error: TargetError) -> NbdError {
    match error {
        TargetError::Io => NbdError::Io,
        TargetError::Busy => NbdError::NoMem,
        TargetError::NoSpace => NbdError::NoSpace,
        TargetError::Invalid => NbdError::Inval,
        TargetError::NotPermitted => NbdError::Perm,
        TargetError::ShuttingDown => NbdError::Shutdown,
    }
}
