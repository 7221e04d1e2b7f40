//! A disk over vhost-user-blk: queues with requests in flight, stopped with requests open, started again, reconnected.
//!
//! ```text
//! running -(stop: GET_VRING_BASE)-> stopped -(resume: SET_VRING_BASE, the base that was answered)-> running
//! link Up -(dies)-> Down: base = used index -(try_reconnect: SET_INFLIGHT_FD, the same buffer)-> Up
//! ```
//! Invariant: a request is open from `submit` until its used entry, over stops and deaths; a used entry of no open
//! request is a stray and counted. Each start brings fresh kick eventfds and no kick, as QEMU's: a back end must look
//! into the ring. Rejected: sending lost requests again: replaying is the back end's. It does not know: many disks.

mod log;
mod moving;

use super::VhostError;
use super::block::{BlockConfig, BlockRequest, Operation, Status, feature};
use super::link::{Agreed, Inflight, Link, RingStart};
use super::memory::{DirtyLog, GuestMemory, PAGE};
use super::options::{Options, plan};
use super::ring::{Notify, Ring, RingPlaces, Suppression};
use super::slot::{Slot, SlotPlan, Table};
use super::waiter::Waiter;
use std::hash::{DefaultHasher, Hasher};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// Tries of [`Client::connect`] and [`Client::reconnect`] follow each other no faster.
const PAUSE_LEAST: Duration = Duration::from_millis(1);

/// A place for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SlotId {
    pub queue: u16,
    pub index: u16,
}

/// A request that is done. Its slot keeps the data until [`Client::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub slot: SlotId,
    pub request: BlockRequest,
    pub status: Status,
}

/// What a stop has found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Whether the back end has answered GET_VRING_BASE; if not, it is dead, and the bases are the used indices.
    pub answered: bool,
    /// Of each queue.
    pub bases: Vec<u16>,
    /// Used indices after the answer.
    pub used: Vec<u16>,
    /// Requests that are open in the guest's eyes.
    pub open: usize,
    pub took: Duration,
}

#[derive(Debug)]
struct Queue {
    ring: Ring,
    slots: Vec<Slot>,
    free: Vec<u16>,
    call: EventFd,
    kick: EventFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Run {
    Running,
    /// With the fingerprint of all that the device may not touch meanwhile.
    Stopped(u64),
}

/// One disk.
#[derive(Debug)]
pub struct Client {
    options: Options,
    memory: Arc<GuestMemory>,
    plan: SlotPlan,
    queues: Vec<Queue>,
    link: Option<Link>,
    agreed: Agreed,
    inflight: Option<Inflight>,
    bases: Vec<u16>,
    run: Run,
    log: Option<DirtyLog>,
    waiter: Option<Waiter>,
    strays: u64,
    touched: u64,
}

impl Client {
    /// Connects, negotiates and starts the rings.
    ///
    /// # Errors
    /// If nobody listens, or the back end is no vhost-user-blk device or does not do what the options need.
    pub fn connect(options: Options) -> Result<Self, VhostError> {
        let link = Link::connect(&options.socket, feature::DRIVER & !options.without, options.patience)?;
        let agreed = link.agreed;
        let (plan, size) = plan(&options, &agreed)?;
        let count = options.queues.clamp(1, agreed.queues.max(1));
        let (_, ring_bytes) = RingPlaces::lay_out(0, size);
        let slots = usize::from(count) * usize::from(options.slots);
        let memory = Arc::new(GuestMemory::new([ring_bytes * usize::from(count), slots * plan.stride()])?);
        let indirect = agreed.has(feature::INDIRECT_DESC);
        let event_idx = agreed.has(feature::EVENT_IDX);
        let suppression = if event_idx { Suppression::EventIdx } else { Suppression::Flags };
        let mut queues = Vec::new();
        for number in 0..usize::from(count) {
            let (places, _) = RingPlaces::lay_out(number * ring_bytes, size);
            let ring = Ring::new(Arc::clone(&memory), places, size, suppression);
            let first = memory.second() + number * usize::from(options.slots) * plan.stride();
            let slot = |index: u16| {
                let at = first + usize::from(index) * plan.stride();
                Slot::new(
                    at,
                    index * plan.descriptors,
                    if indirect { options.chains.of_slot(index) } else { Table::Direct },
                )
            };
            queues.push(Queue {
                ring,
                slots: (0..options.slots).map(slot).collect(),
                free: (0..options.slots).rev().collect(),
                call: event()?,
                kick: event()?,
            });
        }
        let inflight = link.new_inflight(count, size)?;
        let mut client = Self {
            options,
            memory,
            plan,
            queues,
            link: Some(link),
            agreed,
            inflight,
            bases: vec![0; usize::from(count)],
            run: Run::Running,
            log: None,
            waiter: None,
            strays: 0,
            touched: 0,
        };
        client.start()?;
        Ok(client)
    }

    /// What was agreed upon at first.
    #[must_use]
    pub fn agreed(&self) -> &Agreed {
        &self.agreed
    }

    #[must_use]
    pub fn config(&self) -> &BlockConfig {
        &self.agreed.config
    }

    /// Whether the disk is read-only.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.agreed.has(feature::RO)
    }

    /// Queues in use.
    #[must_use]
    pub fn queues(&self) -> u16 {
        self.queues.len() as u16
    }

    /// Slots of each queue.
    #[must_use]
    pub fn slots(&self) -> u16 {
        self.options.slots
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    #[must_use]
    pub fn is_running(&self) -> bool {
        self.run == Run::Running
    }

    /// Requests submitted and not done.
    #[must_use]
    pub fn open(&self) -> usize {
        self.queues.iter().flat_map(|queue| &queue.slots).filter(|slot| slot.request.is_some()).count()
    }

    /// Used entries that named no open request: unknown, or done before.
    #[must_use]
    pub fn strays(&self) -> u64 {
        self.strays
    }

    /// How many times the device wrote to guest memory while its rings were stopped.
    #[must_use]
    pub fn touched_while_stopped(&self) -> u64 {
        self.touched
    }

    /// The guest's memory, for those who want to misuse it.
    #[must_use]
    pub fn memory(&self) -> &Arc<GuestMemory> {
        &self.memory
    }

    /// A queue's ring, for those who want to misuse it.
    ///
    /// # Panics
    /// If there is no such queue, as everywhere here.
    pub fn ring_mut(&mut self, queue: u16) -> &mut Ring {
        &mut self.queues[usize::from(queue)].ring
    }

    /// Kicks whether or not the device wants it.
    pub fn kick(&self, queue: u16) {
        // Only a counter at its very end refuses, and then it is readable anyway.
        let _ = self.queues[usize::from(queue)].kick.write(1);
    }

    /// Readable when the device has interrupted.
    #[must_use]
    pub fn call_fd(&self, queue: u16) -> RawFd {
        self.queues[usize::from(queue)].call.as_raw_fd()
    }

    /// Readable when the connection has ended.
    #[must_use]
    pub fn connection_fd(&self) -> Option<RawFd> {
        self.link.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Takes a free slot.
    pub fn acquire(&mut self, queue: u16) -> Option<SlotId> {
        let index = self.queues[usize::from(queue)].free.pop()?;
        Some(SlotId { queue, index })
    }

    /// Gives a slot back.
    pub fn release(&mut self, slot: SlotId) {
        let queue = &mut self.queues[usize::from(slot.queue)];
        debug_assert!(queue.slots[usize::from(slot.index)].request.is_none(), "its request is done");
        queue.free.push(slot.index);
    }

    /// Puts data into a slot, for a write.
    pub fn write_data(&self, slot: SlotId, data: &[u8]) {
        assert!(data.len() <= self.plan.bytes, "data that fits into the slot");
        self.memory.write(self.slot(slot).data_at(), data);
    }

    /// Takes the data of a read out of a slot.
    pub fn read_data(&self, slot: SlotId, into: &mut [u8]) {
        assert!(into.len() <= self.plan.bytes.max(PAGE), "data that lies in the slot");
        self.memory.read(self.slot(slot).data_at(), into);
    }

    /// Makes a request ready; the device sees it after [`Client::publish`].
    ///
    /// # Panics
    /// If the slot holds an open request, the payload does not fit, or the rings are stopped.
    pub fn submit(&mut self, slot: SlotId, request: BlockRequest) {
        assert!(self.run == Run::Running, "a stopped guest asks for nothing");
        let queue = &mut self.queues[usize::from(slot.queue)];
        let place = &mut queue.slots[usize::from(slot.index)];
        place.fill(&queue.ring, &self.memory, self.plan, request);
        queue.ring.push(place.head());
    }

    /// Shows the device what was submitted, and kicks it if it wants to be.
    pub fn publish(&mut self, queue: u16) -> Notify {
        let notify = self.queues[usize::from(queue)].ring.publish();
        if notify == Notify::Needed {
            self.kick(queue);
        }
        notify
    }

    /// Takes what is done.
    pub fn reap(&mut self, number: u16, done: &mut Vec<Done>) {
        if self.run != Run::Running {
            return;
        }
        let queue = &mut self.queues[usize::from(number)];
        while let Some(used) = queue.ring.pop() {
            let index = self.plan.slot_of(used.id).filter(|index| *index < queue.slots.len());
            let place = index.and_then(|index| Some((index, queue.slots[index].request.take()?)));
            let Some((index, request)) = place else {
                self.strays += 1;
                continue;
            };
            let status = queue.slots[index].status(&self.memory);
            done.push(Done { slot: SlotId { queue: number, index: index as u16 }, request, status });
        }
    }

    /// Asks for an interrupt at the next completion. True if there is something to reap already.
    pub fn ask_for_interrupt(&mut self, queue: u16) -> bool {
        self.queues[usize::from(queue)].ring.ask_for_interrupt()
    }

    /// Says that nobody waits for interrupts.
    pub fn want_no_interrupt(&mut self, queue: u16) {
        self.queues[usize::from(queue)].ring.want_no_interrupt();
    }

    /// Waits until something is done, and takes it; returns without anything when the time is up or the link dies.
    ///
    /// # Errors
    /// Of the system.
    pub fn wait(&mut self, limit: Duration, done: &mut Vec<Done>) -> Result<(), VhostError> {
        if self.waiter.is_none() {
            let waiter = Waiter::new()?;
            waiter.add(0, self)?;
            self.waiter = Some(waiter);
        }
        let (end, before) = (Instant::now() + limit, done.len());
        loop {
            let mut more = false;
            for queue in 0..self.queues() {
                more |= self.ask_for_interrupt(queue);
                self.reap(queue, done);
            }
            let left = end.saturating_duration_since(Instant::now());
            if done.len() > before || left.is_zero() || !self.is_connected() || !self.is_running() {
                return Ok(());
            }
            let mut woken = Vec::new();
            if let Some(waiter) = self.waiter.as_mut().filter(|_| !more) {
                waiter.wait(left.max(PAUSE_LEAST), &mut woken)?;
            }
            if woken.iter().any(|what| matches!(what, super::Woken::Connection { .. })) {
                self.lost();
            }
        }
    }

    /// Stops the rings, with requests open: GET_VRING_BASE. Never an error of a back end that is dead or dies: then the
    /// bases are the used indices.
    ///
    /// # Errors
    /// If they are stopped already.
    pub fn stop(&mut self) -> Result<Stopped, VhostError> {
        if self.run != Run::Running {
            return Err(VhostError::Unfit("the rings are stopped already".to_owned()));
        }
        let began = Instant::now();
        let answer = self.link.as_ref().and_then(|link| link.stop(self.queues.len()).ok());
        let answered = answer.is_some();
        match answer {
            Some(bases) => self.bases = bases,
            None => self.lost(),
        }
        let took = began.elapsed();
        self.run = Run::Stopped(self.fingerprint());
        Ok(Stopped {
            answered,
            bases: self.bases.clone(),
            used: self.used_indices(),
            open: self.open(),
            took,
        })
    }

    /// Starts the rings again, from the bases that were answered. Without a connection they start when there is one.
    ///
    /// # Errors
    /// If they are not stopped, or of the exchange: then the connection is dead.
    pub fn resume(&mut self) -> Result<(), VhostError> {
        let Run::Stopped(before) = self.run else {
            return Err(VhostError::Unfit("the rings are not stopped".to_owned()));
        };
        self.touched += u64::from(self.fingerprint() != before);
        self.run = Run::Running;
        self.start()
    }

    /// The connection has ended: QEMU then takes the used indices for the bases.
    pub fn lost(&mut self) {
        self.link = None;
        if self.run == Run::Running {
            self.bases = self.used_indices();
        }
    }

    /// One attempt to connect again after the back end has died, with the same inflight buffer; starts the rings unless
    /// they are stopped.
    ///
    /// # Errors
    /// If it does not listen yet, is another disk, or of the exchange. It may be tried again.
    pub fn try_reconnect(&mut self) -> Result<(), VhostError> {
        if self.link.is_some() {
            return Ok(());
        }
        let link = Link::connect(&self.options.socket, self.agreed.features, self.options.patience)?;
        link.agreed.must_match(&self.agreed)?;
        self.link = Some(link);
        if let Some(waiter) = self.waiter.take() {
            waiter.add_connection(0, self)?;
            self.waiter = Some(waiter);
        }
        if self.run == Run::Running { self.start() } else { Ok(()) }
    }

    /// Tries it each `every` (QEMU's `reconnect=1`: one second), for `limit`. The first attempt is at once.
    ///
    /// # Errors
    /// Of the last attempt.
    pub fn reconnect(&mut self, every: Duration, limit: Duration) -> Result<(), VhostError> {
        let end = Instant::now() + limit;
        loop {
            match self.try_reconnect() {
                Err(why) if Instant::now() + every >= end => return Err(why),
                Err(_) => std::thread::sleep(every.max(PAUSE_LEAST)),
                Ok(()) => return Ok(()),
            }
        }
    }

    fn slot(&self, slot: SlotId) -> &Slot {
        &self.queues[usize::from(slot.queue)].slots[usize::from(slot.index)]
    }

    fn start(&mut self) -> Result<(), VhostError> {
        for queue in &mut self.queues {
            queue.kick = event()?;
        }
        let Some(mut link) = self.link.take() else { return Ok(()) };
        link.start(&self.memory, self.inflight.as_ref(), &self.ring_starts())?;
        self.link = Some(link);
        Ok(())
    }

    fn ring_starts(&self) -> Vec<RingStart<'_>> {
        let start = |(queue, base): (&'_ Queue, &u16)| (queue.ring.places(), queue.ring.size(), *base);
        let rings = self.queues.iter().zip(&self.bases);
        rings
            .map(|both| {
                let (places, size, base) = start(both);
                RingStart { places, size, base, kick: &both.0.kick, call: &both.0.call }
            })
            .collect()
    }

    fn used_indices(&self) -> Vec<u16> {
        self.queues.iter().map(|queue| queue.ring.used_index()).collect()
    }

    /// Of all that the device may write to: used rings, and status and inbound data of what is open.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let mut bytes = vec![0; self.plan.bytes.max(PAGE)];
        for queue in &self.queues {
            let mut ring = vec![0; RingPlaces::used_len(queue.ring.size())];
            self.memory.read(queue.ring.places().used, &mut ring);
            // The last field is the device's wish to be kicked, which may follow the rest a little later.
            hasher.write(&ring[..ring.len() - 2]);
            for slot in &queue.slots {
                let Some(request) = slot.request else { continue };
                let Status::Unknown(status) = slot.status(&self.memory) else { continue };
                hasher.write_u8(status);
                if request.operation == Operation::Read {
                    let data = &mut bytes[..request.payload()];
                    self.memory.read(slot.data_at(), data);
                    hasher.write(data);
                }
            }
        }
        hasher.finish()
    }
}

fn event() -> std::io::Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)
}

#[cfg(test)]
mod tests;

#[cfg(test)]
mod survival;
