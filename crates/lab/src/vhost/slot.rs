//! The slots of a queue: for each open request its header, status, table and data in guest memory, and its descriptors.
//!
//! ```text
//! slot      0 header  16 status  64 table of an indirect chain  4096 data
//! chain     header (device reads) -> data in segments -> status (device writes)
//! ```
//! Invariant: a slot's descriptors are its own, so the head of a chain names the slot. Rejected: a free list.
//! It does not know: the order of requests, what data means.

use super::block::{BlockRequest, HEADER, SECTOR, Status};
use super::memory::{GuestMemory, PAGE};
use super::ring::{Descriptor, INDIRECT, NEXT, Ring, WRITABLE};
use std::sync::atomic::Ordering;

const STATUS_AT: usize = 16;
const TABLE_AT: usize = 64;
const DATA_AT: usize = PAGE;
/// Segments whose descriptors fit into a slot's table, with those of header and status.
pub(super) const SEGMENTS_MAX: u16 = ((DATA_AT - TABLE_AT) / Descriptor::SIZE - 2) as u16;

/// What is the same for all slots of a disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotPlan {
    /// Most bytes of data.
    pub bytes: usize,
    /// Most descriptors of the data.
    pub segments: u16,
    /// Descriptors of the ring that each slot owns.
    pub descriptors: u16,
}

impl SlotPlan {
    /// Bytes of a slot in guest memory.
    pub(super) fn stride(&self) -> usize {
        DATA_AT + self.bytes.next_multiple_of(PAGE)
    }

    /// The slot whose chain has this head.
    pub(super) fn slot_of(&self, head: u32) -> Option<usize> {
        let per = u32::from(self.descriptors);
        head.is_multiple_of(per).then_some((head / per) as usize)
    }
}

/// What a chain looks like; the same shape need not be written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    payload: usize,
    inbound: bool,
}

/// Where a slot's chain lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Table {
    /// In the ring's own table.
    Direct,
    /// In one of the slot's.
    Indirect,
}

/// One slot.
#[derive(Debug)]
pub(super) struct Slot {
    at: usize,
    head: u16,
    table: Table,
    shape: Option<Shape>,
    /// The request that is open in it.
    pub request: Option<BlockRequest>,
}

impl Slot {
    pub(super) fn new(at: usize, head: u16, table: Table) -> Self {
        Self { at, head, table, shape: None, request: None }
    }

    pub(super) fn head(&self) -> u16 {
        self.head
    }

    /// Where its data lies in guest memory.
    pub(super) fn data_at(&self) -> usize {
        self.at + DATA_AT
    }

    /// The status byte.
    pub(super) fn status(&self, memory: &GuestMemory) -> Status {
        Status::from_byte(memory.u8_at(self.at + STATUS_AT).load(Ordering::Relaxed))
    }

    /// Writes header, range, status and, where they differ from the last ones, descriptors.
    pub(super) fn fill(&mut self, ring: &Ring, memory: &GuestMemory, plan: SlotPlan, request: BlockRequest) {
        assert!(self.request.is_none(), "one request in a slot");
        assert!(request.payload() <= plan.bytes.max(PAGE), "a payload that fits");
        memory.write(self.at, &request.header());
        if let Some(range) = request.range() {
            memory.write(self.data_at(), &range);
        }
        memory.u8_at(self.at + STATUS_AT).store(Status::NOT_WRITTEN, Ordering::Relaxed);
        let shape = Shape { payload: request.payload(), inbound: request.operation.is_inbound() };
        if self.shape != Some(shape) {
            self.write_chain(ring, memory, plan, shape);
            self.shape = Some(shape);
        }
        self.request = Some(request);
    }

    /// Guest pages that the device writes for its request: those of an inbound payload, and of the status.
    pub(super) fn pages_written(&self, memory: &GuestMemory) -> Vec<u64> {
        let mut pages = vec![memory.guest_address(self.at + STATUS_AT) / PAGE as u64];
        if let Some(request) = self.request.filter(|request| request.operation.is_inbound()) {
            let first = memory.guest_address(self.data_at()) / PAGE as u64;
            pages.extend(first..first + request.payload().div_ceil(PAGE) as u64);
        }
        pages
    }

    fn write_chain(&self, ring: &Ring, memory: &GuestMemory, plan: SlotPlan, shape: Shape) {
        let segment = segment_len(shape.payload, plan.segments);
        let count = 2 + shape.payload.div_ceil(segment) as u16;
        let base = match self.table {
            Table::Direct => self.head,
            Table::Indirect => 0,
        };
        for index in 0..count {
            let (at, len, writable) = match index {
                0 => (self.at, HEADER, false),
                last if last == count - 1 => (self.at + STATUS_AT, 1, true),
                data => {
                    let from = usize::from(data - 1) * segment;
                    (self.data_at() + from, segment.min(shape.payload - from), shape.inbound)
                }
            };
            let more = if index + 1 < count { NEXT } else { 0 };
            let descriptor = Descriptor {
                address: memory.guest_address(at),
                len: len as u32,
                flags: more | if writable { WRITABLE } else { 0 },
                next: if more == 0 { 0 } else { base + index + 1 },
            };
            match self.table {
                Table::Direct => ring.set_descriptor(base + index, descriptor),
                Table::Indirect => {
                    descriptor.store(memory, self.at + TABLE_AT + usize::from(index) * Descriptor::SIZE);
                }
            }
        }
        if self.table == Table::Indirect {
            let address = memory.guest_address(self.at + TABLE_AT);
            let len = u32::from(count) * Descriptor::SIZE as u32;
            ring.set_descriptor(self.head, Descriptor { address, len, flags: INDIRECT, next: 0 });
        }
    }
}

/// Bytes of all segments but the last: whole sectors, so that each may be transferred by itself.
fn segment_len(payload: usize, segments: u16) -> usize {
    payload.div_ceil(usize::from(segments.max(1))).next_multiple_of(SECTOR).max(SECTOR)
}

#[cfg(test)]
mod tests;
