//! A connected socket on the ring: one receive and one send in flight at a time, and a queue of messages to send.
//!
//! A stream is closed in two steps: `shut` cancels what is in flight, and when [`Stream::is_idle`] it may be dropped,
//! which closes the socket; with SO_LINGER 0 that discards what has not left this host. It does not know what it carries.

use crate::sys::uring::{Ring, SEGMENTS_MAX, Segment};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

/// Bytes received at a time.
const RECEIVE_BYTES: usize = 256 * 1024;

/// A message is sent whole and in order; `cookie` names it for [`Stream::unsent`].
#[derive(Debug)]
struct Message {
    cookie: u64,
    segments: [Option<Segment>; 2],
}

#[derive(Debug)]
pub struct Stream {
    socket: Rc<OwnedFd>,
    receive_tag: u64,
    send_tag: u64,
    /// None while the kernel has it.
    buffer: Option<Vec<u8>>,
    /// Received and not yet consumed: `buffer[start..end]`.
    start: usize,
    end: usize,
    queue: VecDeque<Message>,
    queued_bytes: usize,
    sending: Sending,
    state: State,
}

#[derive(Debug)]
enum Sending {
    Idle,
    InFlight { bytes: usize },
}

/// How much of what was to be sent has been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    Part,
    Whole,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Open,
    /// Nothing is submitted any more.
    Shut,
}

impl Stream {
    /// `tags` are given back with the completions of receives and sends.
    #[must_use]
    pub fn new(socket: Rc<OwnedFd>, tags: (u64, u64)) -> Self {
        Self {
            socket,
            receive_tag: tags.0,
            send_tag: tags.1,
            buffer: Some(vec![0; RECEIVE_BYTES]),
            start: 0,
            end: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            sending: Sending::Idle,
            state: State::Open,
        }
    }

    #[must_use]
    pub fn socket(&self) -> &Rc<OwnedFd> {
        &self.socket
    }

    /// Starts a receive, if none is in flight and everything received has been consumed.
    pub fn receive(&mut self, ring: &mut Ring) {
        if self.state == State::Open
            && self.start == self.end
            && let Some(buffer) = self.buffer.take()
        {
            ring.receive(&self.socket, self.receive_tag, buffer);
        }
    }

    /// A receive is in the kernel's hands.
    #[must_use]
    pub fn is_receiving(&self) -> bool {
        self.buffer.is_none()
    }

    /// Takes a receive's completion back; afterwards [`Stream::received`] has its bytes.
    pub fn receive_done(&mut self, buffer: Vec<u8>, result: &io::Result<usize>) {
        self.buffer = Some(buffer);
        self.start = 0;
        self.end = *result.as_ref().unwrap_or(&0);
    }

    /// Bytes received and not consumed.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |b| &b[self.start..self.end])
    }

    pub fn consume(&mut self, bytes: usize) {
        debug_assert!(self.start + bytes <= self.end);
        self.start += bytes;
    }

    /// Takes the receive buffer out to read from it while something else is borrowed; give it back at once.
    pub(crate) fn lend(&mut self) -> Lent {
        Lent { start: self.start, buffer: self.buffer.take().unwrap_or_default() }
    }

    pub(crate) fn give_back(&mut self, lent: Lent) {
        self.buffer = Some(lent.buffer);
    }

    /// Queues a message: a header or a chunk of bytes, and maybe a payload right behind it.
    pub fn push(&mut self, cookie: u64, first: Segment, payload: Option<Segment>) {
        let size = |s: &Segment| s.as_slice().len();
        self.queued_bytes += size(&first) + payload.as_ref().map_or(0, size);
        self.queue.push_back(Message { cookie, segments: [Some(first), payload] });
    }

    /// Bytes queued or in flight.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Messages queued and not yet given to the socket.
    #[must_use]
    pub fn queued_messages(&self) -> usize {
        self.queue.len()
    }

    /// Starts a send of what is queued, if none is in flight: several messages in one.
    pub fn flush(&mut self, ring: &mut Ring) {
        if self.state == State::Shut
            || matches!(self.sending, Sending::InFlight { .. })
            || self.queue.is_empty()
        {
            return;
        }
        let mut segments = Vec::new();
        while segments.len() + 2 <= SEGMENTS_MAX
            && let Some(message) = self.queue.pop_front()
        {
            segments.extend(message.segments.into_iter().flatten());
        }
        let bytes = segments.iter().map(|s| s.as_slice().len()).sum();
        self.sending = Sending::InFlight { bytes };
        ring.send(&self.socket, self.send_tag, segments, 0);
    }

    /// Takes a send's completion back and sends the rest, if it was partial: then the peer has made room for more.
    ///
    /// # Errors
    /// The send's own: the connection is lost.
    pub fn send_done(
        &mut self,
        ring: &mut Ring,
        segments: Vec<Segment>,
        result: io::Result<usize>,
    ) -> io::Result<Sent> {
        let Sending::InFlight { bytes } = self.sending else {
            return Ok(Sent::Whole);
        };
        self.sending = Sending::Idle;
        let sent = result?;
        self.queued_bytes = self.queued_bytes.saturating_sub(sent);
        if sent < bytes && self.state == State::Open {
            let all: usize = segments.iter().map(|s| s.as_slice().len()).sum();
            self.sending = Sending::InFlight { bytes: bytes - sent };
            ring.send(&self.socket, self.send_tag, segments, all - bytes + sent);
            return Ok(Sent::Part);
        }
        self.flush(ring);
        Ok(Sent::Whole)
    }

    /// Names of the messages of which nothing was given to the socket.
    pub fn unsent(&self) -> impl Iterator<Item = u64> + '_ {
        self.queue.iter().map(|m| m.cookie)
    }

    /// Cancels what is in flight; nothing is submitted any more.
    pub fn shut(&mut self, ring: &mut Ring) {
        if self.state == State::Open {
            self.state = State::Shut;
            if !self.is_idle() {
                ring.cancel_all(&self.socket);
            }
        }
    }

    /// Nothing of it is in the kernel's hands.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.buffer.is_some() && matches!(self.sending, Sending::Idle) && Rc::strong_count(&self.socket) == 1
    }
}

/// A receive buffer on loan.
#[derive(Debug)]
pub(crate) struct Lent {
    start: usize,
    buffer: Vec<u8>,
}

impl Lent {
    pub(crate) fn first(&self, bytes: usize) -> &[u8] {
        &self.buffer[self.start..self.start + bytes]
    }
}
