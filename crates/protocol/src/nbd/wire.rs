//! The layouts of NBD: constants, and the headers as structs with encode and decode.
//!
//! Everything is big-endian. Invariant: `decode(encode(x)) == x` for every header, and decoding takes an exact array,
//! so that it cannot read past its end. Rejected: `repr(C)` overlays, which need `unsafe` or a crate for a saving of
//! nothing. It does not know: which message is allowed when; the four machines do.

use super::gather::Fields;

/// "NBDMAGIC": the first eight bytes of every server.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// "IHAVEOPT": newstyle follows; also the head of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// What an oldstyle server sends in its place.
pub const OLDSTYLE_MAGIC: u64 = 0x0000_4202_8186_1253;
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
pub const CHUNK_MAGIC: u32 = 0x668e_33ef;

/// Handshake flags of the server (16 bits) and, with the same values, of the client (32 bits).
pub const HANDSHAKE_FIXED_NEWSTYLE: u16 = 1;
pub const HANDSHAKE_NO_ZEROES: u16 = 2;

pub const OPT_EXPORT_NAME: u32 = 1;
pub const OPT_ABORT: u32 = 2;
pub const OPT_LIST: u32 = 3;
pub const OPT_STARTTLS: u32 = 5;
pub const OPT_INFO: u32 = 6;
pub const OPT_GO: u32 = 7;
pub const OPT_STRUCTURED_REPLY: u32 = 8;
pub const OPT_LIST_META_CONTEXT: u32 = 10;
pub const OPT_SET_META_CONTEXT: u32 = 11;
pub const OPT_EXTENDED_HEADERS: u32 = 12;

pub const REP_ACK: u32 = 1;
pub const REP_SERVER: u32 = 2;
pub const REP_INFO: u32 = 3;
/// Set in every error reply.
pub const REP_ERROR_BIT: u32 = 1 << 31;
pub const REP_ERR_UNSUP: u32 = REP_ERROR_BIT | 1;
pub const REP_ERR_POLICY: u32 = REP_ERROR_BIT | 2;
pub const REP_ERR_INVALID: u32 = REP_ERROR_BIT | 3;
pub const REP_ERR_TLS_REQD: u32 = REP_ERROR_BIT | 5;
pub const REP_ERR_UNKNOWN: u32 = REP_ERROR_BIT | 6;
pub const REP_ERR_SHUTDOWN: u32 = REP_ERROR_BIT | 7;

pub const INFO_EXPORT: u16 = 0;
pub const INFO_NAME: u16 = 1;
pub const INFO_DESCRIPTION: u16 = 2;
pub const INFO_BLOCK_SIZE: u16 = 3;

/// The last chunk of a reply.
pub const CHUNK_FLAG_DONE: u16 = 1;
pub const CHUNK_NONE: u16 = 0;
pub const CHUNK_OFFSET_DATA: u16 = 1;
pub const CHUNK_OFFSET_HOLE: u16 = 2;
/// Set in the type of every error chunk, known or not.
pub const CHUNK_ERROR_BIT: u16 = 1 << 15;
pub const CHUNK_ERROR: u16 = CHUNK_ERROR_BIT | 1;
pub const CHUNK_ERROR_OFFSET: u16 = CHUNK_ERROR_BIT | 2;

/// The spec's limit for any string, in bytes: names, descriptions, messages.
pub const STRING_MAX: usize = 4096;
/// Zeroes that end the answer to an export name, unless both sides agreed to leave them out.
pub const EXPORT_NAME_ZEROES: usize = 124;

/// A request as it stands on the wire, before anything is checked but its magic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    pub flags: u16,
    pub command: u16,
    pub cookie: u64,
    pub offset: u64,
    pub len: u32,
}

impl RequestHeader {
    pub const SIZE: usize = 28;

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&REQUEST_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.command.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..24].copy_from_slice(&self.offset.to_be_bytes());
        out[24..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// `None` if the magic is wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<RequestHeader> {
        let mut f = Fields(bytes);
        if f.u32()? != REQUEST_MAGIC {
            return None;
        }
        Some(RequestHeader {
            flags: f.u16()?,
            command: f.u16()?,
            cookie: f.u64()?,
            offset: f.u64()?,
            len: f.u32()?,
        })
    }
}

/// A simple reply; its payload, if it has one, follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimpleReplyHeader {
    /// 0 is success.
    pub error: u32,
    pub cookie: u64,
}

impl SimpleReplyHeader {
    pub const SIZE: usize = 16;

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out[4..8].copy_from_slice(&self.error.to_be_bytes());
        out[8..].copy_from_slice(&self.cookie.to_be_bytes());
        out
    }

    /// `None` if the magic is wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<SimpleReplyHeader> {
        let mut f = Fields(bytes);
        if f.u32()? != SIMPLE_REPLY_MAGIC {
            return None;
        }
        Some(SimpleReplyHeader { error: f.u32()?, cookie: f.u64()? })
    }
}

/// The head of one chunk of a structured reply; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    pub flags: u16,
    pub kind: u16,
    pub cookie: u64,
    pub len: u32,
}

impl ChunkHeader {
    pub const SIZE: usize = 20;

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..4].copy_from_slice(&CHUNK_MAGIC.to_be_bytes());
        out[4..6].copy_from_slice(&self.flags.to_be_bytes());
        out[6..8].copy_from_slice(&self.kind.to_be_bytes());
        out[8..16].copy_from_slice(&self.cookie.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// `None` if the magic is wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<ChunkHeader> {
        let mut f = Fields(bytes);
        if f.u32()? != CHUNK_MAGIC {
            return None;
        }
        Some(ChunkHeader { flags: f.u16()?, kind: f.u16()?, cookie: f.u64()?, len: f.u32()? })
    }
}

/// The head of an option that a client sends; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionHeader {
    pub option: u32,
    pub len: u32,
}

impl OptionHeader {
    pub const SIZE: usize = 16;

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&OPTION_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// `None` if the magic is wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<OptionHeader> {
        let mut f = Fields(bytes);
        if f.u64()? != OPTION_MAGIC {
            return None;
        }
        Some(OptionHeader { option: f.u32()?, len: f.u32()? })
    }
}

/// The head of a server's reply to an option; `len` bytes follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OptionReplyHeader {
    pub option: u32,
    pub kind: u32,
    pub len: u32,
}

impl OptionReplyHeader {
    pub const SIZE: usize = 20;

    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut out = [0; Self::SIZE];
        out[..8].copy_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
        out[8..12].copy_from_slice(&self.option.to_be_bytes());
        out[12..16].copy_from_slice(&self.kind.to_be_bytes());
        out[16..].copy_from_slice(&self.len.to_be_bytes());
        out
    }

    /// `None` if the magic is wrong.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Option<OptionReplyHeader> {
        let mut f = Fields(bytes);
        if f.u64()? != OPTION_REPLY_MAGIC {
            return None;
        }
        Some(OptionReplyHeader { option: f.u32()?, kind: f.u32()?, len: f.u32()? })
    }
}
