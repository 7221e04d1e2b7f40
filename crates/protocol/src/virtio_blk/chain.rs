//! A descriptor chain, one buffer at a time (virtio 2.7.5).
//!
//! Invariant: a walk ends after at most [`CHAIN_MAX`] descriptors, whatever the tables say and however they change
//! meanwhile; each descriptor is read once.

use thiserror::Error;

/// Descriptors in one chain: a driver that keeps to `seg_max` needs 128 with an indirect table's own entry not counted.
pub const CHAIN_MAX: u16 = 256;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
/// Bytes of a descriptor in its table.
pub const DESCRIPTOR_LEN: u32 = 16;

/// A table's entry: 16 bytes, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Descriptor {
    /// Guest physical.
    pub addr: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    #[must_use]
    pub fn decode(bytes: [u8; 16]) -> Self {
        let all = u128::from_le_bytes(bytes);
        Self {
            addr: all as u64,
            len: (all >> 64) as u32,
            flags: (all >> 96) as u16,
            next: (all >> 112) as u16,
        }
    }

    #[must_use]
    pub fn encode(self) -> [u8; 16] {
        let high = u128::from(self.len) | u128::from(self.flags) << 32 | u128::from(self.next) << 48;
        (u128::from(self.addr) | high << 64).to_le_bytes()
    }
}

/// Where a descriptor is read from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// The queue's own; the walk asks only for indices below its size.
    Queue,
    /// At this guest physical address.
    Indirect(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The device reads it.
    Readable,
    /// The device writes it.
    Writable,
}

/// A piece of guest memory, not yet checked to be there. Never wraps around the end of the address space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    pub addr: u64,
    pub len: u32,
    pub direction: Direction,
}

/// What a driver may never do. The device needs a reset after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ChainFault {
    #[error("descriptor {0} is beyond its table")]
    Index(u16),
    #[error("a chain of more descriptors than its table or {CHAIN_MAX}")]
    TooLong,
    #[error("a descriptor table outside of the guest's memory")]
    Table,
    #[error("a buffer that goes beyond the end of the address space")]
    Wraps,
    #[error("a buffer to read after one to write")]
    Order,
    #[error("an indirect table within another")]
    Nested,
    #[error("an indirect table of {0} bytes")]
    TableLength(u32),
    #[error("an indirect descriptor that has a successor")]
    IndirectNext,
    #[error("an indirect descriptor, which was not negotiated")]
    NotNegotiated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Indirect {
    Negotiated,
    NotNegotiated,
}

/// One walk along a chain.
#[derive(Debug)]
pub struct Walk {
    table: Table,
    /// Entries of `table`.
    entries: u16,
    /// The entry to read next.
    next: Option<u16>,
    /// How many more may be read of this table.
    left: u16,
    direction: Direction,
    indirect: Indirect,
}

impl Walk {
    /// The chain that starts at `head`, in a queue of `size` descriptors.
    #[must_use]
    pub fn new(head: u16, size: u16, indirect: Indirect) -> Self {
        Self {
            table: Table::Queue,
            entries: size,
            next: Some(head),
            left: size.min(CHAIN_MAX),
            direction: Direction::Readable,
            indirect,
        }
    }

    /// The next buffer, which may be empty; `None` at the end. `read` gives a table's entry, or `None` if that is not in the guest's memory.
    ///
    /// # Errors
    /// The chain breaks a rule; the walk is over then.
    pub fn next(
        &mut self,
        mut read: impl FnMut(Table, u16) -> Option<Descriptor>,
    ) -> Result<Option<Buffer>, ChainFault> {
        loop {
            let Some(index) = self.next.take() else { return Ok(None) };
            if index >= self.entries {
                return Err(ChainFault::Index(index));
            }
            self.left = self.left.checked_sub(1).ok_or(ChainFault::TooLong)?;
            let descriptor = read(self.table, index).ok_or(ChainFault::Table)?;
            if descriptor.flags & INDIRECT != 0 {
                self.enter(descriptor)?;
                continue;
            }
            if descriptor.flags & NEXT != 0 {
                self.next = Some(descriptor.next);
            }
            return self.buffer(descriptor).map(Some);
        }
    }

    fn enter(&mut self, descriptor: Descriptor) -> Result<(), ChainFault> {
        if self.indirect == Indirect::NotNegotiated {
            return Err(ChainFault::NotNegotiated);
        }
        if self.table != Table::Queue {
            return Err(ChainFault::Nested);
        }
        if descriptor.flags & NEXT != 0 {
            return Err(ChainFault::IndirectNext);
        }
        let entries = descriptor.len / DESCRIPTOR_LEN;
        if entries == 0 || !descriptor.len.is_multiple_of(DESCRIPTOR_LEN) {
            return Err(ChainFault::TableLength(descriptor.len));
        }
        if descriptor.addr.checked_add(u64::from(descriptor.len)).is_none() {
            return Err(ChainFault::Wraps);
        }
        // A table may be larger than the chain in it.
        self.entries = u16::try_from(entries).unwrap_or(u16::MAX);
        self.table = Table::Indirect(descriptor.addr);
        self.left = self.entries.min(CHAIN_MAX);
        self.next = Some(0);
        Ok(())
    }

    fn buffer(&mut self, descriptor: Descriptor) -> Result<Buffer, ChainFault> {
        let Descriptor { addr, len, flags, .. } = descriptor;
        let direction = if flags & WRITE == 0 { Direction::Readable } else { Direction::Writable };
        if (self.direction, direction) == (Direction::Writable, Direction::Readable) {
            return Err(ChainFault::Order);
        }
        self.direction = direction;
        addr.checked_add(u64::from(len)).ok_or(ChainFault::Wraps)?;
        Ok(Buffer { addr, len, direction })
    }
}

#[cfg(test)]
mod tests;
