//! What is agreed about an export before the first request.
//!
//! Invariant: a [`BlockSizes`] obeys the spec's rules (the minimum is a power of two and never 0), so that code
//! that masks and divides with it needs no checks. Rejected: public fields with a `validate()` someone forgets.
//! It does not know: the export's name, contents, or how many connections share it.

use std::fmt;
use std::ops::BitOr;

/// An export as announced: what both sides may rely on during transmission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportInfo {
    /// Bytes.
    pub size: u64,
    pub flags: TransmissionFlags,
    pub block: BlockSizes,
    /// Whether structured replies were negotiated. Filled in by the handshake; a server's answer may leave it false.
    pub structured_replies: bool,
}

impl ExportInfo {
    /// The form that replies have on this connection.
    pub const fn reply_style(&self) -> ReplyStyle {
        if self.structured_replies { ReplyStyle::Structured } else { ReplyStyle::Simple }
    }
}

/// Which replies were negotiated (spec: `NBD_OPT_STRUCTURED_REPLY`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplyStyle {
    /// Simple replies only.
    Simple,
    /// Reads are answered in chunks; other commands in either form.
    Structured,
}

/// Block size constraints in bytes (spec: "Block size constraints", of the info extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSizes {
    min: u32,
    preferred: u32,
    max: u32,
}

/// Why announced block sizes are not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockSizeError {
    #[error("minimum block size {0} is not a power of two between 1 and 65536")]
    Minimum(u32),
    #[error("preferred block size {preferred} is not a power of two of at least {floor}")]
    Preferred { preferred: u32, floor: u32 },
    #[error("maximum block size {max} is neither unlimited nor a multiple of the minimum {min}")]
    Maximum { max: u32, min: u32 },
    #[error(
        "maximum block size {max} is below both the preferred block size {preferred} and the export's size {size}"
    )]
    MaximumTooSmall { max: u32, preferred: u32, size: u64 },
}

impl BlockSizes {
    /// The largest minimum that may be announced.
    pub const MIN_LIMIT: u32 = 64 * 1024;
    /// The spec's floor for the preferred size.
    const PREFERRED_FLOOR: u32 = 512;
    /// "No limit" on the wire.
    pub const UNLIMITED: u32 = u32::MAX;

    /// All in bytes; `max` may be [`BlockSizes::UNLIMITED`].
    pub fn new(min: u32, preferred: u32, max: u32) -> Result<BlockSizes, BlockSizeError> {
        if !min.is_power_of_two() || min > Self::MIN_LIMIT {
            return Err(BlockSizeError::Minimum(min));
        }
        let floor = min.max(Self::PREFERRED_FLOOR);
        if !preferred.is_power_of_two() || preferred < floor {
            return Err(BlockSizeError::Preferred { preferred, floor });
        }
        if max != Self::UNLIMITED && (max < min || !max.is_multiple_of(min)) {
            return Err(BlockSizeError::Maximum { max, min });
        }
        Ok(BlockSizes { min, preferred, max })
    }

    /// Offsets and lengths are multiples of this: a power of two, 1 to 65536.
    pub const fn min(self) -> u32 {
        self.min
    }

    /// The granularity that performs: a power of two, at least 512.
    pub const fn preferred(self) -> u32 {
        self.preferred
    }

    /// The longest read or write.
    pub const fn max(self) -> u32 {
        self.max
    }

    /// The rule that needs the export: the maximum reaches the preferred size or the whole export.
    pub fn check_size(self, size: u64) -> Result<(), BlockSizeError> {
        if u64::from(self.max) < size.min(u64::from(self.preferred)) {
            return Err(BlockSizeError::MaximumTooSmall { max: self.max, preferred: self.preferred, size });
        }
        Ok(())
    }
}

impl Default for BlockSizes {
    /// What holds when a server announces nothing: 1, 4096, 32 MiB.
    fn default() -> BlockSizes {
        BlockSizes { min: 1, preferred: 4096, max: 32 << 20 }
    }
}

/// What the server says of an export (spec: "Transmission flags"). Unknown bits are kept and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransmissionFlags(u16);

impl TransmissionFlags {
    /// Nothing but the bit that is always set.
    pub const HAS_FLAGS: TransmissionFlags = TransmissionFlags(1);
    pub const READ_ONLY: TransmissionFlags = TransmissionFlags(1 << 1);
    pub const FLUSH: TransmissionFlags = TransmissionFlags(1 << 2);
    pub const FUA: TransmissionFlags = TransmissionFlags(1 << 3);
    pub const ROTATIONAL: TransmissionFlags = TransmissionFlags(1 << 4);
    pub const TRIM: TransmissionFlags = TransmissionFlags(1 << 5);
    pub const WRITE_ZEROES: TransmissionFlags = TransmissionFlags(1 << 6);
    pub const DF: TransmissionFlags = TransmissionFlags(1 << 7);
    pub const MULTI_CONN: TransmissionFlags = TransmissionFlags(1 << 8);
    pub const FAST_ZERO: TransmissionFlags = TransmissionFlags(1 << 11);

    /// As read from the wire; the bit that is always set is set.
    pub const fn from_bits(bits: u16) -> TransmissionFlags {
        TransmissionFlags(bits | 1)
    }

    /// The 16 bits on the wire.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Whether every flag of `other` is set here.
    pub const fn contains(self, other: TransmissionFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// These flags without those of `other`; the bit that is always set stays.
    pub const fn without(self, other: TransmissionFlags) -> TransmissionFlags {
        TransmissionFlags((self.0 & !other.0) | 1)
    }

    pub const fn read_only(self) -> bool {
        self.contains(Self::READ_ONLY)
    }

    pub const fn can_flush(self) -> bool {
        self.contains(Self::FLUSH)
    }

    pub const fn can_fua(self) -> bool {
        self.contains(Self::FUA)
    }

    pub const fn rotational(self) -> bool {
        self.contains(Self::ROTATIONAL)
    }

    pub const fn can_trim(self) -> bool {
        self.contains(Self::TRIM)
    }

    pub const fn can_write_zeroes(self) -> bool {
        self.contains(Self::WRITE_ZEROES)
    }

    pub const fn can_df(self) -> bool {
        self.contains(Self::DF)
    }

    /// A flush on one connection covers the writes of all.
    pub const fn can_multi_conn(self) -> bool {
        self.contains(Self::MULTI_CONN)
    }

    pub const fn can_fast_zero(self) -> bool {
        self.contains(Self::FAST_ZERO)
    }
}

impl Default for TransmissionFlags {
    fn default() -> TransmissionFlags {
        TransmissionFlags::HAS_FLAGS
    }
}

impl BitOr for TransmissionFlags {
    type Output = TransmissionFlags;
    fn bitor(self, other: TransmissionFlags) -> TransmissionFlags {
        TransmissionFlags(self.0 | other.0)
    }
}

impl fmt::Display for TransmissionFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.read_only(), "read-only"),
            (self.can_flush(), "flush"),
            (self.can_fua(), "fua"),
            (self.rotational(), "rotational"),
            (self.can_trim(), "trim"),
            (self.can_write_zeroes(), "write-zeroes"),
            (self.can_df(), "df"),
            (self.can_multi_conn(), "multi-conn"),
            (self.can_fast_zero(), "fast-zero"),
        ];
        let set: Vec<&str> = names.iter().filter(|(on, _)| *on).map(|(_, name)| *name).collect();
        f.write_str(if set.is_empty() { "none" } else { "" })?;
        f.write_str(&set.join(" "))
    }
}
