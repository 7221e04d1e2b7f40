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

mod capacity;
mod moves;
pub use capacity::{CapacityStanding, CapacityView, PartyView};
pub use moves::{MoveEnd, MoveSide, MoveView, TransferView};

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
    /// By `DiskId`.
    pub disks: Vec<Standing>,
    /// Open ones.
    pub incidents: Vec<IncidentView>,
    /// By `TargetId`.
    pub capacity: Vec<CapacityView>,
    /// Those under way first, then those that are over, the latest first.
    pub moves: Vec<MoveView>,
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
    /// On its way to another host, or from one.
    Migrating,
    /// At another host: nothing of it is served here.
    Elsewhere,
}

impl VmState {
    pub const ALL: [Self; 8] = [
        Self::Running,
        Self::Suspending,
        Self::Suspended,
        Self::Resuming,
        Self::StoppedByOther,
        Self::Unmanaged,
        Self::Migrating,
        Self::Elsewhere,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Resuming => "resuming",
            Self::StoppedByOther => "stopped-by-other",
            Self::Unmanaged => "unmanaged",
            Self::Migrating => "migrating",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// Whether a VM or disk is in the configuration, and if not, whether it is served all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Present,
    /// No longer in the configuration, and served until the last front end lets go.
    Leaving,
    /// No longer in the configuration, and not served.
    Gone,
}

impl Standing {
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Leaving => "leaving",
            Self::Gone => "gone",
        }
    }
}

#[derive(Clone, Debug)]
pub struct VmView {
    pub vm: VmId,
    pub standing: Standing,
    pub state: VmState,
    pub run_state: Option<RunState>,
    pub gate: Gate,
    pub since: Instant,
    /// Why it is where it is: each sentence names the failure, the rule or the number. Empty if nothing is the matter.
    pub because: Vec<String>,
    /// What it waits for; none if it waits for nothing.
    pub waits_for: Option<String>,
    pub incident: Option<IncidentId>,
    /// At which it is while it is elsewhere; to which it goes or from which it comes while it is migrating.
    pub other_host: Option<String>,
    /// Where it began, if that is another host: `vmpath vm return` sends it there.
    pub home: Option<String>,
    /// Where it goes by itself once it may (`return = true`).
    pub returns_to: Option<String>,
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

impl WorkerView {
    /// What all workers together are doing: counts and rates are sums, times weighed by requests. Every VM, and with it
    /// its disks and units, is one worker's own; a path is shared. `at` is the latest, the plan the oldest in force.
    #[must_use]
    pub fn merge<'a>(views: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut views = views.into_iter();
        let mut sum = views.next().cloned().unwrap_or_default();
        for view in views {
            sum.at = sum.at.max(view.at);
            sum.generation = sum.generation.min(view.generation);
            add_rows(&mut sum.paths, &view.paths, PathLoadView::add);
            add_rows(&mut sum.vms, &view.vms, VmLoadView::add);
            add_rows(&mut sum.disks, &view.disks, |disk, other| disk.clients += other.clients);
            add_rows(&mut sum.units, &view.units, UnitLoadView::add);
        }
        sum
    }
}

fn add_rows<T: Clone>(sum: &mut Vec<T>, other: &[T], add: impl Fn(&mut T, &T)) {
    for (row, more) in sum.iter_mut().zip(other) {
        add(row, more);
    }
    // A worker that has not looked at them yet has no rows.
    sum.extend(other.iter().skip(sum.len()).cloned());
}

#[derive(Clone, Debug, Default)]
pub struct PathLoadView {
    pub pending_requests: u32,
    pub pending_bytes: u64,
    /// Device bytes that may be in flight now: steered by latency.
    pub window_bytes: u64,
    /// What the window is never above.
    pub window_max: u64,
    pub connections: u32,
    /// Exponentially weighted; from dispatch to reply.
    pub service_time: Duration,
    /// Estimated bytes per second: what the path can carry, as far as has been seen.
    pub rate: u64,
    /// Bytes per second lately carried, by VM; those with none are left out.
    pub carried: Vec<(VmId, u64)>,
    pub completed_requests: u64,
    pub completed_bytes: u64,
    pub errors: u64,
}

impl PathLoadView {
    fn add(&mut self, other: &Self) {
        let weighed = |time: Duration, requests: u64| time.as_nanos() * u128::from(requests);
        let requests = self.completed_requests + other.completed_requests;
        let total = weighed(self.service_time, self.completed_requests)
            + weighed(other.service_time, other.completed_requests);
        let mean = total.checked_div(u128::from(requests)).unwrap_or(0);
        self.service_time = Duration::from_nanos(u64::try_from(mean).unwrap_or(u64::MAX));
        self.pending_requests += other.pending_requests;
        self.pending_bytes += other.pending_bytes;
        self.window_bytes += other.window_bytes;
        self.connections += other.connections;
        self.rate += other.rate;
        self.window_max = self.window_max.max(other.window_max);
        self.carried.extend(&other.carried);
        self.completed_requests = requests;
        self.completed_bytes += other.completed_bytes;
        self.errors += other.errors;
    }
}

#[derive(Clone, Debug, Default)]
pub struct VmLoadView {
    pub in_flight: u32,
    pub held: u32,
    /// The commonest reason first, with its count.
    pub held_reasons: Vec<(HoldReason, u32)>,
    pub oldest_held: Option<Duration>,
    /// Time that requests have spent held, by reason, summed over the requests; grows.
    pub held_time: Vec<(HoldReason, Duration)>,
    /// Bytes per second that it would get now if it asked for all that it can have; none if that is not limited.
    pub entitled: Option<u64>,
    /// Bytes per second lately completed.
    pub served: u64,
    /// Bytes per second by which it lately missed its reservation although requests waited.
    pub reservation_unmet: u64,
    pub completed_requests: u64,
    pub completed_bytes: u64,
    pub failed_requests: u64,
    pub retried_requests: u64,
}

impl VmLoadView {
    fn add(&mut self, other: &Self) {
        self.in_flight += other.in_flight;
        self.held += other.held;
        for (reason, count) in &other.held_reasons {
            self.hold(*reason, *count);
        }
        self.sort_reasons();
        self.oldest_held = self.oldest_held.max(other.oldest_held);
        for (reason, time) in &other.held_time {
            match self.held_time.iter_mut().find(|(r, _)| r == reason) {
                Some((_, known)) => *known += *time,
                None => self.held_time.push((*reason, *time)),
            }
        }
        self.entitled = self.entitled.or(other.entitled);
        self.served += other.served;
        self.reservation_unmet += other.reservation_unmet;
        self.completed_requests += other.completed_requests;
        self.completed_bytes += other.completed_bytes;
        self.failed_requests += other.failed_requests;
        self.retried_requests += other.retried_requests;
    }

    pub(crate) fn hold(&mut self, reason: HoldReason, count: u32) {
        match self.held_reasons.iter_mut().find(|(r, _)| *r == reason) {
            Some((_, known)) => *known += count,
            None => self.held_reasons.push((reason, count)),
        }
    }

    pub(crate) fn sort_reasons(&mut self) {
        self.held_reasons.sort_by_key(|(reason, count)| (std::cmp::Reverse(*count), *reason));
    }
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
    /// Places of which it is remembered what they hold.
    pub remembered_places: u32,
}

impl UnitLoadView {
    fn add(&mut self, other: &Self) {
        self.size = self.size.or(other.size);
        self.quarantined_ranges += other.quarantined_ranges;
        self.quarantined_bytes = self.quarantined_bytes.saturating_add(other.quarantined_bytes);
        self.quarantined_for = self.quarantined_for.max(other.quarantined_for);
        self.remembered_places += other.remembered_places;
    }
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
    /// What room the eligible paths have is kept for VMs of higher priority.
    Headroom,
    /// It overlaps a write whose outcome on a lost path is unknown, before the fence.
    Quarantine,
    /// The target was short of resources; it is retried after a pause.
    RetryLater,
    /// The disk's ring is stopped.
    Stopped,
    /// This host does not own the disk's unit, or its requests are on their way from one host to another.
    Owner,
    /// What a former process or boot may have left on its way to the unit could still arrive.
    Fence,
    /// Its range is being compared between two paths, to prove that both lead to the same unit.
    Identity,
    /// It is done, on a disk with several writers: that is told after the fence of the path on which it was lost.
    Acknowledgement,
}

impl HoldReason {
    pub const ALL: [Self; 12] = [
        Self::Limit,
        Self::Gate,
        Self::NoPath,
        Self::Window,
        Self::Headroom,
        Self::Quarantine,
        Self::RetryLater,
        Self::Stopped,
        Self::Owner,
        Self::Fence,
        Self::Identity,
        Self::Acknowledgement,
    ];

    /// Its name in the API. For people's words see there.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Gate => "policy",
            Self::NoPath => "no-path",
            Self::Window => "window",
            Self::Headroom => "headroom",
            Self::Quarantine => "quarantine",
            Self::RetryLater => "retry-later",
            Self::Stopped => "stopped",
            Self::Owner => "owner",
            Self::Fence => "fence",
            Self::Identity => "identity-check",
            Self::Acknowledgement => "acknowledgement",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn worker(pending: u32, completed: u64, micros: u64) -> WorkerView {
        let path = PathLoadView {
            pending_requests: pending,
            completed_requests: completed,
            service_time: Duration::from_micros(micros),
            rate: 100,
            window_bytes: 1 << 20,
            ..PathLoadView::default()
        };
        WorkerView { paths: vec![path], generation: u64::from(pending), ..WorkerView::default() }
    }

    #[test]
    fn held_time_adds_up_by_reason() {
        let vm = |entitled, times: &[(HoldReason, u64)]| VmLoadView {
            held_time: times.iter().map(|(reason, ms)| (*reason, Duration::from_millis(*ms))).collect(),
            entitled,
            served: 10,
            reservation_unmet: 5,
            ..VmLoadView::default()
        };
        let of = |vm| WorkerView { vms: vec![vm], ..WorkerView::default() };
        let first = of(vm(None, &[(HoldReason::Limit, 3)]));
        let second = of(vm(Some(40), &[(HoldReason::Window, 4), (HoldReason::Limit, 5)]));
        let sum = &WorkerView::merge([&first, &second]).vms[0];
        let millis = Duration::from_millis;
        assert_eq!(sum.held_time, [(HoldReason::Limit, millis(8)), (HoldReason::Window, millis(4))]);
        assert_eq!((sum.entitled, sum.served, sum.reservation_unmet), (Some(40), 20, 10));
    }

    /// A new reason does not compile here until it has a place.
    const fn after(reason: HoldReason) -> Option<HoldReason> {
        match reason {
            HoldReason::Limit => Some(HoldReason::Gate),
            HoldReason::Gate => Some(HoldReason::NoPath),
            HoldReason::NoPath => Some(HoldReason::Window),
            HoldReason::Window => Some(HoldReason::Headroom),
            HoldReason::Headroom => Some(HoldReason::Quarantine),
            HoldReason::Quarantine => Some(HoldReason::RetryLater),
            HoldReason::RetryLater => Some(HoldReason::Stopped),
            HoldReason::Stopped => Some(HoldReason::Owner),
            HoldReason::Owner => Some(HoldReason::Fence),
            HoldReason::Fence => Some(HoldReason::Identity),
            HoldReason::Identity => Some(HoldReason::Acknowledgement),
            HoldReason::Acknowledgement => None,
        }
    }

    #[test]
    fn every_hold_reason_is_listed_once_and_has_a_name_of_its_own() {
        let all: Vec<_> = std::iter::successors(Some(HoldReason::Limit), |reason| after(*reason)).collect();
        assert_eq!(all, HoldReason::ALL);
        let names: BTreeSet<_> = all.iter().map(|reason| reason.as_str()).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn workers_add_up() {
        let mut first = worker(3, 100, 200);
        let mut second = worker(4, 300, 400);
        first.at = Instant::from_millis(5);
        let vm =
            |held, reason| VmLoadView { held, held_reasons: vec![(reason, held)], ..VmLoadView::default() };
        first.vms = vec![vm(2, HoldReason::Gate), VmLoadView::default()];
        first.paths[0].window_max = 8 << 20;
        second.paths[0].window_max = 8 << 20;
        first.paths[0].carried = vec![(VmId::at(0), 70)];
        second.paths[0].carried = vec![(VmId::at(1), 30)];
        second.vms = vec![VmLoadView::default(), vm(1, HoldReason::Limit)];
        second.units = vec![UnitLoadView { size: Some(7), ..UnitLoadView::default() }];
        let sum = WorkerView::merge([&first, &second]);
        let path = &sum.paths[0];
        assert_eq!((path.pending_requests, path.rate, path.window_bytes), (7, 200, 2 << 20));
        assert_eq!(path.service_time, Duration::from_micros(350), "weighed by what each has done");
        assert_eq!(path.window_max, 8 << 20, "the cap is the path's, not a worker's");
        assert_eq!(path.carried, [(VmId::at(0), 70), (VmId::at(1), 30)], "a VM is one worker's own");
        assert_eq!((sum.at, sum.generation), (Instant::from_millis(5), 3));
        assert_eq!((sum.vms[0].held, sum.vms[1].held), (2, 1));
        assert_eq!(sum.units[0].size, Some(7), "the first worker has not looked yet");
        assert_eq!(
            WorkerView::merge([&worker(0, 0, 0), &worker(0, 0, 0)]).paths[0].service_time,
            Duration::ZERO
        );
    }
}
