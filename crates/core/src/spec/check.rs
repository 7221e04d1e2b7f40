//! Whether the values fit together: names exist and are unique, one writer per unit, every disk has a path.
//!
//! Invariant: a [`RawConfig`] that passes here, together with [`super::check_places`], makes a consistent spec; each
//! fault names the other place too. Rejected: trusting the operator with two VMs on one unit; that is how disks die.
//! It does not know sockets and addresses (see `check_places`), affinity and allocations (beside it), nor anything outside the
//! files.

use super::fault::{At, Place, Problem, Report, did_you_mean, near_or_all};
use super::limits::{
    DISKS_MAX, GROUPS_MAX, PATHS_MAX, PATHS_PER_TARGET_MAX, TARGETS_MAX, UNIT_OPTIONS_MAX, VMS_MAX,
};
use super::raw::{NamePair, RawConfig, RawTarget, RawVm};
use super::types::{NoPathAction, OnNoPath, OnPathLoss, PathUrl, Rung, When, Writers};
use super::{check_affinity, check_allocation, check_via, cluster};
use std::collections::BTreeMap;

/// Returns whether the tables are small enough to be compared at all.
pub(super) fn all(report: &mut Report<'_>, config: &RawConfig) -> bool {
    if !sizes(report, config) {
        return false; // what follows compares everything with everything
    }
    nothing(report, config);
    unique_names(report, config);
    for target in &config.targets {
        paths_of(report, target);
    }
    disks(report, config);
    for vm in &config.vms {
        abilities(report, config, vm);
    }
    check_affinity::all(report, config);
    check_via::all(report, config);
    check_allocation::all(report, config);
    unused_units(report, config);
    cluster::check::all(report, config);
    true
}

pub(super) fn target_named<'c>(config: &'c RawConfig, name: &str) -> Option<&'c RawTarget> {
    config.targets.iter().find(|t| t.name.as_ref().is_some_and(|n| n.it == name))
}

fn sizes(report: &mut Report<'_>, config: &RawConfig) -> bool {
    let mut fits = true;
    let mut bounded = |what: &str, max: usize, over: Option<Place>| {
        if let Some(at) = over {
            fits = false;
            report.fault(at, Problem::new(format!("this is one {what} too many: {max} are the most")));
        }
    };
    let targets = &config.targets;
    bounded("target", TARGETS_MAX, targets.iter().map(|t| t.at).nth(TARGETS_MAX));
    bounded("path", PATHS_MAX, targets.iter().flat_map(|t| &t.paths).map(|p| p.at).nth(PATHS_MAX));
    for target in targets {
        let over = target.paths.get(PATHS_PER_TARGET_MAX).map(|p| p.at);
        bounded("path of one target", PATHS_PER_TARGET_MAX, over);
    }
    let units = targets.iter().flat_map(|t| t.units.iter().map(|_| t.at));
    bounded("unit", UNIT_OPTIONS_MAX, units.clone().nth(UNIT_OPTIONS_MAX));
    bounded("group", GROUPS_MAX, config.groups.iter().map(|g| g.at).nth(GROUPS_MAX));
    bounded("VM", VMS_MAX, config.vms.iter().map(|v| v.at).nth(VMS_MAX));
    bounded("disk", DISKS_MAX, config.vms.iter().flat_map(|v| &v.disks).map(|d| d.at).nth(DISKS_MAX));
    fits
}

/// Most likely a file that was cut short.
fn nothing(report: &mut Report<'_>, config: &RawConfig) {
    if config.targets.is_empty() && config.vms.is_empty() {
        let message = "no target and no VM is configured: a daemon that starts with this serves no disk, also none that one served before; \
                       one that runs and has VMs refuses it as a reload";
        report.warn(Place { source: 0, offset: 0 }, Problem::new(message));
    }
}

fn unique_names(report: &mut Report<'_>, config: &RawConfig) {
    unique(report, "target", config.targets.iter().filter_map(|t| t.name.as_ref()));
    unique(report, "vm", config.vms.iter().filter_map(|v| v.name.as_ref()));
    unique(report, "group", config.groups.iter().filter_map(|g| g.name.as_ref()));
    for target in &config.targets {
        unique(report, "path of this target", target.paths.iter().filter_map(|p| p.name.as_ref()));
        unique(report, "unit of this target", target.units.iter().filter_map(|u| u.name.as_ref()));
    }
    for vm in &config.vms {
        unique(report, "disk of this vm", vm.disks.iter().filter_map(|d| d.name.as_ref()));
    }
}

fn unique<'c>(report: &mut Report<'_>, kind: &str, names: impl Iterator<Item = &'c At<String>>) {
    let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
    for name in names {
        if let Some(first) = seen.get(name.it.as_str()) {
            let message =
                format!("another {kind} is named {:?}; first at {}", name.it, report.refer(*first, name.at));
            report.fault(name.at, Problem::new(message));
        } else {
            seen.insert(&name.it, name.at);
        }
    }
}

fn paths_of(report: &mut Report<'_>, target: &RawTarget) {
    match target.paths.as_slice() {
        [] => {
            let problem = Problem::new("this target has no path");
            report.fault(target.at, problem.hint("add [[target.path]] with a name and a url below it"));
        }
        [_] => {
            report.warn(target.at, Problem::new("this target has one path only: nothing to fail over to"));
        }
        _ => {}
    }
    quiesce(report, target);
}

/// Where a lost connection has no other fence than time, no time is none.
fn quiesce(report: &mut Report<'_>, target: &RawTarget) {
    let Some(quiesce) = target.quiesce.as_ref().filter(|quiesce| quiesce.it.is_zero()) else { return };
    let has_kernel = |url: &At<PathUrl>| matches!(url.it, PathUrl::Block { .. });
    let timed = target.paths.iter().find(|path| path.url.as_ref().is_some_and(|url| !has_kernel(url)));
    if let Some(path) = timed {
        let name = path.name.as_ref().map_or("?", |n| n.it.as_str());
        let message = format!(
            "quiesce: 0s on target {}, whose path {name} has no other fence: a write that was lost with it could still be \
             carried out after newer ones, and overwrite them with old data",
            target.label()
        );
        let hint =
            "write the longest time for which the target may still work on what a dead connection carried";
        report.fault(quiesce.at, Problem::new(message).hint(hint));
    }
}

/// Each disk names a unit that can exist, and no two disks the same one unless each says that it has many writers.
fn disks(report: &mut Report<'_>, config: &RawConfig) {
    let mut writers: BTreeMap<&NamePair, (Place, String, Writers)> = BTreeMap::new();
    for vm in &config.vms {
        for disk in &vm.disks {
            let Some(unit) = &disk.unit else { continue };
            unit_exists(report, config, unit);
            let own = disk.writers.unwrap_or(Writers::One);
            if let Some((first, writer, others)) = writers.get(&unit.it) {
                if own == Writers::Many && *others == Writers::Many {
                    continue;
                }
                let place = report.refer(*first, unit.at);
                let message = format!("unit {} is already disk {writer}; first at {place}", unit.it);
                let hint = "a unit has one writer: two would destroy each other's data. If these are made for it (a cluster \
                            file system), write writers = \"many\" on each";
                report.fault(unit.at, Problem::new(message).hint(hint));
            } else {
                let name = disk.name.as_ref().map_or("?", |n| n.it.as_str());
                writers.insert(&unit.it, (unit.at, format!("{}/{name}", vm.label()), own));
            }
        }
        for disk in &vm.disks {
            if let (Some(queues), None) = (&disk.queues, &disk.vhost_user) {
                let message = "queues: only vhost_user has virtqueues: this has no effect";
                report.warn(queues.at, Problem::new(message));
            }
        }
        one_kind_of_front_end(report, vm);
        if vm.disks.is_empty() {
            let message = format!("vm {} has no disk: nothing of it runs over vmpath", vm.label());
            report.warn(vm.at, Problem::new(message));
        }
    }
}

/// A managed VM is stopped in one of two ways: its NBD disks are answered EIO, its vhost-user disks just wait. An EIO that
/// stops it for its NBD disks would reach its guest on the others.
fn one_kind_of_front_end(report: &mut Report<'_>, vm: &RawVm) {
    let Some(qmp) = &vm.qmp else { return };
    let vhost_user = vm.disks.iter().filter(|disk| disk.vhost_user.is_some()).count();
    if vhost_user > 0 && vhost_user < vm.disks.len() {
        let message = format!(
            "qmp: vm {} cannot be suspended without an error to its guest: some of its disks have vhost_user, some only NBD",
            vm.label()
        );
        report.fault(qmp.at, Problem::new(message).hint("give all its disks vhost_user, or none"));
    }
}

fn unit_exists(report: &mut Report<'_>, config: &RawConfig, unit: &At<NamePair>) {
    let Some(target) = target_named(config, &unit.it.target) else {
        no_such_target(report, config, &At { at: unit.at, it: &unit.it.target });
        return;
    };
    let named = || target.units.iter().filter_map(|u| u.name.as_ref()).map(|n| n.it.as_str());
    let all_named = target.units.iter().all(|u| u.name.is_some());
    if target.units.is_empty() || !all_named || named().any(|name| name == unit.it.name) {
        return;
    }
    let message =
        format!("target {} lists its units, and {:?} is not among them", unit.it.target, unit.it.name);
    let near = did_you_mean(&unit.it.name, named());
    let hint = near.unwrap_or_else(|| "add a [[target.unit]], or list no unit at all".to_owned());
    report.fault(unit.at, Problem::new(message).hint(hint));
}

pub(super) fn no_such_target(report: &mut Report<'_>, config: &RawConfig, name: &At<&str>) {
    if config.targets.iter().any(|t| t.name.is_none()) {
        return; // that target's name has a fault of its own, and may be the one that is meant
    }
    let known = config.targets.iter().filter_map(|t| t.name.as_ref()).map(|n| n.it.as_str());
    let problem = Problem::new(format!("no target is named {:?}", name.it));
    report.fault(name.at, problem.maybe_hint(near_or_all(name.it, known)));
}

/// Policies that the VM or this version cannot carry out. They are no faults: the VM's data is safe either way.
fn abilities(report: &mut Report<'_>, config: &RawConfig, vm: &RawVm) {
    let name = vm.label();
    let cannot_move = cannot_move(config, vm);
    let unmanaged = "without qmp it cannot be suspended, only held";
    if let Some(loss) = &vm.on_path_loss {
        match loss.it {
            OnPathLoss::Migrate | OnPathLoss::FailoverMigrate => {
                if let Some(why) = cannot_move {
                    report.warn(loss.at, Problem::new(format!("{why}: vm {name} stays where it is")));
                }
            }
            OnPathLoss::Suspend | OnPathLoss::FailoverSuspend if vm.qmp.is_none() => {
                report.warn(loss.at, Problem::new(format!("vm {name}: {unmanaged}")));
            }
            OnPathLoss::Failover | OnPathLoss::Suspend | OnPathLoss::FailoverSuspend => {}
        }
    }
    if let Some(ladder) = &vm.on_no_path {
        if let Some(why) = cannot_move.filter(|_| ladder.it.has(NoPathAction::Migrate)) {
            let message = format!("{why}: vm {name} does not migrate, the next step comes");
            report.warn(ladder.at, Problem::new(message));
        }
        if ladder.it.has(NoPathAction::Suspend) && vm.qmp.is_none() {
            report.warn(ladder.at, Problem::new(format!("vm {name}: {unmanaged}")));
        }
        if vm.qmp.is_some() {
            rungs_that_never_come(report, ladder, name);
        }
    }
    if let Some(may) = vm.may_suspend.as_ref().filter(|may| may.it && vm.qmp.is_none()) {
        report.warn(may.at, Problem::new(format!("vm {name}: {unmanaged}")));
    }
    let only_failover = vm.on_path_loss.as_ref().is_none_or(|loss| loss.it == OnPathLoss::Failover);
    if let Some(when) = vm.when.as_ref().filter(|when| when.it == When::Outranked && only_failover) {
        let message = "when: on_path_loss is \"failover\", which needs no condition: this has no effect";
        report.warn(when.at, Problem::new(message));
    }
}

/// A suspend without a time ends when a path is back, and in no other way.
fn rungs_that_never_come(report: &mut Report<'_>, ladder: &At<OnNoPath>, name: &str) {
    let endless = |rung: &Rung| rung.action == NoPathAction::Suspend && rung.bound.is_none();
    let Some(at) = ladder.it.rungs.iter().position(endless) else { return };
    if let Some(next) = ladder.it.rungs.get(at + 1) {
        let message = format!(
            "vm {name}: `{}` comes only if the VM cannot be suspended: `suspend` has no time, so it lasts until a path is back",
            next.action
        );
        report.warn(ladder.at, Problem::new(message).hint("give it one, like \"suspend 10m\""));
    }
}

/// Why the VM cannot leave this host, as far as the files say.
fn cannot_move(config: &RawConfig, vm: &RawVm) -> Option<&'static str> {
    if config.cluster.is_none() {
        Some("no other host is configured")
    } else if vm.qmp.is_none() {
        Some("without qmp nothing can be migrated")
    } else {
        None
    }
}

fn unused_units(report: &mut Report<'_>, config: &RawConfig) {
    for target in &config.targets {
        for name in target.units.iter().filter_map(|u| u.name.as_ref()) {
            let mut units = config.vms.iter().flat_map(|v| &v.disks).filter_map(|d| d.unit.as_ref());
            if !units.any(|u| u.it.target == target.label() && u.it.name == name.it) {
                let message = format!("no disk uses unit {}/{}", target.label(), name.it);
                report.warn(name.at, Problem::new(message));
            }
        }
    }
}
