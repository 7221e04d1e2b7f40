//! A guest and its disks' rings, as they lie in its memory: what moves with the VM.
//!
//! Invariant: of one block at most one write is open, so that what a block holds tells whether a write was lost or came late. A copy of
//! a guest is a copy of its memory: two copies may run when a hypervisor goes astray, and only one may ever be served.
//! It does not know who serves it.

use super::scene::{BLOCKS, DEPTH};
use std::collections::VecDeque;

/// As virtio-blk has it.
pub(super) const STATUS_OK: u8 = 0;

#[derive(Clone, Debug)]
pub(super) struct Guest {
    /// By the VM's disks.
    pub(super) disks: Vec<Ring>,
    pub(super) answered: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ring {
    /// By head: the request.
    pub(super) open: [Option<u32>; DEPTH],
    /// Heads that nobody has fetched, in order.
    pub(super) available: VecDeque<u8>,
    /// Counted as virtio does.
    pub(super) made: u16,
    pub(super) used: u16,
}

impl Guest {
    pub(super) fn new(disks: usize) -> Self {
        Self { disks: vec![Ring::default(); disks], answered: 0 }
    }

    pub(super) fn answered(&mut self, disk: usize, head: u8) -> Option<u32> {
        let ring = &mut self.disks[disk];
        let request = ring.open[usize::from(head)].take()?;
        ring.used = ring.used.wrapping_add(1);
        self.answered += 1;
        Some(request)
    }
}

impl Ring {
    pub(super) fn free_head(&self) -> Option<u8> {
        self.open.iter().position(Option::is_none).map(|head| head as u8)
    }

    /// The index of the next request that is to be fetched.
    pub(super) fn base(&self) -> u16 {
        self.made.wrapping_sub(self.available.len() as u16)
    }

    pub(super) fn make(&mut self, head: u8, request: u32) {
        self.open[usize::from(head)] = Some(request);
        self.available.push_back(head);
        self.made = self.made.wrapping_add(1);
    }

    /// A block on which nothing is open, from `from` on.
    pub(super) fn quiet_block(&self, from: usize, block_of: impl Fn(u32) -> usize) -> Option<usize> {
        let is_busy = |block: &usize| self.open.iter().flatten().any(|request| block_of(*request) == *block);
        (0..BLOCKS).map(|at| (from + at) % BLOCKS).find(|block| !is_busy(block))
    }
}
