//! The driver's side of a split virtqueue (virtio 1.2, 2.7).
//!
//! Invariant: what a chain holds is written before the available index that publishes it, and the used index is read
//! before the entries that it covers. Whether to notify is decided after a full barrier, on both sides' behalf.
//! Rejected: a free list of descriptors: slots own theirs. It does not know: requests, what an id means.

use super::memory::GuestMemory;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

/// The flags of a descriptor.
pub const NEXT: u16 = 1;
pub const WRITABLE: u16 = 2;
pub const INDIRECT: u16 = 4;

/// "Do not interrupt me", of the available ring's flags; "do not notify me", of the used ring's.
const NO_NOTIFICATION: u16 = 1;

/// One descriptor. `address` is a guest physical address, `len` in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    pub address: u64,
    pub len: u32,
    pub flags: u16,
    pub next: u16,
}

impl Descriptor {
    /// Bytes of one in a table.
    pub const SIZE: usize = 16;

    /// Writes it to a place in memory, in a table of its own or the ring's.
    pub fn store(self, memory: &GuestMemory, at: usize) {
        let rest = u64::from(self.len) | u64::from(self.flags) << 32 | u64::from(self.next) << 48;
        memory.u64_at(at).store(self.address, Ordering::Relaxed);
        memory.u64_at(at + 8).store(rest, Ordering::Relaxed);
    }
}

/// Whether the other side wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    Needed,
    NotNeeded,
}

/// How each side says whether it wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suppression {
    /// By a flag of its ring.
    Flags,
    /// By the index at which it wants to be told (VIRTIO_F_EVENT_IDX).
    EventIdx,
}

/// An entry of the used ring: the head of a chain, and how many bytes the device has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Used {
    pub id: u32,
    pub len: u32,
}

/// Where the three parts lie, as byte offsets in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingPlaces {
    pub descriptors: usize,
    pub available: usize,
    pub used: usize,
}

impl RingPlaces {
    /// A ring of `size` entries laid out from `at`, and where it ends (a page border).
    #[must_use]
    pub fn lay_out(at: usize, size: u16) -> (Self, usize) {
        let entries = usize::from(size);
        let available = at + entries * Descriptor::SIZE;
        let used = (available + 6 + 2 * entries).next_multiple_of(4);
        let end = (used + Self::used_len(size)).next_multiple_of(super::memory::PAGE);
        (Self { descriptors: at, available, used }, end)
    }

    /// Bytes of the used ring.
    #[must_use]
    pub fn used_len(size: u16) -> usize {
        6 + 8 * usize::from(size)
    }
}

/// The driver's side of one queue.
#[derive(Debug)]
pub struct Ring {
    memory: Arc<GuestMemory>,
    places: RingPlaces,
    size: u16,
    suppression: Suppression,
    /// Index of the next entry of the available ring; what is below `published` the device may see.
    next: u16,
    published: u16,
    /// Entries of the used ring that were taken.
    taken: u16,
}

impl Ring {
    /// An empty ring in zeroed memory. `size` is a power of two.
    #[must_use]
    pub fn new(memory: Arc<GuestMemory>, places: RingPlaces, size: u16, suppression: Suppression) -> Self {
        debug_assert!(size.is_power_of_two(), "virtio 1.2, 2.7: a power of two");
        Self { memory, places, size, suppression, next: 0, published: 0, taken: 0 }
    }

    /// The same ring in a copy of its memory.
    pub fn move_to(&mut self, memory: Arc<GuestMemory>) {
        self.memory = memory;
    }

    #[must_use]
    pub fn places(&self) -> RingPlaces {
        self.places
    }

    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// Puts a descriptor into the ring's own table.
    pub fn set_descriptor(&self, index: u16, descriptor: Descriptor) {
        descriptor.store(&self.memory, self.places.descriptors + usize::from(index) * Descriptor::SIZE);
    }

    /// Makes a chain available, as soon as it is published.
    pub fn push(&mut self, head: u16) {
        let at = self.places.available + 4 + 2 * usize::from(self.next % self.size);
        self.memory.u16_at(at).store(head, Ordering::Relaxed);
        self.next = self.next.wrapping_add(1);
    }

    /// Shows the device all that was pushed; says whether it wants to be kicked.
    pub fn publish(&mut self) -> Notify {
        let (old, new) = (self.published, self.next);
        if old == new {
            return Notify::NotNeeded;
        }
        self.memory.u16_at(self.places.available + 2).store(new, Ordering::Release);
        self.published = new;
        fence(Ordering::SeqCst);
        let wanted = match self.suppression {
            Suppression::EventIdx => {
                let at = self.places.used + 4 + 8 * usize::from(self.size);
                passes(self.memory.u16_at(at).load(Ordering::Relaxed), old, new)
            }
            Suppression::Flags => {
                self.memory.u16_at(self.places.used).load(Ordering::Relaxed) & NO_NOTIFICATION == 0
            }
        };
        if wanted { Notify::Needed } else { Notify::NotNeeded }
    }

    /// Takes the next used entry.
    pub fn pop(&mut self) -> Option<Used> {
        if !self.has_used() {
            return None;
        }
        let at = self.places.used + 4 + 8 * usize::from(self.taken % self.size);
        let (id, len) = (self.memory.u32_at(at), self.memory.u32_at(at + 4));
        self.taken = self.taken.wrapping_add(1);
        Some(Used { id: id.load(Ordering::Relaxed), len: len.load(Ordering::Relaxed) })
    }

    /// Whether there is something to take.
    #[must_use]
    pub fn has_used(&self) -> bool {
        self.used_index() != self.taken
    }

    /// The device's index of the used ring.
    #[must_use]
    pub fn used_index(&self) -> u16 {
        self.memory.u16_at(self.places.used + 2).load(Ordering::Acquire)
    }

    /// Entries that were published.
    #[must_use]
    pub fn available_index(&self) -> u16 {
        self.published
    }

    /// Asks for an interrupt at the next used entry. True if one is there already: then none need come.
    pub fn ask_for_interrupt(&mut self) -> bool {
        match self.suppression {
            Suppression::EventIdx => {
                let at = self.places.available + 4 + 2 * usize::from(self.size);
                self.memory.u16_at(at).store(self.taken, Ordering::Relaxed);
            }
            Suppression::Flags => self.memory.u16_at(self.places.available).store(0, Ordering::Relaxed),
        }
        fence(Ordering::SeqCst);
        self.has_used()
    }

    /// Says that no interrupt is wanted. With EVENT_IDX that needs no word: none comes before the index is moved on.
    pub fn want_no_interrupt(&mut self) {
        if self.suppression == Suppression::Flags {
            self.memory.u16_at(self.places.available).store(NO_NOTIFICATION, Ordering::Relaxed);
        }
    }
}

/// Whether going from `old` to `new` passes the entry at which the other side wants to be told (virtio 1.2, 2.7.10).
#[must_use]
pub fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests;
