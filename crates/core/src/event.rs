//! Everything that can happen to a host, as one closed enum: what [`crate::controller::Controller`] is told.

use crate::cluster::Heard;
use crate::ids::{DiskId, PathId, TargetId, UnitId, VmId, WorkerId};
use crate::migration::MigrationStatus;
use crate::plan::Health;
use crate::spec::{Access, Spec};
use crate::spread::Demand;
use crate::time::{Duration, Instant};
use crate::volume::verdict::TargetError;
use std::fmt;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub enum Event {
    Link(LinkReport),
    Hypervisor {
        vm: VmId,
        report: HypervisorReport,
    },
    /// Sent by each worker a few times a second. It says something of the VMs that the worker carries, and of others nothing.
    Load(LoadReport),
    /// A disk's front end has attached again and says nothing: it may not know that its back end is another process. Told once
    /// per connection.
    Silent(DiskId),
    /// A change that an operator asked for. The answer is an [`crate::effect::Effect::Answer`] with the same ticket.
    Command {
        ticket: u64,
        command: Command,
    },
    /// Of other hosts, and of moves.
    Cluster(Heard),
    /// A new configuration, already rebased on the present one (the same names keep their ids).
    Reload(Arc<Spec>),
    /// The time that the controller asked to be woken at has come, or simply some time has passed.
    Tick,
}

/// A *link* is one path's way to one unit: its connections to that export. A path is up while one of its links is.
#[derive(Clone, Debug)]
pub struct LinkReport {
    pub worker: WorkerId,
    pub path: PathId,
    pub unit: UnitId,
    pub at: Instant,
    pub change: LinkChange,
}

#[derive(Clone, Debug)]
pub enum LinkChange {
    /// The first connection is established and the unit's identity is checked.
    Up,
    /// The last connection is dead and reaped, or an attempt to connect failed. Repeated when the fault changes.
    Down { fault: Fault, requests_outstanding: u32 },
    /// The first request that was lost with this link has completed over another path, `after` the loss was seen.
    FailedOver { to: PathId, after: Duration },
}

/// Why a link is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The peer reset the connection.
    Reset,
    /// The peer closed the connection.
    Closed,
    /// Nobody listens there, or the address cannot be reached; the system's own words.
    Refused(String),
    /// Sent data goes unacknowledged: the network swallows it.
    Blackhole { unacked_for: Duration, retransmits: u32 },
    /// The interface of this host by which the connection leaves is down.
    LinkDown { interface: String },
    /// The route or the address that the connection had on this interface is gone.
    NoRoute { interface: String },
    /// The network acknowledges but the target has answered nothing for the whole ping budget.
    Hang { silent_for: Duration },
    /// A connection could not be set up in time.
    ConnectTimeout,
    /// The target broke the protocol; in words.
    Protocol(String),
    /// What answers there is not the unit; in words.
    Identity(String),
    /// It could not be told yet whether what answers there is the unit, which says nothing against it; in words.
    Unproven(String),
    /// The target says that the unit does not exist.
    UnitGone(String),
    /// The target is shutting down.
    ShuttingDown,
    /// The operator disabled the path.
    Disabled,
    /// As it was told before vmpath was restarted, or as a forecast supposes it; in words.
    Before(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reset => write!(f, "connection reset by the target"),
            Self::Closed => write!(f, "connection closed by the target"),
            Self::Refused(why) => write!(f, "cannot connect: {why}"),
            Self::Blackhole { unacked_for, retransmits } => write!(
                f,
                "network blackhole: nothing acknowledged for {} ms, {retransmits} retransmits",
                unacked_for.as_millis()
            ),
            Self::LinkDown { interface } => write!(f, "this host's network interface {interface} is down"),
            Self::NoRoute { interface } => write!(f, "no way to the target over {interface} any more"),
            Self::Hang { silent_for } => {
                write!(
                    f,
                    "target answers nothing: silent for {:.1} s, ping included",
                    silent_for.as_secs_f64()
                )
            }
            Self::ConnectTimeout => write!(f, "no answer while connecting"),
            Self::Protocol(why) => write!(f, "protocol error: {why}"),
            Self::Identity(why) => write!(f, "not this unit: {why}"),
            Self::Unproven(why) => write!(f, "not used before it is known that it leads to this unit: {why}"),
            Self::UnitGone(why) => write!(f, "the target has no such unit: {why}"),
            Self::ShuttingDown => write!(f, "the target is shutting down"),
            Self::Disabled => write!(f, "disabled by the operator"),
            Self::Before(words) => write!(f, "{words}"),
        }
    }
}

/// What a hypervisor's monitor says of one VM. The daemon maps QMP onto it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HypervisorReport {
    /// The monitor is connected. `instance` tells one hypervisor process from the next under the same socket.
    Connected { instance: u64, state: RunState, stops_on_error: StopsOnError },
    /// The monitor is gone or was never there; in words.
    Lost { why: String },
    /// The run state changed, or was asked for.
    State(RunState),
    /// A `stop` or `cont` was answered with an error; in words.
    Refused { why: String },
    /// What process it is; told right after each `Connected`.
    Machine(Machine),
    /// How the migration that this process sends stands: whenever that has changed, and when it was asked for.
    Migration(MigrationStatus),
    /// An order that concerns a migration was not carried out, or was not answered; in words.
    MigrationRefused { order: MigrationOrder, why: String },
    /// The monitor has not answered for longer than it should; in words. Told again and again until it does. While a
    /// migration sends the devices' state this is all that can be known: QEMU answers nothing then, not even a cancel.
    Deaf { why: String },
}

/// What a hypervisor process is: what must be alike at both ends of a migration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    pub instance: u64,
    /// The hypervisor's own version, as in `7.2.22Debian`.
    pub version: String,
    /// Bytes of the guest's memory, if it says so.
    pub memory: Option<u64>,
    pub role: Role,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// The VM is here.
    Home,
    /// It waits for a VM that is to come from elsewhere, at these addresses; at none yet, if it must be told one.
    Incoming { listens: Vec<String> },
}

/// The orders that concern a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MigrationOrder {
    Start,
    Continue,
    Cancel,
    Query,
}

/// Whether every disk of the VM has `werror=stop,rerror=stop`, so that an EIO stops the VM instead of reaching the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopsOnError {
    Yes,
    No,
    /// All its disks are vhost-user devices: `stop` waits for none of its requests, and an EIO would reach its guest. The
    /// controller knows this from the configuration; a monitor does not tell it.
    NeedNot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunState {
    Running,
    /// Stopped by a `stop` command.
    Paused,
    /// Stopped by itself on an I/O error.
    IoError,
    /// It has sent its VM to another process, all of it: what is left must never be continued.
    Sent,
    /// `prelaunch`, `inmigrate`, `shutdown`, …: not ours to stop or continue.
    Other,
}

/// What one worker measured since its last report.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    pub worker: WorkerId,
    pub interval: Duration,
    /// By `VmId`. Zeros for those that another worker carries.
    pub vms: Vec<VmLoad>,
    /// By `PathId`: the worker's part.
    pub paths: Vec<PathLoad>,
    /// Of the plan by which the front ends were told of.
    pub generation: u64,
    /// Of the disks that the worker carries.
    pub fronts: Vec<(DiskId, DiskFront)>,
    /// The disks of its VMs whose target refuses everything for want of resources: nearly always none.
    pub short: Vec<Short>,
    /// The disks whose guest was answered with an error in the interval: nearly always none.
    pub errors: Vec<GuestError>,
}

/// A disk's target has answered nothing but that it is short of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short {
    pub disk: DiskId,
    pub lasts: Duration,
}

/// The last error that the guest of a disk was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GuestError {
    pub disk: DiskId,
    pub error: TargetError,
    pub ago: Duration,
}

/// Who is attached to a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFront {
    /// A front end may attach, if only while another one is attached already; so many are.
    Open { attached: u32 },
    /// It is leaving the configuration, and nobody is attached: nobody listens for it any more.
    Closed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct VmLoad {
    /// Completed in the interval.
    pub bytes_completed: u64,
    pub requests_completed: u64,
    /// Part of the interval (0 to 1) in which requests waited for room on a path, not for the VM's own limit.
    pub backlogged: f64,
    /// Requests that were not answered at its end: on their way, or waiting for whatever but the VM itself, which stands still.
    pub open: u32,
}

impl VmLoad {
    /// It wants something of its disks. One without a path gets nothing and has no backlog on any, and lives all the same.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.requests_completed > 0 || self.backlogged > 0.0 || self.open > 0
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct PathLoad {
    pub bytes_completed: u64,
    /// Part of the interval (0 to 1) in which the path's window was full.
    pub saturated: f64,
    /// What the worker's VMs asked of it: from this its window is divided.
    pub demand: Demand,
    pub vitals: PathVitals,
}

/// By what a path's sickness is seen: see [`crate::path::Sickness`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PathVitals {
    /// Reads and writes, less the time that what was in flight before them took.
    pub requests: Took,
    pub pings: Took,
    /// Requests that it answered with an I/O error and that another path then served.
    pub failed: u32,
    /// Requests that it served, and those that it failed.
    pub answered: u32,
}

/// How long some of them took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Took {
    pub count: u32,
    pub total: Duration,
}

impl PathVitals {
    pub fn add(&mut self, more: &Self) {
        for (sum, more) in [(&mut self.requests, more.requests), (&mut self.pings, more.pings)] {
            sum.count = sum.count.saturating_add(more.count);
            sum.total = sum.total.saturating_add(more.total);
        }
        self.failed = self.failed.saturating_add(more.failed);
        self.answered = self.answered.saturating_add(more.answered);
    }
}

impl Took {
    pub fn add(&mut self, took: Duration) {
        self.count = self.count.saturating_add(1);
        self.total = self.total.saturating_add(took);
    }
}

/// What an operator may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    DisablePath(PathId),
    /// No new requests, and those in flight finish; whoever does not fit without it leaves before.
    DrainPath(PathId, Force),
    EnablePath(PathId),
    SetAccess(PathId, Access),
    SuspendVm(VmId),
    ResumeVm(VmId),
    Failback(TargetId),
    /// Move it to this host, or to the best one.
    MigrateVm {
        vm: VmId,
        to: Option<String>,
    },
    /// Move it back to the host that it came from.
    ReturnVm(VmId),
    CancelMigration(VmId),
}

/// Whether a command may take away what a VM needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    No,
    Yes,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Up => "up",
            Self::Marginal => "marginal",
            Self::Down => "down",
            Self::Draining => "draining",
            Self::Disabled => "disabled",
        })
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Optimized => "optimized",
            Self::NonOptimized => "non-optimized",
        })
    }
}
