//! The load as a machine without I/O: it says what to do next, and is told how it ended.
//!
//! ```text
//! Load <-> Paused -> Quiet -(nothing open)-> ReadBack -(everything read)-> Paused
//! ```
//! Invariant: every request that is issued comes back by `complete`, or is counted as lost; open requests never exceed
//! the slots. Both drivers (async over NBD, threads over a block device) run this same code.
//! Rejected: a driver that also verifies. It does not know: sockets, files, the wall clock; `now` counts from its birth.

use super::block::Identity;
use super::buffer::Buffer;
use super::mix::{Dice, Mix, Pacer};
use super::model::{Extent, Model, ReadTicket, WriteEnd, WriteKind};
use super::stats::Stats;
use std::sync::Arc;
use std::time::Duration;

/// Attempts to find a place that no open write covers, before a read is done instead.
const PLACES_TRIED: u32 = 8;
/// Blocks of a request while reading back.
const READ_BACK_BLOCKS: u32 = 32;

/// What a request is to do.
#[derive(Debug)]
pub enum Action {
    /// Into the request's buffer.
    Read(ReadTicket),
    /// From the request's buffer.
    Write(Extent),
    Zero(Extent),
    Flush,
}

/// One request, from issue to completion.
#[derive(Debug)]
pub struct Request {
    pub action: Action,
    /// As long as the extent for reads and writes. Shared only while a driver is sending it.
    pub buffer: Arc<Buffer>,
    started: Duration,
}

impl Request {
    /// Bytes of the disk that it concerns: offset and length; zeroes for a flush.
    #[must_use]
    pub fn range(&self) -> (u64, usize) {
        match &self.action {
            Action::Read(ticket) => (ticket.extent().offset(), ticket.extent().len()),
            Action::Write(extent) | Action::Zero(extent) => (extent.offset(), extent.len()),
            Action::Flush => (0, 0),
        }
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// It failed, and nobody repeats it.
    Failed,
}

/// What a driver is to do next.
#[derive(Debug)]
pub enum Step {
    Issue(Request),
    /// Nothing before this time.
    WaitUntil(Duration),
    /// Nothing before something completes or a command comes.
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Paused,
    Load,
    /// Waits until nothing is open, to read back.
    Quiet,
    /// Up to this block everything is read or being read.
    ReadBack {
        next: u64,
    },
}

/// The result of a full read-back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadBack {
    pub blocks: u64,
    pub mismatches: u64,
}

/// One disk's load.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    mix: Mix,
    dice: Dice,
    pacer: Pacer,
    mode: Mode,
    open: usize,
    writes_since_flush: u32,
    /// Counters when the read-back began.
    before: ReadBack,
    read_back: Option<ReadBack>,
    spare: Vec<Arc<Buffer>>,
    pub stats: Stats,
}

impl Engine {
    /// A paused load on a disk of `bytes` bytes.
    ///
    /// # Errors
    /// If the disk is smaller than the largest request.
    pub fn new(who: Identity, bytes: u64, mix: Mix) -> Result<Self, String> {
        let blocks = bytes / super::block::BLOCK as u64;
        let least = u64::from(mix.largest().max(READ_BACK_BLOCKS));
        if blocks < least {
            return Err(format!(
                "a disk of {blocks} blocks is too small: the load needs at least {least} (4 KiB each)"
            ));
        }
        Ok(Self {
            model: Model::new(who, blocks),
            dice: Dice::new(who.run ^ u64::from(who.disk)),
            mix,
            pacer: Pacer::default(),
            mode: Mode::Paused,
            open: 0,
            writes_since_flush: 0,
            before: ReadBack { blocks: 0, mismatches: 0 },
            read_back: None,
            spare: Vec::new(),
            stats: Stats::default(),
        })
    }

    pub fn go(&mut self) {
        self.mode = Mode::Load;
    }

    pub fn pause(&mut self) {
        self.mode = Mode::Paused;
    }

    /// Offered bytes per second; none for as fast as it goes.
    pub fn set_rate(&mut self, rate: Option<u64>) {
        self.mix.rate = rate;
    }

    /// Reads back and verifies everything that was ever written; the result comes by [`Engine::take_read_back`].
    pub fn read_back(&mut self) {
        self.mode = Mode::Quiet;
        self.read_back = None;
    }

    /// The result of the read-back, once, when it is complete.
    pub fn take_read_back(&mut self) -> Option<ReadBack> {
        self.read_back.take()
    }

    /// Requests issued and not completed.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open
    }

    #[must_use]
    pub fn state(&self) -> &'static str {
        match self.mode {
            Mode::Paused => "paused",
            Mode::Load => "load",
            Mode::Quiet | Mode::ReadBack { .. } => "readback",
        }
    }

    /// The guest was stopped for that long and goes on now.
    pub fn resumed(&mut self, stopped: Duration) {
        self.stats.forgive(stopped);
    }

    /// Says what to do; call it until it says wait.
    pub fn step(&mut self, now: Duration) -> Step {
        if self.open >= self.mix.slots {
            return Step::Wait;
        }
        match self.mode {
            Mode::Paused => Step::Wait,
            Mode::Quiet if self.open > 0 => Step::Wait,
            Mode::Quiet => {
                self.before = self.verified();
                self.step_read_back(0, now)
            }
            Mode::ReadBack { next } => self.step_read_back(next, now),
            Mode::Load => {
                if self.mix.rate.is_some() && self.pacer.due() > now {
                    return Step::WaitUntil(self.pacer.due());
                }
                Step::Issue(self.choose(now))
            }
        }
    }

    /// Takes a request back. The buffer of a read that is done holds what was read.
    pub fn complete(&mut self, request: Request, outcome: Outcome, now: Duration) {
        self.open -= 1;
        let stats = &mut self.stats;
        stats.completed(now, self.open);
        stats.latency.add(now.saturating_sub(request.started));
        stats.requests += 1;
        if outcome == Outcome::Failed {
            stats.errors += 1;
        }
        let end = if outcome == Outcome::Done { WriteEnd::Done } else { WriteEnd::InDoubt };
        let moved = request.range().1 as u64 * u64::from(outcome == Outcome::Done);
        match &request.action {
            Action::Flush => stats.flushes += 1,
            Action::Zero(extent) => {
                stats.writes += 1;
                self.model.end_write(*extent, end);
            }
            Action::Write(extent) => {
                stats.writes += 1;
                stats.bytes += moved;
                self.model.end_write(*extent, end);
            }
            Action::Read(ticket) => {
                stats.reads += 1;
                stats.bytes += moved;
                if outcome == Outcome::Done {
                    let mut faults = Vec::new();
                    self.model.end_read(ticket, &request.buffer, &mut faults);
                    stats.blocks_verified += u64::from(ticket.extent().count);
                    stats.add_mismatches(faults);
                }
            }
        }
        self.spare.push(request.buffer);
        self.finish_read_back();
    }

    fn choose(&mut self, now: Duration) -> Request {
        if self.mix.flush_every > 0 && self.writes_since_flush >= self.mix.flush_every {
            self.writes_since_flush = 0;
            return self.issue(Action::Flush, 0, now);
        }
        if !self.dice.percent(self.mix.read_percent) {
            for _ in 0..PLACES_TRIED {
                let extent = self.dice.extent(&self.mix.sizes, self.model.blocks());
                if !self.model.is_busy(extent) {
                    return self.write(extent, now);
                }
            }
        }
        let extent = self.dice.extent(&self.mix.sizes, self.model.blocks());
        self.book(extent.len(), now);
        self.read(extent, now)
    }

    fn write(&mut self, extent: Extent, now: Duration) -> Request {
        self.writes_since_flush += 1;
        if self.dice.percent(self.mix.zero_percent) {
            self.model.begin_write(extent, WriteKind::Zeroes, &mut []);
            return self.issue(Action::Zero(extent), 0, now);
        }
        self.book(extent.len(), now);
        let mut request = self.issue(Action::Write(extent), extent.len(), now);
        let fresh = Arc::get_mut(&mut request.buffer).expect("a spare buffer is nobody else's");
        self.model.begin_write(extent, WriteKind::Data, fresh);
        request
    }

    fn read(&mut self, extent: Extent, now: Duration) -> Request {
        let ticket = self.model.begin_read(extent);
        self.issue(Action::Read(ticket), extent.len(), now)
    }

    fn issue(&mut self, action: Action, bytes: usize, now: Duration) -> Request {
        self.stats.first_sent(now);
        self.open += 1;
        Request { action, buffer: self.buffer(bytes), started: now }
    }

    fn book(&mut self, bytes: usize, now: Duration) {
        if let Some(rate) = self.mix.rate {
            self.pacer.book(bytes, rate, now);
        }
    }

    /// A spare buffer that nobody shares any more, or a new one.
    fn buffer(&mut self, bytes: usize) -> Arc<Buffer> {
        let capacity = self.mix.largest().max(READ_BACK_BLOCKS) as usize * super::block::BLOCK;
        let free = self.spare.iter_mut().position(|spare| Arc::get_mut(spare).is_some());
        let mut buffer =
            free.map_or_else(|| Arc::new(Buffer::new(capacity)), |at| self.spare.swap_remove(at));
        if let Some(fresh) = Arc::get_mut(&mut buffer) {
            fresh.set_len(bytes);
        }
        buffer
    }

    fn step_read_back(&mut self, mut next: u64, now: Duration) -> Step {
        while next < self.model.blocks() {
            let count = (self.model.blocks() - next).min(u64::from(READ_BACK_BLOCKS)) as u32;
            let extent = Extent { first: next, count };
            next += u64::from(count);
            self.mode = Mode::ReadBack { next };
            if self.model.is_written(extent) {
                return Step::Issue(self.read(extent, now));
            }
        }
        self.finish_read_back();
        Step::Wait
    }

    fn finish_read_back(&mut self) {
        if let Mode::ReadBack { next } = self.mode
            && next >= self.model.blocks()
            && self.open == 0
        {
            self.mode = Mode::Paused;
            let after = self.verified();
            self.read_back = Some(ReadBack {
                blocks: after.blocks - self.before.blocks,
                mismatches: after.mismatches - self.before.mismatches,
            });
        }
    }

    fn verified(&self) -> ReadBack {
        ReadBack { blocks: self.stats.blocks_verified, mismatches: self.stats.mismatches }
    }
}

#[cfg(test)]
mod tests;
