//! A connected socket of a worker: a queue of messages to send, several in one call, and whether there is anything to receive.
//!
//! A stream is closed in two steps: `shut` cancels the ring's watches, and when [`Stream::is_idle`] it may be dropped,
//! which closes the socket; with SO_LINGER 0 that discards what has not left this host. It keeps no received bytes but
//! those of an unfinished header, so that a thousand idle connections cost nothing. It does not know what it carries.

use super::requests::Requests;
use crate::sys::buffer::{Buffer, Pool};
use crate::sys::socket::{self, Pieces};
use crate::sys::uring::{Ring, Watch};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// The longest header of any protocol here.
const HEAD_MAX: usize = 48;
/// Messages looked at for one call: each takes two pieces at least.
const MESSAGES_PER_SEND: usize = 64;

/// A protocol header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    bytes: [u8; HEAD_MAX],
    len: u8,
}

impl Head {
    /// At most 48 bytes.
    pub(crate) fn new(bytes: &[u8]) -> Self {
        let mut all = [0; HEAD_MAX];
        all[..bytes.len()].copy_from_slice(bytes);
        Self { bytes: all, len: bytes.len() as u8 }
    }

    fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What follows a header.
#[derive(Debug)]
pub(crate) enum Body {
    None,
    /// This many bytes of the request with the message's name, wherever they lie: whoever flushes knows.
    OfRequest(u32),
    Buffer(Buffer),
    Bytes(Vec<u8>),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::OfRequest(len) => *len as usize,
            Self::Buffer(buffer) => buffer.len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }
}

/// A message is sent whole and in order.
#[derive(Debug)]
struct Message {
    name: Name,
    head: Head,
    body: Body,
}

/// Whose message it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Name {
    /// The router's name of the attempt.
    pub(crate) cookie: u64,
    /// The worker's name of the request.
    pub(crate) token: u32,
}

#[derive(Debug)]
pub(crate) struct Stream {
    socket: Rc<OwnedFd>,
    read_tag: u64,
    write_tag: u64,
    /// Received and not yet understood: the start of a header, or what a client's backpressure holds up.
    carry: Vec<u8>,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    /// Bytes of the first message that have been sent.
    sent: usize,
    write: Write,
    /// Watches of the ring that hold the socket.
    watches: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Write {
    Free,
    /// The socket was full; the ring tells when it is not.
    Blocked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing is sent, received or submitted any more.
    Shut,
}

/// What a receive came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Everything that was there has been taken.
    All(usize),
    /// There may be more.
    Part(usize),
    Nothing,
    /// The peer has closed its side.
    End,
}

impl Stream {
    /// `tags` come back with readiness to receive and to send.
    pub(crate) fn new(socket: Rc<OwnedFd>, tags: (u64, u64)) -> Self {
        Self {
            socket,
            read_tag: tags.0,
            write_tag: tags.1,
            carry: Vec::new(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            sent: 0,
            write: Write::Free,
            watches: 0,
            state: State::Open,
        }
    }

    pub(crate) fn socket(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    /// From now on the ring tells when something comes.
    pub(crate) fn watch(&mut self, ring: &mut Ring) {
        if self.state == State::Open {
            ring.watch(&self.socket, self.read_tag);
            self.watches += 1;
        }
    }

    /// Waits for the socket to be connected.
    pub(crate) fn await_connected(&mut self, ring: &mut Ring, tag: u64) {
        ring.writable(&self.socket, tag);
        self.watches += 1;
    }

    /// The ring has said that something has come, or that it watches no more.
    pub(crate) fn watched(&mut self, ring: &mut Ring, watch: Watch) {
        if watch == Watch::Ended {
            self.watches -= 1;
            self.watch(ring);
        }
    }

    /// The ring has said that the socket is writable.
    pub(crate) fn unblocked(&mut self) {
        self.watches -= 1;
        self.write = Write::Free;
    }

    /// Takes what was carried over; it must be given to the parser before anything received later.
    pub(crate) fn take_carry(&mut self, into: &mut [u8]) -> usize {
        let carried = self.carry.len();
        into[..carried].copy_from_slice(&self.carry);
        self.carry.clear();
        carried
    }

    /// Keeps bytes that cannot be understood or accepted yet.
    pub(crate) fn carry_over(&mut self, bytes: &[u8]) {
        debug_assert!(self.carry.is_empty());
        self.carry.extend_from_slice(bytes);
    }

    /// # Errors
    /// The receive's own: the connection is lost.
    pub(crate) fn receive(&self, pieces: &mut Pieces<'_>) -> io::Result<Received> {
        if self.state == State::Shut || pieces.is_empty() {
            return Ok(Received::Nothing);
        }
        match socket::receive(&self.socket, pieces) {
            Ok(0) => Ok(Received::End),
            Ok(bytes) if bytes < pieces.bytes() => Ok(Received::All(bytes)),
            Ok(bytes) => Ok(Received::Part(bytes)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Received::Nothing),
            Err(error) => Err(error),
        }
    }

    /// The peer has closed its side, or the connection is broken.
    pub(crate) fn is_hung_up(&self) -> bool {
        let mut asked = [PollFd::new(&self.socket, PollFlags::RDHUP)];
        let gone = PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR;
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut asked, Some(&now)).is_ok() && asked[0].revents().intersects(gone)
    }

    pub(crate) fn push(&mut self, name: Name, head: Head, body: Body) {
        self.queued_bytes += head.as_slice().len() + body.len();
        self.queue.push_back(Message { name, head, body });
    }

    /// Queues bytes without a header.
    pub(crate) fn push_bytes(&mut self, bytes: Vec<u8>) {
        self.push(Name::default(), Head::new(&[]), Body::Bytes(bytes));
    }

    /// Bytes queued and not sent.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes - self.sent
    }

    pub(crate) fn queued_messages(&self) -> usize {
        self.queue.len()
    }

    /// Sends what the socket takes of what is queued: several messages in one call. Returns the bytes sent; sent buffers
    /// go back to `pool`.
    ///
    /// # Errors
    /// The send's own, or the bytes of a request are not to be had any more: the connection is lost.
    pub(crate) fn flush(
        &mut self,
        ring: &mut Ring,
        pool: &mut Pool,
        requests: &Requests,
    ) -> io::Result<usize> {
        let mut total = 0;
        while self.state == State::Open && self.write == Write::Free && !self.queue.is_empty() {
            let mut pieces = Pieces::default();
            gather(&self.queue, self.sent, &mut pieces, requests);
            let offered = pieces.bytes();
            if offered == 0 {
                return Err(io::Error::other("a request's bytes are gone"));
            }
            match socket::send(&self.socket, &mut pieces) {
                Ok(bytes) => {
                    total += bytes;
                    self.advance(bytes, pool);
                    if bytes < offered {
                        self.block(ring);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.block(ring),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(total)
    }

    fn block(&mut self, ring: &mut Ring) {
        self.write = Write::Blocked;
        ring.writable(&self.socket, self.write_tag);
        self.watches += 1;
    }

    /// Forgets messages that have been sent whole.
    fn advance(&mut self, bytes: usize, pool: &mut Pool) {
        self.sent += bytes;
        while let Some(first) = self.queue.front() {
            let size = first.head.as_slice().len() + first.body.len();
            if self.sent < size {
                break;
            }
            self.sent -= size;
            self.queued_bytes -= size;
            if let Some(Message { body: Body::Buffer(buffer), .. }) = self.queue.pop_front() {
                pool.give(buffer);
            }
        }
    }

    /// Names of the messages of which nothing was given to the socket.
    pub(crate) fn unsent(&self) -> impl Iterator<Item = u64> + '_ {
        self.queue.iter().skip(usize::from(self.sent > 0)).map(|m| m.name.cookie)
    }

    /// Whether all of a message has been given to the socket.
    pub(crate) fn has_sent(&self, cookie: u64) -> bool {
        self.queue.iter().all(|m| m.name.cookie != cookie)
    }

    /// Cancels what the ring watches; nothing is submitted any more.
    pub(crate) fn shut(&mut self, ring: &mut Ring) {
        if self.state == State::Open {
            self.state = State::Shut;
            if self.watches > 0 {
                ring.cancel_all(&self.socket);
            }
        }
    }

    /// Nothing of it is in the kernel's hands.
    pub(crate) fn is_idle(&self) -> bool {
        self.watches == 0 && Rc::strong_count(&self.socket) == 1
    }
}

/// Adds the pieces of the first messages, without the first `skip` bytes. Stops at one whose bytes are not all to be had, or
/// for which there is no room: what follows must not take their place.
fn gather<'a>(
    queue: &'a VecDeque<Message>,
    mut skip: usize,
    pieces: &mut Pieces<'a>,
    requests: &'a Requests,
) {
    for message in queue.iter().take(MESSAGES_PER_SEND) {
        let head = message.head.as_slice();
        let whole = pieces.bytes() + head.len() + message.body.len() - skip;
        pieces.push_source(&head[skip.min(head.len())..]);
        skip = skip.saturating_sub(head.len());
        match &message.body {
            Body::None => {}
            Body::OfRequest(len) => requests.source(pieces, message.name.token, skip..*len as usize),
            Body::Buffer(buffer) => pieces.push_source(&buffer[skip..]),
            Body::Bytes(bytes) => pieces.push_source(&bytes[skip..]),
        }
        skip = 0;
        if pieces.bytes() < whole {
            break;
        }
    }
}
