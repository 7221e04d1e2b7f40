//! The clocks of a VM's losses: since when each of its units has had no path, and whose requests fail.
//!
//! Invariant: the requests of a unit fail only after that unit itself had no path for as long as the ladder's rungs before
//! `fail` last, and until a path leads to it again; those of a unit that is served never do.
//! Rejected: one clock for the VM. A unit lost in the last second of another's hold would fail with it, and losses that
//! overlap would keep a disk failing that has its paths. The rungs are the VM's own all the same, because it can only be
//! stopped or moved whole: they go by its oldest loss.
//! It does not know the rungs: see `ladder`.

use super::words::seconds;
use super::{Controller, Vm};
use crate::cluster::Whereto;
use crate::effect::{JournalKind, Subject};
use crate::event::LoadReport;
use crate::ids::{UnitId, VmId, WorkerId};
use crate::mutant::{self, Mutant};
use crate::plan::Failing;
use crate::policy::{Lack, Ladder, Loss, Reason, Run};
use crate::spec::NoPathAction;
use crate::time::{Duration, Instant};

/// What a target refuses for so long is an incident, and the ladder begins.
const SHORT_COUNTS_AFTER: Duration = Duration::from_secs(1);
/// A ladder that is `fail` alone waits this out: an array that fails over from one controller to the other answers so.
const SHORT_FAILS_AFTER: Duration = Duration::from_secs(5);

/// A unit of a VM that no path leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) unit: UnitId,
    pub(super) since: Instant,
    pub(super) requests: Requests,
}

/// What becomes of a lost unit's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Requests {
    Held,
    Failed,
}

/// A unit of a VM whose target refuses everything for want of resources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ShortUnit {
    pub(super) unit: UnitId,
    since: Instant,
    /// Which worker says so.
    worker: WorkerId,
}

impl Vm {
    /// Of a ladder that the process before has left.
    pub(super) fn restore_losses(&mut self) {
        let requests = match &self.ladder {
            Ladder::Failing { .. } => Requests::Failed,
            Ladder::Clear | Ladder::Waiting { .. } | Ladder::Suspended { .. } | Ladder::Stranded { .. } => {
                Requests::Held
            }
        };
        let loss = self.ladder.loss().filter(|loss| loss.lack == Lack::NoPath);
        self.lost =
            loss.map(|loss| Lost { unit: loss.unit, since: loss.since, requests }).into_iter().collect();
    }

    /// The units whose requests fail.
    pub(super) fn failing(&self, loss: Loss) -> Failing {
        let failed = self.lost.iter().filter(|lost| lost.requests == Requests::Failed);
        let refused = if loss.lack == Lack::Short { vec![loss.unit] } else { vec![] };
        Failing { cut_off: failed.map(|lost| lost.unit).collect(), refused }
    }
}

impl Controller {
    /// Which of its units are lost now. Whoever is on no rung begins with all of them anew.
    pub(super) fn follow_losses(&mut self, vm: VmId) {
        let state = &self.vms[vm.index()];
        if state.lost.is_empty() && self.network.cut_off_unit(vm).is_none() {
            return;
        }
        let mut lost = if state.ladder == Ladder::Clear { vec![] } else { state.lost.clone() };
        let units = &self.network.reach(vm).units;
        // One that is only connecting serves nobody yet.
        lost.retain(|l| units.iter().any(|u| u.unit == l.unit) && self.network.usable_paths(vm, l.unit) == 0);
        for unit in units.iter().map(|u| u.unit).filter(|unit| self.network.is_cut_off(vm, *unit)) {
            if !lost.iter().any(|l| l.unit == unit) {
                let oldest = lost.iter().map(|lost| lost.since).min();
                let since = oldest.filter(|_| mutant::active(Mutant::OneLossClock)).unwrap_or(self.now);
                lost.push(Lost { unit, since, requests: Requests::Held });
            }
        }
        self.vms[vm.index()].lost = lost;
    }

    /// The one that its rungs go by.
    pub(super) fn oldest_loss(&self, vm: VmId) -> Option<Lost> {
        self.vms[vm.index()].lost.iter().copied().min_by_key(|lost| lost.since)
    }

    /// It has not been served since: a unit that was and is lost again begins anew.
    pub(super) fn is_still_lost(&self, vm: VmId, loss: Loss) -> bool {
        let its = |lost: &Lost| lost.unit == loss.unit && lost.since <= loss.since;
        self.vms[vm.index()].lost.iter().any(its)
    }

    /// A host was looked for because of a loss of paths that is over: a VM on its way is on no rung, so nobody else sees that.
    pub(super) fn needs_no_host(&self, vm: VmId, whereto: &Whereto, reason: &Reason) -> bool {
        let loss = self.vms[vm.index()].ladder.loss().filter(|loss| loss.lack == Lack::NoPath);
        *whereto == Whereto::Best
            && loss.is_some_and(|loss| reason.incident == Some(loss.incident))
            && self.network.cut_off_unit(vm).is_none()
    }

    /// When the requests of a lost unit may fail by its own clock, while its VM runs.
    fn fails_at(&self, vm: VmId, lost: &Lost) -> Instant {
        let rungs = &self.spec.vm(vm).on_no_path.rungs;
        let before = rungs.iter().take_while(|rung| rung.action != NoPathAction::Fail);
        let is_gone = self.network.gone_for_good(vm, lost.unit);
        let waits = before.filter(|rung| !(is_gone && rung.action == NoPathAction::Hold));
        let bounds: Duration = waits.filter_map(|rung| rung.bound).sum();
        lost.since + bounds
    }

    /// When the next of them is due, behind the one that its rungs go by.
    pub(super) fn next_to_fail(&self, vm: VmId) -> Option<Instant> {
        if !self.spec.vm(vm).on_no_path.has(NoPathAction::Fail) {
            return None;
        }
        let lost = self.vms[vm.index()].lost.iter().filter(|lost| lost.requests == Requests::Held);
        lost.map(|lost| self.fails_at(vm, lost)).filter(|at| *at > self.now).min()
    }

    /// The lost units whose requests begin to fail now: the one that its rungs go by, and those whose own time is over.
    pub(super) fn due_to_fail(&self, vm: VmId, by_ladder: Option<UnitId>) -> Vec<UnitId> {
        let due = |lost: &&Lost| {
            lost.requests == Requests::Held
                && self.network.is_cut_off(vm, lost.unit)
                && (by_ladder == Some(lost.unit) || self.fails_at(vm, lost) <= self.now)
        };
        self.vms[vm.index()].lost.iter().filter(due).map(|lost| lost.unit).collect()
    }

    pub(super) fn begin_to_fail(&mut self, vm: VmId, units: &[UnitId]) {
        for lost in self.vms[vm.index()].lost.iter_mut().filter(|lost| units.contains(&lost.unit)) {
            lost.requests = Requests::Failed;
        }
    }

    /// What fails when it goes on is decided then.
    pub(super) fn hold_all_lost(&mut self, vm: VmId) {
        for lost in &mut self.vms[vm.index()].lost {
            lost.requests = Requests::Held;
        }
    }

    /// A reload has taken `fail` out of its ladder: what its guest was told cannot be taken back, but nothing more fails. The
    /// new ladder is before it as a whole.
    pub(super) fn fail_no_more(&mut self, vm: VmId) {
        let (state, policy) = (&self.vms[vm.index()], &self.spec.vm(vm).on_no_path);
        let Ladder::Failing { loss, .. } = &state.ladder else { return };
        if policy.has(NoPathAction::Fail) || mutant::active(Mutant::FailForever) {
            return;
        }
        let (loss, since) = (*loss, self.now);
        let reason =
            format!("on_no_path = \"{policy}\" names no `fail` any more: its requests are held again");
        self.vms[vm.index()].ladder = match state.guest.run {
            Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. } => {
                Ladder::Waiting { loss, rung: self.first_rung(vm), since }
            }
            // One that is being continued for its errors is revoked, or waits as it runs.
            Run::Suspending { .. } | Run::Suspended { .. } | Run::Resuming { .. } => {
                Ladder::Suspended { loss, since }
            }
        };
        self.hold_all_lost(vm);
        let kind = match loss.lack {
            Lack::NoPath | Lack::FewPaths => JournalKind::NoPath,
            Lack::Short => JournalKind::TargetShort,
        };
        let until = Some(self.until(vm));
        self.record_until(kind, Subject::Vm(vm), Some(loss.incident), (reason, until));
    }

    /// Behind a VM whose requests fail already: other units whose own time is over join.
    pub(super) fn fail_further(&mut self, vm: VmId) {
        for unit in self.due_to_fail(vm, None) {
            let Some(loss) = self.loss_of(vm, unit) else { continue };
            self.begin_to_fail(vm, &[unit]);
            let reason = format!("{}; its requests are answered with errors", self.ladder_rule(vm, loss));
            let until = Some(self.until(vm));
            let kind = JournalKind::VmFailing;
            self.record_until(kind, Subject::Vm(vm), Some(loss.incident), (reason, until));
        }
    }

    /// A lost unit as its ladder would have it.
    pub(super) fn loss_of(&mut self, vm: VmId, unit: UnitId) -> Option<Loss> {
        let since = self.vms[vm.index()].lost.iter().find(|lost| lost.unit == unit)?.since;
        let what = format!("no path to {}", self.spec.unit_name(unit));
        let incident = self.enter_incident(self.spec.unit(unit).target, None, &what);
        Some(Loss { since, unit, incident, lack: Lack::NoPath })
    }

    /// What its rungs went by is over, and something else of the same kind is not: they go on by that one's own clock.
    pub(super) fn go_on_with(&mut self, vm: VmId, loss: Loss, (unit, lack): (UnitId, Lack)) {
        let failed = self.vms[vm.index()].lost.iter().find(|lost| lost.requests == Requests::Failed);
        let is_failing = matches!(self.vms[vm.index()].ladder, Ladder::Failing { .. });
        let next = failed.filter(|_| is_failing && loss.lack == Lack::NoPath).map(|lost| lost.unit);
        match loss.lack {
            Lack::NoPath => self.tell_loss_over(vm, loss),
            Lack::Short | Lack::FewPaths => self.step_off_ladder(vm),
        }
        if let Some(next) = next.and_then(|unit| self.loss_of(vm, unit)) {
            let rule = self.ladder_rule(vm, next);
            self.vms[vm.index()].ladder = Ladder::Failing { loss: next, rule };
            return;
        }
        self.step_on_ladder(vm, unit, lack);
    }

    fn tell_loss_over(&mut self, vm: VmId, loss: Loss) {
        let (name, after) = (self.spec.unit_name(loss.unit), seconds(self.now.since(loss.since)));
        let reason = format!("a path to {name} is usable again after {after}");
        self.record(JournalKind::VmReleased, Subject::Vm(vm), Some(loss.incident), reason);
    }

    /// What workers say of targets that are short of resources.
    pub(super) fn take_shortages(&mut self, report: &LoadReport) {
        for vm in self.vms.iter_mut().filter(|vm| !vm.short.is_empty()) {
            vm.short.retain(|short| short.worker != report.worker);
        }
        for short in report.short.iter().filter(|short| short.disk.index() < self.spec.disks.len()) {
            let disk = self.spec.disk(short.disk);
            let since = self.now - short.lasts;
            let row = ShortUnit { unit: disk.unit, since, worker: report.worker };
            self.vms[disk.vm.index()].short.push(row);
        }
    }

    /// A unit of the VM whose target has refused everything for a while: the one that its ladder goes by already, or the first.
    pub(super) fn short_of_resources(&self, vm: VmId) -> Option<UnitId> {
        let state = &self.vms[vm.index()];
        let counts = |short: &&ShortUnit| self.now.since(short.since) >= SHORT_COUNTS_AFTER;
        let known = state.ladder.loss().filter(|loss| loss.lack == Lack::Short).map(|loss| loss.unit);
        let mut units = state.short.iter().filter(counts).map(|short| short.unit);
        known.filter(|unit| units.clone().any(|short| short == *unit)).or_else(|| units.next())
    }

    /// Its ladder is `fail` alone, or nearly so.
    pub(super) fn fails_too_soon(&self, loss: Loss) -> bool {
        loss.lack == Lack::Short && self.now.since(loss.since) < SHORT_FAILS_AFTER
    }

    /// "san0 is short of resources and refuses every request for san0/db1".
    pub(super) fn short_words(&self, unit: UnitId) -> String {
        let target = &self.spec.target(self.spec.unit(unit).target).name;
        format!("{target} is short of resources and refuses every request for {}", self.spec.unit_name(unit))
    }
}
