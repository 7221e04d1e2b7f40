//! Fences that are still to come: of which unit, for which writes, and when they pass by time alone.
//!
//! Invariant: one heap for all units of the router, so that the next one is known without looking at the others, and the
//! fence at its top is open; one that was confirmed before its time is taken off when it comes to the top.
//! It does not know what a fence is made of, nor what becomes of a write behind it.

use crate::ids::UnitId;
use crate::time::Instant;
use crate::volume::WriteKey;
use slab::Slab;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What a dead connection has left behind: see [`super::Router::connection_dead`]. Never used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FenceKey {
    serial: u64,
    at: u32,
}

#[derive(Debug, Default)]
pub(super) struct Fences {
    open: Slab<Open>,
    serial: u64,
    due: BinaryHeap<Reverse<(Instant, FenceKey)>>,
}

#[derive(Debug)]
struct Open {
    serial: u64,
    unit: UnitId,
    writes: Vec<WriteKey>,
}

impl Fences {
    /// Passes at `until`, if it is not confirmed before; [`Instant::FAR_FUTURE`]: only then.
    pub(super) fn open(&mut self, unit: UnitId, until: Instant, writes: Vec<WriteKey>) -> FenceKey {
        self.serial += 1;
        let serial = self.serial;
        let at = self.open.insert(Open { serial, unit, writes }) as u32;
        let key = FenceKey { serial, at };
        self.due.push(Reverse((until, key)));
        key
    }

    /// One that had no time has one now. Gives back the writes behind it; none, if it has passed.
    pub(super) fn set_time(&mut self, key: FenceKey, until: Instant) -> Vec<WriteKey> {
        if !self.is_open(key) {
            return vec![];
        }
        self.due.push(Reverse((until, key)));
        self.open[key.at as usize].writes.clone()
    }

    pub(super) fn unit_of(&self, key: FenceKey) -> Option<UnitId> {
        self.is_open(key).then(|| self.open[key.at as usize].unit)
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.peek().map(|Reverse((until, _))| *until).filter(|until| *until < Instant::FAR_FUTURE)
    }

    pub(super) fn due(&self, now: Instant) -> Option<FenceKey> {
        self.due.peek().filter(|Reverse((until, _))| *until <= now).map(|Reverse((_, key))| *key)
    }

    /// None if it has passed already.
    pub(super) fn close(&mut self, key: FenceKey) -> Option<(UnitId, Vec<WriteKey>)> {
        if !self.is_open(key) {
            return None;
        }
        let closed = self.open.remove(key.at as usize);
        while let Some(Reverse((_, top))) = self.due.peek().copied()
            && !self.is_open(top)
        {
            self.due.pop();
        }
        Some((closed.unit, closed.writes))
    }

    fn is_open(&self, key: FenceKey) -> bool {
        self.open.get(key.at as usize).is_some_and(|open| open.serial == key.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fences, UnitId};
    use crate::time::Instant;

    #[test]
    fn the_next_fence_is_the_earliest_that_is_open() {
        let (mut fences, at) = (Fences::default(), Instant::from_millis);
        let [late, early, never] =
            [at(9), at(5), Instant::FAR_FUTURE].map(|until| fences.open(UnitId(1), until, vec![]));
        assert_eq!(fences.next(), Some(at(5)));
        assert_eq!((fences.due(at(4)), fences.due(at(5))), (None, Some(early)));
        assert!(fences.close(late).is_some() && fences.close(late).is_none(), "once");
        assert!(fences.close(early).is_some());
        assert_eq!((fences.next(), fences.due(at(1000))), (None, None), "the other waits for its event");
        let another = fences.open(UnitId(2), at(3), vec![]);
        assert!(fences.close(early).is_none(), "an old key names nothing, though its place is used again");
        assert_eq!(fences.close(another).map(|(unit, _)| unit), Some(UnitId(2)));
        assert!(fences.close(never).is_some());
    }

    #[test]
    fn what_had_no_time_gets_one_and_passes_once() {
        let (mut fences, at) = (Fences::default(), Instant::from_millis);
        let key = fences.open(UnitId(1), Instant::FAR_FUTURE, vec![]);
        assert_eq!((fences.next(), fences.unit_of(key)), (None, Some(UnitId(1))));
        fences.set_time(key, at(7));
        assert_eq!((fences.next(), fences.due(at(7))), (Some(at(7)), Some(key)));
        assert!(fences.close(key).is_some());
        assert_eq!((fences.next(), fences.due(Instant::FAR_FUTURE), fences.unit_of(key)), (None, None, None));
    }
}
