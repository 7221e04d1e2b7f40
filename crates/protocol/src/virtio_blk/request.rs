//! What a request asks for (virtio 5.2.6), judged against the disk.
//!
//! Invariant: an accepted [`Request::Io`] lies within the disk, on whole blocks, and within its bounds.

use super::config::RANGE_BYTES_MAX;

/// Bytes of the header in front of each request.
pub const HEADER_LEN: usize = 16;
/// Bytes of a discard's or a write-zeroes' payload.
pub const RANGE_LEN: usize = 16;
/// Bytes of the device's id string.
pub const ID_LEN: usize = 20;

const SECTOR_SHIFT: u32 = 9;
const UNMAP: u32 = 1;

const TYPE_IN: u32 = 0;
const TYPE_OUT: u32 = 1;
const TYPE_FLUSH: u32 = 4;
const TYPE_GET_ID: u32 = 8;
const TYPE_DISCARD: u32 = 11;
const TYPE_WRITE_ZEROES: u32 = 13;

/// The byte that ends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    IoErr,
    Unsupp,
}

impl Status {
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::IoErr => 1,
            Self::Unsupp => 2,
        }
    }

    /// The status of a byte; none if virtio-blk knows none such.
    #[must_use]
    pub const fn of_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Ok),
            1 => Some(Self::IoErr),
            2 => Some(Self::Unsupp),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Flush,
    Discard,
    WriteZeroes { may_unmap: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
}

/// What the disk takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes.
    pub size: u64,
    /// Bytes; a power of two, at least 512.
    pub block_size: u32,
    /// Data bytes of one request.
    pub request_max: u32,
    pub access: Access,
    pub flush: bool,
    pub discard: bool,
    pub write_zeroes: bool,
}

/// Data bytes that a request's chain has room for, without header and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    pub readable: u64,
    pub writable: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// `offset` and `length` in bytes.
    Io { operation: Operation, offset: u64, length: u32 },
    /// Wants the device's id: at most [`ID_LEN`] bytes.
    Identify,
    /// Nothing to do: a transfer of no bytes.
    Empty,
}

/// Judges a request. `range` reads the first [`RANGE_LEN`] data bytes, which the chain has when it is called.
///
/// # Errors
/// The status that the request ends with: out of the disk's bounds, not on whole blocks, too long, not supported.
pub fn judge(
    header: [u8; HEADER_LEN],
    room: Room,
    limits: &Limits,
    range: impl FnOnce() -> [u8; RANGE_LEN],
) -> Result<Request, Status> {
    let kind = u32::from_le_bytes(header[..4].try_into().expect("four bytes"));
    let sector = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
    let supported = |has: bool| if has { Ok(()) } else { Err(Status::Unsupp) };
    match kind {
        TYPE_IN => transfer(Operation::Read, sector, room.writable, limits),
        TYPE_OUT => transfer(Operation::Write, sector, room.readable, limits),
        TYPE_FLUSH => {
            supported(limits.flush)?;
            Ok(Request::Io { operation: Operation::Flush, offset: 0, length: 0 })
        }
        TYPE_GET_ID => Ok(Request::Identify),
        TYPE_DISCARD | TYPE_WRITE_ZEROES => {
            supported(if kind == TYPE_DISCARD { limits.discard } else { limits.write_zeroes })?;
            if room.readable != RANGE_LEN as u64 {
                return Err(Status::IoErr);
            }
            ranged(kind, range(), limits)
        }
        _ => Err(Status::Unsupp),
    }
}

fn transfer(operation: Operation, sector: u64, bytes: u64, limits: &Limits) -> Result<Request, Status> {
    within(operation, sector, bytes, (limits, limits.request_max))
}

/// `struct virtio_blk_discard_write_zeroes`: sector, sectors, flags.
fn ranged(kind: u32, bytes: [u8; RANGE_LEN], limits: &Limits) -> Result<Request, Status> {
    let sector = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
    let sectors = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
    let flags = u32::from_le_bytes(bytes[12..].try_into().expect("four bytes"));
    let operation = match (kind, flags) {
        (TYPE_DISCARD, 0) => Operation::Discard,
        (TYPE_WRITE_ZEROES, 0 | UNMAP) => Operation::WriteZeroes { may_unmap: flags == UNMAP },
        _ => return Err(Status::Unsupp),
    };
    within(operation, sector, u64::from(sectors) << SECTOR_SHIFT, (limits, RANGE_BYTES_MAX))
}

fn within(
    operation: Operation,
    sector: u64,
    bytes: u64,
    (limits, bytes_max): (&Limits, u32),
) -> Result<Request, Status> {
    if operation != Operation::Read && limits.access == Access::ReadOnly {
        return Err(Status::IoErr);
    }
    let length = u32::try_from(bytes).ok().filter(|length| *length <= bytes_max).ok_or(Status::IoErr)?;
    let offset = sector.checked_mul(1 << SECTOR_SHIFT).ok_or(Status::IoErr)?;
    let end = offset.checked_add(bytes).ok_or(Status::IoErr)?;
    let block = u64::from(limits.block_size);
    if end > limits.size || !offset.is_multiple_of(block) || !bytes.is_multiple_of(block) {
        return Err(Status::IoErr);
    }
    if length == 0 {
        return Ok(Request::Empty);
    }
    Ok(Request::Io { operation, offset, length })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits = Limits {
        size: 1 << 20,
        block_size: 4096,
        request_max: 64 << 10,
        access: Access::ReadWrite,
        flush: true,
        discard: true,
        write_zeroes: true,
    };

    fn header(kind: u32, sector: u64) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&kind.to_le_bytes());
        bytes[8..].copy_from_slice(&sector.to_le_bytes());
        bytes
    }

    fn range(sector: u64, sectors: u32, flags: u32) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&sector.to_le_bytes());
        bytes[8..12].copy_from_slice(&sectors.to_le_bytes());
        bytes[12..].copy_from_slice(&flags.to_le_bytes());
        bytes
    }

    fn ask(kind: u32, sector: u64, readable: u64, writable: u64) -> Result<Request, Status> {
        judge(header(kind, sector), Room { readable, writable }, &LIMITS, || range(sector, 8, 0))
    }

    #[test]
    fn each_type_is_known() {
        let io = |operation, offset, length| Ok(Request::Io { operation, offset, length });
        assert_eq!(ask(0, 8, 0, 8192), io(Operation::Read, 4096, 8192));
        assert_eq!(ask(1, 0, 4096, 0), io(Operation::Write, 0, 4096));
        assert_eq!(ask(4, 0, 0, 0), io(Operation::Flush, 0, 0));
        assert_eq!(ask(8, 0, 0, 20), Ok(Request::Identify));
        assert_eq!(ask(11, 8, 16, 0), io(Operation::Discard, 4096, 4096));
        assert_eq!(ask(13, 8, 16, 0), io(Operation::WriteZeroes { may_unmap: false }, 4096, 4096));
        assert_eq!(ask(0, 0, 0, 0), Ok(Request::Empty));
        for kind in [2, 3, 5, 9, 10, 12, 14, 0x8000_0000, u32::MAX] {
            assert_eq!(ask(kind, 0, 4096, 4096), Err(Status::Unsupp), "{kind}");
        }
    }

    #[test]
    fn flags_of_ranges() {
        let ask = |kind, flags| {
            judge(header(kind, 0), Room { readable: 16, writable: 0 }, &LIMITS, || range(0, 8, flags))
        };
        let unmapped = Operation::WriteZeroes { may_unmap: true };
        assert_eq!(ask(13, 1), Ok(Request::Io { operation: unmapped, offset: 0, length: 4096 }));
        assert_eq!(ask(11, 1), Err(Status::Unsupp));
        assert_eq!(ask(13, 2), Err(Status::Unsupp));
        let two = judge(header(11, 0), Room { readable: 32, writable: 0 }, &LIMITS, || range(0, 8, 0));
        assert_eq!(two, Err(Status::IoErr), "one range a request");
    }

    #[test]
    fn what_the_disk_cannot_do_is_unsupported_and_a_read_only_disk_is_not_written() {
        let poor =
            Limits { flush: false, discard: false, write_zeroes: false, access: Access::ReadOnly, ..LIMITS };
        let ask =
            |kind| judge(header(kind, 0), Room { readable: 4096, writable: 0 }, &poor, || range(0, 8, 0));
        assert_eq!([ask(4), ask(11), ask(13)], [Err(Status::Unsupp); 3]);
        assert_eq!(ask(1), Err(Status::IoErr));
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_within_the_disk(
            kind in prop_oneof![Just(0u32), Just(1), Just(11), Just(13), any::<u32>()],
            sector in prop_oneof![0u64..4096, any::<u64>()],
            bytes in prop_oneof![0u64..200_000, (0u64..40).prop_map(|n| n * 4096), any::<u64>()],
            sectors in prop_oneof![0u32..4096, any::<u32>()],
            flags in 0u32..4,
        ) {
            let readable = if kind > 1 { 16 } else { bytes };
            let room = Room { readable, writable: bytes };
            match judge(header(kind, sector), room, &LIMITS, || range(sector, sectors, flags)) {
                Ok(Request::Io { offset, length, .. }) => {
                    prop_assert!(offset + u64::from(length) <= LIMITS.size);
                    prop_assert_eq!((offset % 4096, length % 4096), (0, 0));
                    if kind < 2 {
                        prop_assert_eq!(u64::from(length), bytes);
                        prop_assert!(length <= LIMITS.request_max);
                    }
                }
                Ok(Request::Identify | Request::Empty) | Err(_) => {}
            }
        }
    }
}
