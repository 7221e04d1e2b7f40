//! The shapes of a [`Spec`]. Built only by the parser, so that holding one is proof that it is consistent.

use super::cluster::ClusterSpec;
use crate::ids::{DiskId, GroupId, PathId, TargetId, UnitId, VmId};
use crate::time::Duration;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The whole configuration of one host.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    pub host: HostSpec,
    /// None: this host is alone.
    pub cluster: Option<ClusterSpec>,
    pub targets: Vec<TargetSpec>,
    pub paths: Vec<PathSpec>,
    pub units: Vec<UnitSpec>,
    pub groups: Vec<GroupSpec>,
    pub vms: Vec<VmSpec>,
    pub disks: Vec<DiskSpec>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct HostSpec {
    pub name: String,
    /// Unix socket of the HTTP API. Default `/run/vmpath/vmpath.sock`.
    pub api_socket: PathBuf,
    /// Members may change things through the API, besides root. Default `vmpath`.
    pub admin_group: String,
    pub shed_when: ShedWhen,
    /// How long a reservation must have gone unmet before `shed_when = "unmet"` sheds. Default 1 s.
    pub shed_after: Duration,
    /// Directory of what outlives a boot: incidents, suspended VMs, the journal. Default `/var/lib/vmpath`.
    pub state_dir: PathBuf,
    /// Bytes that the journal may hold, its own share of each line included. Default 32 MiB.
    pub journal_max: u64,
    /// Older lines leave the journal. Default 30 days.
    pub journal_age: Duration,
    /// Directory on tmpfs of what outlives the process and not the boot: the record of writes. Default `/run/vmpath`.
    pub run_dir: PathBuf,
    /// Data-plane threads, 1 to 64. VMs are spread over them: see [`crate::spread`]. Default 1.
    pub workers: u16,
    pub scheduler: SchedulerKind,
    /// Run by a shell to turn off a host that does not answer, before its disks are taken over. What it succeeds for is dead.
    pub fence_command: Option<String>,
}

/// Whether VMs' allocations and paths' windows hold requests back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SchedulerKind {
    /// Reservations, limits, shares and windows.
    Vmpath,
    /// Every request goes at once, if there is a path. For comparison.
    None,
}

/// The rule by which a target's path is chosen among those of the best rank (health, access state, preference).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathSelector {
    /// In turn.
    RoundRobin,
    /// The fewest requests pending.
    QueueLength,
    /// The lowest `(pending + this) / rate`, whoever asks.
    ServiceTime,
    /// The lowest expected completion time, with the VM's priority in it: headroom for higher ones, and lower ones first on
    /// paths of a worse rank.
    Vmpath,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TargetSpec {
    pub name: String,
    pub failback: Failback,
    /// Longest time after a connection's death in which the target may still execute what it carried. Default 5 s.
    pub quiesce: Duration,
    /// Silence with something outstanding that makes a connection dead. Default 5 s.
    pub ping_budget: Duration,
    /// How long a repaired path must stay good before it counts again; doubles with every relapse. Default 1 s.
    pub repair_after: Duration,
    pub write_cache: WriteCache,
    /// Connections per path and unit, if the export allows several. Default 1: requests then go out, and replies come in, many at
    /// a time, and a disk costs half as much at rest.
    pub connections: u8,
    pub path_selector: PathSelector,
}

#[derive(Clone, Debug, PartialEq)]
pub struct PathSpec {
    pub target: TargetId,
    pub name: String,
    pub url: PathUrl,
    pub capacity: Option<ByteRate>,
    pub access: Access,
    /// The most bytes in flight that this host ever allows itself on the path; its window is steered below that. Default:
    /// 200 ms of `capacity`, else 64 MiB.
    pub window_max: u64,
    /// Components that it goes through, switches for example. Paths that share one fail together.
    pub via: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathUrl {
    /// `nbd://ADDRESS:PORT[/EXPORT]`. The address is literal: a path must not depend on a name server.
    Nbd { address: SocketAddr, export: Option<String> },
    /// `nbd+unix:///[EXPORT]?socket=PATH`
    NbdUnix { socket: PathBuf, export: Option<String> },
    /// `block:///PATH`: a block device or a file of this host, through its kernel. The path is absolute.
    Block { device: PathBuf },
}

/// A storage unit that some disk uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitSpec {
    pub target: TargetId,
    pub name: String,
    /// The NBD export asked for when the path's URL names none. Default: the unit's name.
    pub export: String,
    /// Take exports that cannot be told apart (blank) for one unit without proof.
    pub assume_same: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VmSpec {
    pub name: String,
    /// Larger is more important. Default 100.
    pub priority: u32,
    /// Weight against other VMs for what no reservation claims. Default 1000.
    pub shares: u32,
    pub reservation: Option<ByteRate>,
    pub limit: Option<ByteRate>,
    pub limit_iops: Option<u64>,
    /// How far ahead of its limits it may be, as time at the limit's rate. Default 5 ms.
    pub limit_burst: Duration,
    /// Whose allocation it shares.
    pub group: Option<GroupId>,
    /// QEMU's QMP socket. Without it the VM is unmanaged: its I/O is served, it cannot be suspended.
    pub qmp: Option<PathBuf>,
    pub on_path_loss: OnPathLoss,
    pub when: When,
    pub on_no_path: OnNoPath,
    /// With fewer usable paths to one of its units than this, it follows `on_no_path` too. Default 1.
    pub min_paths: u32,
    pub may_suspend: bool,
    pub may_migrate: bool,
    pub resume: ResumeOn,
    /// Paths that this VM must not use.
    pub avoid_paths: Vec<PathId>,
    /// Run by a shell to start its QEMU for an incoming migration on this host.
    pub launch: Option<String>,
    /// Whether it goes back after the repair to the host from which a failure has moved it. Default false.
    pub returns: bool,
    /// How long it stays where it was moved to, unless that host loses its paths. Default 10 min.
    pub move_dwell: Duration,
    pub presence: Presence,
}

/// Several VMs under one allocation: against others they compete as one, with these numbers; among themselves by their own.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSpec {
    pub name: String,
    /// Default 1000.
    pub shares: u32,
    /// For all members together; a member's own reservation is part of it.
    pub reservation: Option<ByteRate>,
    pub limit: Option<ByteRate>,
    pub limit_iops: Option<u64>,
    pub limit_burst: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    pub vm: VmId,
    pub name: String,
    pub unit: UnitId,
    pub nbd_socket: Option<PathBuf>,
    pub nbd_tcp: Option<SocketAddr>,
    /// Socket on which the disk is served as a vhost-user-blk device.
    pub vhost_user: Option<PathBuf>,
    /// Virtqueues that the vhost-user device offers, 1 to 16. Default 1.
    pub queues: u16,
    /// Every front end refuses writes.
    pub read_only: bool,
    /// Who else writes the unit. Default `one`.
    pub writers: Writers,
    pub presence: Presence,
}

/// Whether a VM or disk is in the files. Ids are positions, so a row never goes while the process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    Present,
    /// A reload found it gone. It is served, as it was, until its last front end lets go.
    Leaving,
}

/// Bytes per second, more than zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteRate(pub u64);

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.0 as f64 / f64::from(1 << 20);
        if mib >= 1.0 {
            write!(f, "{mib:.1} MiB/s")
        } else {
            write!(f, "{:.1} KiB/s", self.0 as f64 / 1024.0)
        }
    }
}

/// A path's access state, in ANA/ALUA's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Optimized,
    NonOptimized,
}

/// When traffic returns to a repaired path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failback {
    Immediate,
    Manual,
    After(Duration),
    /// At once, by the host that moved it away and by no other.
    Followover,
}

/// Who writes a disk's unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writers {
    /// This disk alone.
    One,
    /// Other disks or hosts too (a cluster file system). The end of a write that was lost with a path is told after the
    /// fence: then its late original can come over nobody else's data.
    Many,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteCache {
    /// A flush on any path covers the unit (arrays; one server behind several portals).
    SurvivesPathLoss,
    /// Every write is sent with FUA.
    Volatile,
}

/// What happens to a VM when one of its paths fails while others are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPathLoss {
    Failover,
    Suspend,
    Migrate,
    FailoverSuspend,
    FailoverMigrate,
}

/// Whether `on_path_loss` applies always or only if a running VM on the same paths has a higher priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    Always,
    Outranked,
}

/// What happens to a VM when no path is left: rungs in order, each when the one before it is over or impossible.
///
/// No action stands in it twice, nothing stands after `fail`, and a `hold` comes before `suspend` and is not the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnNoPath {
    /// At least one.
    pub rungs: Vec<Rung>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rung {
    pub action: NoPathAction,
    /// How long at most, before the next rung. Always there for `hold`; a `suspend` without one waits for the repair.
    pub bound: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPathAction {
    /// Its requests wait.
    Hold,
    /// Its vCPUs are stopped.
    Suspend,
    /// It leaves for another host.
    Migrate,
    /// Its requests are answered with errors.
    Fail,
}

impl Rung {
    #[must_use]
    pub const fn hold(bound: Duration) -> Self {
        Self { action: NoPathAction::Hold, bound: Some(bound) }
    }

    /// Until the repair.
    #[must_use]
    pub const fn suspend() -> Self {
        Self { action: NoPathAction::Suspend, bound: None }
    }
}

impl OnNoPath {
    /// `hold BOUND, then suspend`: the default, with 60 s.
    #[must_use]
    pub fn hold_then_suspend(bound: Duration) -> Self {
        Self { rungs: vec![Rung::hold(bound), Rung::suspend()] }
    }

    /// How long requests are held before the first rung that does something; zero without a `hold`.
    #[must_use]
    pub fn hold(&self) -> Duration {
        let hold = self.rungs.iter().find(|rung| rung.action == NoPathAction::Hold);
        hold.and_then(|rung| rung.bound).unwrap_or_default()
    }

    #[must_use]
    pub fn has(&self, action: NoPathAction) -> bool {
        self.rungs.iter().any(|rung| rung.action == action)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResumeOn {
    /// The failed path is up and has stayed up.
    Repair,
    /// Traffic is back on the failed path.
    Failback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedWhen {
    /// A reservation has really gone unmet for `shed_after`.
    Unmet,
    /// The reservations' sum does not fit what is left.
    Reserved,
}

impl PathSpec {
    /// The window before anything is known of the path's latency: 20 ms of `capacity`, else 4 MiB.
    #[must_use]
    pub fn window_start(&self) -> u64 {
        let start = self.capacity.map_or(4 << 20, |ByteRate(rate)| rate / 50);
        start.clamp(64 << 10, self.window_max.max(64 << 10)).min(self.window_max)
    }
}

impl Spec {
    #[must_use]
    pub fn target(&self, id: TargetId) -> &TargetSpec {
        &self.targets[id.index()]
    }

    #[must_use]
    pub fn path(&self, id: PathId) -> &PathSpec {
        &self.paths[id.index()]
    }

    #[must_use]
    pub fn unit(&self, id: UnitId) -> &UnitSpec {
        &self.units[id.index()]
    }

    #[must_use]
    pub fn vm(&self, id: VmId) -> &VmSpec {
        &self.vms[id.index()]
    }

    #[must_use]
    pub fn group(&self, id: GroupId) -> &GroupSpec {
        &self.groups[id.index()]
    }

    #[must_use]
    pub fn disk(&self, id: DiskId) -> &DiskSpec {
        &self.disks[id.index()]
    }

    /// `target/path`, the name by which operators call a path.
    #[must_use]
    pub fn path_name(&self, id: PathId) -> String {
        let path = self.path(id);
        format!("{}/{}", self.target(path.target).name, path.name)
    }

    /// `target/unit`.
    #[must_use]
    pub fn unit_name(&self, id: UnitId) -> String {
        let unit = self.unit(id);
        format!("{}/{}", self.target(unit.target).name, unit.name)
    }

    pub fn path_ids(&self) -> impl Iterator<Item = PathId> + use<> {
        (0..self.paths.len()).map(PathId::at)
    }

    pub fn unit_ids(&self) -> impl Iterator<Item = UnitId> + use<> {
        (0..self.units.len()).map(UnitId::at)
    }

    pub fn vm_ids(&self) -> impl Iterator<Item = VmId> + use<> {
        (0..self.vms.len()).map(VmId::at)
    }

    pub fn disk_ids(&self) -> impl Iterator<Item = DiskId> + use<> {
        (0..self.disks.len()).map(DiskId::at)
    }

    /// The paths that lead to a unit: its target's.
    pub fn paths_of_unit(&self, unit: UnitId) -> impl Iterator<Item = PathId> + '_ {
        let target = self.unit(unit).target;
        self.path_ids().filter(move |p| self.path(*p).target == target)
    }

    pub fn disks_of_vm(&self, vm: VmId) -> impl Iterator<Item = DiskId> + '_ {
        self.disk_ids().filter(move |d| self.disk(*d).vm == vm)
    }

    /// All disks of the VM are vhost-user devices. (They may be served by NBD too: then that is for others than the VM.)
    #[must_use]
    pub fn is_vhost_user(&self, vm: VmId) -> bool {
        self.disks_of_vm(vm).all(|disk| self.disk(disk).vhost_user.is_some())
    }

    /// The units of a VM's disks.
    pub fn units_of_vm(&self, vm: VmId) -> impl Iterator<Item = UnitId> + '_ {
        self.disks_of_vm(vm).map(|d| self.disk(d).unit)
    }

    /// The paths that a VM may use: those of its units' targets, less the ones it avoids.
    pub fn paths_of_vm(&self, vm: VmId) -> impl Iterator<Item = PathId> + '_ {
        self.path_ids().filter(move |p| {
            !self.vm(vm).avoid_paths.contains(p)
                && self.units_of_vm(vm).any(|u| self.unit(u).target == self.path(*p).target)
        })
    }

    #[must_use]
    pub fn vm_by_name(&self, name: &str) -> Option<VmId> {
        self.vm_ids().find(|id| self.vm(*id).name == name)
    }

    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.groups.len()).map(GroupId::at)
    }

    #[must_use]
    pub fn group_by_name(&self, name: &str) -> Option<GroupId> {
        self.groups.iter().position(|g| g.name == name).map(GroupId::at)
    }

    /// The VMs of a group.
    pub fn members_of(&self, group: GroupId) -> impl Iterator<Item = VmId> + '_ {
        self.vm_ids().filter(move |vm| self.vm(*vm).group == Some(group))
    }

    #[must_use]
    pub fn target_by_name(&self, name: &str) -> Option<TargetId> {
        self.targets.iter().position(|t| t.name == name).map(TargetId::at)
    }

    /// Looks up `target/path`.
    #[must_use]
    pub fn path_by_name(&self, name: &str) -> Option<PathId> {
        self.path_ids().find(|id| self.path_name(*id) == name)
    }
}
