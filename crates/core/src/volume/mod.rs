//! One unit's writes: which ranges are in flight, which are in quarantine, and whether a write may go.
//!
//! Rule: a write whose outcome on a lost path is unknown keeps its range in quarantine until the fence. It may itself be
//! resent at once; nothing different that overlaps it is dispatched before. A resend waits for overlapping writes in
//! flight elsewhere, so that the last value is the ghost's; of several lost writes that overlap, one is resent and the
//! rest wait. A write in flight whose client has left is a ghost already: what overlaps it waits for its answer, since
//! the client may come back and write. Rejected: waiting for the fence with everything, which would freeze the guest
//! for the quiesce bound.
//! It does not know paths, VMs or payloads.

mod record;
pub mod verdict;

pub(crate) use record::Note;
pub use record::{Record, Slot};

use crate::time::Instant;
use crate::view::HoldReason;
use std::ops::Range;

/// The router's key of a request.
pub type RequestKey = u32;

/// Bytes of a unit.
pub type Extent = Range<u64>;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Quarantine {
    range: Extent,
    /// The fence: after this, what was lost can no longer take effect.
    until: Instant,
    resend: Resend,
    slot: Slot,
}

/// ```text
/// Unclaimed ──replayed──▶ Candidate ──dispatched again──▶ Chosen ──succeeded──▶ Settled
///                             ▲                             │
///                             └────lost again (new fence)───┘     any ──failed to the guest──▶ Nobody
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Resend {
    /// A former process had it in flight: the guest has it open, and its front end may replay it.
    Unclaimed,
    /// The lost request waits to be sent again.
    Candidate(RequestKey),
    /// It is in flight again.
    Chosen(RequestKey),
    /// Its resend succeeded: the ghost would write what is there already.
    Settled,
    /// It failed to the guest, or its client left: the ghost would write something nobody waits for.
    Nobody,
}

#[derive(Clone, Debug)]
struct InFlight {
    key: RequestKey,
    range: Extent,
    client: Client,
    /// The same as its quarantine's, if this is a resend.
    slot: Slot,
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

#[derive(Clone, Debug, Default)]
pub struct Volume {
    in_flight: Vec<InFlight>,
    /// How many of those in flight have no client any more: nearly always none.
    orphans: usize,
    quarantines: Vec<Quarantine>,
    /// Ranges being compared between two paths; writes to them wait.
    sampled: Vec<Extent>,
}

fn overlap(a: &Extent, b: &Extent) -> bool {
    a.start < b.end && b.start < a.end
}

impl Volume {
    /// May the write-like request `key` on `range` go?
    #[must_use]
    pub fn clearance(&self, key: RequestKey, range: &Extent) -> Clearance {
        if self.sampled.iter().any(|s| overlap(s, range)) {
            return Clearance::Wait(HoldReason::Identity);
        }
        if self.quarantines.is_empty() && self.orphans == 0 {
            return Clearance::Go;
        }
        if self.in_flight.iter().any(|f| f.client == Client::Gone && overlap(&f.range, range)) {
            return Clearance::Wait(HoldReason::Quarantine);
        }
        let mut is_resend = false;
        for q in self.quarantines.iter().filter(|q| overlap(&q.range, range)) {
            match q.resend {
                Resend::Candidate(owner) if owner == key => is_resend = true,
                // Both are lost and unanswered: whichever goes first is the one that is resent.
                Resend::Candidate(_) => {}
                Resend::Unclaimed | Resend::Chosen(_) | Resend::Settled | Resend::Nobody => {
                    return Clearance::Wait(HoldReason::Quarantine);
                }
            }
        }
        let meets_candidates = self.quarantines.iter().any(|q| overlap(&q.range, range));
        if meets_candidates && !is_resend {
            return Clearance::Wait(HoldReason::Quarantine);
        }
        if is_resend && self.in_flight.iter().any(|f| overlap(&f.range, range)) {
            return Clearance::Wait(HoldReason::Quarantine);
        }
        Clearance::Go
    }

    /// The write-like request is about to be handed to a connection.
    pub fn dispatched(&mut self, key: RequestKey, range: Extent, record: &mut Record) {
        let own = self.quarantines.iter_mut().find(|q| q.resend == Resend::Candidate(key));
        let slot = match own {
            Some(q) => {
                q.resend = Resend::Chosen(key);
                q.slot
            }
            None => record.remember(&range, None),
        };
        self.in_flight.push(InFlight { key, range, client: Client::Waiting, slot });
    }

    /// The client of a write-like request in flight has left; nobody will hear of its end.
    pub fn abandoned(&mut self, key: RequestKey, record: &mut Record) {
        if let Some(f) = self.in_flight.iter_mut().find(|f| f.key == key && f.client == Client::Waiting) {
            f.client = Client::Gone;
            self.orphans += 1;
            record.change(f.slot, &f.range, Some(Instant::FAR_FUTURE));
        }
    }

    /// A write-like request of a former process, from its record. With an end it is a ghost; without one it was open,
    /// and whoever replays it may claim it. Either way `fence` has come when nothing of that process can take effect.
    pub fn restore(&mut self, range: Extent, until: Option<Instant>, fence: Instant, record: &mut Record) {
        let (until, resend) = match until {
            None => (fence, Resend::Unclaimed),
            Some(until) => (until.min(fence), Resend::Nobody),
        };
        // Until it is claimed it is noted as a ghost: a guest that was reset meanwhile may open another of this range.
        let slot = record.remember(&range, Some(until));
        self.quarantines.push(Quarantine { range, until, resend, slot });
    }

    /// A write-like request is replayed. If one of exactly its range is unclaimed, it is that one: a resend. True if so;
    /// others that overlap may have waited for that.
    pub fn claim(&mut self, key: RequestKey, range: &Extent, record: &mut Record) -> bool {
        let unclaimed = |q: &&mut Quarantine| q.resend == Resend::Unclaimed && q.range == *range;
        let Some(q) = self.quarantines.iter_mut().find(unclaimed) else { return false };
        q.resend = Resend::Candidate(key);
        record.change(q.slot, range, None);
        true
    }

    /// The target has answered it, with success or an error: this attempt is over. True if another write may have
    /// waited for that.
    pub fn answered(&mut self, key: RequestKey, result: Answered, record: &mut Record) -> bool {
        let Some(ended) = self.remove(key) else { return false };
        let own = self.quarantines.iter_mut().find(|q| q.resend == Resend::Chosen(key));
        match (own, result) {
            (None, _) => record.forget(ended.slot),
            (Some(q), Answered::Refused) => q.resend = Resend::Candidate(key),
            (Some(q), Answered::Written) => {
                q.resend = Resend::Settled;
                record.change(q.slot, &q.range, Some(q.until));
            }
        }
        ended.client == Client::Gone || self.quarantines.iter().any(|q| overlap(&q.range, &ended.range))
    }

    /// Its connection died before it was sent.
    pub fn unsent(&mut self, key: RequestKey, record: &mut Record) {
        self.answered(key, Answered::Refused, record);
    }

    /// Its connection died with it; `until` is the fence. Its slot stays as it is: the guest still has it open.
    pub fn lost(&mut self, key: RequestKey, until: Instant) {
        let Some(InFlight { range, slot, .. }) = self.remove(key) else { return };
        let resend = Resend::Candidate(key);
        // A resend of the same bytes: one quarantine with the later fence says it all.
        if let Some(q) = self.quarantines.iter_mut().find(|q| q.resend == Resend::Chosen(key)) {
            q.until = q.until.max(until);
            q.resend = resend;
            return;
        }
        self.quarantines.push(Quarantine { range, until, resend, slot });
    }

    /// The request ends without having succeeded; what it left in quarantine stays there.
    pub fn given_up(&mut self, key: RequestKey, record: &mut Record) {
        for q in &mut self.quarantines {
            if matches!(q.resend, Resend::Candidate(owner) | Resend::Chosen(owner) if owner == key) {
                q.resend = Resend::Nobody;
                record.change(q.slot, &q.range, Some(q.until));
            }
        }
    }

    /// Drops quarantines whose fence has come. True if any did.
    pub fn expire(&mut self, now: Instant, record: &mut Record) -> bool {
        let before = self.quarantines.len();
        self.quarantines.retain(|q| {
            let stays = q.until > now;
            // A resend in flight keeps the slot until its answer.
            if !stays && !matches!(q.resend, Resend::Chosen(_)) {
                record.forget(q.slot);
            }
            stays
        });
        self.quarantines.len() != before
    }

    /// Whether anything is in quarantine.
    #[must_use]
    pub const fn is_fenced(&self) -> bool {
        !self.quarantines.is_empty()
    }

    #[must_use]
    pub fn next_fence(&self) -> Option<Instant> {
        self.quarantines.iter().map(|q| q.until).min()
    }

    #[must_use]
    pub fn last_fence(&self) -> Option<Instant> {
        self.quarantines.iter().map(|q| q.until).max()
    }

    /// Ranges in quarantine, and their bytes.
    #[must_use]
    pub fn quarantined(&self) -> (u32, u64) {
        let bytes = self.quarantines.iter().map(|q| q.range.end - q.range.start).sum();
        (u32::try_from(self.quarantines.len()).unwrap_or(u32::MAX), bytes)
    }

    /// Holds writes to the ranges while two paths are compared, less those whose content is not settled.
    pub fn begin_sampling(&mut self, ranges: &[Extent]) -> Vec<Extent> {
        let usable = |r: &&Extent| !self.quarantines.iter().any(|q| overlap(&q.range, r));
        self.sampled = ranges.iter().filter(usable).cloned().collect();
        self.sampled.clone()
    }

    /// Whether every write to the sampled ranges has been answered.
    #[must_use]
    pub fn sampling_is_quiet(&self) -> bool {
        !self.in_flight.iter().any(|f| self.sampled.iter().any(|s| overlap(s, &f.range)))
    }

    /// A write to a sampled range has been lost meanwhile: the comparison would prove nothing.
    #[must_use]
    pub fn sampling_is_spoilt(&self) -> bool {
        self.quarantines.iter().any(|q| self.sampled.iter().any(|s| overlap(s, &q.range)))
    }

    pub fn end_sampling(&mut self) {
        self.sampled.clear();
    }

    fn remove(&mut self, key: RequestKey) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|f| f.key == key)?;
        let ended = self.in_flight.swap_remove(at);
        self.orphans -= usize::from(ended.client == Client::Gone);
        Some(ended)
    }
}

/// How a target ended an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answered {
    Written,
    Refused,
}

#[cfg(test)]
mod tests;
