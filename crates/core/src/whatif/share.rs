//! What each VM that runs would get of what is left, if all asked for all that they can have.
//!
//! Capacities are those of the configuration, and each target is dealt out by itself, affinities left aside, as entitlement is
//! shown everywhere else. It does not know measured capacities: those are of the world as it is, not as it would be.

use super::Fate;
use crate::ids::{GroupId, TargetId, VmId};
use crate::schedule::{Party, entitlements};
use crate::spec::{ByteRate, Spec};
use crate::view::HostView;
use std::collections::BTreeSet;

/// A VM alone, or a group with members there.
struct Competitor {
    party: Party,
    group: Option<GroupId>,
    vms: Vec<VmId>,
}

/// Bytes per second, by `VmId`; none if it does not run, or if a capacity is not known.
pub(super) fn entitled(spec: &Spec, view: &HostView, fates: &[Fate]) -> Vec<Option<u64>> {
    let mut sums: Vec<Option<u64>> = fates.iter().map(|fate| (*fate == Fate::Running).then_some(0)).collect();
    for capacity in &view.capacity {
        let there = runners(spec, capacity.target, fates);
        match capacity.left {
            Some(left) => deal(spec, left, there, &mut sums),
            None => there.into_iter().for_each(|vm| sums[vm.index()] = None),
        }
    }
    for (sum, vm) in sums.iter_mut().zip(&spec.vms) {
        *sum = sum.map(|rate| rate.min(limit(vm.limit)));
    }
    sums
}

fn runners(spec: &Spec, target: TargetId, fates: &[Fate]) -> BTreeSet<VmId> {
    let there = spec.disks.iter().filter(|disk| spec.unit(disk.unit).target == target).map(|disk| disk.vm);
    there.filter(|vm| fates[vm.index()] == Fate::Running).collect()
}

fn deal(spec: &Spec, left: u64, there: BTreeSet<VmId>, sums: &mut [Option<u64>]) {
    let mut add = |vm: VmId, share: u64| {
        let sum = &mut sums[vm.index()];
        *sum = sum.map(|sum| sum.saturating_add(share));
    };
    let outer = competitors(spec, there);
    for (competitor, share) in outer.iter().zip(dealt(left, outer.iter().map(|c| c.party))) {
        let inner = competitor.vms.iter().map(|vm| alone(spec, *vm));
        if competitor.group.is_none() {
            add(competitor.vms[0], share);
        } else {
            competitor.vms.iter().zip(dealt(share, inner)).for_each(|(vm, share)| add(*vm, share));
        }
    }
}

fn dealt(capacity: u64, parties: impl Iterator<Item = Party>) -> Vec<u64> {
    entitlements(capacity, &parties.collect::<Vec<_>>())
}

fn competitors(spec: &Spec, there: BTreeSet<VmId>) -> Vec<Competitor> {
    let mut all: Vec<Competitor> = vec![];
    for vm in there {
        let own = alone(spec, vm);
        let group = spec.vm(vm).group;
        let known = group.and_then(|group| all.iter_mut().find(|other| other.group == Some(group)));
        if let Some(known) = known {
            known.vms.push(vm);
            known.party.priority = known.party.priority.max(own.priority);
        } else {
            let party = group.map_or(own, |id| Party { priority: own.priority, ..of_group(spec, id) });
            all.push(Competitor { party, group, vms: vec![vm] });
        }
    }
    for competitor in all.iter_mut().filter(|competitor| competitor.group.is_some()) {
        let members: u64 = competitor.vms.iter().map(|vm| alone(spec, *vm).reservation).sum();
        competitor.party.reservation = competitor.party.reservation.max(members);
    }
    all
}

fn alone(spec: &Spec, vm: VmId) -> Party {
    let vm = spec.vm(vm);
    Party {
        priority: vm.priority,
        shares: vm.shares,
        reservation: vm.reservation.map_or(0, |rate| rate.0),
        limit: limit(vm.limit),
    }
}

fn of_group(spec: &Spec, group: GroupId) -> Party {
    let group = spec.group(group);
    Party {
        priority: 0,
        shares: group.shares,
        reservation: group.reservation.map_or(0, |rate| rate.0),
        limit: limit(group.limit),
    }
}

fn limit(limit: Option<ByteRate>) -> u64 {
    limit.map_or(u64::MAX, |rate| rate.0)
}
