//! A worker's vhost-user sessions: which there are, where their requests' bytes lie, and which of their rings are polled.
//!
//! A session that has ended stays until everything that it asked for is over: what is on its way is sent from its copies.
//! It does not know the router; what is done with a guest's requests is in [`super::serve`].

use super::vhost_user::{QueueSet, Session};
use crate::sys::socket::Pieces;
use slab::Slab;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use vmpath_core::ids::DiskId;
use vmpath_core::time::Instant;

/// Queues of a device: vhost-user numbers them in one byte, virtio-blk here has at most 16.
pub(super) const QUEUES_MAX: usize = 16;

/// A request of a guest's: which session, which queue, which descriptor chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestSlot {
    pub(crate) session: u32,
    pub(crate) queue: u16,
    pub(crate) head: u16,
}

/// A front end's session with a disk.
pub(super) struct Served {
    pub(super) disk: DiskId,
    pub(super) session: Session,
    pub(super) stage: Stage,
    /// When it attached, as long as nothing has come of that: neither a message nor a report of its silence.
    pub(super) silent_since: Option<Instant>,
    /// Its requests that the router has, and whose answer is its own.
    pub(super) outstanding: u32,
    /// Watches of the ring that hold its socket and its kick descriptors.
    pub(super) socket_watches: u32,
    pub(super) kicks: [Option<Rc<OwnedFd>>; QUEUES_MAX],
    pub(super) kick_watches: [u32; QUEUES_MAX],
    /// How often those have ended by themselves.
    pub(super) kick_ends: [u32; QUEUES_MAX],
    /// Rings that are polled: their kicks are suppressed.
    pub(super) polled: QueueSet,
    /// Rings that were not begun: what they have open is not what was handed over.
    pub(super) misfits: QueueSet,
    /// Whether there are results to be shown to the driver.
    pub(super) has_news: bool,
}

impl std::fmt::Debug for Served {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Served").field("disk", &self.disk).field("stage", &self.stage).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    /// The front end has gone.
    Closing,
}

/// All of a worker's guests.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    pub(super) sessions: Slab<Served>,
}

impl Guests {
    pub(super) fn served(&mut self, session: u32) -> Option<&mut Served> {
        self.sessions.get_mut(session as usize)
    }

    /// Adds the places of a part of a request's bytes.
    pub(crate) fn data<'a>(&'a self, pieces: &mut Pieces<'a>, slot: GuestSlot, part: Range<usize>) {
        if let Some(served) = self.sessions.get(slot.session as usize) {
            served.session.push_data(pieces, slot.queue, slot.head, part.start, part.len());
        }
    }

    /// Copies received bytes of a read to where they belong.
    pub(crate) fn fill(&mut self, slot: GuestSlot, at: usize, bytes: &[u8]) {
        if let Some(served) = self.served(slot.session) {
            served.session.fill(slot.queue, slot.head, at, bytes);
        }
    }

    /// Copies what a write writes, if that is to be had.
    pub(crate) fn copy_out(&self, slot: GuestSlot, into: &mut [u8]) -> bool {
        let served = self.sessions.get(slot.session as usize);
        served.is_some_and(|s| s.session.read_data(slot.queue, slot.head, 0, into))
    }

    /// Disks that have a front end.
    pub(super) fn open_disks(&self) -> impl Iterator<Item = DiskId> {
        self.sessions.iter().filter(|(_, s)| s.stage == Stage::Open).map(|(_, s)| s.disk)
    }

    /// The session of a disk's front end.
    pub(super) fn open_session(&self, disk: DiskId) -> Option<usize> {
        let mut sessions = self.sessions.iter();
        sessions.find(|(_, s)| s.disk == disk && s.stage == Stage::Open).map(|(index, _)| index)
    }

    /// How many front ends a disk has: one or none.
    pub(crate) fn of_disk(&self, disk: DiskId) -> u32 {
        self.sessions.iter().filter(|(_, s)| s.disk == disk && s.stage == Stage::Open).count() as u32
    }
}
