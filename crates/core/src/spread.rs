//! Which worker carries which VM, and what part of each path's window is a worker's own.
//!
//! Rule: all that can meet (a VM's disks, VMs that share a unit or a group, directly or through others) is on one worker, so
//! that shares, limits, quarantines and links are local to it. It depends on the spec alone: a reload, which keeps all rows,
//! moves nobody. Rejected: moving VMs by their load; their queues, connections and quarantines would have to move too.

use crate::ids::{PathId, VmId, WorkerId};
use crate::spec::Spec;

/// What a worker gets of a window at least: two of the largest requests that guests usually send (128 KiB), so that the
/// path has work while an answer is on its way. Narrow windows that many workers share are overdrawn by it.
const SHARE_MIN: u64 = 272 << 10;

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

/// A worker's part in one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    /// Bytes in flight; zero if none of the worker's VMs may use the path.
    pub(crate) window: u64,
    /// How many workers have a part.
    pub(crate) parts: u64,
}

/// By `PathId`.
pub(crate) fn shares(spec: &Spec, worker: WorkerId) -> Vec<Share> {
    let placed = spread(spec);
    let mut paths_of: Vec<Vec<PathId>> = vec![Vec::new(); spec.targets.len()];
    for path in spec.path_ids() {
        paths_of[spec.path(path).target.index()].push(path);
    }
    // One bit for each worker: there are at most 64.
    let mut users = vec![0_u64; spec.paths.len()];
    for disk in &spec.disks {
        let avoided = &spec.vm(disk.vm).avoid_paths;
        for path in &paths_of[spec.unit(disk.unit).target.index()] {
            if !avoided.contains(path) {
                users[path.index()] |= 1 << placed[disk.vm.index()].index();
            }
        }
    }
    spec.path_ids().map(|path| share(spec.path(path).window_start(), users[path.index()], worker)).collect()
}

fn share(window: u64, users: u64, worker: WorkerId) -> Share {
    let parts = u64::from(users.count_ones());
    if users >> worker.index() & 1 == 0 {
        return Share { window: 0, parts };
    }
    Share { window: (window / parts).max(SHARE_MIN).min(window), parts }
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

    #[test]
    fn a_window_is_divided_between_those_that_use_the_path() {
        let mut spec = host(2, &[0, 1]);
        spec.vms[1].avoid_paths = vec![PathId(1)];
        let parts = |worker| shares(&spec, WorkerId(worker)).iter().map(|s| s.window).collect::<Vec<_>>();
        assert_eq!(parts(0), [512 << 10, 1 << 20], "the second path is its own");
        assert_eq!(parts(1), [512 << 10, 0]);
        let mut spec = host(8, &[0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(shares(&spec, WorkerId(7))[0], Share { window: SHARE_MIN, parts: 8 });
        spec.paths[0].window_max = 64 << 10;
        assert_eq!(shares(&spec, WorkerId(7))[0].window, 64 << 10, "never more than the path's");
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
