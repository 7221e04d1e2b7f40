//! The rounds of decisions: every rule looks at the present facts of every VM, highest priority first.
//!
//! Invariant: a VM is not resumed while some rule would suspend it again at once; a round that changes nothing ends it.
//! It does not know capacity: see `shed`.

use super::shed::Outlook;
use super::{Controller, RESUME_PACE, ROUNDS_MAX, UNMANAGED_ACTIVE_FOR};
use crate::effect::{JournalKind, Subject};
use crate::event::RunState;
use crate::ids::{IncidentId, PathId, UnitId, VmId};
use crate::policy::rules::{self, OnLoss, Rung, Stopping};
use crate::policy::{Cause, Input, Ladder, Monitor, Outstanding, Run, Why};
use crate::spec::{OnPathLoss, When};

impl Controller {
    /// Everything that follows from what is known now.
    pub(super) fn decide(&mut self) {
        self.settle_paths();
        for vm in 0..self.vms.len() {
            self.vms[vm].floor.elapsed(self.now, self.spec.host.shed_after);
        }
        for _ in 0..ROUNDS_MAX {
            self.decide_once();
            // What was held for several incidents may wait for nothing any more when one of them is closed.
            if !self.close_incidents() {
                break;
            }
        }
    }

    fn decide_once(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let told = self.out.records.len();
            let mut look = Outlook::at(self.now);
            for at in 0..self.order.len() {
                let (vm, before) = (self.order[at], self.out.records.len());
                self.run_timer(vm);
                self.climb_ladder(vm);
                self.apply_path_loss(vm);
                self.release(vm, &look);
                if self.out.records.len() > before {
                    // Who runs has changed, and so has who fits.
                    look = Outlook::at(self.now);
                }
            }
            self.resume_next();
            self.shed();
            if self.out.records.len() == told {
                break;
            }
        }
    }

    fn run_timer(&mut self, vm: VmId) {
        let run = &self.vms[vm.index()].guest.run;
        let due = run.deadline().is_some_and(|at| at <= self.now);
        let resuming = matches!(run, Run::Resuming { .. });
        if due && resuming && self.network.unserved_unit(vm).is_some() {
            self.tell(vm, Input::Revoke);
        } else if due {
            self.tell(vm, Input::Elapsed);
        }
    }

    /// `on_no_path`.
    fn climb_ladder(&mut self, vm: VmId) {
        let state = &self.vms[vm.index()];
        if !state.guest.run.undecided() {
            self.vms[vm.index()].ladder = Ladder::Clear;
            return;
        }
        let cut_off = self.network.cut_off_unit(vm);
        match (&state.ladder, cut_off) {
            (Ladder::Clear, None) => {}
            (Ladder::Clear, Some(unit)) => self.step_on_ladder(vm, unit),
            (Ladder::Holding { .. } | Ladder::Stranded { .. } | Ladder::Failing { .. }, None) => {
                // A path that is only connecting serves nobody yet.
                if self.network.unserved_unit(vm).is_none() {
                    self.step_off_ladder(vm);
                }
            }
            (Ladder::Holding { since, .. }, Some(unit)) => {
                let over = *since + self.spec.vm(vm).on_no_path.hold() <= self.now;
                if over || self.network.gone_for_good(vm, unit) {
                    self.take_rung(vm);
                }
            }
            (Ladder::Stranded { .. } | Ladder::Failing { .. }, Some(_)) => self.take_rung(vm),
        }
    }

    fn step_on_ladder(&mut self, vm: VmId, unit: UnitId) {
        let what = format!("no path to {}", self.spec.unit_name(unit));
        let incident = self.enter_incident(self.spec.unit(unit).target, None, &what);
        self.vms[vm.index()].ladder = Ladder::Holding { since: self.now, unit, incident };
        let reason = if self.network.gone_for_good(vm, unit) {
            format!("{what}: the target says that it does not exist, so nothing is waited for")
        } else {
            format!("{what}: its requests are held")
        };
        let barred = self.barred_words(vm, unit).map_or_else(String::new, |words| format!("; {words}"));
        let reason = format!("{reason}{barred}");
        let until = Some(self.until(vm));
        self.record_until(JournalKind::NoPath, Subject::Vm(vm), Some(incident), (reason, until));
        self.climb_ladder(vm);
    }

    fn step_off_ladder(&mut self, vm: VmId) {
        let Some((since, unit, incident)) = self.vms[vm.index()].ladder.loss() else { return };
        self.vms[vm.index()].ladder = Ladder::Clear;
        let reason = format!(
            "a path to {} is usable again after {}",
            self.spec.unit_name(unit),
            super::words::seconds(self.now.since(since))
        );
        self.record(JournalKind::VmReleased, Subject::Vm(vm), Some(incident), reason);
    }

    /// The hold is over: the first rung that can be done. Asked again while none could: a monitor may have come back.
    fn take_rung(&mut self, vm: VmId) {
        let state = &self.vms[vm.index()];
        let Some((since, unit, incident)) = state.ladder.loss() else { return };
        let policy = &self.spec.vm(vm).on_no_path;
        let rule = format!(
            "on_no_path = \"{policy}\": no path to {} for {}",
            self.spec.unit_name(unit),
            super::words::seconds(self.now.since(since))
        );
        match rules::rung(policy, &state.guest.monitor) {
            Rung::Moot => {}
            Rung::Suspend => {
                self.vms[vm.index()].ladder = Ladder::Clear;
                self.tell(
                    vm,
                    Input::Suspend(Cause { incident: Some(incident), why: Why::NoPath { unit }, rule }),
                );
            }
            Rung::Fail => {
                if matches!(state.ladder, Ladder::Failing { .. }) {
                    return;
                }
                let reason = format!("{rule}; its requests are answered with errors");
                self.vms[vm.index()].ladder = Ladder::Failing { since, unit, incident, rule };
                let until = Some(self.until(vm));
                self.record_until(JournalKind::VmFailing, Subject::Vm(vm), Some(incident), (reason, until));
            }
            Rung::Nothing(why) => {
                if matches!(&state.ladder, Ladder::Stranded { why: last, .. } if *last == why) {
                    return;
                }
                let reason = format!("{rule}; none of it can be done: {why}; its requests stay held");
                self.vms[vm.index()].ladder = Ladder::Stranded { since, unit, incident, why };
                let until = Some(self.until(vm));
                self.record_until(
                    JournalKind::PolicyBlocked,
                    Subject::Vm(vm),
                    Some(incident),
                    (reason, until),
                );
            }
        }
    }

    /// `on_path_loss`, while another path is usable: without one, `on_no_path` governs.
    fn apply_path_loss(&mut self, vm: VmId) {
        let state = &self.vms[vm.index()];
        let policy = self.spec.vm(vm).on_path_loss;
        if policy == OnPathLoss::Failover {
            self.vms[vm.index()].blocked = None;
            return;
        }
        if !state.guest.run.undecided() || self.network.unserved_unit(vm).is_some() {
            return;
        }
        let Some((lost, incident)) = self.standing_loss(vm) else {
            self.vms[vm.index()].blocked = None;
            return;
        };
        let rule = self.loss_rule(vm, &lost);
        let requests = match rules::on_loss(policy) {
            OnLoss::Stay => return,
            OnLoss::Migrate => {
                let text = format!("{rule}; {}; it stays, and its requests fail over", rules::NO_OTHER_HOST);
                return self.block(vm, incident, text);
            }
            OnLoss::Suspend(requests) => requests,
        };
        let stopping = rules::stopping(&state.guest.monitor, requests);
        let cause = Cause {
            incident: Some(incident),
            why: Why::PathLoss { paths: lost, requests },
            rule: rule.clone(),
        };
        match (stopping, requests) {
            (Stopping::Possible, _) => {
                self.vms[vm.index()].blocked = None;
                self.tell(vm, Input::Suspend(cause));
            }
            (Stopping::Moot, _) => {}
            (Stopping::Impossible(why), Outstanding::Held) => {
                self.tell(vm, Input::Hold(cause));
                self.block(vm, incident, format!("{rule}; {why}; its requests are held meanwhile"));
            }
            (Stopping::Impossible(why), Outstanding::FailOver) => {
                self.block(vm, incident, format!("{rule}; {why}; its I/O goes on over other paths"));
            }
        }
    }

    /// The lost paths for which `on_path_loss` asks for something, with the incident of the first.
    fn standing_loss(&self, vm: VmId) -> Option<(Vec<PathId>, IncidentId)> {
        let lost = self.subject_to_loss_rule(vm, self.network.lost_paths(vm));
        let first = lost.first().and_then(|p| self.incidents.of(self.spec.path(*p).target))?;
        Some((lost, first))
    }

    /// Of these paths, the ones whose loss makes `on_path_loss` ask for something, as things are now.
    pub(super) fn subject_to_loss_rule(&self, vm: VmId, mut paths: Vec<PathId>) -> Vec<PathId> {
        let spec = self.spec.vm(vm);
        let pardon = self.vms[vm.index()].pardon;
        let incident = |p: &PathId| self.incidents.of(self.spec.path(*p).target);
        paths.retain(|p| incident(p).is_some() && incident(p) != pardon);
        let applies = spec.on_path_loss != OnPathLoss::Failover
            && match spec.when {
                When::Always => true,
                When::Outranked => self.outranked_by(vm).is_some(),
            };
        if applies { paths } else { vec![] }
    }

    /// The most important VM that runs on the same paths and has a higher priority.
    pub(super) fn outranked_by(&self, vm: VmId) -> Option<VmId> {
        let paths = &self.network.reach(vm).paths;
        let shares = |other: &VmId| self.network.reach(*other).paths.iter().any(|p| paths.contains(p));
        let priority = self.spec.vm(vm).priority;
        let higher = self.order.iter().take_while(|other| self.spec.vm(**other).priority > priority);
        higher.copied().find(|other| self.runs(*other) && shares(other))
    }

    /// It runs, as far as can be known, and is not about to stop.
    pub(super) fn runs(&self, vm: VmId) -> bool {
        let state = &self.vms[vm.index()];
        match (&state.guest.run, &state.guest.monitor) {
            (Run::Suspending { .. } | Run::Suspended { .. }, _) => false,
            (Run::Resuming { .. }, _) => true,
            (
                Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. },
                Monitor::Present { state, .. },
            ) => *state == RunState::Running,
            (
                Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. },
                Monitor::Unknown | Monitor::Absent { .. },
            ) => state.last_io.is_some_and(|at| self.now.since(at) < UNMANAGED_ACTIVE_FOR),
        }
    }

    fn loss_rule(&self, vm: VmId, lost: &[PathId]) -> String {
        let spec = self.spec.vm(vm);
        let names: Vec<_> = lost.iter().map(|p| self.spec.path_name(*p)).collect();
        let word = rules::on_path_loss_word(spec.on_path_loss);
        let outranked = match spec.when {
            When::Always => String::new(),
            When::Outranked => self.outranked_by(vm).map_or_else(String::new, |other| {
                let other = self.spec.vm(other);
                format!(
                    ", when = \"outranked\": {} (priority {}) runs on the same paths and outranks it ({})",
                    other.name, other.priority, spec.priority
                )
            }),
        };
        let are = if names.len() == 1 { "is" } else { "are" };
        format!("{} {are} lost and on_path_loss = \"{word}\"{outranked}", names.join(" and "))
    }

    /// Tells once that a rule asks for what cannot be done.
    fn block(&mut self, vm: VmId, incident: IncidentId, text: String) {
        let blocked = Some((incident, text.clone()));
        if self.vms[vm.index()].blocked != blocked {
            self.vms[vm.index()].blocked = blocked;
            self.record(JournalKind::PolicyBlocked, Subject::Vm(vm), Some(incident), text);
        }
    }

    /// Ends holds, and suspensions that were not confirmed yet, of which the cause is over.
    fn release(&mut self, vm: VmId, look: &Outlook) {
        let over = match &self.vms[vm.index()].guest.run {
            Run::Held { cause, .. } | Run::Suspending { cause, .. } => {
                self.cause_wait(vm, cause, look).is_none()
            }
            Run::Free { .. }
            | Run::Withdrawing { .. }
            | Run::Suspended { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => false,
        };
        if over {
            self.tell(vm, Input::Release);
        }
    }

    /// Resumes the most important VM that may be, if it is time for another one.
    fn resume_next(&mut self) {
        if self.now < self.resume_from {
            return;
        }
        let look = Outlook::at(self.now);
        let next = self.order.iter().copied().find(|vm| self.may_resume(*vm, &look));
        if let Some(vm) = next {
            self.resume_from = self.now + RESUME_PACE;
            self.tell(vm, Input::Release);
        }
    }

    /// Suspended by us, what it waits for has come, and its process can be continued.
    fn may_resume(&self, vm: VmId, look: &Outlook) -> bool {
        match &self.vms[vm.index()].guest.run {
            Run::Suspended { cause, .. } => {
                self.cause_wait(vm, cause, look).is_none() && self.monitor_wait(vm).is_none()
            }
            Run::Free { .. }
            | Run::Held { .. }
            | Run::Suspending { .. }
            | Run::Withdrawing { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => false,
        }
    }
}
