//! What a unit held where it has not been written since, so that it is known again when its last path comes back.
//!
//! Invariant: what is remembered of a place was read after every write to it had ended and before any other was dispatched.
//! While this host is the unit's only writer, a difference proves another unit, or one that has lost writes. Rejected:
//! remembering the bytes, which costs a host of a thousand disks a hundred times the memory; places that are fixed alone,
//! since disks cloned from one image differ only where their guests write: some places follow the writes. It does not know
//! how places are read, nor whether a client has the unit open.

use super::identity::Verdict;
use crate::mutant::{self, Mutant};
use crate::time::{Duration, Instant};
use crate::volume::Extent;

/// Places spread over the unit. Many, so that a guest that writes everywhere leaves some.
const SPREAD: u64 = 32;
/// Places where the guest has written lately.
const FOLLOWING: usize = 8;
/// How often one of those moves.
const FOLLOW_EVERY: Duration = Duration::from_secs(10);
/// A place is read when it has not been written for that long: one that is written all the time is not worth reading.
const QUIET: Duration = Duration::from_millis(500);
/// A read that has not been answered for that long is asked for again.
const ASK_AGAIN: Duration = Duration::from_secs(30);
/// Places that are read when a path comes back: after a repair all units of a target are read at once.
const COMPARED_MAX: usize = 16;

/// How a range changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Written,
    /// What is read there may change by itself: it was discarded, or a write to it has failed.
    Undefined,
}

/// Names one read of one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Held {
    /// Not read since it was written.
    Nothing,
    Asked {
        ticket: Ticket,
        at: Instant,
    },
    Content {
        digest: u128,
    },
    Undefined,
}

#[derive(Clone, Debug)]
struct Place {
    range: Extent,
    written_at: Instant,
    held: Held,
}

/// The samples of one unit. Empty until [`Samples::lay_out`].
#[derive(Clone, Debug, Default)]
pub struct Samples {
    size: u64,
    length: u64,
    /// In order, apart from each other.
    spread: Vec<Place>,
    following: Vec<Place>,
    /// Which of those moves next, and when the last one did.
    oldest: usize,
    followed_at: Instant,
    tickets: u64,
    /// Where the next search for a place to read begins.
    next: usize,
}

impl Samples {
    /// Places for a unit of `size` bytes, each of `length` bytes and aligned to that. Keeps those that are there.
    pub fn lay_out(&mut self, size: u64, length: u64) {
        if length == 0 || (self.size, self.length) == (size, length) {
            return;
        }
        let place = |range| Place { range, written_at: Instant::ZERO, held: Held::Nothing };
        let fitting = size / length;
        let at = |i| if fitting <= SPREAD { i } else { (fitting - 1) * i / (SPREAD - 1) };
        let spread = (0..fitting.min(SPREAD)).map(|i| place(at(i) * length..(at(i) + 1) * length)).collect();
        let following = Vec::with_capacity(FOLLOWING);
        *self = Self { size, length, spread, following, tickets: self.tickets, ..Self::default() };
    }

    /// Somebody else may write to the unit from now on.
    pub fn forget(&mut self) {
        for place in self.places_mut() {
            place.held = Held::Nothing;
        }
    }

    /// A write-like request is handed to a connection, or has failed.
    pub fn changed(&mut self, range: &Extent, change: Change, now: Instant) {
        let from = self.spread.partition_point(|p| p.range.end <= range.start);
        let spread = self.spread[from..].iter_mut().take_while(|p| p.range.start < range.end);
        let following = self.following.iter_mut();
        for place in
            spread.chain(following.filter(|p| p.range.start < range.end && range.start < p.range.end))
        {
            place.written_at = now;
            let covers = range.start <= place.range.start && place.range.end <= range.end;
            place.held = match (change, place.held) {
                (Change::Undefined, _) => Held::Undefined,
                (Change::Written, Held::Undefined) if !covers => Held::Undefined,
                (Change::Written, _) => Held::Nothing,
            };
        }
        if change == Change::Written && now >= self.followed_at + FOLLOW_EVERY {
            self.follow(range, now);
        }
    }

    /// The place that has followed the writes the longest moves to this one.
    fn follow(&mut self, range: &Extent, now: Instant) {
        let Some(at) = range.start.checked_div(self.length).map(|n| n * self.length) else { return };
        // Whatever comes of it: looking costs, too.
        self.followed_at = now;
        let is_taken = self.places().any(|p| p.range.start < at + self.length && at < p.range.end);
        if is_taken || at + self.length > self.size {
            return;
        }
        let place = Place { range: at..at + self.length, written_at: now, held: Held::Nothing };
        if self.following.len() < FOLLOWING {
            self.following.push(place);
        } else {
            self.following[self.oldest] = place;
            self.oldest = (self.oldest + 1) % FOLLOWING;
        }
    }

    /// A place to be read now, over a connection that is up. `is_settled`: no write to a range is open, nor may a ghost of
    /// one come.
    pub fn due(&mut self, now: Instant, is_settled: impl Fn(&Extent) -> bool) -> Option<(Ticket, Extent)> {
        let count = self.spread.len() + self.following.len();
        let is_due = |place: &Place| match place.held {
            Held::Nothing => now >= place.written_at + QUIET,
            Held::Asked { at, .. } => now >= at + ASK_AGAIN,
            Held::Content { .. } | Held::Undefined => false,
        };
        let found = (0..count).map(|i| (self.next + i) % count).find(|at| {
            let place = self.place(*at);
            is_due(place) && is_settled(&place.range)
        })?;
        self.next = (found + 1) % count;
        self.tickets += 1;
        let ticket = Ticket(self.tickets);
        let place = match found.checked_sub(self.spread.len()) {
            None => &mut self.spread[found],
            Some(at) => &mut self.following[at],
        };
        place.held = Held::Asked { ticket, at: now };
        Some((ticket, place.range.clone()))
    }

    /// What was read; none if it could not be. A read that a write has overtaken counts for nothing.
    pub fn read(&mut self, ticket: Ticket, content: Option<&[u8]>, now: Instant) {
        let asked = |p: &&mut Place| matches!(p.held, Held::Asked { ticket: of, .. } if of == ticket);
        let Some(place) = self.places_mut().find(asked) else { return };
        place.held = match content {
            Some(content) => Held::Content { digest: digest(content) },
            None => {
                place.written_at = now;
                Held::Nothing
            }
        };
    }

    /// The places by which the unit can be known again: those where the guest has written lately first, and of the others
    /// some from everywhere.
    #[must_use]
    pub fn remembered(&self) -> Vec<Extent> {
        fn known(places: &[Place]) -> impl Iterator<Item = &Place> {
            places.iter().filter(|p| matches!(p.held, Held::Content { .. }))
        }
        let mut ranges: Vec<Extent> = known(&self.following).map(|p| p.range.clone()).collect();
        let (room, of) = (COMPARED_MAX - ranges.len(), known(&self.spread).count());
        let is_taken = |i: usize| of <= room || (i + 1) * room / of > i * room / of;
        ranges.extend(
            known(&self.spread).enumerate().filter(|(i, _)| is_taken(*i)).map(|(_, p)| p.range.clone()),
        );
        ranges
    }

    /// At how many places it is known what they hold.
    #[must_use]
    pub fn known(&self) -> usize {
        self.places().filter(|p| matches!(p.held, Held::Content { .. })).count()
    }

    /// Whether what is read now is what was there. `read`: places from [`Samples::remembered`] with their content, none
    /// where it could not be read. [`Verdict::Blank`] if there is nothing to tell by: nothing is remembered, or nothing but
    /// zeroes.
    pub fn judge<'a>(&self, read: impl IntoIterator<Item = (&'a Extent, Option<&'a [u8]>)>) -> Verdict {
        if mutant::active(Mutant::IdentityUnchecked) {
            return Verdict::Same;
        }
        if mutant::active(Mutant::SamplesForgotten) {
            return Verdict::Blank;
        }
        let (mut compared, mut has_content, mut fails) = (false, false, false);
        for (at, (range, content)) in read.into_iter().enumerate() {
            let known = self.places().find(|p| p.range == *range).map(|p| p.held);
            match (known, content) {
                (Some(Held::Content { digest: of }), Some(content)) if of != digest(content) => {
                    return Verdict::Differs { at };
                }
                (Some(Held::Content { .. }), Some(content)) => {
                    compared = true;
                    has_content |= content.iter().any(|byte| *byte != 0);
                }
                (Some(Held::Content { .. }), None) => fails = true,
                (Some(Held::Nothing | Held::Asked { .. } | Held::Undefined) | None, _) => {}
            }
        }
        match (compared, has_content, fails) {
            (true, true, _) => Verdict::Same,
            (false, _, true) => Verdict::Unreadable,
            (true, false, _) | (false, _, false) => Verdict::Blank,
        }
    }

    fn place(&self, at: usize) -> &Place {
        match at.checked_sub(self.spread.len()) {
            None => &self.spread[at],
            Some(at) => &self.following[at],
        }
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.spread.iter().chain(&self.following)
    }

    fn places_mut(&mut self) -> impl Iterator<Item = &mut Place> {
        self.spread.iter_mut().chain(&mut self.following)
    }
}

/// FNV-1a, 128 bits (draft-eastlake-fnv). Nobody gains by a collision: whose disk it is can only be deceived himself.
fn digest(bytes: &[u8]) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = (1 << 88) + 0x13b;
    bytes.iter().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}

#[cfg(test)]
mod tests;
