//! One queue's part in a move. See [`super::super::moving`].

use super::super::device::Changes;
use super::super::fault::Misfit;
use super::super::moving::{Ending, LeftFate, LeftOpen, LeftQueue, Leftover};
use super::super::slot::{Slot, State, UNNAMED};
use super::super::world::{Opening, World};
use super::{Fault, Queue};
use crate::sys::inflight::BufferId;
use crate::sys::vring::Ring;
use vmpath_core::migration::QueueHandOver;
use vmpath_protocol::virtio_blk::request::Operation;

impl Queue {
    pub(in super::super) fn expect(&mut self, incoming: QueueHandOver) {
        self.incoming = Some(incoming);
    }

    pub(in super::super) fn expect_nothing(&mut self) {
        self.incoming = None;
    }

    /// What the stopped ring has open.
    pub(in super::super) fn left(&self) -> Option<LeftQueue> {
        let left = self.left.as_ref().filter(|_| !self.is_running())?;
        let mut open: Vec<(u64, LeftOpen)> =
            (0u16..).zip(&self.slots).filter_map(|(head, slot)| left_open(head, slot)).collect();
        open.sort_by_key(|(order, _)| *order);
        // As long as some wait to be replayed, nothing was fetched after them.
        let untaken =
            self.replay.iter().rev().map(|l| LeftOpen { head: l.head, fate: LeftFate::Untaken(l.untaken()) });
        let open = open.into_iter().map(|(_, open)| open).chain(untaken).collect();
        Some(LeftQueue { queue: self.index, base: left.next, open })
    }

    /// The front end brings another buffer than that with which a start waits: the driver was reset, and what was handed over is
    /// nobody's any more.
    pub(super) fn forget_if_reset(&mut self, buffer: BufferId, changes: &mut Changes) {
        if self.awaited.is_some_and(|awaited| awaited != buffer) {
            self.awaited = None;
            self.forget_incoming(changes);
        }
    }

    fn forget_incoming(&mut self, changes: &mut Changes) {
        self.incoming = None;
        changes.taken.insert(self.index);
    }

    /// A ring whose buffer no process of this host has used. What it has open was fetched elsewhere.
    pub(super) fn begin_fresh(
        &mut self,
        world: &World,
        ring: &mut Ring,
        changes: &mut Changes,
    ) -> Result<(), Fault> {
        let (base, used) = (self.base, ring.shown());
        let Some(incoming) = self.incoming.as_ref() else {
            // A front end that goes on without a handshake had a back end with a buffer; its base means nothing.
            if base != used && world.opening == Opening::Handshake {
                return Err(Misfit::Nobody { base, used }.into());
            }
            return self.begin_with(ring, (used, used), Vec::new());
        };
        let open: Vec<Leftover> = incoming.open.iter().copied().map(Leftover::handed).collect();
        if base == 0 && used == 0 {
            // A driver that was just reset, or the hypervisor of another start: what was handed over is its predecessor's, though the
            // numbers may fit. If it is its own after all it is in the ring still, none of it told, and is fetched again.
            self.begin_with(ring, (0, 0), Vec::new())?;
        } else {
            fits(incoming, told_base(world, base, used), &open, ring)?;
            let next = incoming.base;
            self.begin_with(ring, (next, used), open)?;
        }
        self.forget_incoming(changes);
        Ok(())
    }

    fn begin_with(
        &mut self,
        ring: &mut Ring,
        (next, used): (u16, u16),
        open: Vec<Leftover>,
    ) -> Result<(), Fault> {
        if let Some(inflight) = &self.inflight {
            self.counter = inflight.take_over(used, open.iter().map(|leftover| leftover.head));
        }
        self.replay = open;
        self.replay.reverse();
        ring.resume(next);
        Ok(())
    }
}

fn left_open(head: u16, slot: &Slot) -> Option<(u64, LeftOpen)> {
    let fate = match slot.state {
        State::Free => return None,
        State::Open { token } if token == UNNAMED => return None,
        State::Open { token } => LeftFate::Routed(token),
        State::Parked(status) => {
            let has_read = slot.operation == Operation::Read;
            LeftFate::Ended(status, if has_read { Ending::WithData } else { Ending::StatusAlone })
        }
    };
    Some((slot.order, LeftOpen { head, fate }))
}

/// The base as far as it means something: see [`Queue::begin`].
fn told_base(world: &World, base: u16, used: u16) -> u16 {
    match world.opening {
        Opening::Handshake => base,
        Opening::Presumed => used,
    }
}

/// Whether what was handed over is what this ring has open.
fn fits(incoming: &QueueHandOver, base: u16, open: &[Leftover], ring: &Ring) -> Result<(), Misfit> {
    let (used, size) = (ring.shown(), ring.areas().size);
    let expected = incoming.base;
    let count = open.len() as u16;
    // A front end whose back end has died since says its used index.
    if (base != expected && base != used)
        || expected.wrapping_sub(used) != count
        || open.len() > usize::from(size)
    {
        return Err(Misfit::Count { base, used, expected, open: count });
    }
    let is_wrong = |at: usize| open[at].head >= size || open[..at].iter().any(|o| o.head == open[at].head);
    (0..open.len()).find(|at| is_wrong(*at)).map_or(Ok(()), |at| Err(Misfit::Head(open[at].head)))
}
