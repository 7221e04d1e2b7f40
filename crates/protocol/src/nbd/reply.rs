//! What a server sends during transmission.
//!
//! Invariant: the form fits the negotiation and the command (spec: "Structured reply chunk message"): with structured
//! replies a read gets chunks even for an early error, everything else may get the 16-byte simple reply.
//! Rejected: structured replies to everything, 4 bytes longer for nothing where there is no payload and no message.
//! It does not know: what was asked for; the caller names command, cookie and range.

use super::command::{Command, NbdError};
use super::export::ReplyStyle;
use super::gather::cut;
use super::wire::{
    CHUNK_ERROR, CHUNK_FLAG_DONE, CHUNK_NONE, CHUNK_OFFSET_DATA, CHUNK_OFFSET_HOLE, ChunkHeader,
    SimpleReplyHeader,
};

/// Whether more chunks of the same reply follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChunkEnd {
    More,
    Last,
}

impl ChunkEnd {
    const fn flags(self) -> u16 {
        match self {
            ChunkEnd::More => 0,
            ChunkEnd::Last => CHUNK_FLAG_DONE,
        }
    }
}

/// The bytes before a reply's payload, without an allocation: 16 to 28 of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHead {
    bytes: [u8; ReplyHead::MAX],
    len: u8,
}

impl ReplyHead {
    /// The longest head.
    pub const MAX: usize = 28;

    fn new(parts: &[&[u8]]) -> ReplyHead {
        let mut head = ReplyHead { bytes: [0; Self::MAX], len: 0 };
        for part in parts {
            let start = usize::from(head.len);
            head.bytes[start..start + part.len()].copy_from_slice(part);
            head.len += part.len() as u8;
        }
        head
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl AsRef<[u8]> for ReplyHead {
    fn as_ref(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl ReplyStyle {
    /// The head of a successful read's whole reply: the caller sends `len` bytes (at least 1, below 2^32 - 8), read
    /// at `offset` of the export, right behind it.
    pub fn read_head(self, cookie: u64, offset: u64, len: u32) -> ReplyHead {
        match self {
            ReplyStyle::Simple => ReplyHead::new(&[&encode_simple_reply(cookie, Ok(()))]),
            ReplyStyle::Structured => {
                ReplyHead::new(&[&encode_data_chunk(cookie, offset, len, ChunkEnd::Last)])
            }
        }
    }

    /// A whole reply without payload: to any command but a read that succeeded.
    pub fn status(self, command: Command, cookie: u64, result: Result<(), NbdError>) -> ReplyHead {
        match (self, command, result) {
            (ReplyStyle::Structured, Command::Read, Err(error)) => {
                let header = ChunkHeader { flags: CHUNK_FLAG_DONE, kind: CHUNK_ERROR, cookie, len: 6 };
                ReplyHead::new(&[&header.encode(), &error.code().to_be_bytes(), &[0, 0]])
            }
            (ReplyStyle::Structured, Command::Read, Ok(())) => ReplyHead::new(&[&encode_none_chunk(cookie)]),
            _ => ReplyHead::new(&[&encode_simple_reply(cookie, result)]),
        }
    }
}

/// A simple reply's 16 bytes; after a successful read without structured replies its data follows.
pub fn encode_simple_reply(cookie: u64, result: Result<(), NbdError>) -> [u8; 16] {
    SimpleReplyHeader { error: result.map_or_else(NbdError::code, |()| 0), cookie }.encode()
}

/// The head of a content chunk: `len` bytes (1 to 2^32 - 9) of the export from `offset` follow.
pub fn encode_data_chunk(cookie: u64, offset: u64, len: u32, end: ChunkEnd) -> [u8; 28] {
    let header =
        ChunkHeader { flags: end.flags(), kind: CHUNK_OFFSET_DATA, cookie, len: len.saturating_add(8) };
    let mut out = [0; 28];
    out[..20].copy_from_slice(&header.encode());
    out[20..].copy_from_slice(&offset.to_be_bytes());
    out
}

/// A whole chunk that says: `len` bytes (at least 1) from `offset` read as zeroes.
pub fn encode_hole_chunk(cookie: u64, offset: u64, len: u32, end: ChunkEnd) -> [u8; 32] {
    let header = ChunkHeader { flags: end.flags(), kind: CHUNK_OFFSET_HOLE, cookie, len: 12 };
    let mut out = [0; 32];
    out[..20].copy_from_slice(&header.encode());
    out[20..28].copy_from_slice(&offset.to_be_bytes());
    out[28..].copy_from_slice(&len.to_be_bytes());
    out
}

/// The chunk that ends a reply and says nothing else.
pub fn encode_none_chunk(cookie: u64) -> [u8; 20] {
    ChunkHeader { flags: CHUNK_FLAG_DONE, kind: CHUNK_NONE, cookie, len: 0 }.encode()
}

/// An error chunk that ends its reply, with a text for people (cut at 4096 bytes).
pub fn encode_error_chunk(cookie: u64, error: NbdError, message: &str) -> Vec<u8> {
    let text = cut(message);
    let header =
        ChunkHeader { flags: CHUNK_FLAG_DONE, kind: CHUNK_ERROR, cookie, len: 6 + text.len() as u32 };
    let mut out = header.encode().to_vec();
    out.extend_from_slice(&error.code().to_be_bytes());
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
    out
}
