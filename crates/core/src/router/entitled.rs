//! What each VM would get now: for displays.

use super::Router;
use super::lanes::Queue;
use crate::ids::{GroupId, TargetId, VmId};
use crate::schedule::{Party, entitlements};
use crate::spec::{ByteRate, GroupSpec, VmSpec};
use crate::view::VmLoadView;

/// One competitor on a target: a VM alone, or a group with members there.
struct Competitor {
    party: Party,
    group: Option<GroupId>,
    vms: Vec<VmId>,
    members_reserve: u64,
    is_active: bool,
}

impl Router {
    /// Of every target, what this worker has been seen to carry to it is dealt out to those that are at work; a VM with disks on several may have
    /// the sum. Who is idle is told what it would get about: a little more than if the others made room.
    pub(super) fn add_entitlements(&self, rows: &mut [VmLoadView]) {
        for target in (0..self.plan.spec.targets.len()).map(TargetId::at) {
            let Some(capacity) = self.carries(target) else { continue };
            let outer = self.competitors(target);
            for (at, share) in dealt(capacity, &outer).into_iter().enumerate() {
                let competitor = &outer[at];
                if competitor.group.is_none() {
                    add(rows, competitor.vms[0], share);
                    continue;
                }
                let inner: Vec<_> = competitor.vms.iter().map(|vm| self.alone(*vm)).collect();
                for (vm, share) in competitor.vms.iter().zip(dealt(share, &inner)) {
                    add(rows, *vm, share);
                }
            }
        }
        for (vm, row) in rows.iter_mut().enumerate() {
            let limit = self.plan.spec.vms[vm].limit.map_or(u64::MAX, |l| l.0);
            row.entitled = row.entitled.map(|rate| rate.min(limit));
        }
    }

    /// Bytes per second; none if nothing has shown it yet.
    fn carries(&self, target: TargetId) -> Option<u64> {
        let spec = &self.plan.spec;
        let its = spec.path_ids().filter(|path| spec.path(*path).target == target);
        let connected =
            its.filter(|path| self.states[path.index()].rank.is_some() && self.classes.is_reachable(*path));
        let rate = |path: crate::ids::PathId| {
            let configured = spec.path(path).capacity.map(|ByteRate(rate)| rate);
            self.paths[path.index()].capacity.byte_rate().or(configured)
        };
        connected.map(rate).try_fold(0_u64, |sum, rate| Some(sum + rate?)).filter(|sum| *sum > 0)
    }

    fn competitors(&self, target: TargetId) -> Vec<Competitor> {
        let spec = &self.plan.spec;
        let mut all: Vec<Competitor> = Vec::new();
        for vm in spec.vm_ids() {
            let is_there = |queue: &Queue| spec.unit(queue.unit).target == target;
            if !self.is_mine[vm.index()] || !self.lanes[vm.index()].queues.iter().any(is_there) {
                continue;
            }
            let one = self.alone(vm);
            let Some(group) = spec.vm(vm).group else {
                all.push(one);
                continue;
            };
            match all.iter_mut().find(|other| other.group == Some(group)) {
                Some(known) => {
                    known.vms.push(vm);
                    known.is_active |= one.is_active;
                    known.party.priority = known.party.priority.max(one.party.priority);
                    known.members_reserve += one.party.reservation;
                    known.party.reservation = known.party.reservation.max(known.members_reserve);
                }
                None => {
                    let party = Party { priority: one.party.priority, ..of_group(spec.group(group)) };
                    let members_reserve = one.party.reservation;
                    let party = Party { reservation: party.reservation.max(members_reserve), ..party };
                    all.push(Competitor { party, group: Some(group), members_reserve, ..one });
                }
            }
        }
        all
    }

    fn alone(&self, vm: VmId) -> Competitor {
        let lane = &self.lanes[vm.index()];
        let served = self.last_report.recent(vm.index()).served;
        let is_active = served > 0 || lane.queued > 0 || lane.in_flight > 0;
        Competitor {
            party: of_vm(self.plan.spec.vm(vm)),
            group: None,
            vms: vec![vm],
            members_reserve: 0,
            is_active,
        }
    }
}

fn add(rows: &mut [VmLoadView], vm: VmId, share: u64) {
    let known = &mut rows[vm.index()].entitled;
    *known = Some(known.unwrap_or(0).saturating_add(share));
}

fn dealt(capacity: u64, all: &[Competitor]) -> Vec<u64> {
    let active: Vec<Party> = all.iter().filter(|c| c.is_active).map(|c| c.party).collect();
    let got = entitlements(capacity, &active);
    // What a share is worth: of those whom neither a floor nor a ceiling decides.
    let by_shares =
        got.iter().zip(&active).filter(|(got, p)| **got > p.reservation.min(p.limit) && **got < p.limit);
    let level = by_shares.map(|(got, p)| got / u64::from(p.shares.max(1))).max();
    let left = capacity.saturating_sub(got.iter().sum());
    let mut got = got.into_iter();
    let idle = |p: &Party| match level {
        Some(level) => level.saturating_mul(u64::from(p.shares)).clamp(p.reservation.min(p.limit), p.limit),
        None => left.max(p.reservation).min(p.limit),
    };
    all.iter()
        .map(|c| if c.is_active { got.next().unwrap_or(0) } else { idle(&c.party).min(capacity) })
        .collect()
}

fn of_vm(vm: &VmSpec) -> Party {
    Party {
        priority: vm.priority,
        shares: vm.shares,
        reservation: vm.reservation.map_or(0, |r| r.0),
        limit: vm.limit.map_or(u64::MAX, |l| l.0),
    }
}

fn of_group(group: &GroupSpec) -> Party {
    Party {
        priority: 0,
        shares: group.shares,
        reservation: group.reservation.map_or(0, |r| r.0),
        limit: group.limit.map_or(u64::MAX, |l| l.0),
    }
}
