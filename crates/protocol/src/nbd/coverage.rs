//! Which bytes of a read have arrived, in chunks of any order.
//!
//! Invariant: `islands` are sorted, disjoint, not adjacent, and all lie beyond `prefix`. A server that sends in order
//! never makes this allocate. Rejected: a bitmap per read (8 KiB for 32 MiB at 512 bytes, and chunks need not align).
//! It does not know: offsets on the disk; everything is relative to the read's buffer.

/// Disjoint pieces that a reply may be in at once; chunks in order are one piece, so this only bounds memory.
pub(crate) const ISLANDS_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Coverage {
    prefix: u32,
    islands: Vec<(u32, u32)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CoverageFault {
    Overlap,
    TooFragmented,
}

impl Coverage {
    /// Marks `start..end` (`start < end`) as arrived.
    pub(crate) fn claim(&mut self, start: u32, end: u32) -> Result<(), CoverageFault> {
        let at = self.islands.partition_point(|island| island.1 <= start);
        let next = self.islands.get(at).copied();
        if start < self.prefix || next.is_some_and(|island| island.0 < end) {
            return Err(CoverageFault::Overlap);
        }
        let joins_next = next.is_some_and(|island| island.0 == end);
        if start == self.prefix {
            self.prefix = if joins_next { self.islands.remove(0).1 } else { end };
            return Ok(());
        }
        let joins_previous = at > 0 && self.islands[at - 1].1 == start;
        match (joins_previous, joins_next) {
            (true, true) => self.islands[at - 1].1 = self.islands.remove(at).1,
            (true, false) => self.islands[at - 1].1 = end,
            (false, true) => self.islands[at].0 = start,
            (false, false) if self.islands.len() >= ISLANDS_MAX => return Err(CoverageFault::TooFragmented),
            (false, false) => self.islands.insert(at, (start, end)),
        }
        Ok(())
    }

    /// Bytes that have arrived.
    pub(crate) fn covered(&self) -> u32 {
        self.islands.iter().fold(self.prefix, |sum, (start, end)| sum + (end - start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_a_bitmap(claims in proptest::collection::vec((0u32..64, 1u32..16), 0..40)) {
            let mut bitmap = [false; 80];
            let mut coverage = Coverage::default();
            for (start, len) in claims {
                let range = start as usize..(start + len) as usize;
                let overlaps = bitmap[range.clone()].iter().any(|arrived| *arrived);
                let claimed = coverage.claim(start, start + len);
                prop_assert_eq!(claimed, if overlaps { Err(CoverageFault::Overlap) } else { Ok(()) });
                if !overlaps {
                    bitmap[range].fill(true);
                }
                prop_assert_eq!(coverage.covered() as usize, bitmap.iter().filter(|arrived| **arrived).count());
                prop_assert!(coverage.islands.windows(2).all(|w| w[0].1 < w[1].0));
                prop_assert!(coverage.islands.first().is_none_or(|first| first.0 > coverage.prefix));
            }
        }
    }

    #[test]
    fn pieces_are_bounded() {
        let mut coverage = Coverage::default();
        let claims: Vec<_> = (0..=ISLANDS_MAX as u32).map(|i| coverage.claim(2 * i + 1, 2 * i + 2)).collect();
        assert!(claims[..ISLANDS_MAX].iter().all(Result::is_ok));
        assert_eq!(claims[ISLANDS_MAX], Err(CoverageFault::TooFragmented));
    }
}
