//! The device's config space (virtio 5.2.4), little endian.

/// Buffers of data in one request that a driver may use; two more descriptors, for the header and the status, make the
/// 128 of QEMU's default queue.
pub const SEGMENTS_MAX: u32 = 126;
/// Bytes of one discard or write-zeroes: what a target can be expected to do within a request's usual time.
pub const RANGE_BYTES_MAX: u32 = 128 << 20;
/// Bytes of the structure, up to and with `write_zeroes_may_unmap` and its padding.
pub const LEN: usize = 60;

const SECTOR: u32 = 512;
/// A guest's page, in which its buffers come.
const PAGE: u32 = 4096;

/// What the disk looks like to the guest. Sizes are bytes; `block_size` and `physical_block` are powers of two and at
/// least 512.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    pub size: u64,
    pub block_size: u32,
    pub physical_block: u32,
    /// 0 if there is none.
    pub optimal_io: u32,
    /// Data bytes of one request.
    pub request_max: u32,
    pub queues: u16,
}

impl Geometry {
    /// Bytes of one buffer and buffers of one request: together never more than `request_max`, if that is a page at least.
    #[must_use]
    pub fn segment_bounds(&self) -> (u32, u32) {
        let even = self.request_max / SEGMENTS_MAX / PAGE * PAGE;
        let size_max = even.max(PAGE);
        (size_max, (self.request_max / size_max).clamp(1, SEGMENTS_MAX))
    }

    /// The config space's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LEN] {
        let mut space = [0; LEN];
        let block = self.block_size.max(SECTOR);
        let (size_max, seg_max) = self.segment_bounds();
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        let ranges = (RANGE_BYTES_MAX / block * block / SECTOR).to_le_bytes();
        put(0, &(self.size / u64::from(SECTOR)).to_le_bytes());
        put(8, &size_max.to_le_bytes());
        put(12, &seg_max.to_le_bytes());
        put(20, &block.to_le_bytes());
        put(24, &[self.physical_block.max(block).div_ceil(block).trailing_zeros() as u8]);
        put(26, &1u16.to_le_bytes()); // min_io_size
        put(28, &(self.optimal_io / block).to_le_bytes());
        put(34, &self.queues.to_le_bytes());
        put(36, &ranges); // max_discard_sectors
        put(40, &1u32.to_le_bytes()); // max_discard_seg: a request of ours has one range
        put(44, &(block / SECTOR).to_le_bytes()); // discard_sector_alignment
        put(48, &ranges); // max_write_zeroes_sectors
        put(52, &1u32.to_le_bytes()); // max_write_zeroes_seg
        put(56, &[1]); // write_zeroes_may_unmap
        space
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn word(space: &[u8], at: usize) -> u32 {
        u32::from_le_bytes(space[at..at + 4].try_into().unwrap())
    }

    #[test]
    fn fields_are_where_the_structure_has_them() {
        let geometry = Geometry {
            size: 1 << 40,
            block_size: 512,
            physical_block: 4096,
            optimal_io: 65536,
            request_max: 32 << 20,
            queues: 4,
        };
        let space = geometry.encode();
        assert_eq!(u64::from_le_bytes(space[..8].try_into().unwrap()), 1 << 31);
        assert_eq!((word(&space, 8), word(&space, 12)), (65 * 4096, 126));
        assert_eq!((word(&space, 20), space[24], word(&space, 28)), (512, 3, 128));
        assert_eq!(u16::from_le_bytes([space[34], space[35]]), 4);
        assert_eq!((word(&space, 36), word(&space, 40)), (RANGE_BYTES_MAX / 512, 1));
        assert_eq!((word(&space, 48), word(&space, 52), space[56]), (RANGE_BYTES_MAX / 512, 1, 1));
    }

    proptest! {
        #[test]
        fn a_driver_that_keeps_to_the_bounds_never_asks_for_too_much(pages in 1u32..20_000, rest in 0u32..4096) {
            let request_max = pages * 4096 + rest;
            let geometry = Geometry {
                size: 1 << 30,
                block_size: 4096,
                physical_block: 4096,
                optimal_io: 0,
                request_max,
                queues: 1,
            };
            let (size, segments) = geometry.segment_bounds();
            prop_assert!(u64::from(size) * u64::from(segments) <= u64::from(request_max));
            prop_assert!(segments >= 1 && size >= 4096);
        }
    }
}
