//! Shedding, against the definition: the keep set worked out anew by trying every set of paths.
//!
//! Greedy from the highest priority, ties by name: each VM whose reservation still fits beside those kept so far stays. What is
//! asked fits a target's paths exactly if, for every set of paths, the claims that can go nowhere else are not more than
//! those paths carry: with four paths these are sixteen sums, and no flow is pushed anywhere.
//! It does not know how anybody is suspended.

use super::facts::Facts;
use super::network::allowed;
use super::{Verdict, broken};
use vmpath_core::event::{LoadReport, RunState};
use vmpath_core::ids::{PathId, TargetId, UnitId, VmId};
use vmpath_core::plan::Health;
use vmpath_core::spec::{Presence, ShedWhen, Spec};
use vmpath_core::time::{Duration, Instant};

/// What is decided from a measurement may take one more of them.
const DECIDED_WITHIN: Duration = Duration::from_secs(3);
const MET_FROM: f64 = 0.95;
const STALE_AFTER: Duration = Duration::from_secs(1);

/// One VM's reservation, as measured.
#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    /// Since when and until when it was short without a better report.
    short: Option<(Instant, Instant)>,
    /// It has been for `shed_after`.
    unmet: bool,
}

/// Who stays and who leaves, at one moment.
#[derive(Clone, Debug)]
pub(super) struct KeepSet {
    /// Targets that carry less than they were configured for, and which of their paths are missing.
    short: Vec<(TargetId, Vec<PathId>)>,
    parties: Vec<VmId>,
    kept: Vec<VmId>,
    unmet: Vec<VmId>,
    /// A path may count or not: nothing is said.
    unsure: bool,
}

#[derive(Debug, Default)]
pub(super) struct Keep {
    /// By `VmId`.
    measured: Vec<Measured>,
    /// Of the batch in hand, until somebody's running changes.
    now: Option<KeepSet>,
    /// By `VmId`: since when it should have been shed.
    overdue: Vec<Option<Instant>>,
    /// By `VmId`: somebody let it run on purpose.
    pardoned: Vec<bool>,
}

impl KeepSet {
    pub(super) fn work_out(facts: &Facts, now: Instant) -> Self {
        let targets = (0..facts.spec.targets.len()).map(TargetId::at);
        let short: Vec<_> = targets.filter_map(|t| Some((t, missing(facts, t, now)?))).collect();
        let unsure = facts.spec.path_ids().any(|path| facts.carries(path, now).is_none());
        let mut set = Self { short, parties: vec![], kept: vec![], unmet: vec![], unsure };
        for vm in facts.by_priority() {
            if facts.spec.vm(vm).reservation.is_none() || !facts.runs(vm, now) {
                continue;
            }
            set.parties.push(vm);
            set.kept.push(vm);
            if !set.fits(facts, &set.kept, now) {
                set.kept.pop();
            }
        }
        set
    }

    fn fits(&self, facts: &Facts, vms: &[VmId], now: Instant) -> bool {
        self.short.iter().all(|(target, _)| {
            let claims: Vec<_> = vms.iter().flat_map(|vm| claims(facts, *vm, *target, now)).collect();
            let paths: Vec<PathId> =
                facts.spec.path_ids().filter(|p| facts.spec.path(*p).target == *target).collect();
            (0_u32..1 << paths.len()).all(|set| {
                let is_in =
                    |p: &PathId| paths.iter().position(|q| q == p).is_some_and(|at| set >> at & 1 == 1);
                let carried: u64 = paths.iter().filter(|p| is_in(p)).map(|p| capacity(&facts.spec, *p)).sum();
                let bound: u64 =
                    claims.iter().filter(|(_, on)| on.iter().all(is_in)).map(|(bytes, _)| bytes).sum();
                bound <= carried
            })
        })
    }

    fn is_on(&self, facts: &Facts, vm: VmId, target: TargetId) -> bool {
        facts.spec.units_of_vm(vm).any(|unit| facts.spec.unit(unit).target == target)
    }

    fn concerns(&self, facts: &Facts, vm: VmId) -> bool {
        self.short.iter().any(|(target, _)| self.is_on(facts, vm, *target))
    }

    fn meet(&self, facts: &Facts, a: VmId, b: VmId) -> bool {
        self.short.iter().any(|(t, _)| self.is_on(facts, a, *t) && self.is_on(facts, b, *t))
    }

    /// The paths that the shedding of a VM surely waits for. One that may count or not is perhaps not among them.
    pub(super) fn missing(&self, facts: &Facts, vm: VmId, now: Instant) -> Vec<PathId> {
        let its = self.short.iter().filter(|(target, _)| self.is_on(facts, vm, *target));
        let is_sure = |p: &PathId| facts.carries(*p, now) == Some(false) || !facts.network.is_whole(*p);
        its.flat_map(|(_, missing)| missing.iter().copied()).filter(is_sure).collect()
    }

    pub(super) fn leaves(&self, vm: VmId) -> bool {
        self.parties.contains(&vm) && !self.kept.contains(&vm)
    }

    fn words(&self, facts: &Facts) -> String {
        let names = |vms: &[VmId]| vms.iter().map(|vm| facts.vm_name(*vm)).collect::<Vec<_>>().join(", ");
        let short: Vec<_> = self.short.iter().map(|(t, _)| facts.spec.target(*t).name.as_str()).collect();
        format!(
            "short: {}; with a reservation run: {}; the keep set is: {}",
            short.join(", "),
            names(&self.parties),
            names(&self.kept)
        )
    }
}

/// The paths that are missing of a target that carries less than it should; none if it is whole, still connecting, without
/// a trusted path, or of unknown capacity.
fn missing(facts: &Facts, target: TargetId, now: Instant) -> Option<Vec<PathId>> {
    let paths: Vec<PathId> = facts.spec.path_ids().filter(|p| facts.spec.path(*p).target == target).collect();
    let is_connecting =
        |p: &PathId| facts.routes.get(p.index()).is_some_and(|r| r.health == Health::Down && r.preferred);
    let (up, rest): (Vec<PathId>, Vec<PathId>) =
        paths.iter().partition(|p| facts.carries(**p, now) == Some(true));
    let is_unknown = |p: &PathId| facts.spec.path(*p).capacity.is_none();
    if up.is_empty() || rest.iter().any(is_connecting) || up.iter().any(is_unknown) {
        return None;
    }
    let is_missing = |p: &PathId| rest.contains(p) || !facts.network.is_whole(*p);
    let missing: Vec<PathId> = paths.into_iter().filter(is_missing).collect();
    (!missing.is_empty()).then_some(missing)
}

fn capacity(spec: &Spec, path: PathId) -> u64 {
    spec.path(path).capacity.map_or(0, |rate| rate.0)
}

/// What a VM asks of one target: bytes per second, and the paths that may carry them. One for each disk, but for those that
/// nothing may carry: whoever leaves for them makes no room, and frees nobody.
fn claims(facts: &Facts, vm: VmId, target: TargetId, now: Instant) -> Vec<(u64, Vec<PathId>)> {
    let spec = &facts.spec;
    let disks = spec.units_of_vm(vm).count() as u64;
    let each = spec.vm(vm).reservation.map_or(0, |rate| rate.0) / disks.max(1);
    let carries =
        |p: &PathId, unit: UnitId| facts.network.usable(*p, unit) && facts.carries(*p, now) == Some(true);
    let units = spec.units_of_vm(vm).filter(|unit| spec.unit(*unit).target == target);
    let claims = units.map(|unit| (each, allowed(spec, vm, unit).filter(|p| carries(p, unit)).collect()));
    claims.filter(|(_, paths): &(u64, Vec<PathId>)| !paths.is_empty()).collect()
}

impl Keep {
    pub(super) fn new(spec: &Spec) -> Self {
        let mut keep = Self::default();
        keep.configured(spec);
        keep
    }

    /// The configuration is new, or the process is: what was measured is forgotten.
    pub(super) fn configured(&mut self, spec: &Spec) {
        let vms = spec.vms.len();
        self.measured = vec![Measured::default(); vms];
        self.overdue = vec![None; vms];
        self.pardoned.resize(vms, false);
        self.now = None;
    }

    pub(super) fn pardon(&mut self, vm: VmId) {
        self.pardoned[vm.index()] = true;
    }

    pub(super) fn load(&mut self, now: Instant, spec: &Spec, report: &LoadReport) {
        for (index, load) in report.vms.iter().enumerate().take(spec.vms.len()) {
            let is_silent =
                load.requests_completed == 0 && load.bytes_completed == 0 && load.backlogged <= 0.0;
            let Some(reservation) = spec.vms[index].reservation else { continue };
            if is_silent || report.interval.is_zero() {
                continue;
            }
            let rate = load.bytes_completed as f64 / report.interval.as_secs_f64();
            let is_bad = load.backlogged > 0.5 && rate < MET_FROM * reservation.0 as f64;
            let measured = &mut self.measured[index];
            measured.short = match (measured.short, is_bad) {
                (Some((since, _)), true) => Some((since, now)),
                (None, true) => Some((now - report.interval, now)),
                (short, false) => short.filter(|_| measured.unmet),
            };
        }
    }

    pub(super) fn elapsed(&mut self, now: Instant, spec: &Spec) {
        self.now = None;
        let after = spec.host.shed_after;
        for measured in &mut self.measured {
            let Some((since, last)) = measured.short else { continue };
            let stale = if measured.unmet { after.max(STALE_AFTER) } else { STALE_AFTER };
            if now.since(last) > stale {
                *measured = Measured::default();
            } else if now.since(since) >= after {
                measured.unmet = true;
            }
        }
    }

    /// Who runs may have changed.
    pub(super) fn stir(&mut self) {
        self.now = None;
    }

    pub(super) fn keep_set(&mut self, facts: &Facts, now: Instant) -> &KeepSet {
        let measured = &self.measured;
        self.now.get_or_insert_with(|| {
            let mut set = KeepSet::work_out(facts, now);
            set.unmet = facts.spec.vm_ids().filter(|vm| measured[vm.index()].unmet).collect();
            set
        })
    }

    /// A VM is shed, or would be if it could.
    pub(super) fn shed(&mut self, facts: &Facts, vm: VmId, now: Instant) -> Verdict {
        if facts.spec.disks.iter().any(|disk| disk.presence == Presence::Leaving) {
            return Ok(());
        }
        let set = self.keep_set(facts, now).clone();
        let name = facts.vm_name(vm);
        if set.unsure {
            return Ok(());
        }
        if !set.leaves(vm) || !set.concerns(facts, vm) {
            return broken("keep-set", format!("{name} is shed, but it should stay; {}", set.words(facts)));
        }
        let is_unmet = |other: &VmId| {
            set.parties.contains(other) && set.meet(facts, vm, *other) && set.unmet.contains(other)
        };
        let drains = set.missing(facts, vm, now).iter().any(|path| facts.draining.contains(path));
        let needs_unmet = facts.spec.host.shed_when == ShedWhen::Unmet && !drains;
        if needs_unmet && !facts.spec.vm_ids().any(|other| is_unmet(&other)) {
            return broken("keep-set", format!("{name} is shed, but every reservation is met"));
        }
        Ok(())
    }

    /// It is measured anew whether that was enough.
    pub(super) fn was_shed(&mut self, facts: &Facts, vm: VmId, now: Instant) {
        let set = self.keep_set(facts, now).clone();
        for other in facts.spec.vm_ids().filter(|other| set.meet(facts, vm, *other)) {
            self.measured[other.index()] = Measured::default();
        }
    }

    /// Whoever does not fit and could be shed has been.
    pub(super) fn settled(&mut self, facts: &Facts, now: Instant) -> Verdict {
        self.now = None;
        let set = self.keep_set(facts, now).clone();
        for vm in facts.spec.vm_ids() {
            let is_due = match facts.spec.host.shed_when {
                ShedWhen::Reserved => true,
                ShedWhen::Unmet => {
                    set.unmet.iter().any(|o| set.parties.contains(o) && set.meet(facts, vm, *o))
                }
            };
            let leaves = !set.unsure
                && is_due
                && set.leaves(vm)
                && set.concerns(facts, vm)
                && self.can_leave(facts, vm);
            let overdue = &mut self.overdue[vm.index()];
            *overdue = if leaves { overdue.or(Some(now)) } else { None };
            if overdue.is_some_and(|since| now.since(since) > DECIDED_WITHIN) {
                let name = facts.vm_name(vm);
                return broken(
                    "keep-set",
                    format!("{name} should leave and has not for {DECIDED_WITHIN:?}; {}", set.words(facts)),
                );
            }
        }
        Ok(())
    }

    fn can_leave(&self, facts: &Facts, vm: VmId) -> bool {
        let (spec, story) = (facts.spec.vm(vm), facts.story(vm));
        let runs = story.monitor.is_some_and(|m| m.state == RunState::Running);
        let leaving = facts.spec.disks.iter().any(|disk| disk.presence == Presence::Leaving);
        spec.may_suspend
            && runs
            && story.is_free()
            && !leaving
            && !self.pardoned[vm.index()]
            && facts.network.serves(&facts.spec, vm)
    }
}
