//! Everything that the controller can ask for, as one closed enum. The daemon's `control/effects` performs it with one
//! `match`; the simulator with another.

use crate::cluster::Ask;
use crate::ids::{IncidentId, PathId, TargetId, UnitId, VmId};
use crate::plan::RoutePlan;
use crate::time::Instant;

#[derive(Clone, Debug)]
pub enum Effect {
    /// Give this plan to every worker.
    Publish(RoutePlan),
    /// Send QMP `stop`, to this instance only.
    Stop { vm: VmId, instance: u64 },
    /// Send QMP `cont`, to this instance only.
    Continue { vm: VmId, instance: u64 },
    /// Keep the VM's monitor connected, or let go of it: nothing is served to the VM any more.
    Monitor { vm: VmId, wanted: Wanted },
    /// Ask another host, the store that hosts share, or the data plane, for a move.
    Cluster(Ask),
    /// Append to the journal.
    Record(JournalEntry),
    /// Answer the operator's command.
    Answer { ticket: u64, result: Result<String, CommandError> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    Yes,
    No,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// It makes no sense in the present state; in words, with what to do instead.
    Conflict(String),
    /// It cannot be done here; in words.
    Unsupported(String),
}

/// One line of the journal: a decision or an observation, with everything needed to explain it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalEntry {
    pub at: Instant,
    pub incident: Option<IncidentId>,
    pub kind: JournalKind,
    pub subject: Subject,
    /// In words, with the numbers.
    pub reason: String,
    /// What ends it, where it is a hold, a suspend or a migration.
    pub until: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    Host,
    Target(TargetId),
    Path(PathId),
    Unit(UnitId),
    Vm(VmId),
}

/// The closed list of what a journal speaks of. Shown in kebab case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalKind {
    PathDown,
    PathUp,
    /// It has stayed good long enough: the failure is corrected.
    PathRepaired,
    /// Traffic is back on it.
    Failback,
    PathDisabled,
    PathEnabled,
    /// It is being taken out; the reason says how far that is.
    PathDraining,
    /// Nothing of it is in flight any more: it can be worked on.
    PathDrained,
    AccessChanged,
    /// Much slower or more error-prone than its siblings: used last.
    PathSick,
    PathWell,
    /// Several paths that share a component have failed: it is one failure.
    ComponentDown,
    LinkDown,
    LinkUp,
    /// The first lost request completed over another path.
    FailedOver,
    NoPath,
    /// Fewer than the VM's `min_paths` lead to one of its units.
    FewPaths,
    /// A target refuses everything for want of resources.
    TargetShort,
    VmHeld,
    VmReleased,
    VmSuspending,
    VmSuspended,
    VmResuming,
    VmResumed,
    VmFailing,
    /// The policy wants something that cannot be done; the reason says why.
    PolicyBlocked,
    /// A reservation is not met and nothing may be shed for it.
    ReservationLost,
    ReservationMet,
    VmManaged,
    VmUnmanaged,
    IncidentOpened,
    IncidentClosed,
    Reloaded,
    /// A disk is no longer in the configuration, and is served until its front ends let go.
    DiskLeaving,
    /// The last front end of such a disk has let go.
    DiskGone,
    /// It is in the configuration again.
    DiskReturned,
    /// Its unit is taken over from a host that is dead.
    DiskTakeover,
    /// vmpath runs again after a stop, a crash or a boot.
    Restarted,
    /// A step of a move to another host, at the host that the VM leaves.
    VmMigrating,
    /// It is at another host now.
    VmMigrated,
    /// The move is over, and the VM stays.
    MigrationCancelled,
    /// Neither end may go on before something is known or done; the reason says what.
    MigrationHeld,
    /// A step of a move, at the host that the VM comes to.
    VmArriving,
    VmArrived,
    /// It does not come after all.
    ArrivalCancelled,
}

impl JournalKind {
    pub const ALL: [Self; 45] = [
        Self::PathDown,
        Self::PathUp,
        Self::PathRepaired,
        Self::Failback,
        Self::PathDisabled,
        Self::PathEnabled,
        Self::PathDraining,
        Self::PathDrained,
        Self::AccessChanged,
        Self::PathSick,
        Self::PathWell,
        Self::ComponentDown,
        Self::LinkDown,
        Self::LinkUp,
        Self::FailedOver,
        Self::NoPath,
        Self::FewPaths,
        Self::TargetShort,
        Self::VmHeld,
        Self::VmReleased,
        Self::VmSuspending,
        Self::VmSuspended,
        Self::VmResuming,
        Self::VmResumed,
        Self::VmFailing,
        Self::PolicyBlocked,
        Self::ReservationLost,
        Self::ReservationMet,
        Self::VmManaged,
        Self::VmUnmanaged,
        Self::IncidentOpened,
        Self::IncidentClosed,
        Self::Reloaded,
        Self::DiskLeaving,
        Self::DiskGone,
        Self::DiskReturned,
        Self::DiskTakeover,
        Self::Restarted,
        Self::VmMigrating,
        Self::VmMigrated,
        Self::MigrationCancelled,
        Self::MigrationHeld,
        Self::VmArriving,
        Self::VmArrived,
        Self::ArrivalCancelled,
    ];

    /// The kind that a word stands for.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word in journals, API and docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PathDown => "path-down",
            Self::PathUp => "path-up",
            Self::PathRepaired => "path-repaired",
            Self::Failback => "failback",
            Self::PathDisabled => "path-disabled",
            Self::PathEnabled => "path-enabled",
            Self::PathDraining => "path-draining",
            Self::PathDrained => "path-drained",
            Self::AccessChanged => "access-changed",
            Self::PathSick => "path-sick",
            Self::PathWell => "path-well",
            Self::ComponentDown => "component-down",
            Self::LinkDown => "link-down",
            Self::LinkUp => "link-up",
            Self::FailedOver => "failed-over",
            Self::NoPath => "no-path",
            Self::FewPaths => "few-paths",
            Self::TargetShort => "target-short",
            Self::VmHeld => "vm-held",
            Self::VmReleased => "vm-released",
            Self::VmSuspending => "vm-suspending",
            Self::VmSuspended => "vm-suspended",
            Self::VmResuming => "vm-resuming",
            Self::VmResumed => "vm-resumed",
            Self::VmFailing => "vm-failing",
            Self::PolicyBlocked => "policy-blocked",
            Self::ReservationLost => "reservation-lost",
            Self::ReservationMet => "reservation-met",
            Self::VmManaged => "vm-managed",
            Self::VmUnmanaged => "vm-unmanaged",
            Self::IncidentOpened => "incident-opened",
            Self::IncidentClosed => "incident-closed",
            Self::Reloaded => "reloaded",
            Self::DiskLeaving => "disk-leaving",
            Self::DiskGone => "disk-gone",
            Self::DiskReturned => "disk-returned",
            Self::DiskTakeover => "disk-takeover",
            Self::Restarted => "restarted",
            Self::VmMigrating => "vm-migrating",
            Self::VmMigrated => "vm-migrated",
            Self::MigrationCancelled => "migration-cancelled",
            Self::MigrationHeld => "migration-held",
            Self::VmArriving => "vm-arriving",
            Self::VmArrived => "vm-arrived",
            Self::ArrivalCancelled => "arrival-cancelled",
        }
    }
}
