//! Requests on an NBD connection: sent, and their replies taken in.

use super::{Filling, OWN_COOKIE, Purpose, Wire};
use crate::dataplane::{Body, Head, Name, Received, STAGING_BYTES, Target, Worker};
use crate::sys::socket::Pieces;
use crate::sys::uring::Watch;
use std::io;
use vmpath_core::event::Fault;
use vmpath_core::path::class::{self, Class};
use vmpath_core::router::{ConnectionKey, Durability, Operation, Request, ZeroMode};
use vmpath_core::volume::verdict::TargetError;
use vmpath_protocol::nbd::{
    Command, CommandFlags, NbdError, Outstanding, ReplyEvent, SessionError, encode_request,
};

/// Reads from this size on are received where they belong; of the next reply no more than its header comes with them.
/// Smaller ones come many at a time and are copied: one copy of a few KiB costs less than one system call each.
const LARGE_READ: u32 = 32 * 1024;
/// Room for the longest reply header.
const HEADER_ROOM: usize = 64;
/// Receives from one connection before others have their turn.
const RECEIVES_PER_TURN: usize = 8;

impl Worker {
    /// Queues an attempt of the router's on its connection.
    pub(crate) fn send_attempt(&mut self, connection: ConnectionKey, cookie: u64, request: &Request) {
        let index = self.backs.of_key(connection);
        let back = &mut self.backs.backs[index];
        back.expects_reply(self.now);
        back.in_flight += 1;
        let unit = self.backs.links[back.link].unit;
        self.backs.units[unit.index()].used_at = self.now;
        let Wire::Nbd(nbd) = &mut back.wire else {
            self.start_block(index, cookie, request);
            return;
        };
        if request.operation == Operation::Write && !self.requests.offer(request) {
            // Its guest has taken the memory away. Nothing else may be sent in its place.
            let _ = self.attempt_done(index, cookie, Err(TargetError::Io));
            return;
        }
        let (command, mut flags) = wire_command(request.operation);
        if request.durability == Durability::Stable && request.operation.changes_data() {
            flags = flags | CommandFlags::FUA;
        }
        let header = encode_request(command, flags, cookie, request.offset, request.length);
        let body = match command {
            Command::Write => Body::OfRequest(request.length),
            Command::Read => {
                nbd.expects_large = request.length >= LARGE_READ;
                Body::None
            }
            Command::Disconnect | Command::Flush | Command::Trim | Command::WriteZeroes => Body::None,
        };
        nbd.stream.push(Name { cookie, token: request.token }, Head::new(&header), body);
        self.backs.dirty.push(index);
    }

    /// Sends what is queued on connections that have something new.
    pub(crate) fn flush_backs(&mut self) {
        let mut dirty = std::mem::take(&mut self.backs.dirty);
        for index in dirty.drain(..) {
            self.flush_back(index);
        }
        // What a cut has queued meanwhile is kept.
        dirty.append(&mut self.backs.dirty);
        self.backs.dirty = dirty;
    }

    fn flush_back(&mut self, index: usize) {
        let Some(back) = self.backs.backs.get_mut(index) else { return };
        let Wire::Nbd(nbd) = &mut back.wire else { return };
        match nbd.stream.flush(&mut self.ring, &mut self.pool, &self.requests) {
            Ok(_) if nbd.stream.queued_messages() == 0 => {}
            Ok(0) => {}
            // The peer takes what is sent: a large write on a slow link is no silence.
            Ok(_) => back.heard = self.now,
            Err(error) => self.cut(index, lost(&error)),
        }
    }

    /// The socket is writable again.
    pub(crate) fn back_unblocked(&mut self, index: usize) {
        if let Wire::Nbd(nbd) = &mut self.backs.backs[index].wire {
            nbd.stream.unblocked();
            self.backs.dirty.push(index);
        }
    }

    /// The ring says that something has come.
    pub(crate) fn back_ready(&mut self, index: usize, watch: Watch) {
        let back = &mut self.backs.backs[index];
        let Wire::Nbd(nbd) = &mut back.wire else { return };
        nbd.stream.watched(&mut self.ring, watch);
        self.read_back(index);
    }

    /// Receives and takes in what has come.
    pub(crate) fn read_back(&mut self, index: usize) {
        let mut staging = std::mem::take(&mut self.staging);
        for _ in 0..RECEIVES_PER_TURN {
            match self.receive_once(index, &mut staging) {
                Ok(Received::Part(_)) => {}
                Ok(Received::All(_) | Received::Nothing) => {
                    self.staging = staging;
                    return;
                }
                Ok(Received::End) => {
                    self.staging = staging;
                    self.cut(index, Fault::Closed);
                    return;
                }
                Err(fault) => {
                    self.staging = staging;
                    self.cut(index, fault);
                    return;
                }
            }
        }
        self.staging = staging;
        // It may have more; a watch tells of what comes, not of what is left.
        if !self.backs.unread.contains(&index) {
            self.backs.unread.push(index);
        }
    }

    /// One receive: the rest of a read's data straight to where it belongs, and what follows into the staging buffer.
    fn receive_once(&mut self, index: usize, staging: &mut [u8]) -> Result<Received, Fault> {
        let back = &mut self.backs.backs[index];
        let Wire::Nbd(nbd) = &mut back.wire else { return Ok(Received::Nothing) };
        let carried = nbd.stream.take_carry(staging);
        let mut pieces = Pieces::default();
        let target = match (nbd.payload_pending(), nbd.filling) {
            (0, _) | (_, Filling::OfOwn { .. }) => Target::Elsewhere,
            (pending, Filling::OfRequest { token, at }) => {
                self.requests.target(&mut pieces, token, at..at + pending)
            }
        };
        let end = match (target, nbd.expects_large) {
            (Target::InPlace, true) => carried + HEADER_ROOM,
            (Target::InPlace, false) | (Target::Elsewhere, _) => staging.len(),
        };
        let direct_room = pieces.bytes();
        pieces.push_target(&mut staging[carried..end]);
        let received = nbd.stream.receive(&mut pieces).map_err(|e| lost(&e))?;
        let bytes = match received {
            Received::All(bytes) | Received::Part(bytes) => bytes,
            Received::Nothing | Received::End => {
                nbd.stream.carry_over(&staging[..carried]);
                return Ok(received);
            }
        };
        back.heard = self.now;
        let direct = bytes.min(direct_room);
        if direct > 0 {
            nbd.taken(direct)?;
        }
        self.feed_back(index, &staging[..carried + bytes - direct])?;
        Ok(received)
    }

    /// Gives the parser what has come, whole replies at a time; the rest is carried over.
    fn feed_back(&mut self, index: usize, bytes: &[u8]) -> Result<(), Fault> {
        let mut at = 0;
        loop {
            let Some(back) = self.backs.backs.get(index).filter(|b| !b.is_closing()) else { return Ok(()) };
            let Wire::Nbd(nbd) = &back.wire else { return Ok(()) };
            let consumed = if nbd.parser.is_some() {
                self.feed_reply(index, &bytes[at..])?
            } else {
                self.feed_handshake(index, &bytes[at..])
            };
            match consumed {
                Progress::Again(consumed) => at += consumed,
                Progress::Starved(consumed) => {
                    at += consumed;
                    break;
                }
            }
        }
        if let Wire::Nbd(nbd) = &mut self.backs.backs[index].wire {
            if bytes.len() - at > STAGING_BYTES / 2 {
                return Err(Fault::Protocol("a header without an end".into()));
            }
            nbd.stream.carry_over(&bytes[at..]);
        }
        Ok(())
    }

    /// One event of the reply stream.
    fn feed_reply(&mut self, index: usize, bytes: &[u8]) -> Result<Progress, Fault> {
        let back = &mut self.backs.backs[index];
        let key = back.key();
        let Wire::Nbd(nbd) = &mut back.wire else { return Ok(Progress::Starved(0)) };
        let pending = nbd.payload_pending();
        if pending > 0 {
            return self.take_payload(index, &bytes[..pending.min(bytes.len())]);
        }
        let Some(parser) = &mut nbd.parser else { return Ok(Progress::Starved(0)) };
        let (router, own) = (&self.router, &back.own);
        let outstanding = |cookie: u64| {
            if cookie & OWN_COOKIE != 0 {
                let of = own.iter().find(|o| o.cookie == cookie)?;
                let len = of.data.len() as u32;
                return Some(Outstanding { command: Command::Read, offset: of.offset, len });
            }
            let request = router.attempt(key?, cookie)?;
            let (command, _) = wire_command(request.operation);
            Some(Outstanding { command, offset: request.offset, len: request.length })
        };
        let fed = parser.feed(bytes, outstanding).map_err(|e| protocol(&e))?;
        match fed.event {
            None => return Ok(Progress::Starved(fed.consumed)),
            Some(ReplyEvent::Payload { cookie, buf_offset, .. }) => {
                let filling = self.filling(index, cookie, buf_offset as usize);
                if let Wire::Nbd(nbd) = &mut self.backs.backs[index].wire {
                    nbd.filling = filling;
                }
            }
            Some(ReplyEvent::Hole { cookie, buf_offset, len }) => {
                let filling = self.filling(index, cookie, buf_offset as usize);
                self.fill_zeroes(index, filling, len as usize);
            }
            Some(ReplyEvent::Done { cookie, result }) => self.reply_done(index, cookie, result)?,
        }
        Ok(Progress::Again(fed.consumed))
    }

    /// Where the data of the read under a cookie goes. The parser has checked that it is a read and that the range lies in it.
    fn filling(&self, index: usize, cookie: u64, at: usize) -> Filling {
        let key = self.backs.backs[index].key();
        match key.filter(|_| cookie & OWN_COOKIE == 0).and_then(|key| self.router.attempt(key, cookie)) {
            Some(request) => Filling::OfRequest { token: request.token, at },
            None => Filling::OfOwn { cookie, at },
        }
    }

    fn fill(&mut self, index: usize, filling: Filling, bytes: &[u8]) {
        match filling {
            Filling::OfRequest { token, at } => self.requests.fill(token, at, bytes),
            Filling::OfOwn { cookie, at } => {
                let own = &mut self.backs.backs[index].own;
                if let Some(own) = own.iter_mut().find(|o| o.cookie == cookie) {
                    own.data[at..at + bytes.len()].copy_from_slice(bytes);
                }
            }
        }
    }

    fn fill_zeroes(&mut self, index: usize, mut filling: Filling, mut len: usize) {
        const ZEROES: [u8; 4096] = [0; 4096];
        while len > 0 {
            let part = len.min(ZEROES.len());
            self.fill(index, filling, &ZEROES[..part]);
            filling = filling.after(part);
            len -= part;
        }
    }

    /// Copies what has come of a read's data to where it belongs.
    fn take_payload(&mut self, index: usize, bytes: &[u8]) -> Result<Progress, Fault> {
        if bytes.is_empty() {
            return Ok(Progress::Starved(0));
        }
        let Wire::Nbd(nbd) = &self.backs.backs[index].wire else { return Ok(Progress::Starved(0)) };
        let filling = nbd.filling;
        self.fill(index, filling, bytes);
        if let Wire::Nbd(nbd) = &mut self.backs.backs[index].wire {
            nbd.taken(bytes.len())?;
        }
        Ok(Progress::Again(bytes.len()))
    }

    fn reply_done(&mut self, index: usize, cookie: u64, result: Result<(), NbdError>) -> Result<(), Fault> {
        let back = &self.backs.backs[index];
        if let Wire::Nbd(nbd) = &back.wire
            && !nbd.stream.has_sent(cookie)
        {
            return Err(Fault::Protocol("a reply to a request that has not been sent whole".into()));
        }
        if cookie & OWN_COOKIE != 0 {
            self.own_done(index, cookie, result);
            return Ok(());
        }
        self.attempt_done(index, cookie, result.map_err(target_error))?;
        match result.map_err(|error| class::of_nbd_reply(error.code())) {
            // It is taken out, and connected again: what it is asked meanwhile would get the same answer for ever.
            Err(Class::Leaving) => Err(Fault::ShuttingDown),
            Ok(()) | Err(Class::Command(_) | Class::Path | Class::Unit) => Ok(()),
        }
    }

    /// A request of our own has been answered.
    pub(super) fn own_done(&mut self, index: usize, cookie: u64, result: Result<(), NbdError>) {
        let back = &mut self.backs.backs[index];
        let Some(at) = back.own.iter().position(|o| o.cookie == cookie) else { return };
        let own = back.own.swap_remove(at);
        match own.purpose {
            Purpose::Ping => {
                let path = self.backs.links[back.link].path;
                self.router.pinged(path, self.now.since(own.asked));
            }
            Purpose::FirstRead => self.answered_first_read(index),
            Purpose::Probe(number) => {
                let took = result.is_ok().then(|| self.now.since(own.asked));
                self.probed(index, number, took);
            }
            Purpose::Remember(ticket) => {
                let unit = self.backs.links[back.link].unit;
                let content = result.is_ok().then_some(&own.data[..]);
                self.router.sample_read(unit, ticket, content, self.now);
            }
            Purpose::Compare(range) => self.compared(index, range, result.map(|()| own.data)),
            Purpose::Nobody => {}
        }
    }

    /// An attempt of the router's has been answered.
    pub(super) fn attempt_done(
        &mut self,
        index: usize,
        cookie: u64,
        result: Result<(), TargetError>,
    ) -> Result<(), Fault> {
        let back = &mut self.backs.backs[index];
        let Some(key) = back.key() else { return Ok(()) };
        self.router
            .reply(key, cookie, result, self.now)
            .map_err(|_| Fault::Protocol("a reply to a request that is not in flight".into()))?;
        back.in_flight -= 1;
        Ok(())
    }

    /// Asks for one block, to hear whether the target is alive.
    pub(super) fn read_own(&mut self, index: usize, purpose: Purpose, offset: u64, length: usize) {
        let cookie = self.backs.own_cookie();
        let back = &mut self.backs.backs[index];
        back.expects_reply(self.now);
        back.own.push(super::Own { cookie, purpose, offset, asked: self.now, data: vec![0; length] });
        match &mut back.wire {
            Wire::Nbd(nbd) => {
                let header = encode_request(Command::Read, CommandFlags::NONE, cookie, offset, length as u32);
                nbd.stream.push(Name { cookie, token: 0 }, Head::new(&header), Body::None);
                self.backs.dirty.push(index);
            }
            Wire::Block(_) => self.start_own_block(index, cookie, offset, length),
        }
    }

    /// Connections that had more to read than one turn takes.
    pub(crate) fn read_unread_backs(&mut self) {
        if self.backs.unread.is_empty() {
            return;
        }
        let mut unread = std::mem::take(&mut self.backs.unread);
        for index in unread.drain(..) {
            if self.backs.backs.get(index).is_some_and(|b| !b.is_closing()) {
                self.read_back(index);
            }
        }
        unread.append(&mut self.backs.unread);
        self.backs.unread = unread;
    }
}

/// How far the parser has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    Again(usize),
    Starved(usize),
}

fn wire_command(operation: Operation) -> (Command, CommandFlags) {
    match operation {
        Operation::Read => (Command::Read, CommandFlags::NONE),
        Operation::Write => (Command::Write, CommandFlags::NONE),
        Operation::Trim => (Command::Trim, CommandFlags::NONE),
        Operation::WriteZeroes(ZeroMode::MayPunchHoles) => (Command::WriteZeroes, CommandFlags::NONE),
        Operation::WriteZeroes(ZeroMode::KeepAllocated) => (Command::WriteZeroes, CommandFlags::NO_HOLE),
        Operation::Flush => (Command::Flush, CommandFlags::NONE),
    }
}

fn target_error(error: NbdError) -> TargetError {
    match class::of_nbd_reply(error.code()) {
        Class::Command(error) => error,
        Class::Leaving => TargetError::ShuttingDown,
        Class::Path | Class::Unit => TargetError::Io,
    }
}

pub(super) fn lost(error: &io::Error) -> Fault {
    match error.raw_os_error() {
        // ECONNABORTED: this host's administrator has destroyed the socket.
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => Fault::Reset,
        _ => Fault::Refused(error.to_string()),
    }
}

pub(super) fn protocol(error: &SessionError) -> Fault {
    Fault::Protocol(error.to_string())
}
