//! One unit's writes: which ranges are in flight, which are in quarantine, and whether a write may go.
//!
//! Rule: a write whose outcome on a lost path is unknown keeps its range in quarantine until its fences have come. It may
//! itself be resent at once; nothing different that overlaps it is dispatched before. A resend waits for overlapping
//! writes in flight elsewhere, so that the last value is the ghost's; of several lost writes that overlap, one is resent
//! and the rest wait. A write in flight whose client has left is a ghost already: what overlaps it waits for its answer,
//! since the client may come back and write. Rejected: waiting for the fence with everything, which would freeze the
//! guest for the quiesce bound. It does not know paths, VMs, payloads, nor when a fence comes.

mod fence;
mod interval;
mod record;
pub mod verdict;

pub use fence::{Confirmation, Fence};
pub(crate) use record::Note;
pub use record::{Record, Slot};

use crate::mutant::{self, Mutant};
use crate::time::Instant;
use crate::view::HoldReason;
use interval::IntervalSet;
use slab::Slab;
use std::ops::Range;

/// The router's key of a request.
pub type RequestKey = u32;

/// Bytes of a unit.
pub type Extent = Range<u64>;

/// A write that may take effect late, in flight or not. It names nothing any more when the write is over, and never another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteKey {
    at: u32,
    serial: u64,
}

#[derive(Clone, Debug)]
struct Write {
    serial: u64,
    range: Extent,
    slot: Slot,
    state: State,
}

/// ```text
///             lost                  dispatched again             written
/// Flying ────────────▶ Candidate ──────────────────▶ Chosen ───────────────▶ Settled ──cache gone──▶ Due
///    │ answered: over      ▲ ▲ └─refused, lost again──┘  ▲ dispatched again                           │
///                 claimed  │                             └────────────────────────────────────────────┘
///             Unclaimed ───┘                any ghost ──failed to the guest, client gone──▶ Nobody
///                                           any ghost ──fences come──▶ over; Chosen ──▶ Flying
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Flying(Client),
    Ghost(Ghost),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ghost {
    /// After this it can no longer take effect, whatever was confirmed.
    until: Instant,
    /// Connections that it was lost with, and that are not fenced yet.
    fences: u32,
    resend: Resend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resend {
    /// A former process had it in flight: the guest has it open, and its front end may replay it.
    Unclaimed,
    /// The lost request waits to be sent again.
    Candidate,
    /// It is in flight again.
    Chosen(Client),
    /// Its resend succeeded: the ghost would write what is there already.
    Settled,
    /// What its resend wrote is gone with a cache: it goes once more, and those that it was chosen before still wait.
    Due,
    /// It failed to the guest, or its client left: the ghost would write something nobody waits for.
    Nobody,
}

/// Whether anybody waits for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Waiting,
    Gone,
}

/// Whether a write-like request may be dispatched now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clearance {
    Go,
    Wait(HoldReason),
}

/// A range in quarantine, as it is handed to another process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quarantined {
    pub range: Extent,
    pub until: Instant,
    pub standing: Standing,
}

/// Whose a range in quarantine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its guest has the write open: whoever has its requests after us may claim it, and resend it at once.
    Open,
    /// Nobody may.
    Ghost,
}

/// Each write is in those of the sets that its state calls for, under its place in `writes`.
#[derive(Clone, Debug, Default)]
pub struct Volume {
    writes: Slab<Write>,
    serial: u64,
    /// In flight; kept only while somebody may ask, so that writes cost nothing as long as nothing is lost.
    in_flight: IntervalSet,
    asked: Asked,
    /// Lost and to be resent.
    candidates: IntervalSet,
    /// What nothing at all may overlap: other ghosts, and writes in flight without a client.
    blockers: IntervalSet,
    /// Ranges being compared between two paths; writes to them wait.
    sampled: Vec<Extent>,
    sampled_set: IntervalSet,
}

/// Whether `in_flight` is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Asked {
    #[default]
    No,
    Yes,
}

impl Volume {
    /// May a write-like request go on `range`? `write` as it was given at its dispatch or claim, if it was.
    #[must_use]
    pub fn clearance(&self, write: Option<WriteKey>, range: &Extent) -> Clearance {
        let wait = Clearance::Wait(HoldReason::Quarantine);
        if self.sampled_set.overlaps(range) {
            return Clearance::Wait(HoldReason::Identity);
        }
        let own = write.and_then(|key| Some((key.at, self.ghost(key)?.resend)));
        let is_blocked = match own {
            Some((_, Resend::Candidate)) if mutant::active(Mutant::ResendAll) => false,
            // Lost and unanswered as other candidates are: whichever goes first is the one that is resent.
            Some((_, Resend::Candidate)) => self.blockers.overlaps(range),
            Some((at, Resend::Due)) => self.blockers.overlaps_other(range, at),
            Some(_) | None if self.blockers.overlaps(range) => true,
            Some(_) | None => return if self.candidates.overlaps(range) { wait } else { Clearance::Go },
        };
        if is_blocked {
            return wait;
        }
        if self.in_flight.overlaps(range) && !mutant::active(Mutant::ResendOverWrites) {
            return wait;
        }
        Clearance::Go
    }

    /// The write-like request is about to be handed to a connection.
    pub fn dispatched(&mut self, write: Option<WriteKey>, range: Extent, record: &mut Record) -> WriteKey {
        if let Some(key) = write
            && let Some(ghost) = self.ghost(key)
            && matches!(ghost.resend, Resend::Candidate | Resend::Due)
        {
            self.enter(key, State::Ghost(Ghost { resend: Resend::Chosen(Client::Waiting), ..ghost }));
            return key;
        }
        let slot = record.remember(&range, None);
        self.add(range, slot, State::Flying(Client::Waiting))
    }

    /// The client of a write-like request in flight has left; nobody will hear of its end.
    pub fn abandoned(&mut self, key: WriteKey, record: &mut Record) {
        let Some(write) = self.get(key) else { return };
        let gone = match write.state {
            State::Flying(Client::Waiting) => State::Flying(Client::Gone),
            State::Ghost(ghost @ Ghost { resend: Resend::Chosen(Client::Waiting), .. }) => {
                State::Ghost(Ghost { resend: Resend::Chosen(Client::Gone), ..ghost })
            }
            State::Flying(Client::Gone) | State::Ghost(_) => return,
        };
        record.change(write.slot, &write.range, Some(Instant::FAR_FUTURE));
        self.enter(key, gone);
    }

    /// A write-like request of a former process, from its record, or of another host. Its fence is at `until`.
    pub fn restore(&mut self, what: Quarantined, record: &mut Record) -> WriteKey {
        let resend = match what.standing {
            Standing::Open => Resend::Unclaimed,
            Standing::Ghost => Resend::Nobody,
        };
        // Until it is claimed it is noted as a ghost: a guest that was reset meanwhile may open another of this range.
        let slot = record.remember(&what.range, Some(what.until));
        self.add(what.range, slot, State::Ghost(Ghost { until: what.until, fences: 1, resend }))
    }

    /// A write-like request is replayed. If one of exactly its range is unclaimed, it is that one: a resend. Others that
    /// overlap may have waited for that.
    pub fn claim(&mut self, range: &Extent, record: &mut Record) -> Option<WriteKey> {
        // Once for each request that the guest had open when its process died: not on the I/O path.
        let unclaimed = |w: &Write| matches!(w.state, State::Ghost(g) if g.resend == Resend::Unclaimed);
        let (at, write) = self.writes.iter().find(|(_, w)| unclaimed(w) && w.range == *range)?;
        let (key, slot) = (WriteKey { at: at as u32, serial: write.serial }, write.slot);
        self.resend(key, Resend::Candidate);
        record.change(slot, range, None);
        Some(key)
    }

    /// The target has answered it, with success or an error: this attempt is over.
    pub fn answered(&mut self, key: WriteKey, result: Answered, record: &mut Record) {
        let Some(write) = self.get(key) else { return };
        match (write.state, result) {
            (State::Flying(_), _) => self.over(key, record),
            (State::Ghost(_), Answered::Refused) => self.resend(key, Resend::Candidate),
            (State::Ghost(ghost), Answered::Written) => {
                record.change(write.slot, &write.range, Some(ghost.until));
                self.resend(key, Resend::Settled);
            }
        }
    }

    /// Its connection died before it was sent.
    pub fn unsent(&mut self, key: WriteKey, record: &mut Record) {
        self.answered(key, Answered::Refused, record);
    }

    /// Its connection died with it; [`Self::fenced`] is due once, at the latest at `until`. Its slot stays as it is: the
    /// guest still has it open.
    pub fn lost(&mut self, key: WriteKey, until: Instant, record: &mut Record) {
        if mutant::active(Mutant::NoQuarantine) {
            self.unsent(key, record);
            return;
        }
        let Some(write) = self.get(key) else { return };
        let (fences, known) = match write.state {
            State::Flying(_) => (0, until),
            // A resend of the same bytes: one quarantine with the later fence says it all.
            State::Ghost(ghost) => (ghost.fences, ghost.until),
        };
        let ghost = Ghost { until: until.max(known), fences: fences + 1, resend: Resend::Candidate };
        self.enter(key, State::Ghost(ghost));
    }

    /// What its resend has written is due again, as the cache that held it is gone: the same bytes may go once more.
    pub fn again(&mut self, key: WriteKey, record: &mut Record) {
        if let Some(write) = self.get(key)
            && matches!(write.state, State::Ghost(g) if g.resend == Resend::Settled)
        {
            record.change(write.slot, &write.range, None);
            self.resend(key, Resend::Due);
        }
    }

    /// The request ends without having succeeded; what it left in quarantine stays there.
    pub fn given_up(&mut self, key: WriteKey, record: &mut Record) {
        let Some(write) = self.get(key) else { return };
        let State::Ghost(ghost) = write.state else { return };
        if mutant::active(Mutant::FailedWriteForgotten) {
            self.over(key, record);
            return;
        }
        record.change(write.slot, &write.range, Some(ghost.until));
        self.resend(key, Resend::Nobody);
    }

    /// Of a restored write whose fence had no time, it is known now. What its guest has open stays open in the record.
    pub fn fence_begins(&mut self, key: WriteKey, until: Instant, record: &mut Record) {
        let Some(write) = self.get(key) else { return };
        let State::Ghost(ghost) = write.state else { return };
        match ghost.resend {
            Resend::Unclaimed | Resend::Settled | Resend::Nobody => {
                record.change(write.slot, &write.range, Some(until));
            }
            Resend::Candidate | Resend::Chosen(_) | Resend::Due => {}
        }
        self.enter(key, State::Ghost(Ghost { until, ..ghost }));
    }

    /// One of the connections with which it was lost is fenced. True if nothing of it can come any more.
    pub fn fenced(&mut self, key: WriteKey, record: &mut Record) -> bool {
        let Some(write) = self.get(key) else { return true };
        let State::Ghost(ghost) = write.state else { return true };
        if ghost.fences > 1 {
            self.enter(key, State::Ghost(Ghost { fences: ghost.fences - 1, ..ghost }));
            return false;
        }
        match ghost.resend {
            // A resend in flight keeps the slot until its answer.
            Resend::Chosen(client) => self.enter(key, State::Flying(client)),
            Resend::Unclaimed | Resend::Candidate | Resend::Settled | Resend::Due | Resend::Nobody => {
                self.over(key, record);
            }
        }
        true
    }

    /// Whether a ghost of it may still come.
    #[must_use]
    pub fn is_quarantined(&self, key: WriteKey) -> bool {
        self.ghost(key).is_some()
    }

    #[must_use]
    pub fn last_fence(&self) -> Option<Instant> {
        self.quarantines().map(|q| q.until).max()
    }

    /// All ranges in quarantine.
    pub fn quarantines(&self) -> impl Iterator<Item = Quarantined> + '_ {
        let all =
            if self.candidates.is_empty() && self.blockers.is_empty() { None } else { Some(&self.writes) };
        all.into_iter().flatten().filter_map(|(_, write)| match write.state {
            State::Flying(_) => None,
            State::Ghost(ghost) => {
                let standing = match ghost.resend {
                    Resend::Unclaimed | Resend::Candidate | Resend::Chosen(_) | Resend::Due => Standing::Open,
                    Resend::Settled | Resend::Nobody => Standing::Ghost,
                };
                Some(Quarantined { range: write.range.clone(), until: ghost.until, standing })
            }
        })
    }

    /// Holds writes to the ranges while two paths are compared, less those whose content is not settled.
    pub fn begin_sampling(&mut self, ranges: &[Extent]) -> Vec<Extent> {
        self.end_sampling();
        let usable = |r: &&Extent| !self.is_unsettled(r);
        self.sampled = ranges.iter().filter(usable).cloned().collect();
        for (number, range) in (0..).zip(&self.sampled) {
            self.sampled_set.insert(range, number);
        }
        self.keep_or_drop_in_flight();
        self.sampled.clone()
    }

    /// Whether every write to the sampled ranges has been answered.
    #[must_use]
    pub fn sampling_is_quiet(&self) -> bool {
        !self.sampled.iter().any(|range| self.in_flight.overlaps(range))
    }

    /// A write to a sampled range has been lost meanwhile: the comparison would prove nothing.
    #[must_use]
    pub fn sampling_is_spoilt(&self) -> bool {
        self.sampled.iter().any(|range| self.is_unsettled(range))
    }

    pub fn end_sampling(&mut self) {
        self.sampled.clear();
        self.sampled_set.clear();
        self.keep_or_drop_in_flight();
    }

    /// Whether a ghost may change the range. A write in flight without a client is none yet, and counts too.
    #[must_use]
    pub fn is_unsettled(&self, range: &Extent) -> bool {
        self.candidates.overlaps(range) || self.blockers.overlaps(range)
    }

    /// No write to the range is open, nor may a ghost of one come. Looks at every write: not for the I/O path.
    #[must_use]
    pub fn is_settled(&self, range: &Extent) -> bool {
        !self.writes.iter().any(|(_, write)| interval::overlap(&write.range, range))
    }

    fn get(&self, key: WriteKey) -> Option<&Write> {
        self.writes.get(key.at as usize).filter(|write| write.serial == key.serial)
    }

    fn ghost(&self, key: WriteKey) -> Option<Ghost> {
        match self.get(key)?.state {
            State::Ghost(ghost) => Some(ghost),
            State::Flying(_) => None,
        }
    }

    fn resend(&mut self, key: WriteKey, resend: Resend) {
        if let Some(ghost) = self.ghost(key) {
            self.enter(key, State::Ghost(Ghost { resend, ..ghost }));
        }
    }

    fn add(&mut self, range: Extent, slot: Slot, state: State) -> WriteKey {
        self.serial += 1;
        let serial = self.serial;
        let at = self.writes.insert(Write { serial, range, slot, state }) as u32;
        self.file(at);
        self.keep_or_drop_in_flight();
        WriteKey { at, serial }
    }

    /// From one state to another, and from those sets to these.
    fn enter(&mut self, key: WriteKey, state: State) {
        self.unfile(key.at);
        self.writes[key.at as usize].state = state;
        self.file(key.at);
        self.keep_or_drop_in_flight();
    }

    fn over(&mut self, key: WriteKey, record: &mut Record) {
        self.unfile(key.at);
        let write = self.writes.remove(key.at as usize);
        record.forget(write.slot);
        self.keep_or_drop_in_flight();
    }

    fn file(&mut self, at: u32) {
        let Write { range, state, .. } = &self.writes[at as usize];
        let shelves = Shelves::of(*state);
        if shelves.in_flight && self.asked == Asked::Yes {
            self.in_flight.insert(range, at);
        }
        if shelves.candidate {
            self.candidates.insert(range, at);
        }
        if shelves.blocks {
            self.blockers.insert(range, at);
        }
    }

    fn unfile(&mut self, at: u32) {
        let Write { range, state, .. } = &self.writes[at as usize];
        let shelves = Shelves::of(*state);
        if shelves.in_flight && self.asked == Asked::Yes {
            self.in_flight.remove(range, at);
        }
        if shelves.candidate {
            self.candidates.remove(range, at);
        }
        if shelves.blocks {
            self.blockers.remove(range, at);
        }
    }

    /// The set of those in flight is made when the first question can come, and dropped after the last.
    fn keep_or_drop_in_flight(&mut self) {
        let may_ask = !(self.candidates.is_empty() && self.sampled.is_empty());
        match (self.asked, may_ask) {
            (Asked::No, true) => {
                self.asked = Asked::Yes;
                for (at, write) in self.writes.iter().filter(|(_, w)| Shelves::of(w.state).in_flight) {
                    self.in_flight.insert(&write.range, at as u32);
                }
            }
            // Kept while any ghost is left, or each loss and resend would make it anew.
            (Asked::Yes, false) if self.blockers.is_empty() => {
                self.asked = Asked::No;
                self.in_flight.clear();
            }
            (Asked::No, false) | (Asked::Yes, _) => {}
        }
    }
}

/// In which sets a write is.
#[derive(Clone, Copy, Debug)]
struct Shelves {
    in_flight: bool,
    candidate: bool,
    blocks: bool,
}

impl Shelves {
    const fn of(state: State) -> Self {
        let (in_flight, candidate, blocks) = match state {
            State::Flying(Client::Waiting) => (true, false, false),
            State::Flying(Client::Gone) => (true, false, true),
            State::Ghost(ghost) => match ghost.resend {
                Resend::Candidate => (false, true, false),
                Resend::Chosen(_) => (true, false, true),
                Resend::Unclaimed | Resend::Settled | Resend::Due | Resend::Nobody => (false, false, true),
            },
        };
        Self { in_flight, candidate, blocks }
    }
}

/// How a target ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Written,
    Refused,
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
