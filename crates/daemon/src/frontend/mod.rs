//! Where guests attach: the NBD server's connections, one export a disk.
//!
//! A front end turns a client's bytes into the router's requests and completions into replies. Clients are untrusted: a
//! bad request gets the protocol's error, a lost frame ends the connection, and a client that does not read its replies
//! is not read from either. It does not know paths; the second half, what a client says, is in [`nbd`].

mod nbd;

use crate::dataplane::{FrontRequest, Payload, Stream, Tag, Worker};
use crate::dataplane::{Listening, Transport};
use crate::sys::uring::{Ring, Segment};
use nbd::Phase;
use rustix::net::sockopt;
use slab::Slab;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use vmpath_core::ids::DiskId;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::volume::verdict::TargetError;
use vmpath_protocol::nbd::{NbdError, ReplyStyle};

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
    socket: Rc<OwnedFd>,
    state: Accepting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    InFlight,
    /// The last accept failed (out of descriptors, say): the next one is tried at the next inspection.
    Paused,
}

/// A client's connection.
#[derive(Debug)]
struct Front {
    disk: DiskId,
    stream: Stream,
    phase: Phase,
    /// Tokens of its requests that are with the router.
    open: Vec<u32>,
    /// Bytes of those, and of the write being received.
    open_bytes: usize,
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
    reading: Reading,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    On,
    /// The worker is stopping: no new requests.
    Stopped,
}

impl Frontends {
    pub(crate) fn new(ring: &mut Ring, listeners: Vec<Listening>) -> Self {
        let listener = |(disk, transport, socket)| Listener {
            disk,
            transport,
            socket: Rc::new(socket),
            state: Accepting::InFlight,
        };
        let listeners: Vec<_> = listeners.into_iter().map(listener).collect();
        for (index, listener) in listeners.iter().enumerate() {
            ring.accept(&listener.socket, Tag::Listener(index).pack());
        }
        Self { listeners, fronts: Slab::new(), dirty: Vec::new(), closing: Vec::new(), reading: Reading::On }
    }

    pub(crate) fn clients_of(&self, disk: DiskId) -> u32 {
        let of = |f: &Front| f.disk == disk && matches!(f.phase, Phase::Session(_));
        self.fronts.iter().filter(|(_, f)| of(f)).count() as u32
    }

    pub(crate) fn stop_reading(&mut self) {
        self.reading = Reading::Stopped;
    }

    pub(crate) fn flush(&mut self, ring: &mut Ring) {
        for index in self.dirty.drain(..) {
            if let Some(front) = self.fronts.get_mut(index) {
                front.stream.flush(ring);
            }
        }
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
    /// A listener has a new connection.
    pub(crate) fn accepted(&mut self, listener: usize, result: io::Result<OwnedFd>) {
        let from = &mut self.fronts.listeners[listener];
        let (disk, transport) = (from.disk, from.transport);
        let socket = match result {
            Ok(socket) => {
                self.ring.accept(&from.socket, Tag::Listener(listener).pack());
                socket
            }
            Err(error) => {
                from.state = Accepting::Paused;
                tracing::warn!(disk = self.disk_name(disk), %error, "cannot accept a client");
                return;
            }
        };
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
        let entry = self.fronts.fronts.vacant_entry();
        let index = entry.key();
        let tags = (Tag::FrontReceive(index).pack(), Tag::FrontSend(index).pack());
        entry.insert(Front {
            disk,
            stream: Stream::new(Rc::new(socket), tags),
            phase: Phase::handshake(&self.plan.spec, disk),
            open: Vec::new(),
            open_bytes: 0,
            since: self.now,
        });
        self.read_front(index);
    }

    pub(crate) fn front_received(&mut self, index: usize, buffer: Vec<u8>, result: &io::Result<usize>) {
        let front = &mut self.fronts.fronts[index];
        front.stream.receive_done(buffer, result);
        match result {
            Ok(0) | Err(_) => self.close_front(index),
            Ok(_) => self.read_front(index),
        }
    }

    pub(crate) fn front_sent(&mut self, index: usize, segments: Vec<Segment>, result: io::Result<usize>) {
        let front = &mut self.fronts.fronts[index];
        let sent = front.stream.send_done(&mut self.ring, segments, result);
        if front.phase.is_ending() {
            // It may have gone at once after its leave; what it asked for is done all the same.
            if front.is_finished() || (sent.is_err() && front.open.is_empty()) {
                self.close_front(index);
            }
            return;
        }
        match sent {
            Err(_) => self.close_front(index),
            // A reply has left: there may be room again for what the client has sent.
            Ok(_) => self.read_front(index),
        }
    }

    /// Takes in what the client has sent, as far as there is room, and asks for more.
    pub(super) fn read_front(&mut self, index: usize) {
        loop {
            let front = &mut self.fronts.fronts[index];
            let reads = match &front.phase {
                Phase::Closing => return,
                Phase::Handshake(_) | Phase::Session(_) => !front.phase.is_ending() && front.has_room(),
            };
            if !reads || self.fronts.reading == Reading::Stopped {
                return;
            }
            match self.feed_front(index) {
                nbd::Turn::Again => {}
                nbd::Turn::Starved => {
                    let front = &mut self.fronts.fronts[index];
                    front.stream.receive(&mut self.ring);
                    self.fronts.dirty.push(index);
                    return;
                }
                nbd::Turn::Close => {
                    self.close_front(index);
                    return;
                }
            }
        }
    }

    /// Its requests are dropped or end unheard; the connection goes when the kernel has let go of it.
    pub(super) fn close_front(&mut self, index: usize) {
        let front = &mut self.fronts.fronts[index];
        if matches!(front.phase, Phase::Closing) {
            return;
        }
        front.phase = Phase::Closing;
        front.stream.shut(&mut self.ring);
        for token in std::mem::take(&mut front.open) {
            let request = &mut self.requests[token as usize];
            request.client = None;
            let key = request.key;
            self.router.abandon(key, token);
        }
        self.fronts.closing.push(index);
    }

    /// Lets go of the connections of which the kernel holds nothing any more.
    pub(crate) fn reap_fronts(&mut self) {
        for index in std::mem::take(&mut self.fronts.closing) {
            if self.fronts.fronts[index].stream.is_idle() {
                self.fronts.fronts.remove(index);
            } else {
                self.fronts.closing.push(index);
            }
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
        for (index, listener) in self.fronts.listeners.iter_mut().enumerate() {
            if listener.state == Accepting::Paused {
                listener.state = Accepting::InFlight;
                self.ring.accept(&listener.socket, Tag::Listener(index).pack());
            }
        }
    }

    /// Completes a request: the reply goes to its client, if that is still there, and the token is free.
    pub(crate) fn answer(&mut self, token: u32, result: Result<(), TargetError>) {
        let request = self.requests.remove(token as usize);
        let Some(index) = request.client else { return };
        let front = &mut self.fronts.fronts[index];
        let Phase::Session(session) = &front.phase else { return };
        let style = session.style;
        front.open.retain(|t| *t != token);
        front.open_bytes -= request.payload_bytes();
        let (head, payload) = reply(style, request, result);
        front.stream.push(0, head, payload);
        self.fronts.dirty.push(index);
        // Its client may have been waiting for room.
        if !self.fronts.fronts[index].stream.is_receiving() {
            self.read_front(index);
        }
    }

    pub(super) fn disk_name(&self, disk: DiskId) -> String {
        let spec = &self.plan.spec;
        format!("{}/{}", spec.vm(spec.disk(disk).vm).name, spec.disk(disk).name)
    }
}

/// The reply's bytes: a header, and a read's data right behind it.
fn reply(
    style: ReplyStyle,
    request: FrontRequest,
    result: Result<(), TargetError>,
) -> (Segment, Option<Segment>) {
    match (result, request.payload) {
        (Ok(()), Payload::Filling(data)) => {
            let head = style.read_head(request.cookie, request.offset, request.length);
            (Segment::head(head.as_bytes()), Some(Segment::Bytes(data)))
        }
        (result, _) => {
            let head = style.status(request.command, request.cookie, result.map_err(wire_error));
            (Segment::head(head.as_bytes()), None)
        }
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
