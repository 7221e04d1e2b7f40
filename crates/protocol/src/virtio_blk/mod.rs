//! virtio-blk over a split virtqueue: descriptor chains, request headers, config space, notification arithmetic.
//!
//! Source: "Virtual I/O Device (VIRTIO) Version 1.2" of OASIS, called "virtio" here: 2.7 split virtqueues, 5.2 block device.
//! Invariant: everything here is fed by a guest; no input panics, loops or makes anything grow, and a chain that
//! breaks the rules is a typed fault. Rejected: reading guest memory from here: callers hand over words, so that the
//! same code runs under property tests and a fuzzer.
//! It does not know: guest memory, rings' places, what a disk is made of.

pub mod chain;
pub mod config;
pub mod event_idx;
pub mod request;

/// Feature bits (virtio 5.2.3 and 6); numbers of bits.
pub mod feature {
    pub const SIZE_MAX: u32 = 1;
    pub const SEG_MAX: u32 = 2;
    pub const RO: u32 = 5;
    pub const BLK_SIZE: u32 = 6;
    pub const FLUSH: u32 = 9;
    pub const TOPOLOGY: u32 = 10;
    pub const MQ: u32 = 12;
    pub const DISCARD: u32 = 13;
    pub const WRITE_ZEROES: u32 = 14;
    pub const INDIRECT_DESC: u32 = 28;
    pub const EVENT_IDX: u32 = 29;
    pub const VERSION_1: u32 = 32;
}
