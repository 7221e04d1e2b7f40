//! The client's way into an export: fixed newstyle, structured replies if the server has them, then GO.
//!
//! ```text
//! Magic -> OptionMagic -> Flags -> Structured -(any answer)-> Go -(infos, ACK)-> Done
//! ```
//! Invariant: one option is outstanding at a time, and no reply longer than [`OPTION_REPLY_MAX`] is collected. The
//! first error is final. A refusal leaves an ABORT in the output, so that the owner can leave as the spec asks
//! ("Termination of the session during option haggling"). Rejected: EXPORT_NAME as a fallback, which can report no
//! error and no block sizes. It does not know: sockets, time-outs, whether the export is the one it was before.

use std::mem;

use super::export::{BlockSizeError, BlockSizes, ExportInfo, TransmissionFlags};
use super::gather::{Fields, Gather, printable};
use super::wire::{
    HANDSHAKE_FIXED_NEWSTYLE, HANDSHAKE_NO_ZEROES, INFO_BLOCK_SIZE, INFO_EXPORT, MAGIC, OLDSTYLE_MAGIC,
    OPT_ABORT, OPT_GO, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OptionHeader, OptionReplyHeader, REP_ACK,
    REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_UNSUP, REP_ERROR_BIT,
    REP_INFO, STRING_MAX,
};
use crate::Fed;

/// The longest reply to an option that is collected: far above any info, far below harm.
const OPTION_REPLY_MAX: u32 = 64 * 1024;
/// Infos accepted in answer to one GO; the spec defines four kinds.
const INFOS_MAX: u32 = 64;

/// Why there will be no session. Texts of the server are cleaned for display and shortened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("export name has {0} bytes or contains NUL; the protocol allows 4096 without NUL")]
    BadExportName(usize),
    #[error("not an NBD server: it began with {0:?}")]
    NotNbd(String),
    #[error("the server speaks only oldstyle NBD, which names no exports")]
    Oldstyle,
    #[error("the server does not offer fixed newstyle negotiation")]
    NotFixedNewstyle,
    #[error("the server does not support the GO option (needed to name an export and learn its limits)")]
    GoUnsupported,
    #[error("the server does not know export {export:?}{}", said(.message))]
    ExportUnknown { export: String, message: String },
    #[error("the server requires TLS{}", said(.message))]
    TlsRequired { message: String },
    #[error("the server's policy refuses export {export:?}{}", said(.message))]
    PolicyRefused { export: String, message: String },
    #[error("the server is shutting down{}", said(.message))]
    ShuttingDown { message: String },
    #[error("the server refuses export {export:?} with error reply {code:#x}{}", said(.message))]
    Refused { export: String, code: u32, message: String },
    #[error("option reply starts with {0:#018x}, which is no option reply")]
    BadReplyMagic(u64),
    #[error("reply to option {got} while option {asked} is outstanding")]
    WrongOption { got: u32, asked: u32 },
    #[error("reply to option {option} announces {len} bytes; at most {OPTION_REPLY_MAX} are accepted")]
    ReplyTooLong { option: u32, len: u32 },
    #[error("unexpected reply type {kind} ({len} bytes) to option {option}")]
    UnexpectedReply { option: u32, kind: u32, len: u32 },
    #[error("info {kind} is {len} bytes long, which its type does not allow")]
    BadInfo { kind: u16, len: u32 },
    #[error("more than 64 infos about one export")]
    TooManyInfos,
    #[error("the server accepted GO without announcing the export's size")]
    NoExportInfo,
    #[error("the server announces unusable limits: {0}")]
    BadBlockSizes(#[from] BlockSizeError),
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!("; it says: {message}") }
}

/// A handshake in progress. One per connection; drop it after `Done` or an error.
#[derive(Debug)]
pub struct ClientHandshake {
    export: String,
    state: State,
    gather: Gather,
    output: Vec<u8>,
    structured_replies: bool,
    announced: Announced,
    failed: Option<HandshakeError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Magic,
    OptionMagic,
    Flags,
    /// Waits for replies to this option; `body` is set while a reply's data is collected.
    Haggling {
        option: u32,
        body: Option<OptionReplyHeader>,
    },
    Done,
}

#[derive(Debug, Default)]
struct Announced {
    export: Option<(u64, TransmissionFlags)>,
    block: Option<BlockSizes>,
    infos: u32,
}

impl ClientHandshake {
    /// `export`: at most 4096 bytes without NUL; "" is the server's default export.
    pub fn new(export: &str) -> Result<ClientHandshake, HandshakeError> {
        if export.len() > STRING_MAX || export.contains('\0') {
            return Err(HandshakeError::BadExportName(export.len()));
        }
        Ok(ClientHandshake {
            export: export.to_owned(),
            state: State::Magic,
            gather: Gather::default(),
            output: Vec::new(),
            structured_replies: false,
            announced: Announced::default(),
            failed: None,
        })
    }

    /// What is to be sent now, in order; empty most of the time. Also after an error (an ABORT, best effort).
    pub fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.output)
    }

    /// The event is the export, once it is open: what follows in the stream belongs to the session.
    /// The first error is final and is returned again by every later call.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<ExportInfo>, HandshakeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rest = input;
        let event = self.advance(&mut rest).inspect_err(|error| self.failed = Some(error.clone()))?;
        Ok(Fed { consumed: input.len() - rest.len(), event })
    }

    fn advance(&mut self, rest: &mut &[u8]) -> Result<Option<ExportInfo>, HandshakeError> {
        loop {
            let need = match self.state {
                State::Magic | State::OptionMagic => 8,
                State::Flags => 2,
                State::Haggling { body: None, .. } => OptionReplyHeader::SIZE,
                State::Haggling { body: Some(header), .. } => header.len as usize,
                State::Done => return Ok(None),
            };
            if !self.gather.fill(rest, need) {
                return Ok(None);
            }
            let gather = mem::take(&mut self.gather);
            if let Some(export) = self.take_message(gather.bytes())? {
                self.state = State::Done;
                return Ok(Some(export));
            }
        }
    }

    fn take_message(&mut self, bytes: &[u8]) -> Result<Option<ExportInfo>, HandshakeError> {
        match self.state {
            State::Magic => {
                if Fields(bytes).u64() != Some(MAGIC) {
                    return Err(HandshakeError::NotNbd(printable(bytes)));
                }
                self.state = State::OptionMagic;
            }
            State::OptionMagic => {
                match Fields(bytes).u64() {
                    Some(OPTION_MAGIC) => self.state = State::Flags,
                    Some(OLDSTYLE_MAGIC) => return Err(HandshakeError::Oldstyle),
                    _ => return Err(HandshakeError::NotNbd(printable(bytes))),
                };
            }
            State::Flags => self.take_flags(Fields(bytes).u16().unwrap_or(0))?,
            State::Haggling { option, body: None } => self.take_header(option, bytes)?,
            State::Haggling { option, body: Some(header) } => {
                self.state = State::Haggling { option, body: None };
                return self.take_reply(header, bytes);
            }
            State::Done => {}
        }
        Ok(None)
    }

    fn take_flags(&mut self, flags: u16) -> Result<(), HandshakeError> {
        if flags & HANDSHAKE_FIXED_NEWSTYLE == 0 {
            return Err(HandshakeError::NotFixedNewstyle);
        }
        let answer = flags & (HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES);
        self.output.extend_from_slice(&u32::from(answer).to_be_bytes());
        self.ask(OPT_STRUCTURED_REPLY, &[]);
        Ok(())
    }

    fn ask(&mut self, option: u32, data: &[u8]) {
        self.output.extend_from_slice(&OptionHeader { option, len: data.len() as u32 }.encode());
        self.output.extend_from_slice(data);
        self.state = State::Haggling { option, body: None };
    }

    fn ask_go(&mut self) {
        let mut data = (self.export.len() as u32).to_be_bytes().to_vec();
        data.extend_from_slice(self.export.as_bytes());
        data.extend_from_slice(&1u16.to_be_bytes());
        data.extend_from_slice(&INFO_BLOCK_SIZE.to_be_bytes());
        self.ask(OPT_GO, &data);
    }

    fn take_header(&mut self, asked: u32, bytes: &[u8]) -> Result<(), HandshakeError> {
        let Some(header) = bytes.first_chunk().and_then(OptionReplyHeader::decode) else {
            return Err(HandshakeError::BadReplyMagic(Fields(bytes).u64().unwrap_or(0)));
        };
        if header.option != asked {
            return Err(HandshakeError::WrongOption { got: header.option, asked });
        }
        if header.len > OPTION_REPLY_MAX {
            return Err(HandshakeError::ReplyTooLong { option: asked, len: header.len });
        }
        self.state = State::Haggling { option: asked, body: Some(header) };
        Ok(())
    }

    fn take_reply(
        &mut self,
        header: OptionReplyHeader,
        data: &[u8],
    ) -> Result<Option<ExportInfo>, HandshakeError> {
        let OptionReplyHeader { option, kind, len } = header;
        match (option, kind) {
            (OPT_STRUCTURED_REPLY, REP_ACK) if len == 0 => {
                self.structured_replies = true;
                self.ask_go();
            }
            (OPT_STRUCTURED_REPLY, REP_ERR_TLS_REQD | REP_ERR_SHUTDOWN) => {
                return Err(self.refused(kind, data));
            }
            (OPT_STRUCTURED_REPLY, error) if error & REP_ERROR_BIT != 0 => self.ask_go(),
            (OPT_GO, REP_INFO) => self.take_info(data)?,
            (OPT_GO, REP_ACK) if len == 0 => return self.opened().map(Some),
            (OPT_GO, error) if error & REP_ERROR_BIT != 0 => return Err(self.refused(error, data)),
            _ => return Err(HandshakeError::UnexpectedReply { option, kind, len }),
        }
        Ok(None)
    }

    fn refused(&mut self, code: u32, data: &[u8]) -> HandshakeError {
        self.output.extend_from_slice(&OptionHeader { option: OPT_ABORT, len: 0 }.encode());
        let (export, message) = (self.export.clone(), printable(data));
        match code {
            REP_ERR_UNKNOWN => HandshakeError::ExportUnknown { export, message },
            REP_ERR_TLS_REQD => HandshakeError::TlsRequired { message },
            REP_ERR_POLICY => HandshakeError::PolicyRefused { export, message },
            REP_ERR_SHUTDOWN => HandshakeError::ShuttingDown { message },
            REP_ERR_UNSUP => HandshakeError::GoUnsupported,
            code => HandshakeError::Refused { export, code, message },
        }
    }

    fn take_info(&mut self, data: &[u8]) -> Result<(), HandshakeError> {
        self.announced.infos += 1;
        if self.announced.infos > INFOS_MAX {
            return Err(HandshakeError::TooManyInfos);
        }
        let mut fields = Fields(data);
        let Some(kind) = fields.u16() else {
            let len = data.len() as u32;
            return Err(HandshakeError::UnexpectedReply { option: OPT_GO, kind: REP_INFO, len });
        };
        let parsed = match kind {
            INFO_EXPORT => fields.u64().zip(fields.u16()).map(|(size, flags)| {
                self.announced.export = Some((size, TransmissionFlags::from_bits(flags)));
            }),
            INFO_BLOCK_SIZE => match (fields.u32(), fields.u32(), fields.u32()) {
                (Some(min), Some(preferred), Some(max)) => {
                    self.announced.block = Some(BlockSizes::new(min, preferred, max)?);
                    Some(())
                }
                _ => None,
            },
            _ => return Ok(()), // the spec has clients ignore infos that they did not ask for
        };
        let exact = parsed.filter(|()| fields.0.is_empty());
        exact.ok_or(HandshakeError::BadInfo { kind, len: data.len() as u32 })
    }

    fn opened(&self) -> Result<ExportInfo, HandshakeError> {
        let (size, flags) = self.announced.export.ok_or(HandshakeError::NoExportInfo)?;
        let block = self.announced.block.unwrap_or_default();
        block.check_size(size)?;
        Ok(ExportInfo { size, flags, block, structured_replies: self.structured_replies })
    }
}
