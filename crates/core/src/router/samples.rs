//! What the router remembers of its units' content: it sees every write go, so it knows what is still there.
//!
//! Invariant: nothing is remembered that a write in flight, a ghost, another host or a cache's loss could have changed. It
//! does not know who reads the samples, nor what becomes of a connection that shows others.

use super::{Extent, Operation, Request, Router};
use crate::ids::UnitId;
use crate::path::identity::Verdict;
use crate::path::remembered::{Change, Ticket};
use crate::spec::WriteCache;
use crate::time::Instant;

impl Router {
    /// Where a unit of `size` bytes is to be sampled, `length` bytes at a place. Does nothing if that is so already.
    pub fn lay_out_samples(&mut self, unit: UnitId, size: u64, length: u64) {
        self.units[unit.index()].samples.lay_out(size, length);
    }

    /// No client of this host has the unit open: somebody else may.
    pub fn forget_samples(&mut self, unit: UnitId) {
        self.units[unit.index()].samples.forget();
    }

    /// A place of the unit that is to be read now over a connection that is up; its answer goes to
    /// [`Router::sample_read`], if it comes.
    pub fn sample_due(&mut self, unit: UnitId, now: Instant) -> Option<(Ticket, Extent)> {
        if !self.may_remember(unit) {
            return None;
        }
        let state = &mut self.units[unit.index()];
        let volume = &state.volume;
        state.samples.due(now, |range| volume.is_settled(range))
    }

    /// What was read there; none if it could not be.
    pub fn sample_read(&mut self, unit: UnitId, ticket: Ticket, content: Option<&[u8]>, now: Instant) {
        self.units[unit.index()].samples.read(ticket, content, now);
    }

    /// The places by which what comes back can be told from another unit.
    #[must_use]
    pub fn remembered_samples(&self, unit: UnitId) -> Vec<Extent> {
        self.units[unit.index()].samples.remembered()
    }

    /// Whether what is read there now is the unit: see [`crate::path::remembered::Samples::judge`].
    pub fn judge_samples<'a>(
        &self,
        unit: UnitId,
        read: impl IntoIterator<Item = (&'a Extent, Option<&'a [u8]>)>,
    ) -> Verdict {
        self.units[unit.index()].samples.judge(read)
    }

    /// Whether other hosts may write to the unit, too or alone.
    #[must_use]
    pub fn has_many_writers(&self, unit: UnitId) -> bool {
        !self.is_owned(unit) || self.is_shared(unit)
    }

    /// What is answered stays, and nobody else writes.
    fn may_remember(&self, unit: UnitId) -> bool {
        // Elsewhere, what is answered may still be lost with the last path.
        let is_kept = self.write_cache(unit) == WriteCache::SurvivesPathLoss;
        // After a boot, ghosts of which nothing is known may come.
        let is_held = self.held_units.iter().any(|(held, _)| *held == unit);
        is_kept && !is_held && !self.has_many_writers(unit)
    }

    pub(super) fn note_change(&mut self, unit: UnitId, what: &Request, change: Change, now: Instant) {
        self.units[unit.index()].samples.changed(&what.extent(), change, now);
    }
}

pub(super) const fn change_by(operation: Operation) -> Change {
    match operation {
        Operation::Trim => Change::Undefined,
        Operation::Write | Operation::WriteZeroes(_) | Operation::Read | Operation::Flush => Change::Written,
    }
}
