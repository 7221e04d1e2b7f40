//! The numbers behind shedding, for those who want to see them before it happens, or after.
//!
//! Invariant: the keep set shown is the one that decides, not a second one. It decides nothing.

use super::Controller;
use super::shed::{Outlook, Verdict};
use crate::ids::{PathId, TargetId, VmId};
use crate::path::PathState;
use crate::plan::Health;
use crate::policy::fit::{Claim, Kept, Room};
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

    /// Whether a VM that comes has room for its reservation, on the paths that it may use itself, beside all whose disks are this
    /// host's or will be in a moment. As far as nobody knows what a target's paths carry there is room.
    ///
    /// # Errors
    /// It has not, in words.
    pub(super) fn has_room(&self, vm: VmId) -> Result<(), String> {
        let trusted = |path: &PathId| matches!(self.network.state(*path), PathState::Active { .. });
        let up: Vec<PathId> = self.spec.path_ids().filter(trusted).collect();
        let is_known = |target: TargetId| {
            let mut its = up.iter().filter(|path| self.spec.path(**path).target == target);
            its.all(|path| self.spec.path(*path).capacity.is_some())
        };
        let claims = |vm: VmId| -> Vec<Claim> {
            let wishes = self.wishes(vm, is_known).into_iter();
            // Whether a path leads to each unit is found out by reading it.
            wishes.filter(|wish| !wish.paths.is_empty()).collect()
        };
        let carries = |path: PathId| {
            let rate = self.spec.path(path).capacity.filter(|_| up.contains(&path));
            rate.map_or(0, |rate| rate.0)
        };
        let mut room = Room::new(self.spec.path_ids().map(carries).collect());
        for other in self.order.iter().filter(|other| **other != vm && self.will_be_served(**other)) {
            room.fill(&claims(*other));
        }
        match (room.admit(&claims(vm)), self.spec.vm(vm).reservation) {
            (Kept::Leaves, Some(rate)) => Err(format!(
                "it has no room for the VM's reservation of {rate} on the paths that the VM may use"
            )),
            (Kept::Stays, _) | (_, None) => Ok(()),
        }
    }

    pub(super) fn carried_by(&self, paths: &[PathId]) -> Option<u64> {
        let mut rates = paths.iter().map(|p| self.spec.path(*p).capacity);
        rates.try_fold(0, |sum: u64, rate| Some(sum.saturating_add(rate?.0)))
    }
}
