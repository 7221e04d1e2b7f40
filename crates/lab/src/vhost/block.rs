//! What a virtio-blk device says and is asked (virtio 1.2, 5.2): features, configuration space, requests, status.
//!
//! Invariant: numbers here are the specification's. Rejected: the daemon's own codec, with which a mistake in it would
//! agree. It does not know: rings, sockets.

use std::fmt;

/// Bytes of a sector, the unit of a request's place.
pub const SECTOR: usize = 512;
/// Bytes of a request's header.
pub const HEADER: usize = 16;
/// Bytes of the range of a discard or of zeroes, and of the answer to GET_ID.
pub const RANGE: usize = 16;
pub const ID: usize = 20;
/// Bytes of the configuration space that are asked for: up to and with the fields of write zeroes.
pub const CONFIG: usize = 60;

/// Feature bits, as masks.
pub mod feature {
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const TOPOLOGY: u64 = 1 << 10;
    pub const MQ: u64 = 1 << 12;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
    pub const LOG_ALL: u64 = 1 << 26;
    pub const INDIRECT_DESC: u64 = 1 << 28;
    pub const EVENT_IDX: u64 = 1 << 29;
    pub const PROTOCOL_FEATURES: u64 = 1 << 30;
    pub const VERSION_1: u64 = 1 << 32;

    /// What this driver can use.
    pub const DRIVER: u64 = SEG_MAX
        | RO
        | BLK_SIZE
        | FLUSH
        | TOPOLOGY
        | MQ
        | DISCARD
        | WRITE_ZEROES
        | INDIRECT_DESC
        | EVENT_IDX
        | PROTOCOL_FEATURES
        | VERSION_1;
}

/// The names of the features of a mask, for people.
#[must_use]
pub fn feature_names(mask: u64) -> String {
    const NAMES: [(u64, &str); 13] = [
        (feature::SEG_MAX, "SEG_MAX"),
        (feature::RO, "RO"),
        (feature::BLK_SIZE, "BLK_SIZE"),
        (feature::FLUSH, "FLUSH"),
        (feature::TOPOLOGY, "TOPOLOGY"),
        (feature::MQ, "MQ"),
        (feature::DISCARD, "DISCARD"),
        (feature::WRITE_ZEROES, "WRITE_ZEROES"),
        (feature::LOG_ALL, "LOG_ALL"),
        (feature::INDIRECT_DESC, "INDIRECT_DESC"),
        (feature::EVENT_IDX, "EVENT_IDX"),
        (feature::PROTOCOL_FEATURES, "PROTOCOL_FEATURES"),
        (feature::VERSION_1, "VERSION_1"),
    ];
    let named = NAMES.iter().filter(|(bit, _)| mask & bit != 0).map(|(_, name)| *name);
    named.collect::<Vec<_>>().join(" ")
}

/// The configuration space. Fields of features that were not negotiated hold what the device has put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockConfig {
    /// In sectors.
    pub capacity: u64,
    pub seg_max: u32,
    /// In bytes.
    pub blk_size: u32,
    /// Logical blocks of a physical one, as a power of two.
    pub physical_block_exp: u8,
    pub alignment_offset: u8,
    /// In logical blocks.
    pub min_io_size: u16,
    pub opt_io_size: u32,
    pub num_queues: u16,
    /// In sectors, the number of ranges, and in sectors.
    pub max_discard_sectors: u32,
    pub max_discard_seg: u32,
    pub discard_sector_alignment: u32,
    pub max_write_zeroes_sectors: u32,
    pub max_write_zeroes_seg: u32,
    pub write_zeroes_may_unmap: u8,
}

impl BlockConfig {
    /// From the bytes of the space, of which there are at least [`CONFIG`]; else `None`.
    #[must_use]
    pub fn parse(space: &[u8]) -> Option<Self> {
        let space: &[u8; CONFIG] = space.first_chunk()?;
        let word = |at: usize| u32::from_le_bytes([space[at], space[at + 1], space[at + 2], space[at + 3]]);
        let half = |at: usize| u16::from_le_bytes([space[at], space[at + 1]]);
        Some(Self {
            capacity: u64::from(word(0)) | u64::from(word(4)) << 32,
            seg_max: word(12),
            blk_size: word(20),
            physical_block_exp: space[24],
            alignment_offset: space[25],
            min_io_size: half(26),
            opt_io_size: word(28),
            num_queues: half(34),
            max_discard_sectors: word(36),
            max_discard_seg: word(40),
            discard_sector_alignment: word(44),
            max_write_zeroes_sectors: word(48),
            max_write_zeroes_seg: word(52),
            write_zeroes_may_unmap: space[56],
        })
    }

    /// Bytes of the disk.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.capacity.saturating_mul(SECTOR as u64)
    }
}

/// What is asked of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Read,
    Write,
    Flush,
    Discard,
    /// With leave to unmap instead.
    WriteZeroes {
        unmap: bool,
    },
    GetId,
}

impl Operation {
    /// The number in the header.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Read => 0,
            Self::Write => 1,
            Self::Flush => 4,
            Self::GetId => 8,
            Self::Discard => 11,
            Self::WriteZeroes { .. } => 13,
        }
    }

    /// Whether the device writes the payload.
    #[must_use]
    pub fn is_inbound(self) -> bool {
        match self {
            Self::Read | Self::GetId => true,
            Self::Write | Self::Flush | Self::Discard | Self::WriteZeroes { .. } => false,
        }
    }
}

/// One request. `offset` and `len` in bytes, multiples of [`SECTOR`]; both 0 for a flush and GET_ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockRequest {
    pub operation: Operation,
    pub offset: u64,
    pub len: u32,
}

impl BlockRequest {
    #[must_use]
    pub fn new(operation: Operation, offset: u64, len: u32) -> Self {
        Self { operation, offset, len }
    }

    /// Bytes of its payload in guest memory: data, a range, or the id.
    #[must_use]
    pub fn payload(&self) -> usize {
        match self.operation {
            Operation::Read | Operation::Write => self.len as usize,
            Operation::Flush => 0,
            Operation::Discard | Operation::WriteZeroes { .. } => RANGE,
            Operation::GetId => ID,
        }
    }

    /// The header.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER] {
        let sector = match self.operation {
            Operation::Read | Operation::Write => self.offset / SECTOR as u64,
            Operation::Flush | Operation::Discard | Operation::WriteZeroes { .. } | Operation::GetId => 0,
        };
        let mut header = [0; HEADER];
        header[..4].copy_from_slice(&self.operation.number().to_le_bytes());
        header[8..].copy_from_slice(&sector.to_le_bytes());
        header
    }

    /// The range of a discard or of zeroes; none for the others.
    #[must_use]
    pub fn range(&self) -> Option<[u8; RANGE]> {
        let unmap = match self.operation {
            Operation::Discard | Operation::WriteZeroes { unmap: false } => 0,
            Operation::WriteZeroes { unmap: true } => 1u32,
            Operation::Read | Operation::Write | Operation::Flush | Operation::GetId => return None,
        };
        let mut range = [0; RANGE];
        range[..8].copy_from_slice(&(self.offset / SECTOR as u64).to_le_bytes());
        range[8..12].copy_from_slice(&(self.len / SECTOR as u32).to_le_bytes());
        range[12..].copy_from_slice(&unmap.to_le_bytes());
        Some(range)
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    IoError,
    Unsupported,
    /// A number that means nothing; [`Status::NOT_WRITTEN`] if the device has left the byte as it was.
    Unknown(u8),
}

impl Status {
    /// What the driver puts into the status byte before it asks.
    pub const NOT_WRITTEN: u8 = 0xee;

    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Ok,
            1 => Self::IoError,
            2 => Self::Unsupported,
            other => Self::Unknown(other),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => write!(f, "done"),
            Self::IoError => write!(f, "an I/O error"),
            Self::Unsupported => write!(f, "unsupported"),
            Self::Unknown(Self::NOT_WRITTEN) => write!(f, "completed without a status"),
            Self::Unknown(other) => write!(f, "status {other}, which means nothing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_space_is_read_at_the_specifications_places() {
        let space: Vec<u8> = (0..CONFIG as u8).collect();
        let config = BlockConfig::parse(&space).unwrap();
        assert_eq!(config.capacity, 0x0706_0504_0302_0100);
        assert_eq!((config.seg_max, config.blk_size), (0x0f0e_0d0c, 0x1716_1514));
        assert_eq!((config.physical_block_exp, config.min_io_size, config.num_queues), (24, 0x1b1a, 0x2322));
        assert_eq!((config.max_discard_sectors, config.max_write_zeroes_sectors), (0x2726_2524, 0x3332_3130));
        assert_eq!(config.write_zeroes_may_unmap, 56);
        assert_eq!(BlockConfig::parse(&space[1..]), None);
    }

    #[test]
    fn requests_are_encoded_in_sectors() {
        let zeroes = BlockRequest::new(Operation::WriteZeroes { unmap: true }, 4096, 8192);
        assert_eq!(zeroes.header(), [13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(zeroes.range(), Some([8, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0]));
        let read = BlockRequest::new(Operation::Read, 512 * 0x102, 512);
        assert_eq!(read.header()[8..], [2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!((read.range(), read.payload()), (None, 512));
        assert_eq!(BlockRequest::new(Operation::GetId, 0, 0).payload(), ID);
    }
}
