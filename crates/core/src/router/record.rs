//! The router's side of the record: everything that may change it passes here, so that it is told before what follows.

use super::{Action, Extent, FenceKey, Router};
use crate::ids::UnitId;
use crate::mutant::{self, Mutant};
use crate::time::Instant;
use crate::volume::{Note, Quarantined, Record, Standing, Volume};

impl Router {
    /// Takes over what the record of a former process holds, as [`Action::Remember`] had it written, before anything is
    /// submitted. Its connections are dead by `now`. The range stays in quarantine until `until`, at most for the
    /// target's quiesce bound; without an end, for that bound, unless a replayed request claims it and resends it.
    pub fn restore(&mut self, unit: UnitId, range: Extent, until: Option<Instant>, now: Instant) {
        let fence = now + self.plan.spec.target(self.plan.spec.unit(unit).target).quiesce;
        let (until, standing) = match until {
            None => (fence, Standing::Open),
            Some(until) => (until.min(fence), Standing::Ghost),
        };
        if until > now && !mutant::active(Mutant::RecordForgotten) {
            self.quarantine(unit, Quarantined { range, until, standing });
        }
    }

    /// As [`Self::restore`], where what carried the write may not be dead yet: the kernel's driver goes on with what a dead process
    /// had asked of a block device. The bound begins only at [`Self::fence_begins`] of what is given back; none is, where a bound had
    /// begun before and stays as it is.
    pub fn restore_undead(
        &mut self,
        unit: UnitId,
        range: Extent,
        until: Option<Instant>,
        now: Instant,
    ) -> Option<FenceKey> {
        let standing = match until {
            None => Standing::Open,
            Some(Instant::FAR_FUTURE) => Standing::Ghost,
            Some(_) => {
                self.restore(unit, range, until, now);
                return None;
            }
        };
        if mutant::active(Mutant::RecordForgotten) {
            return None;
        }
        Some(self.quarantine(unit, Quarantined { range, until: Instant::FAR_FUTURE, standing }))
    }

    /// What carried it is dead now: the target's quiesce bound runs. Does nothing if it was fenced before.
    pub fn fence_begins(&mut self, fence: FenceKey, now: Instant) {
        let Some(unit) = self.fences.unit_of(fence) else { return };
        let until = now + self.plan.spec.target(self.plan.spec.unit(unit).target).quiesce;
        for write in self.fences.set_time(fence, until) {
            self.on_volume(unit, |volume, record| volume.fence_begins(write, until, record));
        }
    }

    /// Whether a ghost of the unit may come of which nothing says until when, or nothing goes to it at all yet: what is known of it
    /// cannot be told to another host.
    #[must_use]
    pub fn has_endless_quarantine(&self, unit: UnitId) -> bool {
        let is_held = self.held_units.iter().any(|(held, _)| *held == unit);
        is_held || self.units[unit.index()].volume.last_fence() == Some(Instant::FAR_FUTURE)
    }

    pub(super) fn on_volume<R>(
        &mut self,
        unit: UnitId,
        change: impl FnOnce(&mut Volume, &mut Record) -> R,
    ) -> R {
        let result = change(&mut self.units[unit.index()].volume, &mut self.record);
        self.actions.extend(self.record.take_notes().map(|note| match note {
            Note::Remember { slot, range, until } => Action::Remember { slot, unit, range, until },
            Note::Forget { slot } => Action::Forget { slot },
        }));
        result
    }
}
