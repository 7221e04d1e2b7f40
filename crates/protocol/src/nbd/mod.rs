//! NBD, both sides: fixed newstyle handshake and transmission with simple or structured replies.
//!
//! Source: `doc/proto.md` of the repository NetworkBlockDevice/nbd, called "the spec" here, named by section.
//! Four machines (client and server, handshake and session) share the types of [`export`] and [`command`] and the
//! layouts of [`wire`]. Invariant: payload bytes never pass through a machine; it says where they belong and waits
//! until its owner has taken them off the stream, so that they can go straight to guest memory.
//! Rejected: a parser that owns payload buffers (a copy per read), and `structured: bool` arguments.
//! It does not know: which export may be served to whom, what a disk is, when to give up.

mod client_handshake;
mod client_session;
pub mod command;
mod coverage;
pub mod export;
mod gather;
mod reply;
mod server_handshake;
mod server_options;
mod server_session;
pub mod wire;

pub use client_handshake::{ClientHandshake, HandshakeError};
pub use client_session::{Outstanding, ReplyEvent, ReplyParser, SessionError, encode_request};
pub use command::{Command, CommandFlags, NbdError};
pub use export::{BlockSizeError, BlockSizes, ExportInfo, ReplyStyle, TransmissionFlags};
pub use reply::{
    ChunkEnd, ReplyHead, encode_data_chunk, encode_error_chunk, encode_hole_chunk, encode_none_chunk,
    encode_simple_reply,
};
pub use server_handshake::{
    ExportAnswer, ExportQuery, ExportRefusal, RefusalReason, ServerHandshake, ServerHandshakeError,
    ServerHandshakeEvent,
};
pub use server_session::{RefusedReason, RefusedRequest, Request, RequestError, RequestEvent, RequestParser};
