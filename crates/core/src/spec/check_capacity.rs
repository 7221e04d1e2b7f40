//! Whether the reservations fit what the paths carry while all of them are up, and who will go without if not.
//!
//! The keep set is that of shedding: by priority, then by name, as a flow onto the paths that each may use, a VM's
//! reservation being split evenly over its disks. A group reserves the larger of its own number and its members' sum:
//! each member's part stands at the member's priority, what the group reserves beyond them at its highest member's.
//! Never a fault: capacities are estimates, and who is promised too much is still served by priority.
//! Rejected: comparing sums; they fit where affinity does not let them.
//! It does not know which paths are up.

use super::fault::{Problem, Report};
use super::raw::RawConfig;
use super::types::{ByteRate, Spec};
use crate::ids::{PathId, TargetId, VmId};
use crate::policy::fit::{Claim, Kept, Room};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// More names help nobody.
const NAMED_MAX: usize = 20;

/// What one VM, or a group beyond its members, has reserved on one target.
struct Party {
    kind: Kind,
    name: String,
    priority: u32,
    claims: Vec<Claim>,
}

/// At one priority, what VMs have reserved for themselves comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Vm,
    Group,
}

/// How many disks each VM has, on each target and in all; and who is in which group.
struct Disks {
    on: BTreeMap<(TargetId, VmId), u64>,
    /// By `VmId`.
    of: Vec<u64>,
    /// By `GroupId`.
    members: Vec<Vec<VmId>>,
}

pub(super) fn all(report: &mut Report<'_>, config: &RawConfig, spec: &Spec) {
    let disks = Disks::of(spec);
    for (index, raw) in config.targets.iter().enumerate().take(spec.targets.len()) {
        if let Some(problem) = shortage(spec, &disks, TargetId::at(index)) {
            report.warn(raw.at, problem);
        }
    }
}

fn shortage(spec: &Spec, disks: &Disks, target: TargetId) -> Option<Problem> {
    let paths: Vec<PathId> = spec.path_ids().filter(|p| spec.path(*p).target == target).collect();
    let capacities: Option<Vec<u64>> =
        paths.iter().map(|p| spec.path(*p).capacity.map(|rate| rate.0)).collect();
    let capacities = capacities?;
    let carried: u64 = capacities.iter().sum();
    let parties = parties(spec, disks, (target, &paths));
    let mut room = Room::new(capacities);
    let unmet: Vec<&Party> = parties.iter().filter(|p| room.admit(&p.claims) == Kept::Leaves).collect();
    if unmet.is_empty() {
        return None;
    }
    let asked: u64 = parties.iter().map(Party::bytes).sum();
    let affinity = if asked <= carried { " and by which of them each may use" } else { "" };
    let message = format!(
        "the reservations on target {}, {}, do not fit what its paths carry, {}{affinity}: even with every path up {} will go unmet",
        spec.target(target).name,
        ByteRate(asked),
        ByteRate(carried),
        listed(&unmet)
    );
    Some(Problem::new(message).hint("who goes without follows from priority, then from the name"))
}

fn listed(unmet: &[&Party]) -> String {
    let mut names: Vec<String> = unmet
        .iter()
        .take(NAMED_MAX)
        .map(|p| format!("{} (priority {}, {})", p.name, p.priority, ByteRate(p.bytes())))
        .collect();
    if unmet.len() > NAMED_MAX {
        names.push(format!("and {} more", unmet.len() - NAMED_MAX));
    }
    names.join(", ")
}

/// Highest priority first, ties by name.
fn parties(spec: &Spec, disks: &Disks, (target, paths): (TargetId, &[PathId])) -> Vec<Party> {
    let claim = |vm: VmId, reserved: u64, of: u64| Claim {
        bytes: reserved * disks.on(target, vm) / of.max(1),
        paths: (0..paths.len()).filter(|at| !spec.vm(vm).avoid_paths.contains(&paths[*at])).collect(),
    };
    let vms = disks.vms_on(target).map(|vm| Party {
        kind: Kind::Vm,
        name: spec.vm(vm).name.clone(),
        priority: spec.vm(vm).priority,
        claims: vec![claim(vm, own(spec, vm), disks.of[vm.index()])],
    });
    let groups = spec.groups.iter().zip(&disks.members).filter_map(|(group, members)| {
        let sum: u64 = members.iter().map(|vm| own(spec, *vm)).sum();
        let beyond = group.reservation?.0.saturating_sub(sum);
        let of: u64 = members.iter().map(|vm| disks.of[vm.index()]).sum();
        Some(Party {
            kind: Kind::Group,
            name: format!("group {}", group.name),
            priority: members.iter().map(|vm| spec.vm(*vm).priority).max()?,
            claims: members.iter().map(|vm| claim(*vm, beyond, of)).collect(),
        })
    });
    let mut parties: Vec<Party> = vms.chain(groups).filter(|party| party.bytes() > 0).collect();
    parties.sort_by(|a, b| a.rank().cmp(&b.rank()));
    parties
}

fn own(spec: &Spec, vm: VmId) -> u64 {
    spec.vm(vm).reservation.map_or(0, |rate| rate.0)
}

impl Party {
    fn rank(&self) -> (Reverse<u32>, Kind, &str) {
        (Reverse(self.priority), self.kind, &self.name)
    }

    fn bytes(&self) -> u64 {
        self.claims.iter().map(|claim| claim.bytes).sum()
    }
}

impl Disks {
    fn of(spec: &Spec) -> Self {
        let members = vec![Vec::new(); spec.groups.len()];
        let mut disks = Self { on: BTreeMap::new(), of: vec![0; spec.vms.len()], members };
        for vm in spec.vm_ids() {
            if let Some(group) = spec.vm(vm).group {
                disks.members[group.index()].push(vm);
            }
        }
        for disk in &spec.disks {
            *disks.on.entry((spec.unit(disk.unit).target, disk.vm)).or_insert(0) += 1;
            disks.of[disk.vm.index()] += 1;
        }
        disks
    }

    fn on(&self, target: TargetId, vm: VmId) -> u64 {
        self.on.get(&(target, vm)).copied().unwrap_or(0)
    }

    fn vms_on(&self, target: TargetId) -> impl Iterator<Item = VmId> + '_ {
        self.on.range((target, VmId(0))..=(target, VmId(u16::MAX))).map(|((_, vm), _)| *vm)
    }
}
