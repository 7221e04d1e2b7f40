//! The volatile caches of portals: what a portal has acknowledged and not flushed is lost with its cache.
//!
//! The caches are coherent, as those of an array's controllers are: all portals read the newest bytes. A write over another portal
//! takes the sector over, and what the first one held of it is written through then.
//! Invariant: a lost sector returns to what was durable: never to older bytes, never to bytes that were never there.
//! Rejected: a cache that really delays writes, whose other portals would then read stale bytes while nothing is wrong.
//! It does not know: which faults are on, units, files.

use std::collections::HashMap;

/// The least that a request can touch.
pub(super) const SECTOR: usize = 512;

/// A portal's number in its array.
pub(super) type CacheId = usize;

/// What would be lost of one unit: by sector, who holds it and what is durable under it.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    sectors: HashMap<u64, Held>,
}

#[derive(Debug)]
struct Held {
    by: CacheId,
    durable: Box<[u8; SECTOR]>,
}

impl Unflushed {
    /// Notes that `by` is about to overwrite sector `sector`, which now reads `content`.
    pub(super) fn hold(&mut self, by: CacheId, sector: u64, content: &[u8; SECTOR]) {
        let taken_over = self.sectors.get(&sector).is_none_or(|held| held.by != by);
        if taken_over {
            self.sectors.insert(sector, Held { by, durable: Box::new(*content) });
        }
    }

    /// A write to the sectors has gone through all caches.
    pub(super) fn written_through(&mut self, sectors: std::ops::Range<u64>) {
        if !self.sectors.is_empty() {
            sectors.for_each(|sector| _ = self.sectors.remove(&sector));
        }
    }

    /// All that `by` holds is durable.
    pub(super) fn flushed(&mut self, by: CacheId) {
        self.sectors.retain(|_, held| held.by != by);
    }

    /// All that `by` holds is lost: the sectors with what is durable there.
    #[must_use]
    pub(super) fn lose(&mut self, by: CacheId) -> Vec<(u64, Box<[u8; SECTOR]>)> {
        self.sectors
            .extract_if(|_, held| held.by == by)
            .map(|(sector, held)| (sector, held.durable))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn bytes(fill: u8) -> [u8; SECTOR] {
        [fill; SECTOR]
    }

    #[test]
    fn what_is_lost_returns_to_what_was_durable() {
        let mut cache = Unflushed::default();
        cache.hold(0, 7, &bytes(1));
        cache.hold(0, 7, &bytes(2)); // overwritten in the cache: 2 was never durable
        assert_eq!(cache.lose(0), [(7, Box::new(bytes(1)))]);
        assert!(cache.lose(0).is_empty(), "lost once");
    }

    #[test]
    fn a_flush_covers_its_own_cache_only() {
        let mut cache = Unflushed::default();
        cache.hold(0, 1, &bytes(1));
        cache.hold(1, 2, &bytes(2));
        cache.flushed(0);
        assert!(cache.lose(0).is_empty());
        assert_eq!(cache.lose(1).len(), 1);
    }

    #[test]
    fn who_takes_a_sector_over_makes_the_first_one_s_bytes_durable() {
        let mut cache = Unflushed::default();
        cache.hold(0, 1, &bytes(1));
        cache.hold(1, 1, &bytes(9)); // 9 is what 0 wrote
        assert!(cache.lose(0).is_empty());
        assert_eq!(cache.lose(1), [(1, Box::new(bytes(9)))]);
    }

    #[test]
    fn a_write_through_cannot_be_lost() {
        let mut cache = Unflushed::default();
        cache.hold(0, 1, &bytes(1));
        cache.hold(0, 2, &bytes(1));
        cache.written_through(0..2);
        assert_eq!(cache.lose(0).len(), 1);
    }
}
