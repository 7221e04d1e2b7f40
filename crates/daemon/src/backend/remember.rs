//! What is remembered of a unit, to know it again: places read while nothing else is asked of them, a few at a time.
//!
//! Invariant: only while a client of this host has the unit open, since then nobody else writes to it. When that one has
//! gone, all is forgotten: so a unit that was meant to change, by a restore say, is taken again after its VM was shut down.
//! It does not know which places are worth reading (`core::path::remembered`), nor what follows from a difference.

use super::{Own, Phase, Purpose, SAMPLE};
use crate::dataplane::Worker;
use vmpath_core::ids::UnitId;

/// Places that a worker reads at each report, five times a second: beside the windows, and next to nothing.
const READS_MAX: usize = 16;
/// Of these, of one unit.
const READS_OF_UNIT_MAX: usize = 8;

impl Worker {
    /// Reads some of the places that have been written since they were last read.
    pub(crate) fn refresh_samples(&mut self) {
        let mut is_open = vec![false; self.plan.spec.units.len()];
        for disk in self.attached_disks() {
            is_open[self.plan.spec.disk(disk).unit.index()] = true;
        }
        let count = self.its_units.len();
        let of_unit = (READS_MAX / count.max(1)).clamp(1, READS_OF_UNIT_MAX);
        let mut left = READS_MAX;
        for _ in 0..count {
            let unit = self.its_units[self.backs.next_sampled % count];
            if !is_open[unit.index()] {
                self.router.forget_samples(unit);
            } else if left > 0 {
                left -= self.sample_some(unit, of_unit.min(left));
            }
            self.backs.next_sampled = (self.backs.next_sampled + 1) % count;
        }
        // Those that had no turn are first the next time.
        self.backs.next_sampled = (self.backs.next_sampled + READS_MAX) % count.max(1);
    }

    /// Asks for up to that many places; returns for how many.
    fn sample_some(&mut self, unit: UnitId, count: usize) -> usize {
        let is_up = |b: &super::Back| {
            matches!(b.phase, Phase::Active { .. }) && self.backs.links[b.link].unit == unit
        };
        let Some((index, back)) = self.backs.backs.iter().find(|(_, b)| is_up(b)) else { return 0 };
        let Some(export) = back.export else { return 0 };
        self.router.lay_out_samples(unit, export.size, SAMPLE.max(u64::from(export.block.min())));
        for asked in 0..count {
            let Some((ticket, range)) = self.router.sample_due(unit, self.now) else { return asked };
            let length = (range.end - range.start) as usize;
            self.read_own(index, Purpose::Remember(ticket), range.start, length);
        }
        count
    }

    /// A connection is gone, and what was being read over it is not coming: those places are read again soon.
    pub(super) fn forget_reads(&mut self, unit: UnitId, lost: &[Own]) {
        for own in lost {
            if let Purpose::Remember(ticket) = own.purpose {
                self.router.sample_read(unit, ticket, None, self.now);
            }
        }
    }
}
