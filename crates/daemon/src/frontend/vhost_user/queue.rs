//! One virtqueue of a device: what the front end has said of it, its ring while it runs, and its requests.
//!
//! ```text
//! stopped --kick, address and enabled--> running --GET_VRING_BASE--> stopped
//!                                          | the driver breaks a rule
//!                                          v
//!                                        broken: no fetches; results of what is open still go out; the stop heals it
//! ```
//! Requests stay open over a stop. The next start re-attaches them if it is the same ring where it was left; else they belong to a
//! driver that is gone, and the inflight buffer says what the new one has open; of a ring that was left on another host, its
//! hand-over does ([`moving`]).

mod moving;

use super::device::{Abandoned, Changes};
use super::doorbell::Doorbell;
use super::fault::Fault;
use super::moving::Leftover;
use super::parse;
use super::slot::{Slot, State, UNNAMED};
use super::world::{Admission, Opening, World};
use crate::sys::guest::GuestMemory;
use crate::sys::inflight::{Buffer, BufferId, QUEUE_SIZE_MAX, QueueState};
use crate::sys::vring::{Areas, EventIdx, Ring, Touched};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use vmpath_core::migration::QueueHandOver;
use vmpath_protocol::virtio_blk::feature;
use vmpath_protocol::virtio_blk::request::{self, Operation, Request, Status};

/// Whether this device has seen a request before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    New,
    /// A former process fetched it and is gone: a write's outcome is unknown.
    Replayed,
}

/// A request for the router. `offset` and `length` in bytes; it lies within the disk, on whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestRequest {
    pub(crate) queue: u16,
    pub(crate) head: u16,
    pub(crate) operation: Operation,
    pub(crate) offset: u64,
    pub(crate) length: u32,
    pub(crate) origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    Empty,
    Request(GuestRequest),
    /// One was taken and has been answered: an id, or what the disk refuses.
    Answered,
    /// The driver has broken the rules; said once.
    Broken(Fault),
}

/// Addresses in the front end's own memory; the log's is guest physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Misaligned,
    At(Addresses),
}

#[derive(Debug)]
pub(super) enum Kick {
    None,
    /// The front end gave no descriptor: the ring is to be polled.
    Polled,
    Fd(Rc<OwnedFd>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Enabled {
    No,
    Yes,
}

/// What makes a ring the same ring, where it was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    areas: Areas,
    next: u16,
    used: u16,
    inflight: Option<BufferId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    Well,
    Broken { fault: Fault, told: bool },
}

#[derive(Debug)]
pub(super) struct Queue {
    index: u16,
    pub(super) size: u32,
    pub(super) told: Told,
    /// Where the used ring is to be logged, if the front end has said so.
    pub(super) used_log: Option<u64>,
    pub(super) base: u16,
    pub(super) enabled: Enabled,
    pub(super) kick: Kick,
    pub(super) call: Option<Doorbell>,
    pub(super) error: Option<Doorbell>,
    pub(super) ring: Option<Ring>,
    health: Health,
    slots: Vec<Slot>,
    inflight: Option<QueueState>,
    inflight_id: Option<BufferId>,
    /// Heads that a former process or another host left open, the oldest last.
    replay: Vec<Leftover>,
    /// The next request's place in the order of fetching.
    counter: u64,
    /// Requests that were taken, here and by replay: their order.
    taken: u64,
    /// Set while the ring is stopped.
    left: Option<Identity>,
    /// What another host left of this queue, until a ring takes it.
    incoming: Option<QueueHandOver>,
    /// The buffer with which a start was asked for while the device waits for what another host left.
    awaited: Option<BufferId>,
}

impl Queue {
    pub(super) fn new(index: u16) -> Self {
        Self {
            index,
            size: 0,
            told: Told::Nothing,
            used_log: None,
            base: 0,
            enabled: Enabled::No,
            kick: Kick::None,
            call: None,
            error: None,
            ring: None,
            health: Health::Well,
            slots: Vec::new(),
            inflight: None,
            inflight_id: None,
            replay: Vec::new(),
            counter: 0,
            taken: 0,
            left: None,
            incoming: None,
            awaited: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.ring.is_some()
    }

    fn is_enabled(&self, world: &World) -> bool {
        self.enabled == Enabled::Yes || world.features & super::world::PROTOCOL_FEATURES == 0
    }

    /// Everything for a start has been said.
    pub(super) fn awaits_start(&self, world: &World) -> bool {
        let is_told = self.told != Told::Nothing && !matches!(self.kick, Kick::None);
        !self.is_running() && self.health == Health::Well && is_told && self.is_enabled(world)
    }

    /// Starts the ring if everything for it has been said.
    pub(super) fn start_if_ready(&mut self, world: &World, buffer: Option<&Buffer>, changes: &mut Changes) {
        if !self.awaits_start(world) {
            return;
        }
        if world.admission == Admission::Later {
            self.awaited = buffer.map(Buffer::id);
            return;
        }
        changes.started.insert(self.index);
        if let Err(fault) = self.start(world, buffer, changes) {
            self.break_with(fault);
        }
    }

    fn areas(&self, world: &World) -> Result<Areas, Fault> {
        let size = u16::try_from(self.size).ok().filter(|s| s.is_power_of_two() && *s <= QUEUE_SIZE_MAX);
        let size = size.ok_or(Fault::QueueSize(self.size))?;
        let addresses = match self.told {
            Told::At(addresses) => addresses,
            Told::Nothing | Told::Misaligned => return Err(Fault::Misaligned),
        };
        let gpa = |user| world.memory.gpa_of(user).ok_or(Fault::Ring);
        let (descriptors, available) = (gpa(addresses.descriptors)?, gpa(addresses.available)?);
        Ok(Areas { size, descriptors, available, used: gpa(addresses.used)? })
    }

    fn start(&mut self, world: &World, buffer: Option<&Buffer>, changes: &mut Changes) -> Result<(), Fault> {
        let areas = self.areas(world)?;
        let event_idx =
            if world.has(feature::EVENT_IDX) { EventIdx::Negotiated } else { EventIdx::NotNegotiated };
        let mut ring = Ring::new(&world.memory, areas, event_idx).ok_or(Fault::Ring)?;
        let inflight_id = buffer.map(Buffer::id);
        let found = Identity { areas, next: self.base, used: ring.shown(), inflight: inflight_id };
        let is_same = self.left.take() == Some(found);
        if is_same {
            ring.resume(self.base);
            self.ring = Some(ring);
            self.reattach(world)?;
            // What was parked: the driver may wait for just that, and then nothing else would ever show it.
            self.notify(world);
        } else {
            self.abandon(changes);
            self.inflight_id = inflight_id;
            self.inflight = buffer.and_then(|b| b.queue(self.index));
            if buffer.is_some() && self.inflight.as_ref().is_none_or(|i| i.size() < areas.size) {
                self.inflight = None;
                return Err(Fault::Inflight);
            }
            self.begin(world, &mut ring, changes)?;
            self.ring = Some(ring);
        }
        // A former process may have been killed between a result and its call.
        self.call_driver();
        self.enable_kicks(world);
        Ok(())
    }

    /// A ring that this device does not know.
    fn begin(&mut self, world: &World, ring: &mut Ring, changes: &mut Changes) -> Result<(), Fault> {
        let size = ring.areas().size;
        self.slots.resize_with(usize::from(size), Slot::default);
        self.slots.shrink_to_fit();
        self.counter = 0;
        self.replay.clear();
        let is_fresh = self.inflight.as_ref().map(QueueState::is_fresh);
        if is_fresh.unwrap_or(self.incoming.is_some()) {
            return self.begin_fresh(world, ring, changes);
        }
        // Its ring runs on with its own buffer: it was taken before.
        if self.incoming.take().is_some() {
            changes.taken.insert(self.index);
        }
        let mut next = self.base;
        if let Some(inflight) = &self.inflight {
            let (mut open, counter) = inflight.recover(ring.shown());
            open.retain(|head| *head < size);
            self.counter = counter;
            if !open.is_empty() || world.opening == Opening::Presumed {
                // Whatever base was sent: a front end whose back end has died knows only the used index; and one that was asked for
                // the base of a ring that never ran here got a number that means nothing.
                next = ring.shown().wrapping_add(open.len() as u16);
            }
            self.replay = open.into_iter().rev().map(Leftover::replayed).collect();
        }
        ring.resume(next);
        Ok(())
    }

    /// The requests of the ring that was stopped go on.
    fn reattach(&mut self, world: &World) -> Result<(), Fault> {
        for head in 0..self.slots.len() {
            let slot = &mut self.slots[head];
            let parked = match slot.state {
                State::Free => continue,
                State::Open { .. } => None,
                State::Parked(status) => Some(status),
            };
            if !slot.return_to(world) {
                return Err(Fault::Buffer);
            }
            if let Some(status) = parked {
                self.finish(world, head as u16, status);
            }
        }
        Ok(())
    }

    /// The front end has brought an inflight buffer. If it is not that of the ring that was stopped here, the driver has been
    /// reset, and the new one may never start this queue.
    pub(super) fn meet_buffer(&mut self, buffer: BufferId, changes: &mut Changes) {
        self.forget_if_reset(buffer, changes);
        if self.left.as_ref().is_some_and(|left| left.inflight != Some(buffer)) {
            self.abandon(changes);
            self.left = None;
        }
    }

    /// The driver that they were of is gone.
    fn abandon(&mut self, changes: &mut Changes) {
        for slot in &mut self.slots {
            if let State::Open { token } = slot.state
                && token != UNNAMED
            {
                changes.abandoned.push(Abandoned { token, kept: slot.take_kept() });
            }
            slot.clear();
        }
    }

    /// The ring stops: the next entry to fetch, or what was told of it if it waits to run. Its requests stay open.
    pub(super) fn stop(&mut self, world: &World, changes: &mut Changes) -> u16 {
        self.notify(world);
        if self.is_running() || self.health != Health::Well {
            changes.stopped.insert(self.index);
        }
        if !matches!(self.kick, Kick::None) {
            changes.kicks.insert(self.index);
        }
        if self.is_running() {
            // Each of them, whatever became of the one before.
            let mut whole = true;
            for slot in self.slots.iter_mut().filter(|s| s.is_open()) {
                whole &= slot.withdraw(world);
            }
            if !whole {
                self.break_with(Fault::Log);
            }
        }
        if let Some(ring) = self.ring.take() {
            self.base = ring.next();
            self.left = Some(Identity {
                areas: ring.areas(),
                next: ring.next(),
                used: ring.shown(),
                inflight: self.inflight_id,
            });
        }
        self.kick = Kick::None;
        self.health = Health::Well;
        self.base
    }

    fn break_with(&mut self, fault: Fault) {
        if self.health == Health::Well {
            self.health = Health::Broken { fault, told: false };
            if let Some(error) = &self.error {
                error.ring();
            }
        }
    }

    fn broken(&mut self) -> Fetched {
        match &mut self.health {
            Health::Broken { fault, told: told @ false } => {
                *told = true;
                Fetched::Broken(*fault)
            }
            Health::Broken { .. } | Health::Well => Fetched::Empty,
        }
    }

    pub(super) fn fetch(&mut self, world: &World) -> Fetched {
        if self.health != Health::Well {
            return self.broken();
        }
        if !self.is_enabled(world) {
            return Fetched::Empty;
        }
        match self.take(world) {
            Ok(fetched) => fetched,
            Err(fault) => {
                self.break_with(fault);
                self.broken()
            }
        }
    }

    fn take(&mut self, world: &World) -> Result<Fetched, Fault> {
        let Some(ring) = &mut self.ring else { return Ok(Fetched::Empty) };
        let leftover = self.replay.pop();
        let head = match leftover {
            Some(Leftover { head, .. }) => head,
            None => match ring.fetch().map_err(|j| Fault::Jump { expected: j.expected, found: j.found })? {
                Some(head) => head,
                None => return Ok(Fetched::Empty),
            },
        };
        self.taken += 1;
        let slot = self.slots.get_mut(usize::from(head)).ok_or(Fault::Head(head))?;
        if slot.state != State::Free {
            return Err(Fault::Twice(head));
        }
        if let (None, Some(inflight)) = (leftover, &self.inflight) {
            inflight.begin(head, self.counter);
            self.counter = self.counter.wrapping_add(1);
        }
        slot.order = self.taken;
        let frame = parse::read_chain(ring, world, head, slot)?;
        let range = || parse::read_range(&world.memory, slot, frame.readable).unwrap_or_default();
        let judged = request::judge(frame.header, frame.room, &world.limits, range);
        // From here on the slot holds the data's pieces and nothing else.
        let is_read =
            matches!(judged, Ok(Request::Identify | Request::Io { operation: Operation::Read, .. }));
        if is_read {
            slot.segments.drain(..frame.readable);
        } else {
            slot.segments.truncate(frame.readable);
        }
        slot.state = State::Open { token: UNNAMED };
        let (operation, offset, length) = match judged {
            Ok(Request::Io { operation, offset, length }) => (operation, offset, length),
            Ok(Request::Identify) => return Ok(self.identify(world, head, frame.room.writable)),
            Ok(Request::Empty) => return Ok(self.answer(world, head, Status::Ok)),
            Err(status) => return Ok(self.answer(world, head, status)),
        };
        let origin = leftover.map_or(Origin::New, |leftover| leftover.origin);
        if let Some(status) = leftover.and_then(|leftover| leftover.finished(operation)) {
            return Ok(self.answer(world, head, status));
        }
        slot.operation = operation;
        // The data's length: a range has none.
        slot.length = if matches!(operation, Operation::Read | Operation::Write) { length } else { 0 };
        let queue = self.index;
        Ok(Fetched::Request(GuestRequest { queue, head, operation, offset, length, origin }))
    }

    fn identify(&mut self, world: &World, head: u16, room: u64) -> Fetched {
        let slot = &mut self.slots[usize::from(head)];
        slot.operation = Operation::Read;
        slot.length = u32::try_from(room).unwrap_or(u32::MAX).min(world.id.len() as u32);
        slot.fill(Some(&world.memory), 0, &world.id);
        self.answer(world, head, Status::Ok)
    }

    fn answer(&mut self, world: &World, head: u16, status: Status) -> Fetched {
        let slot = &mut self.slots[usize::from(head)];
        if status != Status::Ok {
            (slot.operation, slot.length) = (Operation::Flush, 0);
        }
        self.finish(world, head, status);
        Fetched::Answered
    }

    pub(super) fn opened(&mut self, head: u16, named: u32) {
        if let Some(State::Open { token }) = self.slots.get_mut(usize::from(head)).map(|s| &mut s.state) {
            *token = named;
        }
    }

    /// A result. Those that nobody waits for (a former driver's, a second one) are dropped.
    pub(super) fn complete(&mut self, world: &World, head: u16, status: Status) {
        let Some(slot) = self.slots.get_mut(usize::from(head)).filter(|s| s.is_open()) else { return };
        if self.ring.is_some() {
            self.finish(world, head, status);
        } else {
            slot.state = State::Parked(status);
        }
    }

    /// Writes the status and puts the result into the used ring.
    fn finish(&mut self, world: &World, head: u16, status: Status) {
        let Some(ring) = &mut self.ring else { return };
        let slot = &mut self.slots[usize::from(head)];
        let mut status = status;
        // Its memory went away while it ran; what has come may still have a place.
        if slot.is_detached() && !slot.land(world) {
            status = Status::IoErr;
        }
        let is_read = slot.operation == Operation::Read;
        let written = if is_read { slot.length.saturating_add(1) } else { 1 };
        let mut is_logged = !is_read || !world.is_logging() || slot.mark(world, 0, slot.length);
        let is_told = world.memory.write(slot.status_at, &[status.code()]);
        is_logged &= world.mark(slot.status_at, 1);
        let touched = ring.fill(head, written);
        slot.clear();
        if let Some(inflight) = &self.inflight {
            inflight.join_batch(head);
        }
        is_logged &= self.mark_used(world, touched);
        if !is_told {
            self.break_with(Fault::Status);
        } else if !is_logged {
            self.break_with(Fault::Log);
        }
    }

    /// Marks a place of the used ring.
    #[inline]
    fn mark_used(&self, world: &World, (offset, bytes): Touched) -> bool {
        if !world.is_logging() {
            return true;
        }
        let used = self.used_log.or_else(|| self.ring.as_ref().map(|r| r.areas().used));
        used.is_none_or(|used| used.checked_add(offset).is_some_and(|at| world.mark(at, bytes)))
    }

    /// Shows the driver the results since the last time, and calls it if it wants to be called.
    pub(super) fn notify(&mut self, world: &World) {
        let Some(ring) = &mut self.ring else { return };
        let Some((batch, touched)) = ring.show() else { return };
        let shown = ring.shown();
        let wants_call = ring.wants_call(batch);
        if let Some(inflight) = &self.inflight {
            inflight.end_batch(batch, shown);
        }
        if !self.mark_used(world, touched) {
            self.break_with(Fault::Log);
        }
        if wants_call {
            self.call_driver();
        }
    }

    pub(super) fn call_driver(&self) {
        if let Some(call) = &self.call {
            call.ring();
        }
    }

    pub(super) fn poll_avail(&self, world: &World) -> bool {
        let has_more = |ring: &Ring| !self.replay.is_empty() || ring.has_more();
        self.health == Health::Well && self.is_enabled(world) && self.ring.as_ref().is_some_and(has_more)
    }

    pub(super) fn suppress_kicks(&mut self, world: &World) {
        let touched = self.ring.as_mut().and_then(Ring::suppress_kicks);
        if touched.is_some_and(|touched| !self.mark_used(world, touched)) {
            self.break_with(Fault::Log);
        }
    }

    /// Whether more has come meanwhile.
    pub(super) fn enable_kicks(&mut self, world: &World) -> bool {
        let touched = self.ring.as_mut().map(Ring::enable_kicks);
        if touched.is_some_and(|touched| !self.mark_used(world, touched)) {
            self.break_with(Fault::Log);
        }
        self.poll_avail(world)
    }

    pub(super) fn slot(&self, head: u16) -> Option<&Slot> {
        self.slots.get(usize::from(head)).filter(|s| s.is_open())
    }

    pub(super) fn slot_mut(&mut self, head: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(head)).filter(|s| s.is_open())
    }

    /// Heads and tokens of what is open.
    pub(super) fn open(&self) -> impl Iterator<Item = (u16, u32)> {
        (0u16..).zip(&self.slots).filter_map(|(head, slot)| match slot.state {
            State::Open { token } if token != UNNAMED => Some((head, token)),
            State::Open { .. } | State::Free | State::Parked(_) => None,
        })
    }

    /// Guest memory is about to change; `lost` tells which of it goes.
    pub(super) fn detach(&mut self, memory: &GuestMemory, lost: &impl Fn(u64, u32) -> bool) {
        if self.is_running() {
            self.slots.iter_mut().filter(|s| s.is_open()).for_each(|slot| slot.detach(memory, lost));
        }
    }

    /// Guest memory has changed under a ring that runs.
    pub(super) fn rebind(&mut self, memory: &GuestMemory) {
        if self.ring.as_mut().is_some_and(|ring| !ring.rebind(memory)) {
            self.break_with(Fault::Ring);
        }
    }
}
