//! From a checked [`RawConfig`] to a [`Spec`]: defaults filled in, names turned into ids.
//!
//! Invariant: called only when nothing was found wrong; an item that is incomplete all the same is left out, never
//! invented. Rejected: a spec of options that every reader would have to default again.
//! It does not know where in the files anything stood.

use super::limits::{
    CONNECTIONS_DEFAULT, DWELL_DEFAULT, HOLD_DEFAULT, JOURNAL_AGE_DEFAULT, JOURNAL_MAX_DEFAULT,
    LIMIT_BURST_DEFAULT, PING_BUDGET_DEFAULT, PRIORITY_DEFAULT, QUIESCE_DEFAULT, REPAIR_AFTER_DEFAULT,
    SHARES_NORMAL, SHED_AFTER_DEFAULT, WINDOW_MAX, WINDOW_MIN, WINDOW_OF_CAPACITY, WINDOW_WITHOUT_CAPACITY,
};
use super::raw::{NamePair, RawConfig, RawDisk, RawGroup, RawHost, RawPath, RawTarget, RawVm};
use super::types::{
    Access, ByteRate, DiskSpec, Failback, GroupSpec, HostSpec, OnNoPath, OnPathLoss, PathSelector, PathSpec,
    Presence, ResumeOn, SchedulerKind, ShedWhen, Spec, TargetSpec, UnitSpec, VmSpec, When, WriteCache,
    Writers,
};
use crate::ids::{PathId, TargetId, UnitId, VmId};
use std::collections::BTreeSet;
use std::path::PathBuf;

const STATE_DIR_DEFAULT: &str = "/var/lib/vmpath";
const RUN_DIR_DEFAULT: &str = "/run/vmpath";
pub(super) const API_SOCKET_DEFAULT: &str = "/run/vmpath/vmpath.sock";
const ADMIN_GROUP_DEFAULT: &str = "vmpath";
const HOST_NAME_DEFAULT: &str = "localhost";

pub(super) fn spec(config: &RawConfig) -> Spec {
    let mut spec = Spec {
        host: host(config.host.as_ref()),
        cluster: config.cluster.as_ref().and_then(super::cluster::build::cluster),
        targets: Vec::new(),
        paths: Vec::new(),
        units: Vec::new(),
        groups: config.groups.iter().filter_map(group).collect(),
        vms: Vec::new(),
        disks: Vec::new(),
    };
    for raw in &config.targets {
        let Some(name) = &raw.name else { continue };
        let id = TargetId::at(spec.targets.len());
        spec.targets.push(target(raw, &name.it));
        spec.paths.extend(raw.paths.iter().filter_map(|raw| path(raw, id)));
    }
    for raw in &config.vms {
        let Some(name) = &raw.name else { continue };
        let id = VmId::at(spec.vms.len());
        let vm = vm(raw, &name.it, &spec);
        spec.vms.push(vm);
        for raw in &raw.disks {
            disk(&mut spec, config, id, raw);
        }
    }
    spec
}

fn host(raw: Option<&RawHost>) -> HostSpec {
    let text =
        |value: Option<&String>, default: &str| value.map_or_else(|| default.to_owned(), String::clone);
    let directory =
        |value: Option<&PathBuf>, default: &str| value.map_or_else(|| default.into(), PathBuf::clone);
    HostSpec {
        name: text(raw.and_then(|h| h.name.as_ref()), HOST_NAME_DEFAULT),
        api_socket: raw
            .and_then(|h| h.api_socket.as_ref())
            .map_or_else(|| PathBuf::from(API_SOCKET_DEFAULT), |a| a.it.clone()),
        admin_group: text(raw.and_then(|h| h.admin_group.as_ref()), ADMIN_GROUP_DEFAULT),
        shed_when: raw.and_then(|h| h.shed_when).unwrap_or(ShedWhen::Unmet),
        shed_after: raw.and_then(|h| h.shed_after).unwrap_or(SHED_AFTER_DEFAULT),
        state_dir: directory(raw.and_then(|h| h.state_dir.as_ref()), STATE_DIR_DEFAULT),
        journal_max: raw.and_then(|h| h.journal_max).unwrap_or(JOURNAL_MAX_DEFAULT),
        journal_age: raw.and_then(|h| h.journal_age).unwrap_or(JOURNAL_AGE_DEFAULT),
        run_dir: directory(raw.and_then(|h| h.run_dir.as_ref()), RUN_DIR_DEFAULT),
        workers: raw.and_then(|h| h.workers).unwrap_or(1),
        scheduler: raw.and_then(|h| h.scheduler).unwrap_or(SchedulerKind::Vmpath),
        fence_command: raw.and_then(|h| h.fence_command.as_ref()).map(|command| command.it.clone()),
    }
}

fn target(raw: &RawTarget, name: &str) -> TargetSpec {
    TargetSpec {
        name: name.to_owned(),
        failback: raw.failback.as_ref().map_or(Failback::Immediate, |failback| failback.it),
        quiesce: raw.quiesce.as_ref().map_or(QUIESCE_DEFAULT, |q| q.it),
        ping_budget: raw.ping_budget.unwrap_or(PING_BUDGET_DEFAULT),
        repair_after: raw.repair_after.unwrap_or(REPAIR_AFTER_DEFAULT),
        write_cache: raw.write_cache.unwrap_or(WriteCache::SurvivesPathLoss),
        connections: raw.connections.unwrap_or(CONNECTIONS_DEFAULT),
        path_selector: raw.path_selector.unwrap_or(PathSelector::Vmpath),
    }
}

fn path(raw: &RawPath, target: TargetId) -> Option<PathSpec> {
    Some(PathSpec {
        target,
        name: raw.name.as_ref()?.it.clone(),
        url: raw.url.as_ref()?.it.clone(),
        capacity: raw.capacity,
        access: raw.access.unwrap_or(Access::Optimized),
        window_max: raw.window_bytes.unwrap_or_else(|| window(raw.capacity)),
        via: raw.via.iter().map(|name| name.it.clone()).collect(),
    })
}

fn window(capacity: Option<ByteRate>) -> u64 {
    let Some(ByteRate(per_second)) = capacity else { return WINDOW_WITHOUT_CAPACITY };
    let share = u128::from(per_second) * WINDOW_OF_CAPACITY.as_millis() / 1000;
    u64::try_from(share).unwrap_or(WINDOW_MAX).clamp(WINDOW_MIN, WINDOW_MAX)
}

fn vm(raw: &RawVm, name: &str, spec: &Spec) -> VmSpec {
    let hold_then_suspend = || OnNoPath::hold_then_suspend(HOLD_DEFAULT);
    VmSpec {
        name: name.to_owned(),
        priority: raw.priority.unwrap_or(PRIORITY_DEFAULT),
        shares: raw.shares.unwrap_or(SHARES_NORMAL),
        reservation: raw.reservation.as_ref().map(|r| r.it),
        limit: raw.limit.as_ref().map(|l| l.it),
        limit_iops: raw.limit_iops,
        limit_burst: raw.limit_burst.as_ref().map_or(LIMIT_BURST_DEFAULT, |b| b.it),
        group: raw.group.as_ref().and_then(|g| spec.group_by_name(&g.it)),
        qmp: raw.qmp.as_ref().map(|q| q.it.clone()),
        on_path_loss: raw.on_path_loss.as_ref().map_or(OnPathLoss::Failover, |l| l.it),
        when: raw.when.as_ref().map_or(When::Always, |w| w.it),
        on_no_path: raw.on_no_path.as_ref().map_or_else(hold_then_suspend, |l| l.it.clone()),
        min_paths: raw.min_paths.as_ref().map_or(1, |min| min.it),
        may_suspend: raw.may_suspend.as_ref().is_some_and(|m| m.it),
        may_migrate: raw.may_migrate.as_ref().is_none_or(|m| m.it),
        resume: raw.resume.unwrap_or(ResumeOn::Repair),
        launch: raw.launch.as_ref().map(|launch| launch.it.clone()),
        returns: raw.returns.as_ref().is_some_and(|returns| returns.it),
        move_dwell: raw.move_dwell.as_ref().map_or(DWELL_DEFAULT, |dwell| dwell.it),
        avoid_paths: avoided(raw, spec),
        presence: Presence::Present,
    }
}

/// Of the targets that its disks use.
fn avoided(raw: &RawVm, spec: &Spec) -> Vec<PathId> {
    if raw.paths.is_none() && raw.avoid.is_none() {
        return Vec::new();
    }
    let used: BTreeSet<TargetId> = raw.targets().filter_map(|name| spec.target_by_name(name)).collect();
    let avoided = |id: &PathId| {
        let path = spec.path(*id);
        used.contains(&path.target) && !raw.may_use(&spec.target(path.target).name, &path.name)
    };
    spec.path_ids().filter(avoided).collect()
}

fn group(raw: &RawGroup) -> Option<GroupSpec> {
    Some(GroupSpec {
        name: raw.name.as_ref()?.it.clone(),
        shares: raw.shares.unwrap_or(SHARES_NORMAL),
        reservation: raw.reservation.as_ref().map(|r| r.it),
        limit: raw.limit.as_ref().map(|l| l.it),
        limit_iops: raw.limit_iops,
        limit_burst: raw.limit_burst.as_ref().map_or(LIMIT_BURST_DEFAULT, |b| b.it),
    })
}

/// Adds a disk and the unit that it is.
fn disk(spec: &mut Spec, config: &RawConfig, vm: VmId, raw: &RawDisk) {
    let (Some(name), Some(unit)) = (&raw.name, &raw.unit) else { return };
    let Some(target) = spec.target_by_name(&unit.it.target) else { return };
    // Of several writers each has a disk of its own on the one unit.
    let known = spec.units.iter().position(|u| u.target == target && u.name == unit.it.name);
    let id = UnitId::at(known.unwrap_or(spec.units.len()));
    if known.is_none() {
        spec.units.push(self::unit(config, target, &unit.it));
    }
    spec.disks.push(DiskSpec {
        vm,
        name: name.it.clone(),
        unit: id,
        nbd_socket: raw.nbd.as_ref().map(|n| n.it.clone()),
        nbd_tcp: raw.nbd_tcp.as_ref().map(|n| n.it),
        vhost_user: raw.vhost_user.as_ref().map(|v| v.it.clone()),
        queues: raw.queues.as_ref().map_or(1, |q| q.it),
        read_only: raw.read_only.unwrap_or(false),
        writers: raw.writers.unwrap_or(Writers::One),
        presence: Presence::Present,
    });
}

fn unit(config: &RawConfig, target: TargetId, pair: &NamePair) -> UnitSpec {
    let listed = super::check::target_named(config, &pair.target);
    let mut options = listed.into_iter().flat_map(|t| &t.units);
    let options = options.find(|u| u.name.as_ref().is_some_and(|n| n.it == pair.name));
    UnitSpec {
        target,
        name: pair.name.clone(),
        export: options.and_then(|o| o.export.clone()).unwrap_or_else(|| pair.name.clone()),
        assume_same: options.and_then(|o| o.assume_same).unwrap_or(false),
    }
}
