//! The server's way from a stranger's connection to an open export.
//!
//! ```text
//! ClientFlags -> Option -> (Asked -answer_export-> ) Option … -> Done | Aborted
//! ```
//! Invariant: nothing is promised about an export before the owner has answered for it; while a question is open no
//! byte is consumed, so a client cannot run ahead. Option length and count are bounded. Rejected: a callback that
//! resolves names, because resolving may take a look elsewhere and an answer may come later.
//! It does not know: who the client is, which exports exist, TLS (it answers "not supported").

use std::mem;

use super::export::{BlockSizeError, ExportInfo, TransmissionFlags};
use super::gather::{Fields, Gather};
use super::server_options::{self, ExportRequest, Parsed, Replies};
use super::wire::{
    EXPORT_NAME_ZEROES, HANDSHAKE_FIXED_NEWSTYLE, HANDSHAKE_NO_ZEROES, MAGIC, OPTION_MAGIC, OptionHeader,
};
use crate::Fed;

/// The longest option that is collected: a name of 4096 bytes and hundreds of info requests fit.
const OPTION_LEN_MAX: u32 = 16 * 1024;
/// Options before transmission; clients in use send fewer than ten.
const OPTIONS_MAX: u32 = 64;

/// What the client wants of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportQuery {
    /// Open it; a refusal is told to the client.
    Go,
    /// Only learn about it.
    Info,
    /// Open it the old way; a refusal can only close the connection.
    ExportName,
}

/// What the owner of the handshake must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerHandshakeEvent {
    /// Answer with [`ServerHandshake::answer_export`], now or later; "" asks for the default export.
    WantExport { name: String, query: ExportQuery },
    /// The handshake is over and `export` is what the client was told: what follows in the stream are requests.
    Done { name: String, export: ExportInfo },
    /// The client takes its leave; send the output and close.
    Aborted,
}

/// The owner's yes: what to tell the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportAnswer {
    pub export: ExportInfo,
    /// For people; at most 4096 bytes are sent.
    pub description: String,
}

/// The owner's no, with a text for the client's operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExportRefusal {
    pub reason: RefusalReason,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalReason {
    /// There is no such export.
    Unknown,
    /// There is, but not for this client.
    Policy,
    /// Not any more.
    Shutdown,
}

/// Why the connection must be closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerHandshakeError {
    #[error("client flags {0:#x} include some that were not offered")]
    UnknownClientFlags(u32),
    #[error("option starts with {0:#018x}, which is no option")]
    BadOptionMagic(u64),
    #[error("option {option} announces {len} bytes; at most {OPTION_LEN_MAX} are accepted")]
    OptionTooLong { option: u32, len: u32 },
    #[error("more than {OPTIONS_MAX} options without opening an export")]
    TooManyOptions,
    #[error("the name asked for by EXPORT_NAME is not valid UTF-8 of at most 4096 bytes without NUL")]
    BadExportName,
    #[error(
        "export {0:?} was refused, and its client asked in the way (EXPORT_NAME) that has no error reply"
    )]
    RefusedByClosing(String),
    #[error("an answer about an export, but no question is open (a fault of ours)")]
    NoQuestion,
    #[error("the answer about an export has unusable limits (a fault of ours): {0}")]
    BadAnswer(#[from] BlockSizeError),
}

/// A handshake in progress. One per connection; drop it after `Done`, `Aborted` or an error.
#[derive(Debug)]
pub struct ServerHandshake {
    listed: Vec<String>,
    state: State,
    gather: Gather,
    output: Vec<u8>,
    client_flags: u16,
    structured_replies: bool,
    options: u32,
    failed: Option<ServerHandshakeError>,
}

#[derive(Debug)]
enum State {
    ClientFlags,
    OptionHead,
    OptionData(OptionHeader),
    /// The owner has been asked and has not answered.
    Asked(ExportRequest),
    /// Answered with yes: the next call says so.
    Opened {
        name: String,
        export: ExportInfo,
    },
    Over,
}

impl ServerHandshake {
    /// `listed`: the names that a client asking for a list is told. The greeting is in the output at once.
    pub fn new(listed: Vec<String>) -> ServerHandshake {
        let mut output = MAGIC.to_be_bytes().to_vec();
        output.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        output.extend_from_slice(&(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES).to_be_bytes());
        ServerHandshake {
            listed,
            state: State::ClientFlags,
            gather: Gather::default(),
            output,
            client_flags: 0,
            structured_replies: false,
            options: 0,
            failed: None,
        }
    }

    /// What is to be sent now, in order; to be asked for after `new`, `feed` and `answer_export`.
    pub fn take_output(&mut self) -> Vec<u8> {
        mem::take(&mut self.output)
    }

    /// The first error is final (close the connection) and is returned again by every later call.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<ServerHandshakeEvent>, ServerHandshakeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let mut rest = input;
        let event = self.advance(&mut rest).inspect_err(|error| self.failed = Some(error.clone()))?;
        Ok(Fed { consumed: input.len() - rest.len(), event })
    }

    /// Answers the open `WantExport`. Then call `feed` again, if only with nothing: a `Done` may be due. A no to
    /// [`ExportQuery::ExportName`] is an error, because the protocol has closing as its only answer.
    pub fn answer_export(
        &mut self,
        answer: Result<ExportAnswer, ExportRefusal>,
    ) -> Result<(), ServerHandshakeError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        self.answer(answer).inspect_err(|error| self.failed = Some(error.clone()))
    }

    fn advance(&mut self, rest: &mut &[u8]) -> Result<Option<ServerHandshakeEvent>, ServerHandshakeError> {
        loop {
            let need = match &self.state {
                State::ClientFlags => 4,
                State::OptionHead => OptionHeader::SIZE,
                State::OptionData(header) => header.len as usize,
                State::Asked(_) | State::Over => return Ok(None),
                State::Opened { .. } => return Ok(self.opened()),
            };
            if !self.gather.fill(rest, need) {
                return Ok(None);
            }
            let gather = mem::take(&mut self.gather);
            if let Some(event) = self.take_message(gather.bytes())? {
                return Ok(Some(event));
            }
        }
    }

    fn opened(&mut self) -> Option<ServerHandshakeEvent> {
        match mem::replace(&mut self.state, State::Over) {
            State::Opened { name, export } => Some(ServerHandshakeEvent::Done { name, export }),
            _ => None,
        }
    }

    fn take_message(&mut self, bytes: &[u8]) -> Result<Option<ServerHandshakeEvent>, ServerHandshakeError> {
        match self.state {
            State::ClientFlags => {
                let flags = Fields(bytes).u32().unwrap_or(u32::MAX);
                let known = u16::try_from(flags)
                    .ok()
                    .filter(|f| f & !(HANDSHAKE_FIXED_NEWSTYLE | HANDSHAKE_NO_ZEROES) == 0);
                self.client_flags = known.ok_or(ServerHandshakeError::UnknownClientFlags(flags))?;
                self.state = State::OptionHead;
                Ok(None)
            }
            State::OptionHead => self.take_header(bytes).map(|()| None),
            State::OptionData(header) => {
                self.state = State::OptionHead;
                self.take_option(header.option, bytes)
            }
            State::Asked(_) | State::Opened { .. } | State::Over => Ok(None),
        }
    }

    fn take_header(&mut self, bytes: &[u8]) -> Result<(), ServerHandshakeError> {
        let Some(header) = bytes.first_chunk().and_then(OptionHeader::decode) else {
            return Err(ServerHandshakeError::BadOptionMagic(Fields(bytes).u64().unwrap_or(0)));
        };
        if header.len > OPTION_LEN_MAX {
            return Err(ServerHandshakeError::OptionTooLong { option: header.option, len: header.len });
        }
        self.options += 1;
        if self.options > OPTIONS_MAX {
            return Err(ServerHandshakeError::TooManyOptions);
        }
        self.state = State::OptionData(header);
        Ok(())
    }

    fn take_option(
        &mut self,
        option: u32,
        data: &[u8],
    ) -> Result<Option<ServerHandshakeEvent>, ServerHandshakeError> {
        let mut replies = Replies { output: &mut self.output, option };
        match server_options::parse(option, data) {
            Parsed::Export(request) => {
                let event =
                    ServerHandshakeEvent::WantExport { name: request.name.clone(), query: request.query };
                self.state = State::Asked(request);
                return Ok(Some(event));
            }
            Parsed::BadExportName => return Err(ServerHandshakeError::BadExportName),
            Parsed::List => replies.list(&self.listed),
            Parsed::StructuredReply => {
                self.structured_replies = true;
                replies.ack();
            }
            Parsed::Abort => {
                replies.ack();
                self.state = State::Over;
                return Ok(Some(ServerHandshakeEvent::Aborted));
            }
            Parsed::Invalid(why) => replies.invalid(why),
            Parsed::Unsupported => replies.unsupported(),
        }
        Ok(None)
    }

    fn answer(&mut self, answer: Result<ExportAnswer, ExportRefusal>) -> Result<(), ServerHandshakeError> {
        let request = match mem::replace(&mut self.state, State::OptionHead) {
            State::Asked(request) => request,
            other => {
                self.state = other;
                return Err(ServerHandshakeError::NoQuestion);
            }
        };
        let mut replies = Replies { output: &mut self.output, option: request.option() };
        match answer {
            Err(_) if request.query == ExportQuery::ExportName => {
                return Err(ServerHandshakeError::RefusedByClosing(request.name));
            }
            Err(refusal) => replies.refuse(&refusal),
            Ok(mut answer) => {
                answer.export.block.check_size(answer.export.size)?;
                answer.export.structured_replies = self.structured_replies;
                if !self.structured_replies {
                    answer.export.flags = answer.export.flags.without(TransmissionFlags::DF);
                }
                match request.query {
                    ExportQuery::ExportName => self.accept_export_name(&answer.export),
                    ExportQuery::Go | ExportQuery::Info => replies.describe(&request, &answer),
                }
                if request.query != ExportQuery::Info {
                    self.state = State::Opened { name: request.name, export: answer.export };
                }
            }
        }
        Ok(())
    }

    fn accept_export_name(&mut self, export: &ExportInfo) {
        self.output.extend_from_slice(&export.size.to_be_bytes());
        self.output.extend_from_slice(&export.flags.bits().to_be_bytes());
        if self.client_flags & HANDSHAKE_NO_ZEROES == 0 {
            self.output.extend_from_slice(&[0; EXPORT_NAME_ZEROES]);
        }
    }
}
