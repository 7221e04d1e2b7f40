//! The router's side of the record: everything that may change it passes here, so that it is told before what follows.

use super::{Action, Extent, Router};
use crate::ids::UnitId;
use crate::time::Instant;
use crate::volume::{Note, Record, Volume};

impl Router {
    /// Takes over what the record of a former process holds, as [`Action::Remember`] had it written, before anything is
    /// submitted. Its connections are dead by `now`. The range stays in quarantine until `until`, at most for the
    /// target's quiesce bound; without an end, for that bound, unless a replayed request claims it and resends it.
    pub fn restore(&mut self, unit: UnitId, range: Extent, until: Option<Instant>, now: Instant) {
        if until.is_some_and(|until| until <= now) {
            return;
        }
        let fence = now + self.plan.spec.target(self.plan.spec.unit(unit).target).quiesce;
        self.on_volume(unit, |volume, record| volume.restore(range, until, fence, record));
    }

    pub(super) fn on_volume<R>(
        &mut self,
        unit: UnitId,
        change: impl FnOnce(&mut Volume, &mut Record) -> R,
    ) -> R {
        let state = &mut self.units[unit.index()];
        let result = change(&mut state.volume, &mut self.record);
        if !state.is_fenced && state.volume.is_fenced() {
            state.is_fenced = true;
            self.fenced.push(unit);
        }
        self.actions.extend(self.record.take_notes().map(|note| match note {
            Note::Remember { slot, range, until } => Action::Remember { slot, unit, range, until },
            Note::Forget { slot } => Action::Forget { slot },
        }));
        result
    }
}
