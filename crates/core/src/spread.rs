//! Which worker carries which VM, and what part of each path's window is a worker's own.
//!
//! Rule: all that can meet (a VM's disks, VMs that share a unit or a group, directly or through others) is on one worker, so
//! that shares, limits, quarantines and links are local to it. It depends on the spec alone: a reload, which keeps all rows,
//! moves nobody. Rejected: moving VMs by their load; their queues, connections and quarantines would have to move too.

mod demand;
mod divide;
mod division;

pub use demand::{Asked, Demand};
pub use divide::{Part, divide};
pub use division::{Division, Parts, part_of};

use crate::ids::{PathId, VmId, WorkerId};
use crate::spec::Spec;

/// The worker of each VM, by `VmId`. Clusters of VMs that can meet are dealt out, the largest first, to the worker with the fewest disks.
#[must_use]
pub fn spread(spec: &Spec) -> Vec<WorkerId> {
    let leader = leaders(spec);
    let mut clusters: Vec<(usize, VmId)> =
        spec.vm_ids().filter(|vm| leader[vm.index()] == *vm).map(|vm| (0, vm)).collect();
    for disk in &spec.disks {
        let own = leader[disk.vm.index()];
        let at = clusters.binary_search_by_key(&own, |(_, vm)| *vm).expect("a leader leads a cluster");
        clusters[at].0 += 1;
    }
    clusters.sort_by_key(|(disks, vm)| (std::cmp::Reverse(*disks), *vm));
    let mut loads = vec![0_usize; usize::from(spec.host.workers.max(1))];
    let mut placed = vec![WorkerId(0); spec.vms.len()];
    for (disks, vm) in clusters {
        let least = (0..loads.len()).min_by_key(|at| loads[*at]).expect("at least one worker");
        loads[least] += disks;
        placed[vm.index()] = WorkerId::at(least);
    }
    spec.vm_ids().map(|vm| placed[leader[vm.index()].index()]).collect()
}

/// By `VmId`, the first VM of its cluster.
fn leaders(spec: &Spec) -> Vec<VmId> {
    fn find(leader: &mut [VmId], vm: VmId) -> VmId {
        let mut at = vm;
        while leader[at.index()] != at {
            leader[at.index()] = leader[leader[at.index()].index()];
            at = leader[at.index()];
        }
        at
    }
    let mut leader: Vec<VmId> = spec.vm_ids().collect();
    let mut meet = |first: &mut Option<VmId>, vm: VmId| {
        let (a, b) = (find(&mut leader, *first.get_or_insert(vm)), find(&mut leader, vm));
        leader[a.max(b).index()] = a.min(b);
    };
    let mut first_on_unit: Vec<Option<VmId>> = vec![None; spec.units.len()];
    for disk in &spec.disks {
        meet(&mut first_on_unit[disk.unit.index()], disk.vm);
    }
    let mut first_in_group: Vec<Option<VmId>> = vec![None; spec.groups.len()];
    for vm in spec.vm_ids() {
        if let Some(group) = spec.vm(vm).group {
            meet(&mut first_in_group[group.index()], vm);
        }
    }
    spec.vm_ids().map(|vm| find(&mut leader, vm)).collect()
}

/// By `PathId`, one bit for each worker with a VM that may use it: there are at most 64 workers.
fn users(spec: &Spec) -> Vec<u64> {
    let placed = spread(spec);
    let mut paths_of: Vec<Vec<PathId>> = vec![Vec::new(); spec.targets.len()];
    for path in spec.path_ids() {
        paths_of[spec.path(path).target.index()].push(path);
    }
    let mut users = vec![0_u64; spec.paths.len()];
    for disk in &spec.disks {
        let avoided = &spec.vm(disk.vm).avoid_paths;
        for path in &paths_of[spec.unit(disk.unit).target.index()] {
            if !avoided.contains(path) {
                users[path.index()] |= 1 << placed[disk.vm.index()].index();
            }
        }
    }
    users
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{GroupId, UnitId};
    use crate::spec::GroupSpec;
    use crate::testing::{spec, vm};
    use proptest::prelude::*;

    fn host(workers: u16, units: &[u16]) -> Spec {
        let vms = (0..units.len()).map(|i| vm(&format!("vm{i}"))).collect();
        let mut spec = spec(2, vms);
        spec.host.workers = workers;
        for (disk, unit) in spec.disks.iter_mut().zip(units) {
            disk.unit = UnitId(*unit);
        }
        spec
    }

    fn dealt(workers: u16, units: &[u16]) -> Vec<u16> {
        spread(&host(workers, units)).into_iter().map(|w| w.0).collect()
    }

    #[test]
    fn the_least_loaded_worker_takes_the_next() {
        assert_eq!(dealt(1, &[0, 1, 2]), [0, 0, 0]);
        assert_eq!(dealt(2, &[0, 1, 2, 3]), [0, 1, 0, 1]);
        assert_eq!(dealt(4, &[0, 1]), [0, 1]);
    }

    #[test]
    fn who_can_meet_stays_together() {
        assert_eq!(dealt(2, &[0, 1, 0, 1]), [0, 1, 0, 1]);
        let mut chain = host(2, &[0, 1, 2, 3]);
        let more = [(0, 1), (1, 2)].map(|(vm, unit)| (VmId(vm), UnitId(unit)));
        for (vm, unit) in more {
            chain.disks.push(crate::spec::DiskSpec { vm, unit, ..chain.disks[0].clone() });
        }
        let dealt: Vec<u16> = spread(&chain).into_iter().map(|w| w.0).collect();
        assert_eq!(dealt, [0, 0, 0, 1], "the first and the third meet through the second");
    }

    #[test]
    fn a_group_lives_whole_on_one_worker() {
        let mut spec = host(2, &[0, 1, 2, 3]);
        let group = |name: &str| GroupSpec {
            name: name.into(),
            shares: 1000,
            reservation: None,
            limit: None,
            limit_iops: None,
            limit_burst: crate::time::Duration::ZERO,
        };
        spec.groups = vec![group("g"), group("h"), group("nobody")];
        for (vm, of) in [(1, 0), (3, 0), (0, 1)] {
            spec.vms[vm].group = Some(GroupId(of));
        }
        let dealt: Vec<u16> = spread(&spec).into_iter().map(|w| w.0).collect();
        assert_eq!(dealt, [1, 0, 1, 0], "the larger cluster is dealt first");
        spec.disks[2].unit = UnitId(3);
        let dealt: Vec<u16> = spread(&spec).into_iter().map(|w| w.0).collect();
        assert_eq!(dealt, [1, 0, 0, 0], "who meets a member meets the group");
    }

    proptest! {
        #[test]
        fn nothing_that_can_meet_is_apart_and_nobody_has_nothing_to_do(
            workers in 1_u16..6,
            units in prop::collection::vec(0_u16..12, 12),
        ) {
            let spec = host(workers, &units);
            let placed = spread(&spec);
            for a in &spec.disks {
                for b in spec.disks.iter().filter(|b| a.unit == b.unit) {
                    prop_assert_eq!(placed[a.vm.index()], placed[b.vm.index()]);
                }
            }
            let mut loads = vec![0; usize::from(workers)];
            placed.iter().for_each(|w| loads[w.index()] += 1);
            let groups = units.iter().collect::<std::collections::BTreeSet<_>>().len();
            let busy = loads.iter().filter(|l| **l > 0).count();
            prop_assert_eq!(busy, groups.min(usize::from(workers)));
        }
    }
}
