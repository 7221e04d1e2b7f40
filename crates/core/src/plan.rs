//! What the control owner tells the data plane: one immutable snapshot, swapped in whole.
//!
//! A worker that still routes by an older plan is harmless: a plan only ranks and forbids. Whether a connection may
//! carry a request is the worker's own knowledge, and the rules of exactly-once, quarantine and flush are kept by the
//! router whatever the plan says. Parts of windows
//! that are older than another worker's may add up to more than the window for a moment, which costs order and not safety.

use crate::ids::{IncidentId, UnitId, WorkerId};
use crate::spec::{Access, Spec};
use crate::spread::Parts;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct RoutePlan {
    /// Grows by one with each plan.
    pub generation: u64,
    pub spec: Arc<Spec>,
    /// By `WorkerId`: how many of its link reports this plan has taken into account. A VM that must not be routed over
    /// an alternate waits, after a loss, for the plan that knows of it.
    pub link_reports: Vec<u64>,
    /// By `PathId`.
    pub paths: Vec<PathRoute>,
    /// By `VmId`.
    pub vms: Vec<VmRoute>,
    /// How paths' windows are divided between workers: read by [`crate::spread::part_of`].
    pub parts: Parts,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathRoute {
    pub health: Health,
    pub access: Access,
    /// Traffic belongs here. False from a failure until failback: then the path is a standby, used when no other is.
    pub preferred: bool,
}

/// A path's state, as shown to operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    Up,
    /// Works, but is sick or has not been good for long enough: used last, not never.
    Marginal,
    Down,
    /// About to be taken out by the operator: it gets no new requests, those in flight finish.
    Draining,
    /// Taken out by the operator.
    Disabled,
}

impl Health {
    /// The operator lets it have no new requests.
    #[must_use]
    pub const fn is_out(self) -> bool {
        match self {
            Self::Up | Self::Marginal | Self::Down => false,
            Self::Draining | Self::Disabled => true,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmRoute {
    pub gate: Gate,
}

/// Whether a VM's requests may be routed at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Routed as paths, scheduler and quarantine allow.
    Open,
    /// Kept queued, nothing is dispatched; what is in flight on live paths finishes.
    Hold(GateReason),
    /// What is in flight on live paths finishes; what is queued or arrives is answered EIO, because the hypervisor
    /// stops the VM on it (`werror=stop,rerror=stop`), keeps the request and repeats it on `cont`.
    Bounce(GateReason),
    /// The policy chose to fail: of these units, queued and new requests are answered EIO to the guest. Its other units are
    /// routed as if it were open.
    Fail(GateReason, Failing),
}

/// The units of a VM whose requests fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// No path leads there: what waits or arrives is answered at once.
    pub cut_off: Vec<UnitId>,
    /// Their target is short of resources: it is asked all the same, and what it refuses is not tried again.
    pub refused: Vec<UnitId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateReason {
    pub incident: Option<IncidentId>,
    /// In words, with the numbers: shown to the operator as it is.
    pub text: String,
}

impl RoutePlan {
    /// How many link reports of a worker it has taken into account.
    #[must_use]
    pub fn reports_of(&self, worker: WorkerId) -> u64 {
        self.link_reports.get(worker.index()).copied().unwrap_or(0)
    }
}
