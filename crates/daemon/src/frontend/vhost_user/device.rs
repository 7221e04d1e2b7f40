//! The device's side of each vhost-user message (vhost-user: "Front-end message types").
//!
//! It applies one message at a time and notes what that changed for the rings. Errors that a front end can make end the session; what
//! only a guest's driver can do wrong breaks the ring instead.

use super::doorbell::{Doorbell, adopt};
use super::note::{Forgotten, Note};
use super::queue::{Addresses, Enabled, Kick, Queue, Told};
use super::world::{LOG_ALL, Opening, Shape, World};
use crate::sys::dirty::DirtyLog;
use crate::sys::guest::{GuestMemory, Place, Spill};
use crate::sys::inflight::{self, Buffer, Layout};
use std::fs::File;
use std::io;
use std::rc::Rc;
use vhost::vhost_user::{Error, Result, VhostUserProtocolFeatures};

/// Bytes of config space that a front end may ask for; what is beyond the structure reads as zero.
const CONFIG_MAX: usize = 256;

/// Some of a device's queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct QueueSet(u16);

impl QueueSet {
    pub(crate) fn insert(&mut self, queue: u16) {
        self.0 |= 1 << queue;
    }

    pub(crate) fn remove(&mut self, queue: u16) {
        self.0 &= !(1 << queue);
    }

    pub(crate) fn contains(self, queue: u16) -> bool {
        self.0 & 1 << queue != 0
    }

    pub(crate) fn iter(self) -> impl Iterator<Item = u16> {
        (0..16).filter(move |queue| self.contains(*queue))
    }
}

/// A request whose driver is gone. It is the router's until that is done with it; nobody is to be told the result.
#[derive(Debug)]
pub(crate) struct Abandoned {
    pub(crate) token: u32,
    /// A write's bytes, if some of it may have been sent: what is on its way is finished from here.
    pub(crate) kept: Option<Spill>,
}

/// What a message changed for the rings.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// May be fetched from, or have something to say about why not.
    pub(crate) started: QueueSet,
    pub(crate) stopped: QueueSet,
    /// Have another kick descriptor, or none.
    pub(crate) kicks: QueueSet,
    pub(crate) abandoned: Vec<Abandoned>,
    /// Need no hand-over any more: they have taken theirs, or their driver is another one.
    pub(crate) taken: QueueSet,
    /// The front end has begun without a handshake: what is offered was taken for negotiated.
    pub(crate) presumed: bool,
    /// The next process will not find the guest's memory again.
    pub(crate) unnoted: Option<io::Error>,
}

/// Who has told the guest's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Teller {
    FrontEnd,
    /// Nobody yet: this front end has told it to a former process.
    Note,
}

#[derive(Debug)]
pub(super) struct Device {
    pub(super) world: World,
    pub(super) queues: Vec<Queue>,
    pub(super) inflight: Option<Buffer>,
    pub(super) protocol_features: u64,
    pub(super) changes: Changes,
    /// Where the next process is told the guest's memory.
    pub(super) note: Option<Note>,
    teller: Teller,
    /// Why the memory is not known; this ends the session.
    pub(super) forgotten: Option<Forgotten>,
}

impl Device {
    pub(super) fn new(shape: &Shape) -> Self {
        let count = shape.queues.clamp(1, inflight::QUEUES_MAX);
        Self {
            world: World::new(shape, count),
            queues: (0..count).map(Queue::new).collect(),
            inflight: None,
            protocol_features: 0,
            changes: Changes::default(),
            note: None,
            teller: Teller::FrontEnd,
            forgotten: None,
        }
    }

    /// Nothing: it stands in for the device while that is elsewhere.
    pub(super) fn vacant(shape: &Shape) -> Self {
        Self { queues: Vec::new(), ..Self::new(shape) }
    }

    pub(super) fn protocol_offered() -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
            | VhostUserProtocolFeatures::INFLIGHT_SHMFD
            | VhostUserProtocolFeatures::LOG_SHMFD
    }

    fn queue(&mut self, index: u32) -> Result<&mut Queue> {
        self.queues.get_mut(index as usize).ok_or(Error::InvalidParam)
    }

    /// A queue that does not run, of which things may be said.
    fn idle(&mut self, index: u32) -> Result<&mut Queue> {
        let queue = self.queue(index)?;
        if queue.is_running() {
            return Err(Error::InvalidOperation("the ring runs"));
        }
        Ok(queue)
    }

    /// The front end will say all that there is to say.
    pub(super) fn introduce(&mut self) {
        self.note_memory();
    }

    /// The front end goes on where a former process was.
    pub(super) fn presume(&mut self) {
        self.world.opening = Opening::Presumed;
        self.teller = Teller::Note;
        self.changes.presumed = true;
    }

    /// For the next process, should this one be killed while the guest does not run.
    fn note_memory(&mut self) {
        if let Some(note) = &self.note {
            self.changes.unnoted = note.write(&self.world.memory).err();
        }
    }

    /// Memory is needed, and if it was told to a former process, from there.
    fn know_memory(&mut self) -> Result<()> {
        if self.teller == Teller::FrontEnd {
            return Ok(());
        }
        match self.note.as_ref().map_or(Err(Forgotten::NoNote), Note::recall) {
            Ok(memory) => {
                self.world.memory = memory;
                self.teller = Teller::FrontEnd;
                Ok(())
            }
            Err(forgotten) => {
                self.forgotten = Some(forgotten);
                Err(Error::InvalidOperation("guest memory is not known"))
            }
        }
    }

    pub(super) fn start_if_ready(&mut self, index: u32) -> Result<()> {
        if self.queues.get(index as usize).is_some_and(|queue| queue.awaits_start(&self.world)) {
            self.know_memory()?;
        }
        if let Some(queue) = self.queues.get_mut(index as usize) {
            queue.start_if_ready(&self.world, self.inflight.as_ref(), &mut self.changes);
        }
        Ok(())
    }

    pub(super) fn set_features(&mut self, features: u64) -> Result<()> {
        if features & !self.world.offered != 0 {
            return Err(Error::InvalidParam);
        }
        let is_running = self.queues.iter().any(Queue::is_running);
        if is_running && (features ^ self.world.features) & !LOG_ALL != 0 {
            return Err(Error::InvalidOperation("only logging may change while a ring runs"));
        }
        self.world.features = features;
        Ok(())
    }

    pub(super) fn set_memory(&mut self, regions: Vec<(Place, File)>) -> Result<()> {
        let mut memory = GuestMemory::default();
        for (place, file) in regions {
            memory.add(place, file).map_err(Error::ReqHandlerError)?;
        }
        self.teller = Teller::FrontEnd;
        self.change_memory(
            |old| std::mem::replace(old, memory),
            |new, gpa, len| !new.covers(gpa, len.into()),
        )?;
        self.note_memory();
        Ok(())
    }

    pub(super) fn add_memory(&mut self, place: Place, file: &File) -> Result<()> {
        self.know_memory()?;
        self.world.memory.add(place, file).map_err(Error::ReqHandlerError)?;
        self.note_memory();
        Ok(())
    }

    pub(super) fn set_num(&mut self, index: u32, size: u32) -> Result<()> {
        self.idle(index)?.size = size;
        Ok(())
    }

    /// `log` is where writes to the used ring are to be marked, guest physical.
    pub(super) fn set_addresses(&mut self, index: u32, told: Addresses, log: Option<u64>) -> Result<()> {
        let queue = self.queue(index)?;
        if queue.is_running() && queue.told != Told::At(told) {
            return Err(Error::InvalidOperation("the ring runs"));
        }
        queue.told = Told::At(told);
        queue.used_log = log;
        self.start_if_ready(index)
    }

    /// A driver has laid its ring where none can be.
    pub(super) fn set_misaligned(&mut self, index: u32) -> Result<()> {
        self.idle(index)?.told = Told::Misaligned;
        self.start_if_ready(index)
    }

    pub(super) fn set_base(&mut self, index: u32, base: u32) -> Result<()> {
        self.idle(index)?.base = u16::try_from(base).map_err(|_| Error::InvalidParam)?;
        Ok(())
    }

    pub(super) fn stop(&mut self, index: u32) -> Result<u16> {
        let queue = self.queues.get_mut(index as usize).ok_or(Error::InvalidParam)?;
        Ok(queue.stop(&self.world, &mut self.changes))
    }

    pub(super) fn stop_all(&mut self) {
        for queue in &mut self.queues {
            queue.stop(&self.world, &mut self.changes);
        }
    }

    pub(super) fn set_kick(&mut self, index: u32, file: Option<File>) -> Result<()> {
        let kick = match file {
            Some(file) => Kick::Fd(Rc::new(adopt(file).map_err(Error::ReqHandlerError)?)),
            None => Kick::Polled,
        };
        self.queue(index)?.kick = kick;
        self.changes.kicks.insert(index as u16);
        self.start_if_ready(index)
    }

    pub(super) fn set_call(&mut self, index: u32, file: Option<File>) -> Result<()> {
        let call = file.map(Doorbell::new).transpose().map_err(Error::ReqHandlerError)?;
        let queue = self.queue(index)?;
        queue.call = call;
        // A call that the former descriptor took may never have been heard.
        if queue.is_running() {
            queue.call_driver();
        }
        Ok(())
    }

    pub(super) fn set_error(&mut self, index: u32, file: Option<File>) -> Result<()> {
        let error = file.map(Doorbell::new).transpose().map_err(Error::ReqHandlerError)?;
        self.queue(index)?.error = error;
        Ok(())
    }

    pub(super) fn set_enabled(&mut self, index: u32, enabled: Enabled) -> Result<()> {
        let queue = self.queue(index)?;
        let is_running = queue.is_running();
        queue.enabled = enabled;
        // A ring that is enabled again may have been filled meanwhile.
        if is_running && enabled == Enabled::Yes {
            self.changes.started.insert(index as u16);
        }
        self.start_if_ready(index)
    }

    pub(super) fn config(&self, offset: u32, size: u32) -> Result<Vec<u8>> {
        let (from, len) = (offset as usize, size as usize);
        if from.saturating_add(len) > CONFIG_MAX {
            return Err(Error::InvalidParam);
        }
        Ok(self.world.config.iter().copied().chain(std::iter::repeat(0)).skip(from).take(len).collect())
    }

    pub(super) fn set_inflight(&mut self, layout: Layout, file: &File) -> Result<()> {
        if self.queues.iter().any(Queue::is_running) {
            return Err(Error::InvalidOperation("a ring runs"));
        }
        let buffer = Buffer::new(file, layout).map_err(Error::ReqHandlerError)?;
        for queue in &mut self.queues {
            queue.meet_buffer(buffer.id(), &mut self.changes);
        }
        self.inflight = Some(buffer);
        Ok(())
    }

    pub(super) fn set_log(&mut self, file: &File, offset: u64, bytes: u64) -> Result<()> {
        self.world.log = Some(DirtyLog::new(file, offset, bytes).map_err(Error::ReqHandlerError)?);
        Ok(())
    }

    pub(super) fn remove_memory(&mut self, place: Place) -> Result<()> {
        self.know_memory()?;
        let end = place.gpa.saturating_add(place.bytes);
        let lost = |gpa: u64, len: u32| gpa < end && place.gpa < gpa.saturating_add(len.into());
        for queue in &mut self.queues {
            queue.detach(&self.world.memory, &lost);
        }
        let is_known = self.world.memory.remove(place);
        self.rebind();
        self.note_memory();
        if is_known { Ok(()) } else { Err(Error::InvalidParam) }
    }

    /// Lets go of what a change of memory takes away, makes the change, and finds the rings again.
    fn change_memory(
        &mut self,
        replace: impl FnOnce(&mut GuestMemory) -> GuestMemory,
        lost: impl Fn(&GuestMemory, u64, u32) -> bool,
    ) -> Result<()> {
        let old = replace(&mut self.world.memory);
        for queue in &mut self.queues {
            queue.detach(&old, &|gpa, len| lost(&self.world.memory, gpa, len));
        }
        self.rebind();
        Ok(())
    }

    fn rebind(&mut self) {
        for queue in &mut self.queues {
            queue.rebind(&self.world.memory);
        }
    }
}
