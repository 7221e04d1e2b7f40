//! One descriptor head's request: where its bytes are in guest memory, and where they are while that may not be touched.
//!
//! A slot is reused by the next request of its head, with its table of pieces, so that a steady load allocates nothing.

use super::world::World;
use crate::sys::guest::{GuestMemory, Spill};
use crate::sys::socket::Pieces;
use std::cell::{Cell, OnceCell};
use vmpath_protocol::virtio_blk::request::{Operation, Status};

/// The lead's name of a request that it has not yet named.
pub(super) const UNNAMED: u32 = u32::MAX;

/// Guest memory within one region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) gpa: u64,
    pub(super) len: u32,
}

/// ```text
/// Free --fetched--> Open --result, ring runs--> Free
///                    | result, ring stopped
///                    v
///                  Parked --ring starts again--> Free
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Free,
    Open {
        token: u32,
    },
    /// The status waits for the ring to start again.
    Parked(Status),
}

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) state: State,
    pub(super) operation: Operation,
    /// Bytes of data, and their pieces in order.
    pub(super) length: u32,
    pub(super) segments: Vec<Segment>,
    pub(super) status_at: u64,
    /// Its place in the order in which the queue's requests were taken.
    pub(super) order: u64,
    /// A write's private copy, or a read's bytes that came while the ring was stopped.
    kept: OnceCell<Spill>,
    /// Of a read's: the first byte that came so.
    kept_from: Cell<u32>,
    /// Data bytes from and until which a call was given the place of.
    touched: Cell<(u32, u32)>,
    /// Some of its memory was taken away while it was open.
    detached: bool,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            state: State::Free,
            operation: Operation::Flush,
            length: 0,
            segments: Vec::new(),
            status_at: 0,
            order: 0,
            kept: OnceCell::new(),
            kept_from: Cell::new(u32::MAX),
            touched: Cell::new((u32::MAX, 0)),
            detached: false,
        }
    }
}

impl Slot {
    /// Makes the slot ready for another request.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.state = State::Free;
        self.segments.clear();
        self.length = 0;
        self.kept.take();
        self.kept_from.set(u32::MAX);
        self.touched.set((u32::MAX, 0));
        self.detached = false;
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self.state, State::Open { .. })
    }

    pub(super) fn take_kept(&mut self) -> Option<Spill> {
        self.kept.take()
    }

    /// The parts of the pieces that hold the data bytes from `from` on, at most `len` of them: place, length.
    fn parts(&self, from: u32, len: u32) -> impl Iterator<Item = Segment> {
        let mut skip = from;
        let mut left = len.min(self.length.saturating_sub(from));
        self.segments.iter().filter_map(move |segment| {
            let skipped = skip.min(segment.len);
            skip -= skipped;
            let len = (segment.len - skipped).min(left);
            left -= len;
            (len > 0).then(|| Segment { gpa: segment.gpa + u64::from(skipped), len })
        })
    }

    fn touch(&self, from: u32, len: u32) {
        let (first, end) = self.touched.get();
        self.touched.set((first.min(from), end.max(from + len)));
    }

    /// Adds the data bytes' places, as many as there is room for; how many bytes. `memory` is there if the ring runs. A write's
    /// bytes are not to be had while it does not, unless there is a copy.
    pub(super) fn push<'a>(
        &'a self,
        memory: Option<&'a GuestMemory>,
        pieces: &mut Pieces<'a>,
        from: u32,
        len: u32,
    ) -> u32 {
        let len = len.min(self.length.saturating_sub(from));
        if len == 0 || pieces.room() == 0 {
            return 0;
        }
        let memory = memory.filter(|_| !self.detached);
        let kept = match (self.operation, memory) {
            (Operation::Read, None) => Some(self.spill(from)),
            (Operation::Read, Some(_)) => None,
            (Operation::Write, _) => self.kept.get(),
            (Operation::Flush | Operation::Discard | Operation::WriteZeroes { .. }, _) => return 0,
        };
        if let Some(kept) = kept {
            self.touch(from, len);
            kept.push(pieces, from as usize, len as usize);
            return len;
        }
        let Some(memory) = memory else { return 0 };
        let mut pushed = 0;
        for part in self.parts(from, len) {
            if pieces.room() == 0 || !memory.push(pieces, part.gpa, part.len as usize) {
                break;
            }
            pushed += part.len;
        }
        self.touch(from, pushed);
        pushed
    }

    /// A read's own buffer, of which the bytes from `from` on count.
    fn spill(&self, from: u32) -> &Spill {
        self.kept_from.set(self.kept_from.get().min(from));
        self.kept.get_or_init(|| Spill::new(self.length as usize))
    }

    /// Copies bytes of a read to where the guest wants them, or to our own buffer.
    pub(super) fn fill(&mut self, memory: Option<&GuestMemory>, at: u32, bytes: &[u8]) {
        let len = (bytes.len() as u32).min(self.length.saturating_sub(at));
        let bytes = &bytes[..len as usize];
        if self.operation != Operation::Read || len == 0 {
            return;
        }
        match memory.filter(|_| !self.detached) {
            Some(memory) => {
                self.write_out(memory, at, bytes);
                self.touch(at, len);
            }
            None => self.spill(at).write(at as usize, bytes),
        }
    }

    fn write_out(&self, memory: &GuestMemory, at: u32, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        self.parts(at, bytes.len() as u32).all(|part| {
            let (now, later) = rest.split_at(part.len as usize);
            rest = later;
            memory.write(part.gpa, now)
        })
    }

    /// Copies a write's bytes out. `false` if they may not be touched now and there is no copy.
    pub(super) fn read(&self, memory: Option<&GuestMemory>, from: u32, into: &mut [u8]) -> bool {
        if self.operation != Operation::Write || u64::from(from) + into.len() as u64 > u64::from(self.length)
        {
            return false;
        }
        if let Some(kept) = self.kept.get() {
            kept.read(from as usize, into);
            return true;
        }
        let Some(memory) = memory.filter(|_| !self.detached) else { return false };
        let mut rest = into;
        self.parts(from, rest.len() as u32).all(|part| {
            let (now, later) = std::mem::take(&mut rest).split_at_mut(part.len as usize);
            rest = later;
            memory.read(part.gpa, now)
        })
    }

    /// From now on a write is sent from a copy. Only while its memory may be touched.
    pub(super) fn keep(&mut self, memory: &GuestMemory) {
        if self.operation != Operation::Write || self.detached || self.kept.get().is_some() {
            return;
        }
        let mut copy = Spill::new(self.length as usize);
        if self.read(Some(memory), 0, copy.bytes_mut()) {
            let _ = self.kept.set(copy);
        }
    }

    /// The ring stops: what was received so far is marked, and a write that has begun to be sent keeps its bytes, for it may have to be
    /// sent again, unchanged. `false` if the log is too short.
    pub(super) fn withdraw(&mut self, world: &World) -> bool {
        let (first, end) = self.touched.get();
        if end <= first {
            return true;
        }
        match self.operation {
            Operation::Write => {
                self.keep(&world.memory);
                true
            }
            Operation::Read => self.mark(world, first, end - first),
            Operation::Flush | Operation::Discard | Operation::WriteZeroes { .. } => true,
        }
    }

    /// The ring runs again: bytes that came meanwhile go to their places, and a write is sent from there again. `false`
    /// if those are gone.
    pub(super) fn return_to(&mut self, world: &World) -> bool {
        let is_there = |s: &Segment| world.memory.covers(s.gpa, u64::from(s.len));
        if !self.segments.iter().all(is_there) {
            return false;
        }
        self.detached = false;
        self.land(world)
    }

    /// Copies a read's own bytes to the guest.
    pub(super) fn land(&mut self, world: &World) -> bool {
        let from = self.kept_from.replace(u32::MAX);
        let Some(mut kept) = self.kept.take() else { return true };
        if self.operation != Operation::Read || from >= self.length {
            return true;
        }
        let landed = self.write_out(&world.memory, from, &kept.bytes_mut()[from as usize..]);
        landed && self.mark(world, from, self.length - from)
    }

    /// Some of its memory is about to be taken away, which `lost` tells.
    pub(super) fn detach(&mut self, memory: &GuestMemory, lost: &impl Fn(u64, u32) -> bool) {
        if self.segments.iter().any(|s| lost(s.gpa, s.len)) {
            self.keep(memory);
            self.detached = true;
        }
    }

    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// Marks the pages of a read's data bytes.
    pub(super) fn mark(&self, world: &World, from: u32, len: u32) -> bool {
        self.parts(from, len).all(|part| world.mark(part.gpa, u64::from(part.len)))
    }
}
