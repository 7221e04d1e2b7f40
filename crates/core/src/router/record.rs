//! The router's side of the record: everything that may change it passes here, so that it is told before what follows.

use super::{Action, Extent, Router};
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
