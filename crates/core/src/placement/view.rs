//! All hosts, as one of them knows them: kept up to date summary by summary, and laid out for looking up.
//!
//! Invariant: names are compared as small numbers that mean the same in all hosts of a view; an answer does not depend on
//! the order in which hosts and claims became known.
//! Rejected: summaries as they came. A decision among a thousand hosts would compare a hundred thousand strings.

use super::summary::{Accepts, Claim, HostSummary, TargetSummary, VmPlace};
use std::collections::BTreeMap;

/// A host's position in a [`ClusterView`]; it stays the same as long as the view lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIndex(pub usize);

#[derive(Clone, Debug, Default)]
pub struct ClusterView {
    pub(super) hosts: Vec<Host>,
    by_name: BTreeMap<String, HostIndex>,
    names: Names,
    /// Who has a VM in its configuration, in no order.
    knows: BTreeMap<String, Vec<(HostIndex, VmPlace)>>,
}

#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: String,
    /// None: it was there and is not any more.
    pub(super) present: Option<Present>,
    /// By target: what is promised to VMs on their way.
    claims: BTreeMap<NameId, u64>,
}

#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) version: String,
    pub(super) accepts: Accepts,
    /// Sorted by name.
    targets: Vec<(NameId, Target)>,
    vms: Vec<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) capacity: Option<u64>,
    pub(super) reserved: u64,
    pub(super) lost: u32,
    /// Sorted by name.
    units: Vec<(NameId, Unit)>,
}

#[derive(Clone, Debug)]
pub(super) struct Unit {
    pub(super) size: Option<u64>,
    pub(super) paths: Vec<NameId>,
}

/// A name of a target, of a unit in its target, or of a path in its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NameId(u32);

#[derive(Clone, Debug, Default)]
struct Names(BTreeMap<String, NameId>);

impl Names {
    fn put(&mut self, name: &str) -> NameId {
        if let Some(id) = self.0.get(name) {
            return *id;
        }
        let id = NameId(u32::try_from(self.0.len()).unwrap_or(u32::MAX));
        self.0.insert(name.to_owned(), id);
        id
    }
}

impl ClusterView {
    /// Takes in what a host says of itself now, in place of what it said before.
    pub fn put(&mut self, summary: &HostSummary) -> HostIndex {
        let at = self.place_of(&summary.host);
        self.forget_vms(at);
        let mut targets: Vec<_> = summary.targets.iter().map(|target| self.target(target)).collect();
        targets.sort_by_key(|(name, _)| *name);
        targets.dedup_by_key(|(name, _)| *name);
        for vm in &summary.vms {
            self.knows.entry(vm.name.clone()).or_default().push((at, vm.place));
        }
        self.hosts[at.0].present = Some(Present {
            version: summary.version.clone(),
            accepts: summary.accepts.clone(),
            targets,
            vms: summary.vms.iter().map(|vm| vm.name.clone()).collect(),
        });
        at
    }

    /// It does not answer any more: its lease ran out, or it has left.
    pub fn remove(&mut self, host: &str) {
        if let Some(at) = self.find(host) {
            self.forget_vms(at);
            self.hosts[at.0].present = None;
        }
    }

    /// Promises room. The same claim twice counts twice: whoever keeps claims knows them by their keys.
    pub fn claim(&mut self, claim: &Claim) {
        let (at, target) = (self.place_of(&claim.host), self.names.put(&claim.target));
        let claimed = self.hosts[at.0].claims.entry(target).or_default();
        *claimed = claimed.saturating_add(claim.rate);
    }

    /// Takes a promise back: the VM has arrived, or stays where it is.
    pub fn unclaim(&mut self, claim: &Claim) {
        let (at, target) = (self.place_of(&claim.host), self.names.put(&claim.target));
        if let Some(claimed) = self.hosts[at.0].claims.get_mut(&target) {
            *claimed = claimed.saturating_sub(claim.rate);
        }
    }

    #[must_use]
    pub fn find(&self, host: &str) -> Option<HostIndex> {
        self.by_name.get(host).copied()
    }

    #[must_use]
    pub fn name(&self, host: HostIndex) -> &str {
        &self.hosts[host.0].name
    }

    /// Those that have said something of themselves and are still there.
    pub fn present(&self) -> impl Iterator<Item = HostIndex> {
        (0..self.hosts.len()).filter(|at| self.hosts[*at].present.is_some()).map(HostIndex)
    }

    /// Those that have the VM in their configuration.
    pub(super) fn knowing(&self, vm: &str) -> &[(HostIndex, VmPlace)] {
        self.knows.get(vm).map_or(&[], Vec::as_slice)
    }

    /// What a name is in this view; none if no host has said it.
    pub(super) fn name_id(&self, name: &str) -> Option<NameId> {
        self.names.0.get(name).copied()
    }

    pub(super) fn claimed(&self, host: HostIndex, target: NameId) -> u64 {
        self.hosts[host.0].claims.get(&target).copied().unwrap_or(0)
    }

    fn place_of(&mut self, host: &str) -> HostIndex {
        if let Some(at) = self.find(host) {
            return at;
        }
        let at = HostIndex(self.hosts.len());
        self.hosts.push(Host { name: host.to_owned(), present: None, claims: BTreeMap::new() });
        self.by_name.insert(host.to_owned(), at);
        at
    }

    fn forget_vms(&mut self, at: HostIndex) {
        let Some(present) = self.hosts[at.0].present.take() else { return };
        for vm in present.vms {
            if let Some(hosts) = self.knows.get_mut(&vm) {
                hosts.retain(|(host, _)| *host != at);
            }
        }
    }

    fn target(&mut self, summary: &TargetSummary) -> (NameId, Target) {
        let mut units = vec![];
        for unit in &summary.units {
            let paths = unit.paths_up.iter().map(|path| self.names.put(path)).collect();
            units.push((self.names.put(&unit.unit), Unit { size: unit.size, paths }));
        }
        units.sort_by_key(|(name, _)| *name);
        (
            self.names.put(&summary.target),
            Target { capacity: summary.capacity, reserved: summary.reserved, lost: summary.lost, units },
        )
    }
}

impl Present {
    pub(super) fn target(&self, name: NameId) -> Option<&Target> {
        let at = self.targets.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        Some(&self.targets[at].1)
    }
}

impl Target {
    pub(super) fn unit(&self, name: NameId) -> Option<&Unit> {
        let at = self.units.binary_search_by_key(&name, |(name, _)| *name).ok()?;
        Some(&self.units[at].1)
    }
}
