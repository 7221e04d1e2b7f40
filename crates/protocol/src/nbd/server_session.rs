//! The server's side of transmission: turning an untrusted request stream into checked requests.
//!
//! Invariant: a `Request` event lies within the export, keeps its block sizes and flags, and has a length of at least
//! 1 unless it is a flush; whoever executes it checks nothing again. A request that breaks a rule is refused with the
//! error that the spec names; only a lost frame (bad magic, an absurd write) ends the connection. Rejected: closing
//! on each fault, which a guest could use to cut its neighbour's requests on the same connection.
//! It does not know: disks, order, which replies are open (cookies may repeat; they are the client's).

use super::command::{Command, CommandFlags, NbdError};
use super::export::{ExportInfo, ReplyStyle};
use super::gather::{Fields, Gather};
use super::reply::ReplyHead;
use super::wire::RequestHeader;
use crate::Fed;

/// The longest payload of a refused write that is skipped rather than answered by closing: 32 MiB, the default
/// maximum of the protocol's clients, and a margin.
const SKIPPED_WRITE_MAX: u32 = 33 << 20;

/// A request that may be executed as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Never `Disconnect`.
    pub command: Command,
    pub flags: CommandFlags,
    /// The client's; goes back in the reply.
    pub cookie: u64,
    /// Bytes, of the export.
    pub offset: u64,
    /// Bytes; 0 for a flush.
    pub len: u32,
}

/// A request that must only be answered, with `error`; and if it is a write, its payload skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedRequest {
    /// `None` for a type that this crate does not know; a simple reply fits it.
    pub command: Option<Command>,
    pub cookie: u64,
    pub error: NbdError,
    /// Why; its text is fit for an error chunk's message.
    pub reason: RefusedReason,
}

impl RefusedRequest {
    /// The whole answer, without its reason; [`super::encode_error_chunk`] carries that to structured clients.
    pub fn reply_head(&self, style: ReplyStyle) -> ReplyHead {
        // A command that is not known gets the form of any command without payload.
        style.status(self.command.unwrap_or(Command::Flush), self.cookie, Err(self.error))
    }
}

/// Which rule a request broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RefusedReason {
    #[error("request type {0} is not known")]
    UnknownCommand(u16),
    #[error("command flags {0:#x} are not valid for this request on this export")]
    Flags(u16),
    #[error("the export is read-only")]
    ReadOnly,
    #[error("the export does not offer {0}")]
    NotOffered(Command),
    #[error("a flush must have offset 0 and length 0")]
    FlushWithRange,
    #[error("the length is 0")]
    Empty,
    #[error("{len} bytes in one request; the export takes {max}")]
    TooLong { len: u32, max: u32 },
    #[error("{len} bytes at {offset} end beyond the export's {size}")]
    OutOfRange { offset: u64, len: u32, size: u64 },
    #[error("offset {offset} or length {len} is not a multiple of {min}")]
    Misaligned { offset: u64, len: u32, min: u32 },
}

/// What came from the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestEvent {
    /// To be executed. After a write, its `len` payload bytes come first (see [`RequestParser::payload_taken`]).
    Request(Request),
    /// To be answered with the error. After a write, [`RequestParser::payload_pending`] bytes are to be dropped.
    Refused(RefusedRequest),
    /// The client is done: finish what is open, reply nothing, close.
    Disconnect,
}

/// Why the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    #[error("request starts with {0:#010x}, which is no request")]
    BadMagic(u32),
    #[error("write announces {len} bytes; at most {max} are taken off the stream")]
    WriteTooLong { len: u32, max: u32 },
    #[error("{taken} payload bytes reported as taken, but only {pending} were pending (a fault of ours)")]
    PayloadOverrun { taken: u32, pending: u32 },
}

/// The request stream of one connection.
#[derive(Debug)]
pub struct RequestParser {
    export: ExportInfo,
    gather: Gather,
    payload: u32,
    disconnected: bool,
    failed: Option<RequestError>,
}

impl RequestParser {
    /// `export`: as the handshake's `Done` gave it.
    pub fn new(export: ExportInfo) -> RequestParser {
        RequestParser { export, gather: Gather::default(), payload: 0, disconnected: false, failed: None }
    }

    /// One request a call. Consumes nothing while payload is pending or after `Disconnect`. The first error is final
    /// and is returned again by every later call.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<RequestEvent>, RequestError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rest = input;
        let idle = self.payload > 0 || self.disconnected;
        if idle || !self.gather.fill(&mut rest, RequestHeader::SIZE) {
            return Ok(Fed { consumed: input.len() - rest.len(), event: None });
        }
        let Some(header) = self.gather.bytes().first_chunk().and_then(RequestHeader::decode) else {
            let magic = Fields(self.gather.bytes()).u32().unwrap_or(0);
            return Err(self.fail(RequestError::BadMagic(magic)));
        };
        self.gather.clear();
        let event = self.take_header(&header).map_err(|error| self.fail(error))?;
        Ok(Fed { consumed: input.len() - rest.len(), event: Some(event) })
    }

    /// Bytes at the front of the stream that belong to the latest write and are not yet taken.
    pub fn payload_pending(&self) -> u32 {
        self.payload
    }

    /// The owner has taken `n` payload bytes off the stream. More than are pending is a fault of the owner's.
    pub fn payload_taken(&mut self, n: u32) -> Result<(), RequestError> {
        let pending = self.payload;
        match pending.checked_sub(n) {
            Some(left) => self.payload = left,
            None => return Err(self.fail(RequestError::PayloadOverrun { taken: n, pending })),
        }
        Ok(())
    }

    fn fail(&mut self, error: RequestError) -> RequestError {
        self.failed = Some(error.clone());
        error
    }

    fn take_header(&mut self, header: &RequestHeader) -> Result<RequestEvent, RequestError> {
        let command = Command::from_code(header.command);
        match command {
            Some(Command::Disconnect) => {
                self.disconnected = true;
                return Ok(RequestEvent::Disconnect);
            }
            Some(Command::Write) => {
                let max = self.export.block.max().max(SKIPPED_WRITE_MAX);
                if header.len > max {
                    return Err(RequestError::WriteTooLong { len: header.len, max });
                }
                self.payload = header.len;
            }
            _ => {}
        }
        Ok(match check(&self.export, header) {
            Ok(request) => RequestEvent::Request(request),
            Err((error, reason)) => {
                RequestEvent::Refused(RefusedRequest { command, cookie: header.cookie, error, reason })
            }
        })
    }
}

/// The rules of one request (spec: "Request types", "Error values", "Block size constraints").
fn check(export: &ExportInfo, header: &RequestHeader) -> Result<Request, (NbdError, RefusedReason)> {
    let RequestHeader { cookie, offset, len, .. } = *header;
    let inval = |reason| Err((NbdError::Inval, reason));
    let Some(command) = Command::from_code(header.command) else {
        return inval(RefusedReason::UnknownCommand(header.command));
    };
    let flags = CommandFlags::from_bits(header.flags);
    if flags.outside(allowed_flags(export, command)) != CommandFlags::NONE {
        return inval(RefusedReason::Flags(header.flags));
    }
    if export.flags.read_only() && command.modifies() {
        return Err((NbdError::Perm, RefusedReason::ReadOnly));
    }
    if !offered(export, command) {
        return inval(RefusedReason::NotOffered(command));
    }
    if command == Command::Flush {
        if (offset, len) != (0, 0) {
            return inval(RefusedReason::FlushWithRange);
        }
    } else {
        check_range(export, command, offset, len)?;
    }
    Ok(Request { command, flags, cookie, offset, len })
}

fn check_range(
    export: &ExportInfo,
    command: Command,
    offset: u64,
    len: u32,
) -> Result<(), (NbdError, RefusedReason)> {
    let (size, min, max) = (export.size, export.block.min(), export.block.max());
    if len == 0 {
        return Err((NbdError::Inval, RefusedReason::Empty));
    }
    // The maximum bounds payloads, so it does not bind trim and write zeroes.
    if len > max && matches!(command, Command::Read | Command::Write) {
        return Err((NbdError::Inval, RefusedReason::TooLong { len, max }));
    }
    if offset.checked_add(u64::from(len)).is_none_or(|end| end > size) {
        let fills = matches!(command, Command::Write | Command::WriteZeroes);
        let error = if fills { NbdError::NoSpace } else { NbdError::Inval };
        return Err((error, RefusedReason::OutOfRange { offset, len, size }));
    }
    if !offset.is_multiple_of(u64::from(min)) || !len.is_multiple_of(min) {
        return Err((NbdError::Inval, RefusedReason::Misaligned { offset, len, min }));
    }
    Ok(())
}

/// FUA is valid on every command once offered, even where it means nothing (spec: "Command flags").
fn allowed_flags(export: &ExportInfo, command: Command) -> CommandFlags {
    let mut allowed = if export.flags.can_fua() { CommandFlags::FUA } else { CommandFlags::NONE };
    if command == Command::Read && export.flags.can_df() && export.structured_replies {
        allowed = allowed | CommandFlags::DF;
    }
    if command == Command::WriteZeroes {
        allowed = allowed | CommandFlags::NO_HOLE;
        if export.flags.can_fast_zero() {
            allowed = allowed | CommandFlags::FAST_ZERO;
        }
    }
    allowed
}

fn offered(export: &ExportInfo, command: Command) -> bool {
    match command {
        Command::Flush => export.flags.can_flush(),
        Command::Trim => export.flags.can_trim(),
        Command::WriteZeroes => export.flags.can_write_zeroes(),
        Command::Read | Command::Write | Command::Disconnect => true,
    }
}
