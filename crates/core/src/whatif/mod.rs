//! What would become of each VM if paths were lost, or taken out: asked of a copy of the controller, in virtual time.
//!
//! Invariant: the policy is the controller's and nobody else's. Here it is only fed what a loss would bring (link reports,
//! hypervisors that obey at once, VMs that use what they reserved), tick by tick, until it asks to be woken no more.
//! Rejected: rules of thumb over the configuration. They agree with the policy until one of the two is changed.
//! It does not know how a path was lost, whether a hypervisor will really obey, or what comes next in the real world.

mod fate;
mod host;
mod moves;
mod share;
#[cfg(test)]
mod tests;

use crate::controller::Controller;
use crate::effect::JournalEntry;
use crate::event::{Command, Force};
use crate::ids::{PathId, UnitId, VmId};
use crate::plan::Health;
use crate::spec::Spec;
use crate::time::{Duration, Instant};
use crate::view::{CapacityView, HostView};
use host::Host;
pub use moves::Others;
use std::sync::Arc;

/// What is supposed to happen, all of it at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Paths that fail and do not come back.
    pub lose: Vec<PathId>,
    /// Paths that an operator takes out.
    pub drain: Vec<PathId>,
}

/// The answer. Times are counted from the loss.
#[derive(Clone, Debug)]
pub struct Forecast {
    pub spec: Arc<Spec>,
    pub before: HostView,
    /// When nothing changes any more.
    pub after: HostView,
    pub settled_after: Duration,
    /// The bound on the time looked ahead, or on the steps, was reached first.
    pub cut_short: bool,
    /// Of the paths to lose: those that carry nothing now, so that nothing is lost with them.
    pub already_down: Vec<PathId>,
    /// Paths that the operator would not be let take out; why, in words.
    pub refused: Vec<(PathId, String)>,
    /// Right after the loss, before anybody has left: by `TargetId`.
    pub capacity: Vec<CapacityView>,
    /// By `VmId`.
    pub vms: Vec<VmForecast>,
    /// What the journal would say of targets, paths and units.
    pub events: Vec<JournalEntry>,
}

/// Where a VM ends up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fate {
    /// Its requests are answered with errors.
    Failed,
    /// By vmpath.
    Suspended,
    /// Its requests wait for a path, or for a rule to end.
    Held,
    /// By somebody else, as it is now.
    Stopped,
    /// It is served. Whether as it was promised, its floor says.
    Running,
    /// At another host: nothing that happens here touches it.
    Elsewhere,
    /// It has left the configuration and is not served.
    Gone,
}

impl Fate {
    pub const ALL: [Self; 7] = [
        Self::Failed,
        Self::Suspended,
        Self::Held,
        Self::Stopped,
        Self::Running,
        Self::Elsewhere,
        Self::Gone,
    ];

    /// The word in API and docs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Suspended => "suspended",
            Self::Held => "held",
            Self::Stopped => "stopped",
            Self::Running => "running",
            Self::Elsewhere => "elsewhere",
            Self::Gone => "gone",
        }
    }
}

/// What becomes of one VM.
#[derive(Clone, Debug)]
pub struct VmForecast {
    pub vm: VmId,
    pub before: Fate,
    pub fate: Fate,
    /// What it goes through on the way; empty if it stays what it is.
    pub stages: Vec<Stage>,
    /// What the journal would say of it, in order.
    pub steps: Vec<Step>,
    /// What ends it, if anything has to.
    pub waits_for: Option<String>,
    /// The paths that serve it in the end.
    pub paths: Vec<PathId>,
    /// Its units that no path leads to in the end.
    pub cut_off: Vec<UnitId>,
    pub floor: Option<FloorForecast>,
    /// Bytes per second that it would get in the end if it and all others that run asked for all that they can have; none if
    /// a capacity that this takes is not known, or if it does not run.
    pub entitled: Option<u64>,
}

/// What a VM is from some time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    pub after: Duration,
    pub fate: Fate,
}

/// What becomes of a reservation; bytes per second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FloorForecast {
    pub reserved: u64,
    /// In the end, if all that still run use theirs.
    pub gets: u64,
}

/// An entry that the journal would have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub after: Duration,
    pub kind: crate::effect::JournalKind,
    pub reason: String,
    pub until: Option<String>,
}

/// Asks what would happen to a host that is now as `controller` says. `others`: where its VMs may go; none if nothing is known
/// of other hosts.
#[must_use]
pub fn ask(controller: Controller, now: Instant, question: &Question, others: Option<Others>) -> Forecast {
    let before = controller.view(now);
    let spec = before.spec.clone();
    let carries = |p: &PathId| match before.paths[p.index()].health {
        Health::Up | Health::Marginal => true,
        Health::Draining | Health::Down | Health::Disabled => false,
    };
    let already_down = question.lose.iter().copied().filter(|p| !carries(p)).collect();
    let mut host = Host::new(spec.clone(), controller, now).among(others);
    host.lose(&question.lose);
    let refused: Vec<_> =
        question.drain.iter().filter_map(|p| Some((*p, host.command(drain(*p), *p).err()?))).collect();
    let capacity = host.capacity();
    let cut_short = host.settle();
    let (after, told) = (host.view(), host.told);
    let settled_after = told.iter().map(|entry| entry.at.since(now)).max().unwrap_or_default();
    let (vms, events) = fate::forecasts(&spec, [&before, &after], now, told);
    Forecast { spec, before, after, settled_after, cut_short, already_down, refused, capacity, vms, events }
}

/// The operator's word that takes a path out.
const fn drain(path: PathId) -> Command {
    Command::DrainPath(path, Force::No)
}

/// A host with this configuration on which nothing is the matter: every path is up; every VM runs, obeys its monitor if it has
/// one, stops on errors, and has disks in use.
#[must_use]
pub fn healthy(spec: &Arc<Spec>) -> (Controller, Instant) {
    Host::healthy(spec)
}
