//! One host's decisions: an event in, effects out.
//!
//! Invariant: after [`Controller::handle`] everything that follows from what is known at `now` has been decided, and at
//! most one plan was published. The order of effects is the order to perform them in: the plan first, because a gate
//! must be shut before a `stop` and open before a `cont`; then hypervisors, journal, answers.
//! Rejected: reacting to edges. Each rule looks at the present facts, so a VM whose monitor appears in the middle of an
//! incident, or a reload, needs no case of its own.
//! It does not know how an effect is performed, nor whether it succeeded until an event says so.

mod capacity;
mod commands;
mod components;
mod decide;
mod discards;
mod drain;
mod erred;
mod guests;
mod incidents;
mod ladder;
mod leave;
mod losses;
mod misfit;
mod moves;
mod moving;
mod paths;
mod reload;
mod remember;
mod restore;
mod shed;
mod sick;
mod summary;
mod switchover;
mod view;
mod whereabouts;
mod words;

use crate::cluster::Ask;
use crate::effect::{Effect, JournalEntry, JournalKind, Subject};
use crate::event::{DiskFront, Event, LoadReport};
use crate::ids::{DiskId, IncidentId, PathId, UnitId, VmId, WorkerId};
use crate::path::Network;
use crate::plan::{Gate, GateReason, PathRoute, RoutePlan, VmRoute};
use crate::policy::{
    Cause, Dwell, Floor, Guest, Ladder, Monitor, Outstanding, Run, SUSPENDED_AT_LEAST, StopOrder, Travel, Why,
};
use crate::spec::Spec;
use crate::spread::{Division, Parts};
use crate::time::{Duration, Instant};
use incidents::Incidents;
use std::sync::Arc;

/// VMs are resumed one at a time, so that the first has its disks back before the next asks for bandwidth.
pub const RESUME_PACE: Duration = Duration::from_millis(500);
/// A VM that stopped on an EIO may still be draining and flushing its disks for our `stop`, which blocks its monitor:
/// the gate closes only when that is over. (A state is reported from an answer of the monitor, so `paused` says that.)
pub const SUSPEND_SETTLE: Duration = Duration::from_secs(5);
/// How long the open requests of a VM that is being shed may finish over live paths, before those still queued are
/// given back to its hypervisor (if it keeps them) so that the stop can end.
pub const DRAIN_MAX: Duration = Duration::from_millis(500);
/// A VM without a monitor counts as running for so long after its last request.
pub const UNMANAGED_ACTIVE_FOR: Duration = Duration::from_secs(60);
/// A decision about one VM can lead to one about another; each round decides all. More than a few mean a defect.
const ROUNDS_MAX: u32 = 8;

/// Plain data: a clone is another host in the same state, to be asked what would happen.
#[derive(Clone, Debug)]
pub struct Controller {
    spec: Arc<Spec>,
    /// Of the last event; never goes back.
    now: Instant,
    network: Network,
    incidents: Incidents,
    /// By `VmId`.
    vms: Vec<Vm>,
    /// Highest priority first, ties by name.
    order: Vec<VmId>,
    /// The next VM is resumed not before this.
    resume_from: Instant,
    /// A path that is losing its links one after the other is judged by what is left of it from then on.
    unfolded_at: Option<Instant>,
    plan: RoutePlan,
    division: Division,
    /// Link reports taken in so far, by `WorkerId`.
    link_reports: Vec<u64>,
    /// By `DiskId`.
    fronts: Vec<DiskFront>,
    /// Of the first plan with this configuration.
    reloaded_at: u64,
    cluster: moves::Cluster,
    past: summary::Past,
    discards: Vec<discards::Discard>,
    out: Outbox,
}

#[derive(Clone, Debug)]
struct Vm {
    guest: Guest,
    ladder: Ladder,
    lost: Vec<losses::Lost>,
    short: Vec<losses::ShortUnit>,
    /// The last error that its guest was answered with.
    error: Option<erred::Answered>,
    /// When it was last heard to run again.
    running_since: Instant,
    /// The operator, or somebody at the hypervisor, let it run in spite of this incident.
    pardon: Option<IncidentId>,
    /// What `on_path_loss` wants and cannot have, in words.
    blocked: Option<(IncidentId, String)>,
    /// It was held in this incident for as long as it may be.
    hold_spent: Option<IncidentId>,
    late_cont: Option<LateCont>,
    dwell: Dwell,
    floor: Floor,
    reserve: Reserve,
    travel: Travel,
    /// It stands still at a migration that is none of this host's moves.
    halt: Option<switchover::Halt>,
    /// Bytes of its guest's memory, as its hypervisor says.
    memory: Option<u64>,
    /// When it last had a request.
    last_io: Option<Instant>,
    /// The hypervisor process that was last seen running.
    ran: Option<u64>,
    /// The same, as the vmpath before a restart has seen it; until the monitor is heard again.
    before: Option<u64>,
    /// The hypervisor process that was last heard, running or not.
    process: Option<u64>,
    /// Disks that came with other requests than were handed over, and why each waits, in words.
    misfits: Vec<(DiskId, String)>,
}

/// A `cont` that was taken back, or given up, and may take effect all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct LateCont {
    instance: u64,
    until: Instant,
}

/// What was last told of a VM's reservation.
#[derive(Clone, Debug, PartialEq)]
enum Reserve {
    Kept,
    /// `told`: when `why` was put into words.
    Lost {
        since: Instant,
        told: Instant,
        why: String,
    },
}

/// Effects of the event in hand.
#[derive(Clone, Debug, Default)]
struct Outbox {
    acts: Vec<Effect>,
    asks: Vec<Ask>,
    records: Vec<JournalEntry>,
    answers: Vec<Effect>,
    lost_links: Vec<(PathId, UnitId)>,
    back_links: Vec<(PathId, UnitId, Duration)>,
}

impl Vm {
    fn new(now: Instant) -> Self {
        Self {
            guest: Guest { monitor: Monitor::Unknown, run: Run::Free { since: now } },
            ladder: Ladder::Clear,
            lost: vec![],
            short: vec![],
            error: None,
            running_since: now,
            pardon: None,
            blocked: None,
            hold_spent: None,
            late_cont: None,
            dwell: Dwell::default(),
            floor: Floor::Met,
            reserve: Reserve::Kept,
            travel: Travel::new(now),
            halt: None,
            memory: None,
            last_io: None,
            ran: None,
            before: None,
            process: None,
            misfits: vec![],
        }
    }
}

impl Controller {
    /// Starts with every path connecting and every VM's gate open. The first effect is the first plan.
    #[must_use]
    pub fn new(spec: Arc<Spec>, now: Instant) -> (Self, Vec<Effect>) {
        let mut controller = Self::start(spec, now);
        controller.decide();
        let effects = controller.finish();
        (controller, effects)
    }

    fn start(spec: Arc<Spec>, now: Instant) -> Self {
        let network = Network::new(&spec, now);
        let vms = spec.vm_ids().map(|_| Vm::new(now)).collect();
        let order = order(&spec);
        let fronts = vec![DiskFront::Open { attached: 0 }; spec.disks.len()];
        let plan = RoutePlan {
            generation: 0,
            spec: spec.clone(),
            link_reports: vec![],
            paths: vec![],
            vms: vec![],
            parts: Parts::default(),
        };
        let division = Division::new(&spec);
        Self {
            spec,
            now,
            network,
            incidents: Incidents::default(),
            vms,
            order,
            resume_from: now,
            unfolded_at: None,
            plan,
            division,
            link_reports: vec![],
            fronts,
            reloaded_at: 0,
            cluster: moves::Cluster::default(),
            past: summary::Past::default(),
            discards: vec![],
            out: Outbox::default(),
        }
    }

    /// Applies one event. `now` must not go back; if it does, the last time counts.
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Effect> {
        self.handle_all(now, [event])
    }

    /// The same for events of one moment: what follows from all of them is decided once.
    pub fn handle_all(&mut self, now: Instant, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        self.now = self.now.max(now);
        for event in events {
            self.take(event);
        }
        self.decide();
        self.finish()
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Link(report) => {
                self.count_report(report.worker);
                self.take_link(&report);
            }
            Event::Hypervisor { vm, report } => self.take_hypervisor(vm, report),
            Event::Load(report) => self.take_load(&report),
            Event::Silent(disk) => self.take_silence(disk),
            Event::Command { ticket, command } => self.take_command(ticket, &command),
            Event::Cluster(heard) => self.take_cluster(heard),
            Event::Reload(spec) => self.take_reload(spec),
            Event::Tick => {}
        }
    }

    /// When to send [`Event::Tick`], if nothing else happens before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let retells = self.spec.vm_ids().filter_map(|vm| self.retell_deadline(vm));
        self.next_decision().into_iter().chain(retells.filter(|at| *at > self.now)).min()
    }

    /// Of those the ones at which something may change, not only be told again.
    pub(crate) fn next_decision(&self) -> Option<Instant> {
        let vms = self.spec.vm_ids().flat_map(|vm| self.vm_deadlines(vm));
        let suspended = self.vms.iter().any(|v| matches!(v.guest.run, Run::Suspended { .. }));
        let pace = suspended.then_some(self.resume_from);
        let own = vms
            .chain(pace)
            .chain(self.unfolded_at)
            .chain(self.drain_deadlines())
            .chain(self.discard_deadlines())
            .filter(|at| *at > self.now)
            .min();
        let network = self.network.deadline(&self.spec, self.now);
        own.into_iter().chain(network).min()
    }

    fn vm_deadlines(&self, vm: VmId) -> impl Iterator<Item = Instant> {
        let state = &self.vms[vm.index()];
        let settled = match &state.guest.run {
            Run::Suspended { stop: StopOrder::Sent { at }, .. } => Some(*at + SUSPEND_SETTLE),
            Run::Suspended { stop: StopOrder::Confirmed, .. }
            | Run::Free { .. }
            | Run::Held { .. }
            | Run::Suspending { .. }
            | Run::Withdrawing { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => None,
        };
        let (held, dwell) = match &state.guest.run {
            Run::Held { since, .. } => (Some(*since + self.hold_bound(vm)), None),
            Run::Suspended { .. } | Run::Suspending { .. } => {
                (None, Some(state.dwell.ready_at().max(self.rested_at(vm))))
            }
            Run::Free { .. } | Run::Withdrawing { .. } | Run::Resuming { .. } | Run::Proving { .. } => {
                (None, None)
            }
        };
        let rung = self.ladder_deadline(vm);
        let travel = state.travel.deadline().into_iter().chain(self.home_deadline(vm)).min();
        let halt = self.halt_deadline(vm);
        [settled, held, dwell, rung, travel, halt, self.drained_by(vm), state.guest.run.deadline()]
            .into_iter()
            .flatten()
    }

    /// From then on its suspend has lasted long enough. One that only wakes a device is over at once.
    fn rested_at(&self, vm: VmId) -> Instant {
        let since = self.vms[vm.index()].guest.run.since();
        if self.is_by_restart(vm) { since } else { since + SUSPENDED_AT_LEAST }
    }

    /// It stands still for vmpath's own restart, or to wake a device: nothing that a path did.
    fn is_by_restart(&self, vm: VmId) -> bool {
        self.vms[vm.index()].guest.run.cause().is_some_and(|cause| cause.why == Why::Restart)
    }

    /// It is resumed, or its suspend is taken back. [`Dwell`] limits what paths do: other resumes leave it as it is.
    fn count_resume(&mut self, vm: VmId) {
        if !self.is_by_restart(vm) {
            self.vms[vm.index()].dwell.resumed(self.now);
        }
    }

    fn count_report(&mut self, worker: WorkerId) {
        if self.link_reports.len() <= worker.index() {
            self.link_reports.resize(worker.index() + 1, 0);
        }
        self.link_reports[worker.index()] += 1;
    }

    fn take_load(&mut self, report: &LoadReport) {
        self.take_fronts(report);
        self.take_shortages(report);
        self.take_errors(report);
        self.division.report(report, self.now);
        for (path, edge) in self.network.feel(self.now, report) {
            self.tell_sickness(path, edge);
        }
        for (index, load) in report.vms.iter().enumerate().take(self.vms.len()) {
            let vm = &mut self.vms[index];
            if load.is_active() {
                vm.last_io = Some(self.now);
            }
            if let Some(reservation) = self.spec.vms[index].reservation {
                vm.floor.measured(self.now, reservation, report.interval, load);
            }
        }
    }

    fn record(&mut self, kind: JournalKind, subject: Subject, incident: Option<IncidentId>, reason: String) {
        self.record_until(kind, subject, incident, (reason, None));
    }

    fn record_until(
        &mut self,
        kind: JournalKind,
        subject: Subject,
        incident: Option<IncidentId>,
        (reason, until): (String, Option<String>),
    ) {
        self.out.records.push(JournalEntry { at: self.now, incident, kind, subject, reason, until });
    }

    /// The effects of the event, in the order in which they are to be performed.
    fn finish(&mut self) -> Vec<Effect> {
        let mut effects = vec![];
        effects.extend(self.next_plan().map(Effect::Publish));
        let out = std::mem::take(&mut self.out);
        effects.extend(out.acts);
        effects.extend(out.asks.into_iter().map(Effect::Cluster));
        effects.extend(out.records.into_iter().map(Effect::Record));
        effects.extend(out.answers);
        effects
    }

    /// A plan, if it differs from the last one.
    fn next_plan(&mut self) -> Option<RoutePlan> {
        let paths: Vec<_> = self
            .spec
            .path_ids()
            .map(|p| PathRoute {
                health: self.network.health(p),
                access: self.network.access(p),
                preferred: self.network.state(p).preferred(),
            })
            .collect();
        let vms: Vec<_> = self.spec.vm_ids().map(|vm| VmRoute { gate: self.gate(vm) }).collect();
        let same_spec = Arc::ptr_eq(&self.plan.spec, &self.spec);
        let same_reports = self.plan.link_reports == self.link_reports;
        let same_routes = self.plan.paths == paths && self.plan.vms == vms;
        let same = same_spec && same_reports && same_routes && self.plan.parts == *self.division.parts();
        if self.plan.generation > 0 && same {
            return None;
        }
        let (generation, link_reports) = (self.plan.generation + 1, self.link_reports.clone());
        let parts = self.division.parts().clone();
        self.plan = RoutePlan { generation, spec: self.spec.clone(), link_reports, paths, vms, parts };
        Some(self.plan.clone())
    }

    fn gate(&self, vm: VmId) -> Gate {
        let state = &self.vms[vm.index()];
        if let Some(reason) = state.travel.reason().filter(|reason| reason.requests == Outstanding::Held)
            && matches!(state.guest.run, Run::Free { .. } | Run::Proving { .. })
        {
            let text = format!("it moves to another host: {}", reason.rule);
            return Gate::Hold(GateReason { incident: reason.incident, text });
        }
        match &state.guest.run {
            Run::Free { .. } | Run::Proving { .. } | Run::Withdrawing { .. } | Run::Resuming { .. } => {
                ladder_gate(state).unwrap_or(Gate::Open)
            }
            Run::Held { cause, .. } => ladder_gate(state).unwrap_or_else(|| {
                Gate::Hold(GateReason { incident: cause.incident, text: cause.rule.clone() })
            }),
            Run::Suspending { cause, .. } => {
                let text = format!("being suspended: {}", cause.rule);
                self.stopping_gate(vm, GateReason { incident: cause.incident, text })
            }
            Run::Suspended { cause, stop, .. } => {
                let reason =
                    GateReason { incident: cause.incident, text: format!("suspended: {}", cause.rule) };
                let settling = match stop {
                    StopOrder::Confirmed => false,
                    StopOrder::Sent { at } => self.now < *at + SUSPEND_SETTLE,
                };
                if settling { self.stopping_gate(vm, reason) } else { Gate::Hold(reason) }
            }
        }
    }

    /// Until when the open requests of a VM that is being shed may finish by themselves. On a path that is too narrow
    /// for all, those of a low priority would take very long, and QEMU's `stop` waits for them. None for other causes.
    fn drained_by(&self, vm: VmId) -> Option<Instant> {
        match &self.vms[vm.index()].guest.run {
            Run::Suspending { since, cause, .. } => cause.sheds().then(|| *since + DRAIN_MAX),
            Run::Free { .. }
            | Run::Held { .. }
            | Run::Withdrawing { .. }
            | Run::Suspended { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => None,
        }
    }

    /// While `stop` takes effect: requests finish if they can, and are bounced only to a VM that stops on that. To
    /// hold what could finish would block the `stop` for ever.
    fn stopping_gate(&self, vm: VmId, reason: GateReason) -> Gate {
        let state = &self.vms[vm.index()];
        let forbidden = state.guest.run.cause().is_some_and(Cause::forbids_routing);
        let draining = self.drained_by(vm).is_none_or(|by| by > self.now);
        let stops_on_error = state.guest.monitor.stops_on_error();
        // What the target refuses ends no sooner than what has no path.
        let ends = self.network.unserved_unit(vm).is_none() && state.short.is_empty();
        if !forbidden && ends && (draining || !stops_on_error) {
            return Gate::Open;
        }
        if stops_on_error { Gate::Bounce(reason) } else { Gate::Hold(reason) }
    }
}

fn ladder_gate(vm: &Vm) -> Option<Gate> {
    match &vm.ladder {
        Ladder::Failing { loss, rule } => {
            let reason = GateReason { incident: Some(loss.incident), text: rule.clone() };
            Some(Gate::Fail(reason, vm.failing(*loss)))
        }
        // The router holds by itself: no path is usable.
        Ladder::Clear | Ladder::Waiting { .. } | Ladder::Suspended { .. } | Ladder::Stranded { .. } => None,
    }
}

fn order(spec: &Spec) -> Vec<VmId> {
    let mut order: Vec<_> = spec.vm_ids().collect();
    order.sort_by(|a, b| {
        let (a, b) = (spec.vm(*a), spec.vm(*b));
        b.priority.cmp(&a.priority).then_with(|| a.name.cmp(&b.name))
    });
    order
}

#[cfg(test)]
mod tests;
