//! From a descriptor chain to a request: where its header, its data and its status are.

use super::fault::Fault;
use super::slot::{Segment, Slot};
use super::world::World;
use crate::sys::guest::GuestMemory;
use crate::sys::vring::Ring;
use vmpath_protocol::virtio_blk::chain::{DESCRIPTOR_LEN, Descriptor, Direction, Indirect, Table, Walk};
use vmpath_protocol::virtio_blk::request::{HEADER_LEN, RANGE_LEN, Room};

/// Pieces of one request: a driver's 126 and what the ends of memory regions cut apart. It bounds a slot's table.
const SEGMENTS_MAX: usize = 256;

/// A request's frame; the data's pieces are in its slot: first `readable` pieces, then the writable ones.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    pub(super) header: [u8; HEADER_LEN],
    pub(super) readable: usize,
    pub(super) room: Room,
}

/// Walks the chain and lays its pieces into the slot, without header and status.
pub(super) fn read_chain(ring: &Ring, world: &World, head: u16, slot: &mut Slot) -> Result<Frame, Fault> {
    let memory = &world.memory;
    let negotiated = world.has(vmpath_protocol::virtio_blk::feature::INDIRECT_DESC);
    let indirect = if negotiated { Indirect::Negotiated } else { Indirect::NotNegotiated };
    let mut walk = Walk::new(head, ring.areas().size, indirect);
    let mut frame = Frame { header: [0; HEADER_LEN], readable: 0, room: Room { readable: 0, writable: 0 } };
    let mut header_read = 0;
    slot.segments.clear();
    while let Some(buffer) = walk.next(|table, index| descriptor(ring, memory, table, index))? {
        let (mut gpa, mut len) = (buffer.addr, buffer.len);
        if buffer.direction == Direction::Readable && header_read < HEADER_LEN {
            let part = (len as usize).min(HEADER_LEN - header_read);
            if part > 0 && !memory_read(memory, gpa, &mut frame.header[header_read..header_read + part]) {
                return Err(Fault::Buffer);
            }
            header_read += part;
            gpa += part as u64;
            len -= part as u32;
        }
        lay(memory, &mut slot.segments, gpa, len)?;
        match buffer.direction {
            Direction::Readable => {
                frame.room.readable += u64::from(len);
                frame.readable = slot.segments.len();
            }
            Direction::Writable => frame.room.writable += u64::from(len),
        }
    }
    if header_read < HEADER_LEN {
        return Err(Fault::Header);
    }
    if slot.segments.len() == frame.readable {
        return Err(Fault::Status);
    }
    slot.status_at = pop_byte(&mut slot.segments).ok_or(Fault::Status)?;
    frame.room.writable -= 1;
    Ok(frame)
}

#[inline]
fn descriptor(ring: &Ring, memory: &GuestMemory, table: Table, index: u16) -> Option<Descriptor> {
    match table {
        Table::Queue => Some(Descriptor::decode(ring.descriptor(index))),
        Table::Indirect(at) => {
            let mut bytes = [0; DESCRIPTOR_LEN as usize];
            let at = at.checked_add(u64::from(index) * u64::from(DESCRIPTOR_LEN))?;
            memory_read(memory, at, &mut bytes).then(|| Descriptor::decode(bytes))
        }
    }
}

/// Reads guest memory that may reach over the end of a region into the next.
fn memory_read(memory: &GuestMemory, gpa: u64, into: &mut [u8]) -> bool {
    if memory.read(gpa, into) {
        return true;
    }
    let bytes = (gpa..).zip(into);
    bytes.into_iter().all(|(gpa, byte)| memory.read(gpa, std::slice::from_mut(byte)))
}

/// Adds a buffer, cut where regions end.
#[inline]
fn lay(memory: &GuestMemory, segments: &mut Vec<Segment>, gpa: u64, len: u32) -> Result<(), Fault> {
    let (mut gpa, mut left) = (gpa, len);
    while left > 0 {
        let reach = memory.reach(gpa).ok_or(Fault::Buffer)?;
        let part = u32::try_from(reach).unwrap_or(u32::MAX).min(left);
        if segments.len() == SEGMENTS_MAX {
            return Err(Fault::Pieces);
        }
        segments.push(Segment { gpa, len: part });
        gpa += u64::from(part);
        left -= part;
    }
    Ok(())
}

/// The last byte's address; it is no longer the pieces'.
fn pop_byte(segments: &mut Vec<Segment>) -> Option<u64> {
    let last = segments.last_mut()?;
    last.len -= 1;
    let at = last.gpa + u64::from(last.len);
    if last.len == 0 {
        segments.pop();
    }
    Some(at)
}

/// A range's payload, read from the readable data.
pub(super) fn read_range(memory: &GuestMemory, slot: &Slot, readable: usize) -> Option<[u8; RANGE_LEN]> {
    let mut bytes = [0; RANGE_LEN];
    let mut at = 0;
    for segment in &slot.segments[..readable] {
        let part = (segment.len as usize).min(RANGE_LEN - at);
        if !memory.read(segment.gpa, &mut bytes[at..at + part]) {
            return None;
        }
        at += part;
    }
    (at == RANGE_LEN).then_some(bytes)
}
