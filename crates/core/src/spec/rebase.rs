//! Reload: a new configuration takes over the ids of the running one.
//!
//! Invariant: after a rebase every id means the same thing as before, so that queues, paths and incidents that hold ids
//! need not be told. Settings may differ, and a VM or disk that the files no longer have keeps its row, marked as
//! leaving. Rejected: freeing rows at run time; every owner of a table would have to agree on when a row is gone.
//! It does not know what anybody does with the settings that changed, nor who still uses what is leaving.

use super::types::{DiskSpec, PathUrl, Presence, Spec, UnitSpec, VmSpec};
use crate::ids::{DiskId, GroupId, PathId, TargetId, UnitId, VmId};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

impl Spec {
    /// This configuration with the ids of `running`: the same names, in the same rows. Order in the files makes no
    /// difference. VMs and disks that it lacks stay in their rows as they were, [`Presence::Leaving`]; one that has been
    /// leaving and is named again is [`Presence::Present`].
    ///
    /// # Errors
    /// One sentence for each thing that was added, removed or changed and cannot change without a restart.
    ///
    /// Groups come and go; their ids are no names for longer than one spec.
    pub fn rebase(mut self, running: &Self) -> Result<Self, Vec<String>> {
        let mut refusals = Vec::new();
        all_gone(&self, running, &mut refusals);
        same_things(&self, running, &mut refusals);
        changed_disks(&self, running, &mut refusals);
        self.keep_leaving(running);
        self.order_groups(running);
        let Some(rebased) = Rows::between(&self, running).map(|rows| rows.apply(self)) else {
            return Err(refusals);
        };
        changed_host(&rebased, running, &mut refusals);
        changed_cluster(&rebased, running, &mut refusals);
        changed_targets(&rebased, running, &mut refusals);
        changed_vms(&rebased, running, &mut refusals);
        if refusals.is_empty() { Ok(rebased) } else { Err(refusals) }
    }

    /// `vm/disk`.
    #[must_use]
    pub fn disk_name(&self, id: DiskId) -> String {
        let disk = self.disk(id);
        format!("{}/{}", self.vm(disk.vm).name, disk.name)
    }

    /// Adds the VMs and disks that only `running` has, and the units of those disks. What hangs on a target or path that
    /// is gone is left out: that is refused anyway.
    fn keep_leaving(&mut self, running: &Self) {
        for gone in running.vms.iter().filter(|vm| self.vm_by_name(&vm.name).is_none()).collect::<Vec<_>>() {
            let mut vm = gone.clone();
            vm.presence = Presence::Leaving;
            let avoided = gone.avoid_paths.iter();
            vm.avoid_paths = avoided.filter_map(|p| self.path_by_name(&running.path_name(*p))).collect();
            vm.group = gone.group.and_then(|group| self.group_by_name(&running.group(group).name));
            self.vms.push(vm);
        }
        let names: BTreeSet<String> = self.disk_names().into_iter().collect();
        for id in running.disk_ids().filter(|id| !names.contains(&running.disk_name(*id))) {
            let gone = running.disk(id);
            let Some(vm) = self.vm_by_name(&running.vm(gone.vm).name) else { continue };
            let Some(unit) = self.keep_unit(running, gone.unit) else { continue };
            self.keep_affinity(running, gone, (vm, self.unit(unit).target));
            self.disks.push(DiskSpec { vm, unit, presence: Presence::Leaving, ..gone.clone() });
        }
    }

    /// The VM's affinity on a target on which only disks that leave are: what the files say of it, if anything, was not said
    /// with those disks in mind, and might leave them no path.
    fn keep_affinity(&mut self, running: &Self, gone: &DiskSpec, (vm, target): (VmId, TargetId)) {
        let present = |disk: &DiskSpec| disk.vm == vm && disk.presence == Presence::Present;
        if self.disks.iter().any(|disk| present(disk) && self.unit(disk.unit).target == target) {
            return;
        }
        let before = running.vm(gone.vm).avoid_paths.iter();
        let kept: Vec<PathId> = before
            .filter_map(|p| self.path_by_name(&running.path_name(*p)))
            .filter(|p| self.path(*p).target == target)
            .collect();
        let mut avoided = std::mem::take(&mut self.vms[vm.index()].avoid_paths);
        avoided.retain(|p| self.path(*p).target != target);
        avoided.extend(kept);
        self.vms[vm.index()].avoid_paths = avoided;
    }

    /// Groups that stay come first, in the order in which they were: files in another order then make no other spec.
    fn order_groups(&mut self, running: &Self) {
        let mut order: Vec<GroupId> = self.group_ids().collect();
        let before = |id: &GroupId| running.group_by_name(&self.group(*id).name);
        order.sort_by_key(|id| (before(id).is_none(), before(id)));
        for group in self.vms.iter_mut().filter_map(|vm| vm.group.as_mut()) {
            let at = order.iter().position(|id| id == group);
            *group = GroupId::at(at.expect("every group is in the order"));
        }
        self.groups = order.iter().map(|id| self.group(*id).clone()).collect();
    }

    fn keep_unit(&mut self, running: &Self, unit: UnitId) -> Option<UnitId> {
        let (name, gone) = (running.unit_name(unit), running.unit(unit));
        if let Some(known) = self.unit_ids().find(|id| self.unit_name(*id) == name) {
            return Some(known);
        }
        let target = self.target_by_name(&running.target(gone.target).name)?;
        self.units.push(UnitSpec { target, ..gone.clone() });
        Some(UnitId::at(self.units.len() - 1))
    }

    fn target_names(&self) -> Vec<String> {
        self.targets.iter().map(|t| t.name.clone()).collect()
    }

    fn path_names(&self) -> Vec<String> {
        self.path_ids().map(|id| self.path_name(id)).collect()
    }

    fn unit_names(&self) -> Vec<String> {
        self.unit_ids().map(|id| self.unit_name(id)).collect()
    }

    fn vm_names(&self) -> Vec<String> {
        self.vms.iter().map(|v| v.name.clone()).collect()
    }

    fn disk_names(&self) -> Vec<String> {
        self.disk_ids().map(|id| self.disk_name(id)).collect()
    }
}

/// VMs may leave, but not all at once: that is what a file that was cut short, or one in another place, looks like.
fn all_gone(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    let served: Vec<&VmSpec> = running.vms.iter().filter(|vm| vm.presence == Presence::Present).collect();
    if let ([], [vm, others @ ..]) = (new.vms.as_slice(), served.as_slice()) {
        let which = if others.is_empty() {
            format!("vm {}, the only one,", vm.name)
        } else {
            format!("all {} VMs", served.len())
        };
        refusals.push(format!(
            "{which} would leave at once, as if the files were cut short: a restart is needed to serve none"
        ));
    }
}

/// The names in one table, by row.
type Names = fn(&Spec) -> Vec<String>;

/// Targets, paths, VMs and disks may not come, and targets and paths may not go. What belongs to a target or VM that does
/// is not said again, and units come and go with disks.
fn same_things(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    let kinds: [(&str, Names); 4] = [
        ("target", Spec::target_names),
        ("vm", Spec::vm_names),
        ("path", Spec::path_names),
        ("disk", Spec::disk_names),
    ];
    let mut said = BTreeSet::new();
    for (kind, names) in kinds {
        let (names, before) = (names(new), names(running));
        let mut compare = |these: &[String], those: &[String], fate: &str| {
            let those: BTreeSet<&String> = those.iter().collect();
            for name in these.iter().filter(|name| !those.contains(name)) {
                let parent = name.split_once('/').map(|(parent, _)| (kind == "path", parent.to_owned()));
                if parent.is_none_or(|parent| !said.contains(&parent)) {
                    refusals.push(format!("{kind} {name} is {fate} it"));
                }
                said.insert((kind == "target", name.clone()));
            }
        };
        compare(&names, &before, "new: a restart is needed to add");
        if kind == "target" || kind == "path" {
            compare(&before, &names, "gone: a restart is needed to remove");
        }
    }
}

/// For each row of the new tables, the row of the running ones that has the same name.
struct Rows {
    targets: Vec<usize>,
    paths: Vec<usize>,
    units: Vec<usize>,
    vms: Vec<usize>,
    disks: Vec<usize>,
}

impl Rows {
    /// Nothing if the names are not the same.
    fn between(new: &Spec, running: &Spec) -> Option<Self> {
        let rows = |names: Names| {
            let before: BTreeMap<String, usize> =
                names(running).into_iter().enumerate().map(|(row, name)| (name, row)).collect();
            let rows: Option<Vec<usize>> = names(new).iter().map(|name| before.get(name).copied()).collect();
            rows.filter(|rows| rows.len() == before.len())
        };
        Some(Self {
            targets: rows(Spec::target_names)?,
            paths: rows(Spec::path_names)?,
            units: rows(Spec::unit_names)?,
            vms: rows(Spec::vm_names)?,
            disks: rows(Spec::disk_names)?,
        })
    }

    fn apply(&self, mut spec: Spec) -> Spec {
        for path in &mut spec.paths {
            path.target = TargetId::at(self.targets[path.target.index()]);
        }
        for unit in &mut spec.units {
            unit.target = TargetId::at(self.targets[unit.target.index()]);
        }
        for vm in &mut spec.vms {
            let avoided = vm.avoid_paths.iter().map(|path| PathId::at(self.paths[path.index()]));
            vm.avoid_paths = avoided.collect();
            vm.avoid_paths.sort_unstable();
        }
        for disk in &mut spec.disks {
            disk.vm = VmId::at(self.vms[disk.vm.index()]);
            disk.unit = UnitId::at(self.units[disk.unit.index()]);
        }
        Spec {
            host: spec.host,
            cluster: spec.cluster,
            targets: in_rows(spec.targets, &self.targets),
            paths: in_rows(spec.paths, &self.paths),
            units: in_rows(spec.units, &self.units),
            groups: spec.groups,
            vms: in_rows(spec.vms, &self.vms),
            disks: in_rows(spec.disks, &self.disks),
        }
    }
}

fn in_rows<T>(items: Vec<T>, rows: &[usize]) -> Vec<T> {
    let mut placed: Vec<(usize, T)> = rows.iter().copied().zip(items).collect();
    placed.sort_by_key(|(row, _)| *row);
    placed.into_iter().map(|(_, item)| item).collect()
}

/// Refuses a value that differs. `what` reads like `path san0/a: url`.
fn fixed<T: PartialEq>(
    refusals: &mut Vec<String>,
    what: impl fmt::Display,
    values: [&T; 2],
    show: fn(&T) -> String,
) {
    let [before, after] = values;
    if before != after {
        let (before, after) = (show(before), show(after));
        refusals.push(format!("{what} changes from {before} to {after}: a restart is needed"));
    }
}

fn changed_host(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    let (before, after) = (&running.host, &new.host);
    fixed(refusals, "host: name", [&before.name, &after.name], String::clone);
    fixed(refusals, "host: api_socket", [&before.api_socket, &after.api_socket], |p| p.display().to_string());
    fixed(refusals, "host: admin_group", [&before.admin_group, &after.admin_group], String::clone);
    fixed(refusals, "host: state_dir", [&before.state_dir, &after.state_dir], |p| p.display().to_string());
    fixed(refusals, "host: run_dir", [&before.run_dir, &after.run_dir], |p| p.display().to_string());
    fixed(refusals, "host: workers", [&before.workers, &after.workers], u16::to_string);
}

/// What a session with etcd and the listener for peers were made from. The rest of `[cluster]` is read when it is needed.
fn changed_cluster(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    match (&running.cluster, &new.cluster) {
        (Some(before), Some(after)) => {
            if before.etcd != after.etcd {
                refusals.push("cluster: what it says of etcd changes: a restart is needed".to_owned());
            }
            if before.peer != after.peer {
                refusals.push("cluster: what it says of peers changes: a restart is needed".to_owned());
            }
        }
        (None, Some(_)) => refusals.push("cluster is new: a restart is needed to add it".to_owned()),
        (Some(_), None) => refusals.push("cluster is gone: a restart is needed to remove it".to_owned()),
        (None, None) => {}
    }
}

fn changed_targets(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    for (before, after) in running.targets.iter().zip(&new.targets) {
        let name = &before.name;
        let connections = [&before.connections, &after.connections];
        fixed(refusals, format_args!("target {name}: connections"), connections, u8::to_string);
        let caches = [&before.write_cache, &after.write_cache];
        fixed(refusals, format_args!("target {name}: write_cache"), caches, ToString::to_string);
    }
    for id in running.path_ids() {
        let urls = [&running.path(id).url, &new.path(id).url];
        fixed(refusals, format_args!("path {}: url", running.path_name(id)), urls, PathUrl::to_string);
    }
    for id in running.unit_ids() {
        let exports = [&running.unit(id).export, &new.unit(id).export];
        fixed(refusals, format_args!("unit {}: export", running.unit_name(id)), exports, |e| {
            format!("{e:?}")
        });
    }
}

fn changed_vms(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    for (before, after) in running.vms.iter().zip(&new.vms) {
        fixed(refusals, format_args!("vm {}: qmp", before.name), [&before.qmp, &after.qmp], socket);
        let group = |spec: &Spec, vm: &VmSpec| {
            vm.group.map_or_else(|| "none".to_owned(), |group| spec.group(group).name.clone())
        };
        let (from, to) = (group(running, before), group(new, after));
        if from != to && running.host.workers > 1 {
            refusals.push(format!(
                "vm {}: group changes from {from} to {to}: with several workers a restart is needed, as it may have to move to another",
                before.name
            ));
        }
    }
    for id in running.disk_ids() {
        let (before, after) = (running.disk(id), new.disk(id));
        let name = running.disk_name(id);
        fixed(refusals, format_args!("disk {name}: nbd"), [&before.nbd_socket, &after.nbd_socket], socket);
        fixed(refusals, format_args!("disk {name}: nbd_tcp"), [&before.nbd_tcp, &after.nbd_tcp], address);
        let sockets = [&before.vhost_user, &after.vhost_user];
        fixed(refusals, format_args!("disk {name}: vhost_user"), sockets, socket);
        fixed(refusals, format_args!("disk {name}: queues"), [&before.queues, &after.queues], u16::to_string);
        let read_only = [&before.read_only, &after.read_only];
        fixed(refusals, format_args!("disk {name}: read_only"), read_only, bool::to_string);
        let writers = [&before.writers, &after.writers];
        fixed(refusals, format_args!("disk {name}: writers"), writers, ToString::to_string);
    }
}

/// Found by name, because units have no row in common when disks change theirs.
fn changed_disks(new: &Spec, running: &Spec, refusals: &mut Vec<String>) {
    let unit_of = |spec: &Spec, id| spec.unit_name(spec.disk(id).unit);
    let before: BTreeMap<String, String> =
        running.disk_ids().map(|id| (running.disk_name(id), unit_of(running, id))).collect();
    for id in new.disk_ids() {
        let name = new.disk_name(id);
        if let Some(unit) = before.get(&name) {
            fixed(refusals, format_args!("disk {name}: unit"), [unit, &unit_of(new, id)], String::clone);
        }
    }
}

fn socket(path: &Option<PathBuf>) -> String {
    path.as_ref().map_or_else(|| "none".to_owned(), |p| p.display().to_string())
}

fn address(address: &Option<SocketAddr>) -> String {
    address.map_or_else(|| "none".to_owned(), |a| a.to_string())
}
