//! Which values each block may have: the memory of everything that was written, by generation.
//!
//! ```text
//! per block   acked <= issued, seen <= issued          generations: 0 never written, even = data, odd = zeroes
//!   begin_write  issued := next of its kind, busy      end_write(Done)  acked := issued, free
//!   begin_read   floor  := max(acked, seen)            end_write(InDoubt)               free, acked stays
//!   end_read     floor <= found <= issued, seen := found
//! ```
//! Invariant: at most one write of a block is open, so `issued` is its generation. Rejected: keeping the bytes.
//! It does not know: time, requests' ids, retries (the same write again is the same write).

use super::block::{self, BLOCK, Content, Identity, blocks_of};
use serde::Serialize;

/// What a write makes of its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    Data,
    Zeroes,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteEnd {
    /// Acknowledged.
    Done,
    /// Failed, or never answered: it may or may not have been executed.
    InDoubt,
}

/// Whole blocks: `first` and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub first: u64,
    pub count: u32,
}

impl Extent {
    #[must_use]
    pub const fn offset(self) -> u64 {
        self.first * BLOCK as u64
    }

    /// Bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.count as usize * BLOCK
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.count == 0
    }
}

/// What a read that has begun may not fall below, by block.
#[derive(Debug)]
pub struct ReadTicket {
    extent: Extent,
    floors: Vec<u32>,
}

impl ReadTicket {
    #[must_use]
    pub fn extent(&self) -> Extent {
        self.extent
    }
}

/// A block that holds what it may not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    pub disk: u32,
    pub block: u64,
    /// Generations that it might have held.
    pub allowed_from: u32,
    pub allowed_to: u32,
    /// What was found, in words.
    pub found: String,
}

#[derive(Clone, Copy, Debug, Default)]
struct Block {
    acked: u32,
    issued: u32,
    seen: u32,
    /// The newest generation of zeroes.
    zeroed: u32,
    busy: bool,
}

/// One disk's blocks.
#[derive(Debug)]
pub struct Model {
    who: Identity,
    blocks: Vec<Block>,
}

impl Model {
    /// A disk of `blocks` blocks whose present content is unknown.
    ///
    /// # Panics
    /// If the blocks do not fit in memory's address range.
    #[must_use]
    pub fn new(who: Identity, blocks: u64) -> Self {
        let blocks = usize::try_from(blocks).expect("a disk that can be modelled");
        Self { who, blocks: vec![Block::default(); blocks] }
    }

    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Whether a write of any block of the extent is open.
    #[must_use]
    pub fn is_busy(&self, extent: Extent) -> bool {
        self.row(extent).iter().any(|b| b.busy)
    }

    /// Whether any block of the extent was ever written.
    #[must_use]
    pub fn is_written(&self, extent: Extent) -> bool {
        self.row(extent).iter().any(|b| b.issued > 0)
    }

    /// Opens a write and, for data, fills `out` with what to write.
    ///
    /// # Panics
    /// If a write of one of the blocks is open, or `out` has another length than the extent.
    pub fn begin_write(&mut self, extent: Extent, kind: WriteKind, out: &mut [u8]) {
        let who = self.who;
        let fills = out.chunks_exact_mut(BLOCK);
        assert!(
            kind == WriteKind::Zeroes || fills.len() == extent.count as usize,
            "one buffer for each block"
        );
        for block in self.row_mut(extent) {
            assert!(!block.busy, "one write of a block at a time");
            block.busy = true;
            block.issued = next_generation(block.issued, kind);
            if kind == WriteKind::Zeroes {
                block.zeroed = block.issued;
            }
        }
        if kind == WriteKind::Data {
            for (number, piece) in blocks_of(extent.offset(), extent.len()).zip(fills) {
                block::fill(who, number, self.blocks[number as usize].issued, piece);
            }
        }
    }

    /// Closes the write that is open on the extent.
    pub fn end_write(&mut self, extent: Extent, end: WriteEnd) {
        for block in self.row_mut(extent) {
            block.busy = false;
            if end == WriteEnd::Done {
                block.acked = block.issued;
            }
        }
    }

    /// To be taken before the read is sent.
    #[must_use]
    pub fn begin_read(&self, extent: Extent) -> ReadTicket {
        let floors = self.row(extent).iter().map(|b| b.acked.max(b.seen)).collect();
        ReadTicket { extent, floors }
    }

    /// Checks what a read brought, and adds what is wrong to `faults`.
    pub fn end_read(&mut self, ticket: &ReadTicket, data: &[u8], faults: &mut Vec<Mismatch>) {
        let numbers = blocks_of(ticket.extent.offset(), ticket.extent.len());
        for ((number, floor), piece) in numbers.zip(&ticket.floors).zip(data.chunks_exact(BLOCK)) {
            let content = block::inspect(self.who, number, piece);
            let block = &mut self.blocks[number as usize];
            match accepted(content, *floor, block) {
                Some(generation) => block.seen = block.seen.max(generation),
                None => faults.push(Mismatch {
                    disk: self.who.disk,
                    block: number,
                    allowed_from: *floor,
                    allowed_to: block.issued,
                    found: describe(content, *floor),
                }),
            }
        }
    }

    fn row(&self, extent: Extent) -> &[Block] {
        &self.blocks[extent.first as usize..][..extent.count as usize]
    }

    fn row_mut(&mut self, extent: Extent) -> &mut [Block] {
        &mut self.blocks[extent.first as usize..][..extent.count as usize]
    }
}

/// Even generations are data, odd ones zeroes; 0 is what was there before.
fn next_generation(issued: u32, kind: WriteKind) -> u32 {
    let next = issued + 1;
    match kind {
        WriteKind::Data => next + next % 2,
        WriteKind::Zeroes => next | 1,
    }
}

/// What a read has learnt from an allowed content: that the block is at least at this generation. `None` if it is not
/// allowed. Zeroes do not say of which write they are, so they teach nothing.
fn accepted(content: Content, floor: u32, block: &Block) -> Option<u32> {
    match content {
        Content::Generation(found) => {
            (found % 2 == 0 && (floor..=block.issued).contains(&found)).then_some(found)
        }
        Content::Zero => (floor == 0 || block.zeroed >= floor).then_some(floor),
        Content::Foreign => (floor == 0).then_some(0),
        Content::Misplaced { .. } | Content::Torn { .. } => None,
    }
}

fn describe(content: Content, floor: u32) -> String {
    match content {
        Content::Generation(found) if found < floor => format!("stale: generation {found}"),
        Content::Generation(found) => format!("never issued: generation {found}"),
        Content::Zero => "zeroes".to_owned(),
        Content::Misplaced { disk, block, generation } => {
            format!("belongs elsewhere: disk {disk}, block {block}, generation {generation}")
        }
        Content::Torn { generation } => {
            format!("torn: header of generation {generation}, body of something else")
        }
        Content::Foreign => "not written by this run".to_owned(),
    }
}

#[cfg(test)]
mod tests;
