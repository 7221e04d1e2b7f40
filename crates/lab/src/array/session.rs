//! Requests of one connection: taken in, kept until they are due, executed and answered.
//!
//! Invariant: what waits is bounded ([`WAITING_BYTES`]); beyond it the stream is left unread and TCP holds the client.
//! A request is executed when it is due, not when it comes, so that there is a time in which it is lost with its
//! connection. Rejected: executing at once and delaying the reply, which no ghost could come of.
//! It does not know: sockets' readiness, resets.

use super::cache::CacheId;
use super::fault::{FaultSet, Misbehaviour};
use super::portal::Portal;
use super::unit::{Change, Unit};
use super::writers::{Stamp, Write};
use crate::net::{Inbox, Outbox, Received, Stream};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use vmpath_protocol::nbd::{
    Command, CommandFlags, ExportInfo, NbdError, ReplyStyle, Request, RequestEvent, RequestParser,
};

/// Payload that one connection may have waiting, in either direction.
pub(super) const WAITING_BYTES: usize = 64 << 20;
/// How much longer a write waits while the portal makes ghosts, so that some are there when a connection breaks.
const GHOST_SIT: Duration = Duration::from_millis(10);

/// How a step of a session has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    /// Something was done; there may be more to do at once.
    Again,
    /// More bytes are needed.
    More,
    /// Enough is waiting: do not read now.
    Full,
    /// Send what is there, then close.
    Over,
}

/// A request with its payload, waiting for its time.
#[derive(Debug)]
pub(super) struct Waiting {
    due: Instant,
    /// Order among equals.
    turn: u64,
    pub request: Request,
    pub job: Job,
    /// Of a write over a host's portal.
    pub stamp: Option<Stamp>,
}

/// What is to be done for a request.
#[derive(Debug)]
pub(super) enum Job {
    /// Perform it; the bytes are a write's payload.
    Perform(Vec<u8>),
    Refuse(NbdError),
}

#[derive(Debug)]
pub(super) struct Session {
    pub unit: Arc<Unit>,
    parser: RequestParser,
    style: ReplyStyle,
    /// A write whose payload is on its way, and how much of it is there.
    incoming: Option<(Request, Vec<u8>, usize)>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    waiting_bytes: usize,
    turn: u64,
    /// The client has taken its leave, or a reply was cut.
    leaving: bool,
}

impl Session {
    #[must_use]
    pub(super) fn new(unit: Arc<Unit>, export: ExportInfo) -> Self {
        Self {
            unit,
            parser: RequestParser::new(export),
            style: export.reply_style(),
            incoming: None,
            waiting: BinaryHeap::new(),
            waiting_bytes: 0,
            turn: 0,
            leaving: false,
        }
    }

    /// Takes one step through the stream: a request, or a piece of a payload.
    ///
    /// # Errors
    /// If the socket fails or the client has lost the frame.
    pub(super) fn take_in(
        &mut self,
        portal: &Portal,
        faults: &FaultSet,
        inbox: &mut Inbox,
        stream: &Stream,
    ) -> io::Result<Flow> {
        if self.leaving || self.waiting_bytes > WAITING_BYTES {
            return Ok(if self.leaving { self.leave() } else { Flow::Full });
        }
        if let Some((request, mut payload, mut filled)) = self.incoming.take() {
            let complete = fill_payload(&mut payload, &mut filled, inbox, stream)?;
            if !complete {
                self.incoming = Some((request, payload, filled));
                return Ok(Flow::More);
            }
            self.parser.payload_taken(request.len).map_err(io::Error::other)?;
            self.admit(portal, faults, request, payload);
            return Ok(Flow::Again);
        }
        self.drop_refused_payload(inbox)?;
        let fed = self.parser.feed(inbox.bytes()).map_err(io::Error::other)?;
        inbox.consume(fed.consumed);
        match fed.event {
            None => return Ok(Flow::More),
            Some(RequestEvent::Disconnect) => self.leaving = true,
            Some(RequestEvent::Refused(refused)) => {
                // A command that is not known gets the form of any command without payload.
                let command = refused.command.unwrap_or(Command::Flush);
                let (flags, cookie) = (CommandFlags::NONE, refused.cookie);
                let request = Request { command, flags, cookie, offset: 0, len: 0 };
                self.wait(Instant::now(), request, Job::Refuse(refused.error), None);
            }
            Some(RequestEvent::Request(request)) if request.command == Command::Write => {
                self.incoming = Some((request, vec![0; request.len as usize], 0));
            }
            Some(RequestEvent::Request(request)) => self.admit(portal, faults, request, Vec::new()),
        }
        Ok(Flow::Again)
    }

    /// Executes everything whose time has come, and puts the answers into `outbox`.
    pub(super) fn execute_due(
        &mut self,
        portal: &Portal,
        faults: &FaultSet,
        outbox: &mut Outbox<Vec<u8>>,
    ) -> Flow {
        let now = Instant::now();
        while self.waiting.peek().is_some_and(|next| next.0.due <= now) && outbox.len() < WAITING_BYTES {
            let Some(Reverse(next)) = self.waiting.pop() else { break };
            self.waiting_bytes -= cost(&next.request);
            let reply = self.execute(portal, faults, &next);
            outbox.push(reply);
            if faults.misbehave == Some(Misbehaviour::CutReply) {
                self.leaving = true;
                self.waiting.clear();
                self.waiting_bytes = 0;
            }
        }
        if self.leaving { self.leave() } else { Flow::More }
    }

    #[must_use]
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.peek().map(|next| next.0.due)
    }

    /// The writes that were received and not executed, oldest first.
    #[must_use]
    pub(super) fn into_unexecuted_writes(self) -> Vec<Waiting> {
        let waiting = self.waiting.into_sorted_vec().into_iter().rev().map(|Reverse(waiting)| waiting);
        waiting.filter(|w| w.request.command.modifies()).collect()
    }

    fn leave(&self) -> Flow {
        if self.waiting.is_empty() { Flow::Over } else { Flow::Full }
    }

    fn drop_refused_payload(&mut self, inbox: &mut Inbox) -> io::Result<()> {
        let dropped = inbox.bytes().len().min(self.parser.payload_pending() as usize);
        inbox.consume(dropped);
        self.parser.payload_taken(dropped as u32).map_err(io::Error::other)
    }

    fn admit(&mut self, portal: &Portal, faults: &FaultSet, request: Request, payload: Vec<u8>) {
        let bytes = match request.command {
            Command::Read | Command::Write => request.len,
            Command::Flush | Command::Trim | Command::WriteZeroes | Command::Disconnect => 0,
        };
        portal.counters.received.fetch_add(1, Ordering::Relaxed);
        let sits =
            if faults.ghost.is_some() && request.command.modifies() { GHOST_SIT } else { Duration::ZERO };
        let late = if request.command == Command::Read { faults.late_read } else { Duration::ZERO };
        let due = portal.admit(bytes, Instant::now()) + faults.slow + late + sits;
        let writer = portal.host.as_ref().filter(|_| request.command.modifies());
        let stamp = writer.map(|host| self.unit.writers.received(host, request.offset, request.len.into()));
        self.wait(due, request, Job::Perform(payload), stamp);
    }

    fn wait(&mut self, due: Instant, request: Request, job: Job, stamp: Option<Stamp>) {
        self.turn += 1;
        self.waiting_bytes += cost(&request);
        self.waiting.push(Reverse(Waiting { due, turn: self.turn, request, job, stamp }));
    }

    fn execute(&self, portal: &Portal, faults: &FaultSet, waiting: &Waiting) -> Vec<u8> {
        let Waiting { request, job, stamp, .. } = waiting;
        let cookie = match faults.misbehave {
            Some(Misbehaviour::Garbage) => return vec![0xa5; 64],
            Some(Misbehaviour::UnknownCookie) => request.cookie ^ 0x5555_aaaa_5555_aaaa,
            Some(Misbehaviour::CutReply) | None => request.cookie,
        };
        let mut reply = Vec::new();
        if request.command == Command::Read {
            reply.extend_from_slice(self.style.read_head(cookie, request.offset, request.len).as_bytes());
        }
        let head = reply.len();
        reply.resize(head + read_len(request), 0);
        let outcome = match (faults.error, job) {
            (_, Job::Refuse(error)) => Err(*error),
            (Some(error), _) => Err(error),
            (None, Job::Perform(payload)) => {
                let from = Origin { cache: portal.cache, stamp: *stamp };
                perform(&self.unit, from, request, payload, &mut reply[head..])
            }
        };
        if faults.corrupt_reply {
            corrupt(&mut reply[head..]);
        }
        count(portal, request, outcome);
        if outcome.is_err() || request.command != Command::Read {
            reply = self.style.status(request.command, cookie, outcome).as_bytes().to_vec();
        }
        if faults.misbehave == Some(Misbehaviour::CutReply) {
            reply.truncate(reply.len() / 2);
        }
        reply
    }
}

/// As many errors as blocks, each where a checker must look at more than the block's head.
fn corrupt(read: &mut [u8]) {
    for block in read.chunks_mut(4096) {
        let middle = block.len() / 2;
        block[middle] ^= 0x10;
    }
}

fn read_len(request: &Request) -> usize {
    if request.command == Command::Read { request.len as usize } else { 0 }
}

fn count(portal: &Portal, request: &Request, outcome: Result<(), NbdError>) {
    let counters = &portal.counters;
    counters.requests.fetch_add(1, Ordering::Relaxed);
    let bytes = match (outcome, request.command) {
        (Err(_), _) => {
            counters.errors.fetch_add(1, Ordering::Relaxed);
            return;
        }
        (Ok(()), Command::Read) => &counters.bytes_read,
        (Ok(()), Command::Write | Command::WriteZeroes | Command::Trim) => &counters.bytes_written,
        (Ok(()), Command::Flush | Command::Disconnect) => return,
    };
    bytes.fetch_add(u64::from(request.len), Ordering::Relaxed);
}

/// By which way a request came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub cache: Option<CacheId>,
    pub stamp: Option<Stamp>,
}

/// Does what the request says, with a write's `payload`, and puts a read's bytes into `out`, which is as long as they.
/// What is written stays in the origin's cache, if it has one, until it is flushed.
///
/// # Errors
/// As the client is to be told.
pub(super) fn perform(
    unit: &Unit,
    from: Origin,
    request: &Request,
    payload: &[u8],
    out: &mut [u8],
) -> Result<(), NbdError> {
    let (offset, len) = (request.offset, u64::from(request.len));
    if offset.checked_add(len).is_none_or(|end| end > unit.size) {
        return Err(NbdError::Inval);
    }
    let forced = request.command.modifies() && request.flags.contains(CommandFlags::FUA);
    let through = if forced { None } else { from.cache };
    let change = |change: Change<'_>| match from.stamp {
        Some(stamp) => {
            let write = Write { stamp, offset, len, data: payload };
            unit.writers.execute(unit, &write, || unit.change(through, offset, change))
        }
        None => unit.change(through, offset, change),
    };
    let done = match request.command {
        Command::Read => unit.read(offset, out),
        Command::Write => change(Change::Bytes(payload)),
        Command::Trim | Command::WriteZeroes => change(Change::Zeroes(len)),
        Command::Flush => unit.flush(from.cache),
        Command::Disconnect => Ok(()),
    };
    // FUA asks for no more than its own bytes; a file knows no smaller step than all.
    let durable = if forced { done.and_then(|()| unit.sync()) } else { done };
    durable.map_err(
        |why| if why.kind() == io::ErrorKind::StorageFull { NbdError::NoSpace } else { NbdError::Io },
    )
}

fn fill_payload(
    payload: &mut [u8],
    filled: &mut usize,
    inbox: &mut Inbox,
    stream: &Stream,
) -> io::Result<bool> {
    *filled += inbox.take_into(&mut payload[*filled..]);
    while *filled < payload.len() {
        match stream.receive(&mut payload[*filled..])? {
            Received::Bytes(bytes) => *filled += bytes,
            Received::Dry => return Ok(false),
            Received::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(true)
}

fn cost(request: &Request) -> usize {
    request.len as usize
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.due, self.turn).cmp(&(other.due, other.turn))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.turn == other.turn
    }
}

impl Eq for Waiting {}
