//! The words of the transmission phase: commands, their flags, and error values.
//!
//! Invariant: an [`NbdError`] never encodes as 0, which would read as success.
//! Rejected: `std::io::Error` or raw errno numbers, whose values are the host's and not the wire's.
//! It does not know: which command an export supports (see `export`), or what an error does to a path.

use std::fmt;
use std::ops::BitOr;

/// A request type (spec: "Request types").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Command {
    Read,
    Write,
    Disconnect,
    Flush,
    Trim,
    WriteZeroes,
}

impl Command {
    /// The value on the wire.
    pub const fn code(self) -> u16 {
        match self {
            Command::Read => 0,
            Command::Write => 1,
            Command::Disconnect => 2,
            Command::Flush => 3,
            Command::Trim => 4,
            Command::WriteZeroes => 6,
        }
    }

    /// `None` for types that this crate does not speak (5, cache; 7, block status; and the unknown).
    pub const fn from_code(code: u16) -> Option<Command> {
        Some(match code {
            0 => Command::Read,
            1 => Command::Write,
            2 => Command::Disconnect,
            3 => Command::Flush,
            4 => Command::Trim,
            6 => Command::WriteZeroes,
            _ => return None,
        })
    }

    /// Whether it changes the contents of the export, and so is forbidden on a read-only one.
    pub const fn modifies(self) -> bool {
        matches!(self, Command::Write | Command::Trim | Command::WriteZeroes)
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Command::Read => "read",
            Command::Write => "write",
            Command::Disconnect => "disconnect",
            Command::Flush => "flush",
            Command::Trim => "trim",
            Command::WriteZeroes => "write zeroes",
        })
    }
}

/// The flags of one request (spec: "Command flags").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CommandFlags(u16);

impl CommandFlags {
    pub const NONE: CommandFlags = CommandFlags(0);
    /// Reply only after the data is on stable storage.
    pub const FUA: CommandFlags = CommandFlags(1);
    /// Write zeroes: keep the range allocated.
    pub const NO_HOLE: CommandFlags = CommandFlags(1 << 1);
    /// Read: answer with a single content chunk.
    pub const DF: CommandFlags = CommandFlags(1 << 2);
    /// Block status only: one extent.
    pub const REQ_ONE: CommandFlags = CommandFlags(1 << 3);
    /// Write zeroes: fail rather than write the zeroes out slowly.
    pub const FAST_ZERO: CommandFlags = CommandFlags(1 << 4);

    /// Any bits, known or not, as read from the wire.
    pub const fn from_bits(bits: u16) -> CommandFlags {
        CommandFlags(bits)
    }

    /// The 16 bits on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether every flag of `other` is set here.
    pub const fn contains(self, other: CommandFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// The flags set here that are not in `allowed`.
    pub const fn outside(self, allowed: CommandFlags) -> CommandFlags {
        CommandFlags(self.0 & !allowed.0)
    }
}

impl BitOr for CommandFlags {
    type Output = CommandFlags;
    fn bitor(self, other: CommandFlags) -> CommandFlags {
        CommandFlags(self.0 | other.0)
    }
}

/// Why a server failed a request (spec: "Error values"). Never success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NbdError {
    Perm,
    Io,
    NoMem,
    Inval,
    NoSpace,
    Overflow,
    NotSup,
    Shutdown,
    /// A value that the spec does not define.
    Other(u32),
}

impl NbdError {
    /// `None` for 0, which means success.
    pub const fn from_code(code: u32) -> Option<NbdError> {
        Some(match code {
            0 => return None,
            1 => NbdError::Perm,
            5 => NbdError::Io,
            12 => NbdError::NoMem,
            22 => NbdError::Inval,
            28 => NbdError::NoSpace,
            75 => NbdError::Overflow,
            95 => NbdError::NotSup,
            108 => NbdError::Shutdown,
            other => NbdError::Other(other),
        })
    }

    /// The value on the wire; `Other(0)` is sent as EIO, because 0 would be success.
    pub const fn code(self) -> u32 {
        match self {
            NbdError::Perm => 1,
            NbdError::Io | NbdError::Other(0) => 5,
            NbdError::NoMem => 12,
            NbdError::Inval => 22,
            NbdError::NoSpace => 28,
            NbdError::Overflow => 75,
            NbdError::NotSup => 95,
            NbdError::Shutdown => 108,
            NbdError::Other(code) => code,
        }
    }
}

impl fmt::Display for NbdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NbdError::Perm => "EPERM (not permitted)",
            NbdError::Io => "EIO (input/output error)",
            NbdError::NoMem => "ENOMEM (out of memory)",
            NbdError::Inval => "EINVAL (invalid request)",
            NbdError::NoSpace => "ENOSPC (no space left)",
            NbdError::Overflow => "EOVERFLOW (too large)",
            NbdError::NotSup => "ENOTSUP (not supported)",
            NbdError::Shutdown => "ESHUTDOWN (the server is shutting down)",
            NbdError::Other(code) => return write!(f, "NBD error {code}"),
        })
    }
}

impl std::error::Error for NbdError {}
