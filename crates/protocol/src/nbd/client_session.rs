//! The client's side of transmission: encoding requests, and turning the reply stream into events.
//!
//! ```text
//! Head -(simple reply, or a chunk's head)-> Body -> Taking(left) -(payload_taken)-> Head
//! ```
//! Invariant: a `Done` with `Ok` for a read means that each of its bytes was announced exactly once, by `Payload` or
//! `Hole`. Any violation is final: the stream cannot be trusted to be in step any more. Rejected: a table of requests
//! in here; the owner has one, so it is asked by cookie. It does not know: buffers, sockets, time-outs, retries.

use std::collections::BTreeMap;
use std::mem;

use super::command::{Command, CommandFlags, NbdError};
use super::coverage::{Coverage, CoverageFault};
use super::export::ReplyStyle;
use super::gather::{Fields, Gather, printable};
use super::wire::{
    CHUNK_ERROR_BIT, CHUNK_ERROR_OFFSET, CHUNK_FLAG_DONE, CHUNK_MAGIC, CHUNK_NONE, CHUNK_OFFSET_DATA,
    CHUNK_OFFSET_HOLE, ChunkHeader, RequestHeader, SIMPLE_REPLY_MAGIC, SimpleReplyHeader,
};
use crate::Fed;

/// The longest error chunk that is collected: the longest message and room for the fields of later error types.
const ERROR_CHUNK_MAX: u32 = 64 * 1024;
/// Error chunks in one reply, so that a reply cannot go on for ever without content.
const ERRORS_PER_REPLY_MAX: u32 = 1024;

/// A request's 28 bytes (spec: "Request message"); the data of a write, `len` bytes, follows them.
pub fn encode_request(command: Command, flags: CommandFlags, cookie: u64, offset: u64, len: u32) -> [u8; 28] {
    RequestHeader { flags: flags.bits(), command: command.code(), cookie, offset, len }.encode()
}

/// What the owner remembers of a request that was sent and not yet `Done`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outstanding {
    pub command: Command,
    /// Bytes, of the export.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// Something about one outstanding request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyEvent {
    /// The next `len` bytes of the stream (at least 1) belong at `buf_offset` of this read's buffer. The owner takes
    /// them off the stream and reports with [`ReplyParser::payload_taken`]; until then nothing is parsed.
    Payload { cookie: u64, buf_offset: u32, len: u32 },
    /// `len` bytes (at least 1) at `buf_offset` of this read's buffer are zeroes; nothing is in the stream for them.
    Hole { cookie: u64, buf_offset: u32, len: u32 },
    /// The reply is complete and the cookie is free. After an error, nothing that was read may be used; the server's
    /// words, if any, are in [`ReplyParser::error_text`].
    Done { cookie: u64, result: Result<(), NbdError> },
}

/// How the server broke the protocol (or the owner the contract); the connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error("reply starts with {0:#010x}, which is no reply")]
    BadMagic(u32),
    #[error("reply carries cookie {0}, which is not outstanding")]
    UnknownCookie(u64),
    #[error("structured reply (cookie {0}) although only simple replies were negotiated")]
    ChunkNotNegotiated(u64),
    #[error("simple reply to a read (cookie {0}) although structured replies were negotiated")]
    SimpleReadReply(u64),
    #[error("simple reply in the middle of the structured reply to cookie {0}")]
    SimpleAmongChunks(u64),
    #[error("chunk of type {kind} for cookie {cookie} is not valid in reply to a {command}")]
    UnexpectedChunk { cookie: u64, kind: u16, command: Command },
    #[error("chunk of unknown type {kind} for cookie {cookie}")]
    UnknownChunk { cookie: u64, kind: u16 },
    #[error("chunk of type {kind} for cookie {cookie} announces {len} bytes, which its type does not allow")]
    ChunkLength { cookie: u64, kind: u16, len: u32 },
    #[error("empty chunk for cookie {0} does not end its reply")]
    EmptyNotLast(u64),
    #[error("chunk for cookie {cookie} covers {len} bytes at {offset}, outside of the request")]
    OutsideRequest { cookie: u64, offset: u64, len: u32 },
    #[error(
        "chunk for cookie {cookie} covers {len} bytes at {offset}, some of which an earlier chunk covered"
    )]
    Overlap { cookie: u64, offset: u64, len: u32 },
    #[error("reply to cookie {0} is cut into too many pieces")]
    TooFragmented(u64),
    #[error("reply to cookie {0} has too many error chunks")]
    TooManyErrors(u64),
    #[error("error chunk for cookie {0} carries no error")]
    ErrorWithoutCode(u64),
    #[error("error chunk for cookie {cookie} has a message of {message} bytes in {len}")]
    ErrorMessageLength { cookie: u64, message: u16, len: u32 },
    #[error("reply claims success for the read with cookie {cookie}, but sent {covered} of {len} bytes")]
    NotCovered { cookie: u64, covered: u32, len: u32 },
    #[error("{taken} payload bytes reported as taken, but only {pending} were pending (a fault of ours)")]
    PayloadOverrun { taken: u32, pending: u32 },
}

/// The reply stream of one connection.
#[derive(Debug)]
pub struct ReplyParser {
    style: ReplyStyle,
    state: State,
    gather: Gather,
    /// Replies of which some chunks, but not the last, have come; at most one per outstanding request.
    partial: BTreeMap<u64, Progress>,
    error_text: String,
    failed: Option<SessionError>,
}

#[derive(Debug)]
enum State {
    Head,
    /// Collects a chunk's fields (all of it, or what stands before its data).
    Body {
        chunk: ChunkHeader,
        reply: Reply,
    },
    /// `left` bytes of payload are the owner's to take.
    Taking {
        left: u32,
        reply: Reply,
    },
}

/// The reply that the current message belongs to, while that message lasts.
#[derive(Debug)]
struct Reply {
    cookie: u64,
    asked: Outstanding,
    progress: Progress,
    last: bool,
}

#[derive(Debug, Default)]
struct Progress {
    coverage: Coverage,
    errors: u32,
    first_error: Option<(NbdError, String)>,
}

enum Step {
    Event(ReplyEvent),
    Again,
    Starved,
}

impl ReplyParser {
    pub fn new(style: ReplyStyle) -> ReplyParser {
        ReplyParser {
            style,
            state: State::Head,
            gather: Gather::default(),
            partial: BTreeMap::new(),
            error_text: String::new(),
            failed: None,
        }
    }

    /// `outstanding` says what was asked under a cookie, `None` if nothing is. The first error is final and is
    /// returned again by every later call.
    pub fn feed(
        &mut self,
        input: &[u8],
        mut outstanding: impl FnMut(u64) -> Option<Outstanding>,
    ) -> Result<Fed<ReplyEvent>, SessionError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rest = input;
        let event = loop {
            match self.step(&mut rest, &mut outstanding) {
                Ok(Step::Event(event)) => break Some(event),
                Ok(Step::Again) => {}
                Ok(Step::Starved) => break None,
                Err(error) => return Err(self.fail(error)),
            }
        };
        Ok(Fed { consumed: input.len() - rest.len(), event })
    }

    /// Bytes at the front of the stream that are payload and not yet taken.
    pub fn payload_pending(&self) -> u32 {
        match self.state {
            State::Taking { left, .. } => left,
            _ => 0,
        }
    }

    /// The owner has taken `n` payload bytes off the stream. More than are pending is a fault of the owner's.
    pub fn payload_taken(&mut self, n: u32) -> Result<(), SessionError> {
        match &mut self.state {
            State::Taking { left, .. } if n <= *left => *left -= n,
            _ => {
                let pending = self.payload_pending();
                return Err(self.fail(SessionError::PayloadOverrun { taken: n, pending }));
            }
        }
        Ok(())
    }

    /// What the server said about the latest `Done` with an error; "" if nothing. Fit for display.
    pub fn error_text(&self) -> &str {
        &self.error_text
    }

    fn fail(&mut self, error: SessionError) -> SessionError {
        self.failed = Some(error.clone());
        error
    }

    fn step(
        &mut self,
        rest: &mut &[u8],
        outstanding: &mut dyn FnMut(u64) -> Option<Outstanding>,
    ) -> Result<Step, SessionError> {
        match mem::replace(&mut self.state, State::Head) {
            State::Head => self.head(rest, outstanding),
            State::Body { chunk, reply } => self.body(rest, chunk, reply),
            State::Taking { left: 0, reply } => self.close(reply),
            taking @ State::Taking { .. } => {
                self.state = taking;
                Ok(Step::Starved)
            }
        }
    }

    fn head(
        &mut self,
        rest: &mut &[u8],
        outstanding: &mut dyn FnMut(u64) -> Option<Outstanding>,
    ) -> Result<Step, SessionError> {
        if !self.gather.fill(rest, 4) {
            return Ok(Step::Starved);
        }
        let magic = Fields(self.gather.bytes()).u32().unwrap_or(0);
        let size = match magic {
            SIMPLE_REPLY_MAGIC => SimpleReplyHeader::SIZE,
            CHUNK_MAGIC => ChunkHeader::SIZE,
            other => return Err(SessionError::BadMagic(other)),
        };
        if !self.gather.fill(rest, size) {
            return Ok(Step::Starved);
        }
        let simple = self.gather.bytes().first_chunk().and_then(SimpleReplyHeader::decode);
        let chunk = self.gather.bytes().first_chunk().and_then(ChunkHeader::decode);
        self.gather.clear();
        let mut asked = |cookie| outstanding(cookie).ok_or(SessionError::UnknownCookie(cookie));
        match (simple, chunk) {
            (Some(simple), _) => self.simple(simple, asked(simple.cookie)?),
            (None, Some(chunk)) => self.chunk(chunk, asked(chunk.cookie)?),
            (None, None) => Err(SessionError::BadMagic(magic)),
        }
    }

    fn simple(&mut self, header: SimpleReplyHeader, asked: Outstanding) -> Result<Step, SessionError> {
        let cookie = header.cookie;
        if self.partial.contains_key(&cookie) {
            return Err(SessionError::SimpleAmongChunks(cookie));
        }
        if self.style == ReplyStyle::Structured && asked.command == Command::Read {
            return Err(SessionError::SimpleReadReply(cookie));
        }
        let mut reply = Reply { cookie, asked, progress: Progress::default(), last: true };
        if let Some(error) = NbdError::from_code(header.error) {
            reply.progress.first_error = Some((error, String::new()));
        } else if asked.command == Command::Read && asked.len > 0 {
            return self.take_payload(asked.offset, asked.len, reply);
        }
        self.close(reply)
    }

    fn chunk(&mut self, chunk: ChunkHeader, asked: Outstanding) -> Result<Step, SessionError> {
        let ChunkHeader { kind, cookie, len, flags } = chunk;
        if self.style == ReplyStyle::Simple {
            return Err(SessionError::ChunkNotNegotiated(cookie));
        }
        let last = flags & CHUNK_FLAG_DONE != 0;
        let length_fits = match kind {
            CHUNK_NONE => len == 0,
            CHUNK_OFFSET_DATA => len > 8,
            CHUNK_OFFSET_HOLE => len == 12,
            CHUNK_ERROR_OFFSET => (14..=ERROR_CHUNK_MAX).contains(&len),
            error if error & CHUNK_ERROR_BIT != 0 => (6..=ERROR_CHUNK_MAX).contains(&len),
            _ => return Err(SessionError::UnknownChunk { cookie, kind }),
        };
        if !length_fits {
            return Err(SessionError::ChunkLength { cookie, kind, len });
        }
        if kind == CHUNK_NONE && !last {
            return Err(SessionError::EmptyNotLast(cookie));
        }
        if matches!(kind, CHUNK_OFFSET_DATA | CHUNK_OFFSET_HOLE) && asked.command != Command::Read {
            return Err(SessionError::UnexpectedChunk { cookie, kind, command: asked.command });
        }
        let progress = self.partial.remove(&cookie).unwrap_or_default();
        self.state = State::Body { chunk, reply: Reply { cookie, asked, progress, last } };
        Ok(Step::Again)
    }

    fn body(&mut self, rest: &mut &[u8], chunk: ChunkHeader, reply: Reply) -> Result<Step, SessionError> {
        let need = if chunk.kind == CHUNK_OFFSET_DATA { 8 } else { chunk.len as usize };
        if !self.gather.fill(rest, need) {
            self.state = State::Body { chunk, reply };
            return Ok(Step::Starved);
        }
        let mut gather = mem::take(&mut self.gather);
        let step = self.fields(Fields(gather.bytes()), chunk, reply);
        gather.clear();
        self.gather = gather; // kept for its capacity
        step
    }

    fn fields(
        &mut self,
        mut fields: Fields<'_>,
        chunk: ChunkHeader,
        mut reply: Reply,
    ) -> Result<Step, SessionError> {
        match chunk.kind {
            CHUNK_NONE => {}
            CHUNK_OFFSET_DATA => {
                let offset = fields.u64().unwrap_or(u64::MAX);
                return self.take_payload(offset, chunk.len - 8, reply);
            }
            CHUNK_OFFSET_HOLE => {
                let offset = fields.u64().unwrap_or(u64::MAX);
                let len = fields.u32().unwrap_or(0);
                let (cookie, buf_offset) = (reply.cookie, reply.claim(offset, len)?);
                self.state = State::Taking { left: 0, reply };
                return Ok(Step::Event(ReplyEvent::Hole { cookie, buf_offset, len }));
            }
            _ => reply.take_error(chunk, fields)?,
        }
        self.close(reply)
    }

    fn take_payload(&mut self, offset: u64, len: u32, mut reply: Reply) -> Result<Step, SessionError> {
        let (cookie, buf_offset) = (reply.cookie, reply.claim(offset, len)?);
        self.state = State::Taking { left: len, reply };
        Ok(Step::Event(ReplyEvent::Payload { cookie, buf_offset, len }))
    }

    /// The end of a message: of its reply too, if it was the last.
    fn close(&mut self, reply: Reply) -> Result<Step, SessionError> {
        let Reply { cookie, asked, progress, last } = reply;
        if !last {
            self.partial.insert(cookie, progress);
            return Ok(Step::Again);
        }
        let result = match progress.first_error {
            Some((error, text)) => {
                self.error_text = text;
                Err(error)
            }
            None => Ok(()),
        };
        let covered = progress.coverage.covered();
        if result.is_ok() && asked.command == Command::Read && covered != asked.len {
            return Err(SessionError::NotCovered { cookie, covered, len: asked.len });
        }
        Ok(Step::Event(ReplyEvent::Done { cookie, result }))
    }
}

impl Reply {
    /// Where `offset..offset + len` of the export lies in the request's buffer, marking it as arrived.
    fn claim(&mut self, offset: u64, len: u32) -> Result<u32, SessionError> {
        let cookie = self.cookie;
        let outside = SessionError::OutsideRequest { cookie, offset, len };
        let Some(start) = offset.checked_sub(self.asked.offset).and_then(|s| u32::try_from(s).ok()) else {
            return Err(outside);
        };
        let Some(end) = start.checked_add(len).filter(|end| *end <= self.asked.len && len > 0) else {
            return Err(outside);
        };
        match self.progress.coverage.claim(start, end) {
            Ok(()) => Ok(start),
            Err(CoverageFault::Overlap) => Err(SessionError::Overlap { cookie, offset, len }),
            Err(CoverageFault::TooFragmented) => Err(SessionError::TooFragmented(cookie)),
        }
    }

    /// Error chunks all begin alike (spec: "Structured reply types"), so unknown ones are errors too.
    fn take_error(&mut self, chunk: ChunkHeader, mut fields: Fields<'_>) -> Result<(), SessionError> {
        let cookie = self.cookie;
        let error =
            fields.u32().and_then(NbdError::from_code).ok_or(SessionError::ErrorWithoutCode(cookie))?;
        let message = fields.u16().unwrap_or(u16::MAX);
        let too_long = SessionError::ErrorMessageLength { cookie, message, len: chunk.len };
        let text = fields.take(usize::from(message)).ok_or(too_long.clone())?;
        if chunk.kind == CHUNK_ERROR_OFFSET {
            let offset = fields.u64().ok_or(too_long)?;
            let within =
                offset.checked_sub(self.asked.offset).is_some_and(|at| at < u64::from(self.asked.len));
            if !within && self.asked.command != Command::Flush {
                return Err(SessionError::OutsideRequest { cookie, offset, len: 0 });
            }
        }
        self.progress.errors += 1;
        if self.progress.errors > ERRORS_PER_REPLY_MAX {
            return Err(SessionError::TooManyErrors(cookie));
        }
        self.progress.first_error.get_or_insert_with(|| (error, printable(text)));
        Ok(())
    }
}
