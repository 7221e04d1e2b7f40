//! One front end's connection: messages in, requests out, results back.
//!
//! Invariant: no call waits. A message is taken from the socket only when the whole of it has come, and only while the
//! socket takes the answer. The device is handed to the message handler for one message and back, so that requests
//! reach it without a lock or a check.

use super::device::{Abandoned, Changes, Device};
use super::fault::SessionEnd;
use super::handler::Handler;
use super::note::Note;
use super::queue::{Fetched, Kick, Queue};
use super::world::{PROTOCOL_FEATURES, Shape};
use crate::sys::guest::GuestMemory;
use crate::sys::socket::{self, Pieces};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use vhost::vhost_user::{BackendReqHandler, Error, VhostUserProtocolFeatures};
use vmpath_protocol::virtio_blk::request::Status;

/// A message's header: request, flags, size of the rest; u32 each, in the host's order.
const HEADER: usize = 12;
/// Bytes of the longest message; a longer one is refused without being waited for.
const MESSAGE_MAX: usize = 4096;
const NEED_REPLY: u32 = 1 << 3;
/// Version 1, and a reply.
const REPLY: u32 = 1 | 1 << 2;
/// SET_VRING_ADDR: index u32, flags u32, and the addresses of descriptors, used ring, available ring, log.
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_ADDR_BODY: usize = 40;

const GET_FEATURES: u32 = 1;
const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const GET_PROTOCOL_FEATURES: u32 = 15;
const SET_PROTOCOL_FEATURES: u32 = 16;

/// What a call of [`Session::handle_message`] did.
#[derive(Debug)]
pub(crate) enum Handled {
    /// No whole message has come.
    Starved,
    Done(Changes),
}

/// A front end's connection, and its device.
pub(crate) struct Session {
    pub(super) device: Device,
    handler: Arc<Handler>,
    messages: BackendReqHandler<Handler>,
    socket: Rc<OwnedFd>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing has been said.
    New,
    Begun,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("device", &self.device).finish_non_exhaustive()
    }
}

/// What a header says of its message.
enum Waiting {
    Part,
    Whole {
        code: u32,
    },
    /// A driver's ring that is not aligned, which the crate would take for a front end's error.
    Misaligned {
        queue: u32,
        flags: u32,
    },
}

/// A message of a front end.
fn message(code: u32, body: &[u8]) -> Vec<u8> {
    let words = [code, 1, body.len() as u32];
    words.iter().flat_map(|word| word.to_ne_bytes()).chain(body.iter().copied()).collect()
}

impl Session {
    /// A connection that was just accepted.
    ///
    /// # Errors
    /// No descriptors are left.
    // The crate wants an `Arc`; nothing here ever leaves its thread.
    #[allow(clippy::arc_with_non_send_sync, clippy::needless_pass_by_value)]
    pub(crate) fn new(socket: UnixStream, shape: Shape) -> io::Result<Self> {
        // On a descriptor that does not wait the crate would spin when it cannot send; see `takes_answer`.
        socket.set_nonblocking(false)?;
        let watched = Rc::new(OwnedFd::from(socket.try_clone()?));
        let handler = Arc::new(Handler::new(&shape));
        let messages = BackendReqHandler::from_stream(socket, Arc::clone(&handler));
        Ok(Self { device: Device::new(&shape), handler, messages, socket: watched, stage: Stage::New })
    }

    /// Keeps a note of the guest's memory in this file (on tmpfs), and finds that memory again by it if the front end does not tell it.
    #[must_use]
    pub(crate) fn with_note(mut self, path: PathBuf) -> Self {
        self.device.note = Some(Note::new(path, &self.socket));
        self
    }

    /// Whether the front end has said anything.
    pub(crate) fn has_begun(&self) -> bool {
        self.stage == Stage::Begun
    }

    /// Readable when there may be a message.
    pub(crate) fn socket(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    /// Handles one message, if one has come.
    ///
    /// # Errors
    /// The session is over: see what is open, [`Session::close`] it, and drop it when that is done.
    pub(crate) fn handle_message(&mut self) -> Result<Handled, SessionEnd> {
        let waiting = self.peek()?;
        if matches!(waiting, Waiting::Part) {
            return Ok(Handled::Starved);
        }
        if !self.takes_answer() {
            return Err(SessionEnd::Deaf);
        }
        self.begin(&waiting)?;
        match waiting {
            Waiting::Part => return Ok(Handled::Starved),
            Waiting::Misaligned { queue, flags } => self.refuse_address(queue, flags)?,
            Waiting::Whole { .. } => self.apply()?,
        }
        Ok(Handled::Done(std::mem::take(&mut self.device.changes)))
    }

    fn apply(&mut self) -> Result<(), SessionEnd> {
        self.handler.swap(&mut self.device);
        let result = self.messages.handle_request();
        self.handler.swap(&mut self.device);
        result.map_err(|error| self.end_with(error))
    }

    pub(super) fn end_with(&mut self, error: Error) -> SessionEnd {
        match (self.device.forgotten.take(), error) {
            (Some(forgotten), _) => SessionEnd::Forgotten(forgotten),
            (None, Error::Disconnected) => SessionEnd::Closed,
            (None, other) => SessionEnd::Protocol(other),
        }
    }

    /// Before the first message: it tells whether the front end begins, or goes on where it was with a process that is gone.
    fn begin(&mut self, waiting: &Waiting) -> Result<(), SessionEnd> {
        if std::mem::replace(&mut self.stage, Stage::Begun) == Stage::Begun {
            return Ok(());
        }
        match waiting {
            Waiting::Whole { code: GET_FEATURES | SET_OWNER | GET_PROTOCOL_FEATURES } => {
                self.device.introduce();
                Ok(())
            }
            Waiting::Part | Waiting::Whole { .. } | Waiting::Misaligned { .. } => self.presume(),
        }
    }

    /// Takes what is offered for negotiated. The crate learns that from messages only: it gets them over a pair of our own, and then the
    /// connection in the place of that.
    fn presume(&mut self) -> Result<(), SessionEnd> {
        self.device.presume();
        let (ours, theirs) = UnixStream::pair().map_err(SessionEnd::Lost)?;
        self.messages = BackendReqHandler::from_stream(ours, Arc::clone(&self.handler));
        let protocol = Device::protocol_offered().bits();
        let features = [(SET_FEATURES, PROTOCOL_FEATURES), (SET_PROTOCOL_FEATURES, protocol)];
        let set = |(code, value): (u32, u64)| message(code, &value.to_ne_bytes());
        for said in std::iter::once(message(GET_FEATURES, &[])).chain(features.map(set)) {
            io::Write::write_all(&mut &theirs, &said).map_err(SessionEnd::Lost)?;
            self.apply()?;
        }
        socket::replace(&self.messages, &self.socket).map_err(SessionEnd::Lost)
    }

    fn peek(&self) -> Result<Waiting, SessionEnd> {
        let mut bytes = [0; HEADER + SET_VRING_ADDR_BODY];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let peeked = match rustix::net::recv(&self.socket, &mut bytes[..], flags) {
            Ok((0, _)) => return Err(SessionEnd::Closed),
            Ok((peeked, _)) => peeked,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(Waiting::Part),
            Err(error) => return Err(SessionEnd::Lost(error.into())),
        };
        if peeked < HEADER {
            return Ok(Waiting::Part);
        }
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let (code, flags, size) = (word(0), word(4), word(8) as usize);
        // A peek ends where descriptors were sent; the count of bytes does not.
        let here = rustix::io::ioctl_fionread(&self.socket).map_err(|e| SessionEnd::Lost(e.into()))?;
        if size <= MESSAGE_MAX && here < (HEADER + size) as u64 {
            return Ok(Waiting::Part);
        }
        if code == SET_VRING_ADDR && size == SET_VRING_ADDR_BODY && peeked == bytes.len() {
            let (descriptors, used, available) = (long(HEADER + 8), long(HEADER + 16), long(HEADER + 24));
            if descriptors % 16 != 0 || used % 4 != 0 || available % 2 != 0 {
                return Ok(Waiting::Misaligned { queue: word(HEADER), flags });
            }
        }
        Ok(Waiting::Whole { code })
    }

    /// Whether an answer fits: a socket counts as writable while most of its buffer is free, and answers are short.
    fn takes_answer(&self) -> bool {
        let mut ready = [PollFd::new(&self.socket, PollFlags::OUT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut ready, Some(&now)), Ok(1))
    }

    /// Takes the message off the socket; the ring breaks, the session goes on.
    fn refuse_address(&mut self, queue: u32, flags: u32) -> Result<(), SessionEnd> {
        let mut message = [0; HEADER + SET_VRING_ADDR_BODY];
        rustix::net::recv(&self.socket, &mut message[..], RecvFlags::DONTWAIT)
            .map_err(|e| SessionEnd::Lost(e.into()))?;
        if let Err(error) = self.device.set_misaligned(queue) {
            return Err(self.end_with(error));
        }
        let has_acks = self.device.protocol_features & VhostUserProtocolFeatures::REPLY_ACK.bits() != 0
            && self.device.world.offered & PROTOCOL_FEATURES != 0;
        if !has_acks || flags & NEED_REPLY == 0 {
            return Ok(());
        }
        let mut reply = Vec::with_capacity(HEADER + 8);
        for word in [SET_VRING_ADDR, REPLY, 8, 0, 0] {
            reply.extend_from_slice(&word.to_ne_bytes());
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::net::send(&self.socket, &reply, flags) {
            Ok(sent) if sent == reply.len() => Ok(()),
            Ok(_) | Err(Errno::AGAIN) => Err(SessionEnd::Deaf),
            Err(error) => Err(SessionEnd::Lost(error.into())),
        }
    }

    /// Stops all rings, as the front end would: afterwards guest memory is not touched any more, and what may be on its way is sent
    /// from private copies. Gives what a message that ended the session has abandoned.
    pub(crate) fn close(&mut self) -> Vec<Abandoned> {
        self.device.stop_all();
        std::mem::take(&mut self.device.changes).abandoned
    }

    fn queue(&self, queue: u16) -> Option<&Queue> {
        self.device.queues.get(usize::from(queue))
    }

    /// Whether its ring runs: results go out, and bytes may be had.
    pub(crate) fn is_running(&self, queue: u16) -> bool {
        self.queue(queue).is_some_and(Queue::is_running)
    }

    /// The descriptor that the driver kicks; `None` if the ring is stopped, or to be polled.
    pub(crate) fn kick(&self, queue: u16) -> Option<&Rc<OwnedFd>> {
        match &self.queue(queue)?.kick {
            Kick::Fd(fd) => Some(fd),
            Kick::None | Kick::Polled => None,
        }
    }

    /// The next request. Call [`Session::opened`] for each before anything else.
    #[inline]
    pub(crate) fn fetch(&mut self, queue: u16) -> Fetched {
        match self.device.queues.get_mut(usize::from(queue)) {
            Some(of) => of.fetch(&self.device.world),
            None => Fetched::Empty,
        }
    }

    /// Names a request.
    pub(crate) fn opened(&mut self, queue: u16, head: u16, token: u32) {
        if let Some(of) = self.device.queues.get_mut(usize::from(queue)) {
            of.opened(head, token);
        }
    }

    /// A request's result; the driver sees it at the next [`Session::notify`], or when the ring runs again.
    #[inline]
    pub(crate) fn complete(&mut self, queue: u16, head: u16, status: Status) {
        if let Some(of) = self.device.queues.get_mut(usize::from(queue)) {
            of.complete(&self.device.world, head, status);
        }
    }

    /// Shows the drivers what has been completed, and calls those that want it. Once a turn.
    pub(crate) fn notify(&mut self) {
        for queue in &mut self.device.queues {
            queue.notify(&self.device.world);
        }
    }

    /// Guest memory, if the ring runs.
    fn memory_of(&self, queue: &Queue) -> Option<&GuestMemory> {
        queue.is_running().then_some(&self.device.world.memory)
    }

    /// Adds the places of a request's data bytes from `from` on, at most `len`; how many. Less than asked for if the pieces are full. None of a write while its
    /// ring is stopped, unless some of it was given out before: then there is a copy.
    pub(crate) fn push_data<'a>(
        &'a self,
        pieces: &mut Pieces<'a>,
        queue: u16,
        head: u16,
        from: usize,
        len: usize,
    ) -> usize {
        let Some((of, slot)) = self.queue(queue).and_then(|of| Some((of, of.slot(head)?))) else { return 0 };
        let narrow = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        slot.push(self.memory_of(of), pieces, narrow(from), narrow(len)) as usize
    }

    /// Copies received bytes of a read to where they belong.
    pub(crate) fn fill(&mut self, queue: u16, head: u16, at: usize, bytes: &[u8]) {
        let Some(of) = self.device.queues.get_mut(usize::from(queue)) else { return };
        let memory = of.is_running().then_some(&self.device.world.memory);
        if let Some(slot) = of.slot_mut(head) {
            slot.fill(memory, u32::try_from(at).unwrap_or(u32::MAX), bytes);
        }
    }

    /// Copies a write's bytes out. `false` if they are not to be had: see [`Session::push_data`].
    #[must_use]
    pub(crate) fn read_data(&self, queue: u16, head: u16, from: usize, into: &mut [u8]) -> bool {
        let Some((of, slot)) = self.queue(queue).and_then(|of| Some((of, of.slot(head)?))) else {
            return false;
        };
        slot.read(self.memory_of(of), u32::try_from(from).unwrap_or(u32::MAX), into)
    }

    /// The driver knows no flush: each of its writes must be stable when it is answered (virtio 1.2, 5.2.6.2).
    pub(crate) fn writes_through(&self) -> bool {
        self.device.world.features & 1 << vmpath_protocol::virtio_blk::feature::FLUSH == 0
    }

    /// Whether there is something to fetch.
    #[inline]
    pub(crate) fn poll_avail(&self, queue: u16) -> bool {
        self.queue(queue).is_some_and(|of| of.poll_avail(&self.device.world))
    }

    /// The ring is being polled: kicks are wasted.
    pub(crate) fn suppress_kicks(&mut self, queue: u16) {
        if let Some(of) = self.device.queues.get_mut(usize::from(queue)) {
            of.suppress_kicks(&self.device.world);
        }
    }

    /// Nobody polls from now on. Whether more has come meanwhile, which no kick may tell of.
    #[must_use]
    pub(crate) fn enable_kicks(&mut self, queue: u16) -> bool {
        match self.device.queues.get_mut(usize::from(queue)) {
            Some(of) => of.enable_kicks(&self.device.world),
            None => false,
        }
    }

    /// All requests that are open, rings running or not: queue, head, token.
    pub(crate) fn open(&self) -> impl Iterator<Item = (u16, u16, u32)> {
        let of = |(queue, of): (u16, _)| Queue::open(of).map(move |(head, token)| (queue, head, token));
        (0u16..).zip(&self.device.queues).flat_map(of)
    }
}
