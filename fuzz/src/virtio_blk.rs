//! A guest that puts anything into its rings: descriptor chains, request headers, and tables that change while they
//! are read.

use crate::input::Input;
use crate::meter;
use vmpath_protocol::virtio_blk::chain::{
    Buffer, CHAIN_MAX, ChainFault, Descriptor, Direction, Indirect, Table, Walk,
};
use vmpath_protocol::virtio_blk::config::{Geometry, RANGE_BYTES_MAX};
use vmpath_protocol::virtio_blk::event_idx;
use vmpath_protocol::virtio_blk::request::{self, Access, Limits, Operation, Request, Room};

/// A walk allocates nothing; the buffers are kept here.
const BYTES_MAX: usize = 64 << 10;
/// Guest memory begins here.
const BASE: u64 = 0x1000;

/// Byte 0: which ways; 1 and 2: size of the queue; 3 and 4: head of the chain; then a request's header and range, the
/// disk's limits, and the guest's memory.
///
/// # Panics
/// A rule does not hold.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let ways = input.byte();
    let (size, head) = (input.u16(), input.u16());
    let header: [u8; 16] = input.bytes();
    let range: [u8; 16] = input.bytes();
    let limits = limits(&mut input);
    let memory = input.rest();
    let indirect = if ways & 1 == 0 { Indirect::Negotiated } else { Indirect::NotNegotiated };
    let walk = Walk::new(head, size, indirect);
    let walked = meter::bounded(BYTES_MAX, || {
        if ways & 2 == 0 { walk_memory(walk, size, memory) } else { walk_changing(walk, size, memory) }
    });
    let room = room(walked.as_deref().unwrap_or_default());
    judge(header, room, range, &limits);
    config(&limits, memory);
    notify(memory);
}

/// The tables are what the memory holds.
fn walk_memory(walk: Walk, size: u16, memory: &[u8]) -> Result<Vec<Buffer>, ChainFault> {
    let entry = |table, index: u16| {
        let at = match table {
            Table::Queue => 0,
            Table::Indirect(addr) => usize::try_from(addr.checked_sub(BASE)?).ok()?,
        };
        let from = at.checked_add(usize::from(index) * 16)?;
        memory.get(from..)?.first_chunk().map(|bytes| Descriptor::decode(*bytes))
    };
    follow(walk, size, entry)
}

/// The guest writes its tables anew before each read.
fn walk_changing(walk: Walk, size: u16, memory: &[u8]) -> Result<Vec<Buffer>, ChainFault> {
    let mut tape = memory.chunks_exact(16).cycle();
    let entry = move |_, _| tape.next()?.first_chunk().map(|bytes| Descriptor::decode(*bytes));
    follow(walk, size, entry)
}

fn follow(
    mut walk: Walk,
    size: u16,
    mut entry: impl FnMut(Table, u16) -> Option<Descriptor>,
) -> Result<Vec<Buffer>, ChainFault> {
    let mut reads = 0;
    let mut buffers: Vec<Buffer> = Vec::new();
    let mut ask = |table, index| {
        reads += 1;
        assert!(table != Table::Queue || index < size, "an entry beyond the queue's table");
        entry(table, index)
    };
    while let Some(buffer) = walk.next(&mut ask)? {
        let last = buffers.last().map_or(Direction::Readable, |last| last.direction);
        assert!((last, buffer.direction) != (Direction::Writable, Direction::Readable));
        assert!(buffer.addr.checked_add(u64::from(buffer.len)).is_some());
        buffers.push(buffer);
    }
    // A queue's chain, and one table that it ends in.
    assert!(reads <= 2 * usize::from(CHAIN_MAX), "{reads} descriptors in one walk");
    assert_eq!(walk.next(&mut entry), Ok(None), "an end is an end");
    Ok(buffers)
}

fn room(buffers: &[Buffer]) -> Room {
    let sum = |direction| {
        buffers.iter().filter(|b| b.direction == direction).map(|b| u64::from(b.len)).sum::<u64>()
    };
    let readable = sum(Direction::Readable).saturating_sub(request::HEADER_LEN as u64);
    Room { readable, writable: sum(Direction::Writable).saturating_sub(1) }
}

fn limits(input: &mut Input<'_>) -> Limits {
    let flags = input.byte();
    let block_size = 512 << (flags & 3);
    Limits {
        size: input.u64(),
        block_size,
        request_max: input.u32(),
        access: if flags & 4 == 0 { Access::ReadWrite } else { Access::ReadOnly },
        flush: flags & 8 == 0,
        discard: flags & 16 == 0,
        write_zeroes: flags & 32 == 0,
    }
}

fn judge(header: [u8; 16], room: Room, range: [u8; 16], limits: &Limits) {
    let Ok(Request::Io { operation, offset, length }) = request::judge(header, room, limits, || range) else {
        return;
    };
    assert!(offset.checked_add(u64::from(length)).is_some_and(|end| end <= limits.size));
    assert!(offset % u64::from(limits.block_size) == 0 && length % limits.block_size == 0);
    match operation {
        Operation::Read => assert_eq!(u64::from(length), room.writable),
        Operation::Write => assert_eq!(u64::from(length), room.readable),
        Operation::Flush => assert!(limits.flush && length == 0),
        Operation::Discard => assert!(limits.discard),
        Operation::WriteZeroes { .. } => assert!(limits.write_zeroes),
    }
    match operation {
        Operation::Read => assert!(length <= limits.request_max),
        Operation::Flush => {}
        Operation::Write => {
            assert!(length <= limits.request_max && limits.access == Access::ReadWrite);
        }
        Operation::Discard | Operation::WriteZeroes { .. } => {
            assert!(length <= RANGE_BYTES_MAX && limits.access == Access::ReadWrite);
        }
    }
}

/// Whatever a target says of itself can be told to a guest.
fn config(limits: &Limits, memory: &[u8]) {
    let mut input = Input(memory);
    let geometry = Geometry {
        size: limits.size,
        block_size: limits.block_size,
        physical_block: limits.block_size << (input.byte() % 4),
        optimal_io: input.u32(),
        request_max: limits.request_max,
        queues: input.u16(),
    };
    let (bytes, segments) = geometry.segment_bounds();
    assert!(bytes >= 4096 && segments >= 1);
    assert_eq!(geometry.encode()[..8], (limits.size / 512).to_le_bytes());
}

/// By counting: a notification is due if one of the steps makes the entry that the other side waits for.
fn notify(memory: &[u8]) {
    let mut input = Input(memory);
    let (event, old, steps) = (input.u16(), input.u16(), input.u16() % 1025);
    let made = (0..steps).any(|step| old.wrapping_add(step) == event);
    assert_eq!(event_idx::is_due(event, old.wrapping_add(steps), old), made);
}
