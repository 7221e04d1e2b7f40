//! Requests on a connection: sent, and their replies taken in.

use super::{OWN_COOKIE, Purpose};
use crate::dataplane::{Payload, Sent, Worker};
use crate::sys::uring::Segment;
use std::io;
use std::rc::Rc;
use vmpath_core::event::Fault;
use vmpath_core::router::{ConnectionKey, Durability, Operation, Request, ZeroMode};
use vmpath_core::volume::verdict::TargetError;
use vmpath_protocol::nbd::{
    Command, CommandFlags, NbdError, Outstanding, ReplyEvent, SessionError, encode_request,
};

impl Worker {
    /// Queues an attempt of the router's on its connection.
    pub(crate) fn send_attempt(&mut self, connection: ConnectionKey, cookie: u64, request: &Request) {
        let (command, mut flags) = wire_command(request.operation);
        if request.durability == Durability::Stable && request.operation.changes_data() {
            flags = flags | CommandFlags::FUA;
        }
        let header = encode_request(command, flags, cookie, request.offset, request.length);
        let payload = match &self.requests[request.token as usize].payload {
            Payload::Shared(data) if command == Command::Write => Some(Segment::Payload(Rc::clone(data))),
            Payload::Shared(_) | Payload::Filling(_) | Payload::None => None,
        };
        let index = self.backs.of_key(connection);
        let back = &mut self.backs.backs[index];
        back.expects_reply(self.now);
        back.in_flight += 1;
        back.stream.push(cookie, Segment::head(&header), payload);
        self.backs.dirty.push(index);
    }

    pub(crate) fn back_sent(&mut self, index: usize, segments: Vec<Segment>, result: io::Result<usize>) {
        let back = &mut self.backs.backs[index];
        match back.stream.send_done(&mut self.ring, segments, result) {
            Ok(Sent::Whole) => {}
            // The peer takes what is sent: a large write on a slow link is no silence.
            Ok(Sent::Part) => back.heard = self.now,
            Err(error) => self.cut(index, lost(&error)),
        }
    }

    pub(crate) fn back_received(&mut self, index: usize, buffer: Vec<u8>, result: &io::Result<usize>) {
        let back = &mut self.backs.backs[index];
        back.stream.receive_done(buffer, result);
        if back.is_closing() {
            return;
        }
        match result {
            Ok(0) => self.cut(index, Fault::Closed),
            Err(error) => self.cut(index, lost(error)),
            Ok(_) => {
                back.heard = self.now;
                self.feed_handshake(index);
                self.feed_replies(index);
                if let Some(back) = self.backs.backs.get_mut(index) {
                    back.stream.receive(&mut self.ring);
                }
            }
        }
    }

    fn feed_replies(&mut self, index: usize) {
        loop {
            match self.feed_reply(index) {
                Ok(Progress::Again) => {}
                Ok(Progress::Starved) => return,
                Err(fault) => {
                    self.cut(index, fault);
                    return;
                }
            }
        }
    }

    /// One event of the reply stream.
    fn feed_reply(&mut self, index: usize) -> Result<Progress, Fault> {
        let back = &mut self.backs.backs[index];
        if back.is_closing() {
            return Ok(Progress::Starved);
        }
        let key = back.key();
        let Some(parser) = &mut back.parser else { return Ok(Progress::Starved) };
        let (router, own) = (&self.router, &back.own);
        let outstanding = |cookie: u64| {
            if cookie & OWN_COOKIE != 0 {
                let of = own.iter().find(|o| o.cookie == cookie)?;
                return Some(Outstanding {
                    command: Command::Read,
                    offset: of.offset,
                    len: of.data.len() as u32,
                });
            }
            let request = router.attempt(key?, cookie)?;
            let (command, _) = wire_command(request.operation);
            Some(Outstanding { command, offset: request.offset, len: request.length })
        };
        let fed = parser.feed(back.stream.received(), outstanding).map_err(|e| protocol(&e))?;
        back.stream.consume(fed.consumed);
        match fed.event {
            None if parser.payload_pending() > 0 => self.take_payload(index),
            None => Ok(Progress::Starved),
            Some(ReplyEvent::Payload { cookie, buf_offset, .. }) => {
                self.backs.backs[index].filling = (cookie, buf_offset as usize);
                Ok(Progress::Again)
            }
            Some(ReplyEvent::Hole { cookie, buf_offset, len }) => {
                let at = buf_offset as usize;
                self.buffer_of(index, cookie)[at..at + len as usize].fill(0);
                Ok(Progress::Again)
            }
            Some(ReplyEvent::Done { cookie, result }) => {
                self.reply_done(index, cookie, result)?;
                Ok(Progress::Again)
            }
        }
    }

    /// Copies what has come of a read's data to where it belongs.
    fn take_payload(&mut self, index: usize) -> Result<Progress, Fault> {
        let back = &mut self.backs.backs[index];
        let (cookie, at) = back.filling;
        let pending =
            back.parser.as_ref().map_or(0, vmpath_protocol::nbd::ReplyParser::payload_pending) as usize;
        let taken = pending.min(back.stream.received().len());
        if taken == 0 {
            return Ok(Progress::Starved);
        }
        // The received bytes and the request's buffer belong to different owners inside the worker: lend the former.
        let received = back.stream.lend();
        self.buffer_of(index, cookie)[at..at + taken].copy_from_slice(received.first(taken));
        let back = &mut self.backs.backs[index];
        back.stream.give_back(received);
        back.stream.consume(taken);
        back.filling = (cookie, at + taken);
        if let Some(parser) = &mut back.parser {
            parser.payload_taken(taken as u32).map_err(|e| protocol(&e))?;
        }
        Ok(Progress::Again)
    }

    /// Where a read's data goes. The parser has checked that the cookie names a read and the range lies in it.
    fn buffer_of(&mut self, index: usize, cookie: u64) -> &mut [u8] {
        let back = &mut self.backs.backs[index];
        if cookie & OWN_COOKIE != 0 {
            let own = back.own.iter_mut().find(|o| o.cookie == cookie);
            return own.map_or(&mut [], |o| &mut o.data);
        }
        let token = back.key().and_then(|key| self.router.attempt(key, cookie)).map(|r| r.token);
        match token.map(|t| &mut self.requests[t as usize].payload) {
            Some(Payload::Filling(data)) => data,
            Some(Payload::None | Payload::Shared(_)) | None => &mut [],
        }
    }

    fn reply_done(&mut self, index: usize, cookie: u64, result: Result<(), NbdError>) -> Result<(), Fault> {
        let back = &mut self.backs.backs[index];
        if cookie & OWN_COOKIE != 0 {
            if let Some(at) = back.own.iter().position(|o| o.cookie == cookie) {
                let own = back.own.swap_remove(at);
                match own.purpose {
                    Purpose::Ping => {}
                    Purpose::FirstRead => self.answered_first_read(index),
                    Purpose::Compare(range) => self.compared(index, range, result.map(|()| own.data)),
                }
            }
            return Ok(());
        }
        let Some(key) = back.key() else { return Ok(()) };
        back.in_flight -= 1;
        self.router.reply(key, cookie, result.map_err(target_error), self.now).map_err(|_| {
            Fault::Protocol(format!("reply carries cookie {cookie}, which is not outstanding"))
        })?;
        match result {
            Err(NbdError::Shutdown) => Err(Fault::ShuttingDown),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Asks for one block, to hear whether the target is alive.
    pub(super) fn read_own(&mut self, index: usize, purpose: Purpose, offset: u64, length: usize) {
        let cookie = self.backs.own_cookie();
        let header = encode_request(Command::Read, CommandFlags::NONE, cookie, offset, length as u32);
        let back = &mut self.backs.backs[index];
        back.expects_reply(self.now);
        back.own.push(super::Own { cookie, purpose, offset, data: vec![0; length] });
        back.stream.push(cookie, Segment::head(&header), None);
        self.backs.dirty.push(index);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    Again,
    Starved,
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
    match error {
        NbdError::Io | NbdError::Other(_) => TargetError::Io,
        NbdError::NoMem => TargetError::Busy,
        NbdError::NoSpace => TargetError::NoSpace,
        NbdError::Inval | NbdError::Overflow | NbdError::NotSup => TargetError::Invalid,
        NbdError::Perm => TargetError::NotPermitted,
        NbdError::Shutdown => TargetError::ShuttingDown,
    }
}

fn lost(error: &io::Error) -> Fault {
    match error.raw_os_error() {
        // ECONNABORTED: this host's administrator has destroyed the socket.
        Some(libc::ECONNRESET | libc::EPIPE | libc::ECONNABORTED) => Fault::Reset,
        _ => Fault::Refused(error.to_string()),
    }
}

fn protocol(error: &SessionError) -> Fault {
    Fault::Protocol(error.to_string())
}
