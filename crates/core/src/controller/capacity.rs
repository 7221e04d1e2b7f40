//! The numbers behind shedding, for those who want to see them before it happens, or after.
//!
//! Invariant: the keep set shown is the one that decides, not a second one. It decides nothing.

use super::Controller;
use super::shed::{Outlook, Verdict};
use crate::ids::{PathId, TargetId, VmId};
use crate::path::PathState;
use crate::plan::Health;
use crate::policy::fit::Kept;
use crate::time::Instant;
use crate::view::{CapacityStanding, CapacityView, PartyView};

impl Controller {
    /// Of each target, what it carries and who fits, by `TargetId`.
    #[must_use]
    pub fn capacity(&self, now: Instant) -> Vec<CapacityView> {
        self.capacity_view(&Outlook::at(now.max(self.now)))
    }

    pub(super) fn capacity_view(&self, look: &Outlook) -> Vec<CapacityView> {
        let verdict = look.verdict.get_or_init(|| self.verdict());
        let parties = self.parties(verdict);
        (0..self.spec.targets.len())
            .map(|t| self.target_capacity(TargetId::at(t), verdict, &parties))
            .collect()
    }

    /// Every VM that runs and has a reservation, highest priority first.
    fn parties(&self, verdict: &Verdict) -> Vec<PartyView> {
        let mut room = verdict.room.clone();
        let party = |vm: VmId| {
            let reserved = self.spec.vm(vm).reservation?.0;
            let kept = verdict.of(vm);
            let carried = reserved.saturating_sub(self.uncarried(vm, &verdict.short));
            let gets = match kept {
                Kept::Stays => carried,
                Kept::Leaves => {
                    let claims = self.claims(vm, &verdict.short);
                    let asked: u64 = claims.iter().map(|claim| claim.bytes).sum();
                    carried.saturating_sub(asked) + room.fill(&claims)
                }
            };
            Some(PartyView { vm, reserved, kept, gets })
        };
        self.order.iter().copied().filter(|vm| self.runs(*vm)).filter_map(party).collect()
    }

    fn target_capacity(&self, target: TargetId, verdict: &Verdict, parties: &[PartyView]) -> CapacityView {
        let paths: Vec<_> = self.spec.path_ids().filter(|p| self.spec.path(*p).target == target).collect();
        let up: Vec<_> =
            paths.iter().copied().filter(|p| self.network.state(*p).health() == Health::Up).collect();
        let mut parties: Vec<_> =
            parties.iter().filter(|p| self.meets_target(p.vm, target)).copied().collect();
        let left = self.carried_by(&up);
        let connecting = |p: &PathId| matches!(self.network.state(*p), PathState::Connecting { .. });
        let standing = if verdict.short.iter().any(|short| short.target == target) {
            CapacityStanding::Short
        } else if paths.iter().any(connecting) {
            CapacityStanding::Connecting
        } else if up.is_empty() {
            CapacityStanding::CutOff
        } else if left.is_none() {
            CapacityStanding::Unknown
        } else {
            CapacityStanding::Whole
        };
        if standing == CapacityStanding::CutOff {
            parties.iter_mut().for_each(|party| party.gets = 0);
        }
        CapacityView {
            target,
            standing,
            configured: self.carried_by(&paths),
            left,
            up,
            reserved: parties.iter().map(|party| party.reserved).sum(),
            parties,
        }
    }

    pub(super) fn carried_by(&self, paths: &[PathId]) -> Option<u64> {
        let mut rates = paths.iter().map(|p| self.spec.path(*p).capacity);
        rates.try_fold(0, |sum: u64, rate| Some(sum.saturating_add(rate?.0)))
    }
}
