//! Chains as a device would walk them.

use super::super::block::Operation;
use super::super::ring::{RingPlaces, Suppression};
use super::*;
use std::sync::Arc;

const PLAN: SlotPlan = SlotPlan { bytes: 64 << 10, segments: 4, descriptors: 6 };

struct World {
    memory: Arc<GuestMemory>,
    ring: Ring,
}

impl World {
    fn new() -> Self {
        let (places, end) = RingPlaces::lay_out(0, 16);
        let memory = Arc::new(GuestMemory::new([end, 2 * PLAN.stride()]).unwrap());
        let ring = Ring::new(Arc::clone(&memory), places, 16, Suppression::EventIdx);
        Self { memory, ring }
    }

    fn descriptor(&self, at: usize) -> Descriptor {
        let word = |at: usize| self.memory.u64_at(at).load(Ordering::Relaxed);
        let rest = word(at + 8);
        Descriptor {
            address: word(at),
            len: rest as u32,
            flags: (rest >> 32) as u16,
            next: (rest >> 48) as u16,
        }
    }

    /// The chain from a head: guest address, length and direction of each buffer.
    fn walk(&self, head: u16, table: usize) -> Vec<(u64, u32, bool)> {
        let (mut chain, mut index) = (Vec::new(), head);
        loop {
            let descriptor = self.descriptor(table + usize::from(index) * Descriptor::SIZE);
            chain.push((descriptor.address, descriptor.len, descriptor.flags & WRITABLE != 0));
            if descriptor.flags & NEXT == 0 {
                return chain;
            }
            index = descriptor.next;
        }
    }

    fn fill(&self, index: u16, table: Table, request: BlockRequest) -> (Slot, Vec<(u64, u32, bool)>) {
        let at = self.memory.second() + usize::from(index) * PLAN.stride();
        let mut slot = Slot::new(at, index * PLAN.descriptors, table);
        slot.fill(&self.ring, &self.memory, PLAN, request);
        let chain = match table {
            Table::Direct => self.walk(slot.head(), 0),
            Table::Indirect => self.walk(0, at + TABLE_AT),
        };
        (slot, chain)
    }
}

#[test]
fn a_chain_is_header_data_in_segments_and_status() {
    let world = World::new();
    for table in [Table::Direct, Table::Indirect] {
        let (slot, chain) = world.fill(1, table, BlockRequest::new(Operation::Read, 0, 9 * 512));
        let base = world.memory.guest_address(slot.at);
        let data = base + DATA_AT as u64;
        let expected = [
            (base, 16, false),
            (data, 1536, true),
            (data + 1536, 1536, true),
            (data + 3072, 1536, true),
            (base + 16, 1, true),
        ];
        assert_eq!(chain, expected, "{table:?}");
        assert_eq!(slot.status(&world.memory), Status::Unknown(Status::NOT_WRITTEN));
        let pages = [base / 4096, data / 4096, data / 4096 + 1];
        assert_eq!(slot.pages_written(&world.memory), pages);
    }
    let outer = world.descriptor(usize::from(PLAN.descriptors) * Descriptor::SIZE);
    assert_eq!((outer.flags, outer.len, outer.next), (INDIRECT, 5 * 16, 0));
}

#[test]
fn the_shape_follows_the_request() {
    let world = World::new();
    let (mut slot, chain) = world.fill(0, Table::Direct, BlockRequest::new(Operation::Write, 0, 64 << 10));
    assert_eq!(chain.iter().map(|(_, len, _)| *len).collect::<Vec<_>>(), [16, 16384, 16384, 16384, 16384, 1]);
    assert!(chain[..5].iter().all(|(_, _, writable)| !writable));
    slot.request = None;
    slot.fill(&world.ring, &world.memory, PLAN, BlockRequest::new(Operation::Flush, 0, 0));
    assert_eq!(world.walk(0, 0).iter().map(|(_, len, _)| *len).collect::<Vec<_>>(), [16, 1]);
    slot.request = None;
    slot.fill(&world.ring, &world.memory, PLAN, BlockRequest::new(Operation::GetId, 0, 0));
    assert_eq!(
        world.walk(0, 0).iter().map(|(_, len, to)| (*len, *to)).collect::<Vec<_>>(),
        [(16, false), (20, true), (1, true)]
    );
}

#[test]
fn a_head_names_its_slot_and_other_descriptors_none() {
    assert_eq!([0, 6, 12].map(|head| PLAN.slot_of(head)), [Some(0), Some(1), Some(2)]);
    assert_eq!([1, 5, 7, u32::MAX - 1].map(|head| PLAN.slot_of(head)), [None; 4]);
}
