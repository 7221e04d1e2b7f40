//! A split virtqueue's three areas in guest memory (virtio 2.7), the device's side.
//!
//! Invariant: the driver is believed nothing: an index that jumps is an error, and no index of ours is read back. Results
//! are collected and shown to the driver by one store of the index. It does not know what a chain means.

use super::guest::{GuestMemory, Window};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::fence;
use vmpath_protocol::virtio_blk::event_idx;

/// Offsets in the available ring and the used ring: flags, index, entries.
const FLAGS: usize = 0;
const INDEX: usize = 2;
const ENTRIES: usize = 4;
const AVAIL_ENTRY: usize = 2;
const USED_ENTRY: usize = 8;
const DESCRIPTOR: usize = 16;
/// The available ring's flag: the driver wants no call.
const NO_INTERRUPT: u16 = 1;
/// The used ring's flag: the device wants no kick.
const NO_NOTIFY: u16 = 1;

/// Guest physical addresses of the areas, and the number of descriptors: a power of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Areas {
    pub size: u16,
    pub descriptors: u64,
    pub available: u64,
    pub used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventIdx {
    Negotiated,
    NotNegotiated,
}

/// The driver's index is further ahead than the queue has entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Jump {
    pub expected: u16,
    pub found: u16,
}

/// A place in the used ring that was written: offset and bytes, for the dirty log.
pub type Touched = (u64, u64);

/// The areas, mapped, and where the device stands in them.
#[derive(Debug)]
pub struct Ring {
    areas: Areas,
    mask: u16,
    descriptors: Window,
    available: Window,
    used: Window,
    event_idx: EventIdx,
    /// The next entry of the available ring to fetch.
    next: u16,
    /// The driver's index when it was last read.
    seen: u16,
    /// The next entry of the used ring to fill.
    filled: u16,
    /// The index that the driver has been shown.
    shown: u16,
}

impl Ring {
    /// `None` if an area is not in guest memory or not aligned. The device's indices start at the driver's used index;
    /// set them with [`Ring::resume`].
    #[must_use]
    pub fn new(memory: &GuestMemory, areas: Areas, event_idx: EventIdx) -> Option<Self> {
        let size = usize::from(areas.size);
        let event = match event_idx {
            EventIdx::Negotiated => 2,
            EventIdx::NotNegotiated => 0,
        };
        let descriptors = memory.window(areas.descriptors, size * DESCRIPTOR, 16)?;
        let available = memory.window(areas.available, ENTRIES + size * AVAIL_ENTRY + event, 2)?;
        let used = memory.window(areas.used, ENTRIES + size * USED_ENTRY + event, 4)?;
        let index = used.u16(INDEX).load(Acquire);
        let mask = areas.size.wrapping_sub(1);
        let ring = Self {
            areas,
            mask,
            descriptors,
            available,
            used,
            event_idx,
            next: index,
            seen: index,
            filled: index,
            shown: index,
        };
        Some(ring)
    }

    /// The same ring after guest memory has moved in our address space. `false` if an area is gone.
    #[must_use]
    pub fn rebind(&mut self, memory: &GuestMemory) -> bool {
        let Some(moved) = Self::new(memory, self.areas, self.event_idx) else { return false };
        (self.descriptors, self.available, self.used) = (moved.descriptors, moved.available, moved.used);
        true
    }

    /// The next entry to fetch.
    pub fn resume(&mut self, next: u16) {
        (self.next, self.seen) = (next, next);
    }

    #[must_use]
    pub fn areas(&self) -> Areas {
        self.areas
    }

    #[must_use]
    pub fn next(&self) -> u16 {
        self.next
    }

    /// The used ring's index, as the driver sees it.
    #[must_use]
    pub fn shown(&self) -> u16 {
        self.shown
    }

    /// Whether the driver has made something available that has not been fetched.
    #[inline]
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.available.u16(INDEX).load(Acquire) != self.next
    }

    /// The next chain's head, which may be any number; `None` if there is none.
    ///
    /// # Errors
    /// The driver's index has jumped.
    #[inline]
    pub fn fetch(&mut self) -> Result<Option<u16>, Jump> {
        if self.next == self.seen {
            self.seen = self.available.u16(INDEX).load(Acquire);
            if self.seen == self.next {
                return Ok(None);
            }
            if self.seen.wrapping_sub(self.next) > self.areas.size {
                let jump = Jump { expected: self.next, found: self.seen };
                self.seen = self.next;
                return Err(jump);
            }
        }
        let at = ENTRIES + AVAIL_ENTRY * usize::from(self.next & self.mask);
        let head = self.available.u16(at).load(Relaxed);
        self.next = self.next.wrapping_add(1);
        Ok(Some(head))
    }

    /// A descriptor's bytes; `index` is below the size.
    #[inline]
    #[must_use]
    pub fn descriptor(&self, index: u16) -> [u8; DESCRIPTOR] {
        let at = usize::from(index) * DESCRIPTOR;
        let mut bytes = [0; DESCRIPTOR];
        bytes[..8].copy_from_slice(&self.descriptors.u64(at).load(Relaxed).to_ne_bytes());
        bytes[8..].copy_from_slice(&self.descriptors.u64(at + 8).load(Relaxed).to_ne_bytes());
        bytes
    }

    /// Puts a result into the used ring; the driver sees it after [`Ring::show`].
    #[inline]
    pub fn fill(&mut self, head: u16, written: u32) -> Touched {
        let at = ENTRIES + USED_ENTRY * usize::from(self.filled & self.mask);
        self.used.u32(at).store(u32::from(head), Relaxed);
        self.used.u32(at + 4).store(written, Relaxed);
        self.filled = self.filled.wrapping_add(1);
        (at as u64, USED_ENTRY as u64)
    }

    /// Shows the driver what has been filled: how many results, and the place of the index. `None` if there are none.
    #[inline]
    pub fn show(&mut self) -> Option<(u16, Touched)> {
        let batch = self.filled.wrapping_sub(self.shown);
        if batch == 0 {
            return None;
        }
        self.used.u16(INDEX).store(self.filled, Release);
        self.shown = self.filled;
        Some((batch, (INDEX as u64, 2)))
    }

    /// Whether the driver wants to be called for the last `batch` results that it was shown.
    #[inline]
    #[must_use]
    pub fn wants_call(&self, batch: u16) -> bool {
        // The index must be there before the driver's wish is read, or both sides could wait for the other.
        fence(SeqCst);
        match self.event_idx {
            EventIdx::NotNegotiated => self.available.u16(FLAGS).load(Relaxed) & NO_INTERRUPT == 0,
            EventIdx::Negotiated => {
                let event = ENTRIES + AVAIL_ENTRY * usize::from(self.areas.size);
                let event = self.available.u16(event).load(Relaxed);
                event_idx::is_due(event, self.shown, self.shown.wrapping_sub(batch))
            }
        }
    }

    /// The device polls: kicks are wasted. What was written, if anything.
    pub fn suppress_kicks(&mut self) -> Option<Touched> {
        match self.event_idx {
            // The event stays where it was, behind the driver's index, which does not pass it again before 2^16 entries.
            EventIdx::Negotiated => None,
            EventIdx::NotNegotiated => {
                self.used.u16(FLAGS).store(NO_NOTIFY, Relaxed);
                Some((FLAGS as u64, 2))
            }
        }
    }

    /// The device is about to sleep: the next entry shall kick. Look at [`Ring::has_more`] afterwards.
    pub fn enable_kicks(&mut self) -> Touched {
        let touched = match self.event_idx {
            EventIdx::Negotiated => {
                let event = ENTRIES + USED_ENTRY * usize::from(self.areas.size);
                self.used.u16(event).store(self.next, Relaxed);
                (event as u64, 2)
            }
            EventIdx::NotNegotiated => {
                self.used.u16(FLAGS).store(0, Relaxed);
                (FLAGS as u64, 2)
            }
        };
        // The wish must be there before the driver's index is read again.
        fence(SeqCst);
        touched
    }
}

#[cfg(test)]
mod tests;
