//! What all queues of a device share: the guest's memory, its log of dirty pages, what was negotiated, the disk's bounds.

use crate::sys::dirty::DirtyLog;
use crate::sys::guest::GuestMemory;
use vmpath_protocol::virtio_blk::config::{self, Geometry};
use vmpath_protocol::virtio_blk::feature;
use vmpath_protocol::virtio_blk::request::{Access, ID_LEN, Limits};

/// VHOST_F_LOG_ALL: the front end wants to know of each page that is written.
pub(super) const LOG_ALL: u64 = 1 << 26;
/// VHOST_USER_F_PROTOCOL_FEATURES.
pub(super) const PROTOCOL_FEATURES: u64 = 1 << 30;

/// The disk as its guest sees it. Sizes in bytes; block sizes are powers of two and at least 512.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) size: u64,
    pub(crate) block_size: u32,
    pub(crate) physical_block: u32,
    /// 0 if there is none.
    pub(crate) optimal_io: u32,
    /// Data bytes of one request; at least a page.
    pub(crate) request_max: u32,
    pub(crate) access: Access,
    pub(crate) flush: bool,
    pub(crate) discard: bool,
    pub(crate) write_zeroes: bool,
    /// At most 20 bytes of it are shown.
    pub(crate) serial: String,
    /// 1 to 16; others are brought into that range.
    pub(crate) queues: u16,
}

/// How a front end has begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Opening {
    Handshake,
    /// As if this process were the one before.
    Presumed,
}

/// Whether rings may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Now,
    /// The VM comes from another host: messages are answered, and rings start when its requests are known.
    Later,
}

#[derive(Debug)]
pub(super) struct World {
    pub(super) admission: Admission,
    pub(super) opening: Opening,
    pub(super) memory: GuestMemory,
    pub(super) log: Option<DirtyLog>,
    pub(super) limits: Limits,
    pub(super) id: [u8; ID_LEN],
    /// What is offered.
    pub(super) offered: u64,
    /// What the front end has taken of it.
    pub(super) features: u64,
    pub(super) config: [u8; config::LEN],
}

impl World {
    pub(super) fn new(shape: &Shape, queues: u16) -> Self {
        let limits = Limits {
            size: shape.size,
            block_size: shape.block_size,
            request_max: shape.request_max,
            access: shape.access,
            flush: shape.flush,
            discard: shape.discard,
            write_zeroes: shape.write_zeroes,
        };
        let geometry = Geometry {
            size: shape.size,
            block_size: shape.block_size,
            physical_block: shape.physical_block,
            optimal_io: shape.optimal_io,
            request_max: shape.request_max,
            queues,
        };
        let mut id = [0; ID_LEN];
        for (byte, of) in id.iter_mut().zip(shape.serial.bytes()) {
            *byte = of;
        }
        Self {
            admission: Admission::Now,
            opening: Opening::Handshake,
            memory: GuestMemory::default(),
            log: None,
            limits,
            id,
            offered: offered(shape, queues),
            features: 0,
            config: geometry.encode(),
        }
    }

    #[inline]
    pub(super) fn has(&self, bit: u32) -> bool {
        self.features & 1 << bit != 0
    }

    #[inline]
    pub(super) fn is_logging(&self) -> bool {
        self.features & LOG_ALL != 0
    }

    /// Marks guest memory that was just written. `false` if the log does not reach that far.
    #[inline]
    #[must_use]
    pub(super) fn mark(&self, gpa: u64, len: u64) -> bool {
        if !self.is_logging() {
            return true;
        }
        self.log.as_ref().is_none_or(|log| log.mark(gpa, len))
    }
}

fn offered(shape: &Shape, queues: u16) -> u64 {
    let bit = |number: u32, has: bool| u64::from(has) << number;
    let always = [
        feature::VERSION_1,
        feature::EVENT_IDX,
        feature::INDIRECT_DESC,
        feature::SIZE_MAX,
        feature::SEG_MAX,
        feature::BLK_SIZE,
        feature::TOPOLOGY,
    ];
    let writable = shape.access == Access::ReadWrite;
    always.iter().map(|number| bit(*number, true)).sum::<u64>()
        | bit(feature::RO, !writable)
        | bit(feature::FLUSH, shape.flush)
        | bit(feature::MQ, queues > 1)
        | bit(feature::DISCARD, shape.discard && writable)
        | bit(feature::WRITE_ZEROES, shape.write_zeroes && writable)
        | LOG_ALL
        | PROTOCOL_FEATURES
}
