//! One NBD connection of the stand-in guest: requests out, completions in.
//!
//! Invariant: every request that is sent comes back exactly once, by `pump` or by `into_open` when the connection is
//! dead. A reply to nothing (unknown, or a second one to the same request) is counted and ends the connection.
//! Rejected: the daemon's own client, which would verify itself. It does not know: what the requests are for.

use crate::net::{Address, Inbox, Outbox, Received, Stream};
use crate::workload::buffer::Buffer;
use crate::workload::engine::{Action, Request};
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use tokio::io::Interest;
use vmpath_protocol::nbd::{
    ClientHandshake, Command, CommandFlags, ExportInfo, NbdError, Outstanding, ReplyEvent, ReplyParser,
    SessionError, encode_request,
};

/// Holds reply headers; payloads bypass it.
const INBOX: usize = 8 << 10;

/// What is sent: a request of the load, or a flush of the stand-in's own (as QEMU sends one when it stops).
#[derive(Debug)]
pub(super) enum Sent {
    Load(Request),
    Sync,
}

/// How one request came back.
pub(super) type Completion = (Sent, Result<(), NbdError>);

/// Why a connection is dead; in words.
pub(super) type Dead = String;

#[derive(Debug)]
enum Piece {
    Head([u8; 28]),
    Body(Arc<Buffer>),
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Head(head) => head,
            Self::Body(body) => body,
        }
    }
}

/// A read's payload that is on its way.
#[derive(Debug)]
struct Taking {
    cookie: u64,
    at: usize,
    left: usize,
}

#[derive(Debug)]
pub(super) struct Session {
    stream: Stream,
    pub export: ExportInfo,
    inbox: Inbox,
    outbox: Outbox<Piece>,
    parser: ReplyParser,
    open: HashMap<u64, Sent>,
    next_cookie: u64,
    taking: Option<Taking>,
    /// Replies to nothing.
    pub strays: u64,
}

impl Session {
    /// Connects and opens the export.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn open(address: &Address, export: &str) -> Result<Self, Dead> {
        let stream =
            Stream::connect(address).await.map_err(|why| format!("cannot connect to {address}: {why}"))?;
        let mut inbox = Inbox::new(INBOX);
        let export = shake_hands(&stream, &mut inbox, export).await?;
        Ok(Self {
            stream,
            inbox,
            outbox: Outbox::new(),
            parser: ReplyParser::new(export.reply_style()),
            export,
            open: HashMap::new(),
            next_cookie: 1,
            taking: None,
            strays: 0,
        })
    }

    /// Requests sent and not answered.
    #[must_use]
    pub(super) fn open_requests(&self) -> usize {
        self.open.len()
    }

    /// Queues a request; `pump` sends it.
    pub(super) fn send(&mut self, sent: Sent) {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let asked = asked(&sent);
        self.outbox.push(Piece::Head(encode_request(
            asked.command,
            CommandFlags::NONE,
            cookie,
            asked.offset,
            asked.len,
        )));
        if let Sent::Load(Request { action: Action::Write(_), buffer, .. }) = &sent {
            self.outbox.push(Piece::Body(Arc::clone(buffer)));
        }
        self.open.insert(cookie, sent);
    }

    /// Sends and receives what can be now.
    ///
    /// # Errors
    /// If the connection is dead; what was completed before is in `completions`.
    pub(super) fn pump(&mut self, completions: &mut Vec<Completion>) -> Result<(), Dead> {
        self.outbox.flush(&self.stream).map_err(|why| why.to_string())?;
        loop {
            self.parse(completions)?;
            let received = match self.payload_room()? {
                Some((stream, room)) => stream.receive(room),
                None => self.inbox.fill(&self.stream),
            };
            match received.map_err(|why| why.to_string())? {
                Received::Dry => return Ok(()),
                Received::End => return Err("the server closed the connection".to_owned()),
                Received::Bytes(bytes) => {
                    if self.taking.is_some() {
                        self.took(bytes)?;
                    }
                }
            }
        }
    }

    /// Waits until `pump` has something to do.
    ///
    /// # Errors
    /// Of the system.
    pub(super) async fn ready(&self) -> io::Result<()> {
        let write = !self.outbox.is_empty();
        self.stream
            .ready(if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE })
            .await
    }

    /// What a dead connection leaves behind.
    #[must_use]
    pub(super) fn into_open(self) -> Vec<Sent> {
        let mut open: Vec<_> = self.open.into_iter().collect();
        open.sort_by_key(|(cookie, _)| *cookie);
        open.into_iter().map(|(_, sent)| sent).collect()
    }

    fn parse(&mut self, completions: &mut Vec<Completion>) -> Result<(), Dead> {
        loop {
            if let Some(taking) = &mut self.taking {
                let target = read_buffer(&mut self.open, taking.cookie)?;
                let bytes = self.inbox.take_into(&mut target[taking.at..taking.at + taking.left]);
                self.took(bytes)?;
                if self.taking.is_some() {
                    return Ok(());
                }
            }
            let open = &self.open;
            let fed = self.parser.feed(self.inbox.bytes(), |cookie| open.get(&cookie).map(asked));
            let fed = fed
                .inspect_err(|why| self.strays += u64::from(matches!(why, SessionError::UnknownCookie(_))));
            let fed = fed.map_err(|why| format!("the server broke the protocol: {why}"))?;
            self.inbox.consume(fed.consumed);
            match fed.event {
                None => return Ok(()),
                Some(ReplyEvent::Payload { cookie, buf_offset, len }) => {
                    self.taking = Some(Taking { cookie, at: buf_offset as usize, left: len as usize });
                }
                Some(ReplyEvent::Hole { cookie, buf_offset, len }) => {
                    read_buffer(&mut self.open, cookie)?[buf_offset as usize..][..len as usize].fill(0);
                }
                Some(ReplyEvent::Done { cookie, result }) => {
                    if let Some(sent) = self.open.remove(&cookie) {
                        completions.push((sent, result));
                    }
                }
            }
        }
    }

    /// Where the payload that is on its way goes, if one is.
    fn payload_room(&mut self) -> Result<Option<(&Stream, &mut [u8])>, Dead> {
        let Some(taking) = &self.taking else { return Ok(None) };
        let target = read_buffer(&mut self.open, taking.cookie)?;
        Ok(Some((&self.stream, &mut target[taking.at..taking.at + taking.left])))
    }

    fn took(&mut self, bytes: usize) -> Result<(), Dead> {
        if let Some(taking) = &mut self.taking {
            taking.at += bytes;
            taking.left -= bytes;
            if taking.left == 0 {
                self.taking = None;
            }
        }
        self.parser.payload_taken(bytes as u32).map_err(|why| why.to_string())
    }
}

fn asked(sent: &Sent) -> Outstanding {
    let (command, (offset, len)) = match sent {
        Sent::Sync => (Command::Flush, (0, 0)),
        Sent::Load(request) => {
            let command = match request.action {
                Action::Read(_) => Command::Read,
                Action::Write(_) => Command::Write,
                Action::Zero(_) => Command::WriteZeroes,
                Action::Flush => Command::Flush,
            };
            (command, request.range())
        }
    };
    Outstanding { command, offset, len: len as u32 }
}

fn read_buffer(open: &mut HashMap<u64, Sent>, cookie: u64) -> Result<&mut [u8], Dead> {
    match open.get_mut(&cookie) {
        Some(Sent::Load(request)) => Arc::get_mut(&mut request.buffer).map(|buffer| &mut **buffer),
        Some(Sent::Sync) | None => None,
    }
    .ok_or_else(|| format!("the server sent data for request {cookie}, which is no read"))
}

async fn shake_hands(stream: &Stream, inbox: &mut Inbox, export: &str) -> Result<ExportInfo, Dead> {
    let mut handshake = ClientHandshake::new(export).map_err(|why| why.to_string())?;
    let mut outbox = Outbox::new();
    loop {
        let fed = handshake.feed(inbox.bytes()).map_err(|why| why.to_string())?;
        inbox.consume(fed.consumed);
        if let Some(export) = fed.event {
            return Ok(export);
        }
        let output = handshake.take_output();
        if !output.is_empty() {
            outbox.push(output);
        }
        outbox.flush(stream).map_err(|why| why.to_string())?;
        let interest =
            if outbox.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        stream.ready(interest).await.map_err(|why| why.to_string())?;
        if inbox.fill(stream).map_err(|why| why.to_string())? == Received::End {
            return Err("the server closed the connection during the handshake".to_owned());
        }
    }
}
