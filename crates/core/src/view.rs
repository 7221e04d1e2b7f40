//! What can be shown of a host: plain rows, made by the controller and by each router on request.
//!
//! Two sources that meet only in the API: [`HostView`] is what was *decided* (control owner), [`WorkerView`] is what is
//! *happening* (one data-plane worker). Rows hold ids and words; names come from the spec, JSON from the API.

use crate::event::{Fault, RunState};
use crate::ids::{DiskId, IncidentId, PathId, UnitId, VmId};
use crate::plan::{Gate, Health};
use crate::spec::{Access, Spec};
use crate::time::{Duration, Instant};
use std::sync::Arc;

/// What the control owner knows and has decided.
#[derive(Clone, Debug)]
pub struct HostView {
    pub at: Instant,
    pub spec: Arc<Spec>,
    pub generation: u64,
    /// By `PathId`.
    pub paths: Vec<PathView>,
    /// By `UnitId`.
    pub units: Vec<UnitView>,
    /// By `VmId`.
    pub vms: Vec<VmView>,
    /// Open ones.
    pub incidents: Vec<IncidentView>,
}

#[derive(Clone, Debug)]
pub struct PathView {
    pub path: PathId,
    pub health: Health,
    pub access: Access,
    pub preferred: bool,
    pub since: Instant,
    /// Why it is not simply up and preferred, in words; none if it is.
    pub reason: Option<String>,
    /// How often it has relapsed, and how long it must stay good now before it counts again.
    pub relapses: u32,
    pub repair_after: Duration,
    pub incident: Option<IncidentId>,
}

#[derive(Clone, Debug)]
pub struct UnitView {
    pub unit: UnitId,
    /// One for each path of its target.
    pub links: Vec<LinkView>,
}

#[derive(Clone, Debug)]
pub struct LinkView {
    pub path: PathId,
    pub state: LinkState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// Not yet heard of.
    Connecting,
    Up,
    Down(Fault),
}

/// A VM's state as an operator names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VmState {
    Running,
    Suspending,
    /// By us.
    Suspended,
    Resuming,
    /// By somebody else: stays stopped.
    StoppedByOther,
    /// No hypervisor monitor: its I/O goes on, it cannot be suspended.
    Unmanaged,
}

impl VmState {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Resuming => "resuming",
            Self::StoppedByOther => "stopped-by-other",
            Self::Unmanaged => "unmanaged",
        }
    }
}

#[derive(Clone, Debug)]
pub struct VmView {
    pub vm: VmId,
    pub state: VmState,
    pub run_state: Option<RunState>,
    pub gate: Gate,
    pub since: Instant,
    /// Why it is where it is: each sentence names the failure, the rule or the number. Empty if nothing is the matter.
    pub because: Vec<String>,
    /// What it waits for; none if it waits for nothing.
    pub waits_for: Option<String>,
    pub incident: Option<IncidentId>,
}

#[derive(Clone, Debug)]
pub struct IncidentView {
    pub incident: IncidentId,
    pub opened: Instant,
    pub summary: String,
    pub paths: Vec<PathId>,
    pub vms_affected: Vec<VmId>,
}

/// What one data-plane worker is doing. Counters grow from the worker's start.
#[derive(Clone, Debug, Default)]
pub struct WorkerView {
    pub at: Instant,
    pub generation: u64,
    /// By `PathId`.
    pub paths: Vec<PathLoadView>,
    /// By `VmId`.
    pub vms: Vec<VmLoadView>,
    /// By `DiskId`.
    pub disks: Vec<DiskLoadView>,
    /// By `UnitId`.
    pub units: Vec<UnitLoadView>,
}

#[derive(Clone, Debug, Default)]
pub struct PathLoadView {
    pub pending_requests: u32,
    pub pending_bytes: u64,
    pub window_bytes: u64,
    pub connections: u32,
    /// Exponentially weighted; from dispatch to reply.
    pub service_time: Duration,
    /// Estimated bytes per second.
    pub rate: u64,
    pub completed_requests: u64,
    pub completed_bytes: u64,
    pub errors: u64,
}

#[derive(Clone, Debug, Default)]
pub struct VmLoadView {
    pub in_flight: u32,
    pub held: u32,
    /// The commonest reason first, with its count.
    pub held_reasons: Vec<(HoldReason, u32)>,
    pub oldest_held: Option<Duration>,
    pub completed_requests: u64,
    pub completed_bytes: u64,
    pub failed_requests: u64,
    pub retried_requests: u64,
}

#[derive(Clone, Debug)]
pub struct DiskLoadView {
    pub disk: DiskId,
    pub clients: u32,
}

#[derive(Clone, Debug, Default)]
pub struct UnitLoadView {
    pub size: Option<u64>,
    pub quarantined_ranges: u32,
    pub quarantined_bytes: u64,
    /// Until the last fence, if any range is quarantined.
    pub quarantined_for: Option<Duration>,
}

/// Why a request is held now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HoldReason {
    /// The VM's limit in bytes per second or requests per second.
    Limit,
    /// The policy holds the VM.
    Gate,
    /// No path to the unit is usable.
    NoPath,
    /// Every eligible path's window is full.
    Window,
    /// It overlaps a write whose outcome on a lost path is unknown, before the fence.
    Quarantine,
    /// The target was short of resources; it is retried after a pause.
    RetryLater,
    /// Its range is being compared between two paths, to prove that both lead to the same unit.
    Identity,
}

impl HoldReason {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Gate => "policy",
            Self::NoPath => "no-path",
            Self::Window => "window",
            Self::Quarantine => "quarantine",
            Self::RetryLater => "retry-later",
            Self::Identity => "identity-check",
        }
    }
}
