//! The rounds of decisions: every rule looks at the present facts of every VM, highest priority first.
//!
//! Invariant: a VM is not resumed while some rule would suspend it again at once; a round that changes nothing ends it.
//! It does not know capacity: see `shed`.

use super::shed::Outlook;
use super::{Controller, RESUME_PACE, ROUNDS_MAX, UNMANAGED_ACTIVE_FOR};
use crate::cluster::Whereto;
use crate::effect::{JournalKind, Subject};
use crate::event::RunState;
use crate::ids::{IncidentId, PathId, VmId};
use crate::mutant::{self, Mutant};
use crate::policy::rules::{self, Migrating, OnLoss, Stopping};
use crate::policy::{Cause, Input, Ladder, Monitor, Outstanding, Reason, Run, Why};
use crate::spec::{HOLD_DEFAULT, OnPathLoss, When};
use crate::time::Duration;

impl Controller {
    /// Everything that follows from what is known now.
    pub(super) fn decide(&mut self) {
        self.settle_paths();
        self.discard_again();
        for vm in 0..self.vms.len() {
            self.vms[vm].floor.elapsed(self.now, self.spec.host.shed_after);
        }
        for _ in 0..ROUNDS_MAX {
            self.decide_once();
            let is_left = self.advance_drains();
            // What was held for several incidents may wait for nothing any more when one of them is closed.
            if !self.close_incidents() && !is_left {
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
                self.travel_timer(vm);
                self.end_halt(vm);
                if self.is_away(vm) {
                    continue;
                }
                self.run_timer(vm);
                self.climb_ladder(vm);
                self.apply_path_loss(vm);
                self.release(vm, &look);
                self.ask_home(vm);
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
        // One that is continued to meet its errors needs no path.
        let fails = matches!(self.vms[vm.index()].ladder, Ladder::Failing { .. });
        if due && resuming && !fails && self.network.unserved_unit(vm).is_some() {
            self.tell(vm, Input::Revoke);
        } else if due {
            self.tell(vm, Input::Elapsed);
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
            OnLoss::Migrate(requests) => {
                let reason = Reason { incident: Some(incident), rule, requests };
                return self.migrate_for_loss(vm, incident, reason);
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
            (Stopping::Impossible(why), Outstanding::Held)
                if self.vms[vm.index()].hold_spent == Some(incident) =>
            {
                let bound = super::words::seconds(self.hold_bound(vm));
                let text = format!("{rule}; {why}; it was held for {bound}, and now its requests fail over");
                self.block(vm, incident, text);
            }
            (Stopping::Impossible(why), Outstanding::Held) => {
                self.tell(vm, Input::Hold(cause));
                self.block(vm, incident, format!("{rule}; {why}; its requests are held meanwhile"));
            }
            (Stopping::Impossible(why), Outstanding::FailOver) => {
                self.block(vm, incident, format!("{rule}; {why}; its I/O goes on over other paths"));
            }
        }
    }

    fn migrate_for_loss(&mut self, vm: VmId, incident: IncidentId, reason: Reason) {
        let migrating = match self.move_dwell(vm) {
            Some(why) => Migrating::Impossible(format!("it is not moved again: {why}")),
            None => self.migrating(vm),
        };
        match migrating {
            Migrating::Possible => self.wants_move(vm, reason, Whereto::Best),
            Migrating::Wait(why) | Migrating::Impossible(why) => {
                let text = format!("{}; {why}; it stays, and its requests fail over", reason.rule);
                self.block(vm, incident, text);
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
        if self.is_away(vm) {
            return false;
        }
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

    /// Ends holds that are over or have lasted for as long as they may, and suspensions that were not confirmed yet, of which
    /// the cause is over.
    fn release(&mut self, vm: VmId, look: &Outlook) {
        let state = &self.vms[vm.index()];
        match &state.guest.run {
            Run::Held { cause, since, .. } => {
                let spent = *since + self.hold_bound(vm) <= self.now;
                if spent {
                    self.vms[vm.index()].hold_spent = cause.incident;
                    self.tell(vm, Input::Release);
                } else if self.cause_wait(vm, cause, look).is_none() {
                    self.tell(vm, Input::Release);
                }
            }
            Run::Suspending { cause, .. } => {
                if self.cause_wait(vm, cause, look).is_none() && self.dwell_wait(vm, look.now).is_none() {
                    self.count_resume(vm);
                    self.tell(vm, Input::Release);
                }
            }
            Run::Free { .. }
            | Run::Withdrawing { .. }
            | Run::Suspended { .. }
            | Run::Resuming { .. }
            | Run::Proving { .. } => {}
        }
    }

    /// For so long a VM that should be suspended and cannot be is held, before its requests fail over after all.
    pub(super) fn hold_bound(&self, vm: VmId) -> Duration {
        let hold = self.spec.vm(vm).on_no_path.hold();
        if hold.is_zero() { HOLD_DEFAULT } else { hold }
    }

    /// Resumes the most important VM that may be, if it is time for another one.
    fn resume_next(&mut self) {
        if self.now < self.resume_from {
            return;
        }
        let look = Outlook::at(self.now);
        let may = |vm: &VmId| self.may_resume(*vm, &look);
        let next = if mutant::active(Mutant::ResumeLowest) {
            self.order.iter().rev().copied().find(may)
        } else {
            self.order.iter().copied().find(may)
        };
        if let Some(vm) = next {
            self.resume_from = self.now + RESUME_PACE;
            self.count_resume(vm);
            self.tell(vm, Input::Release);
        }
    }

    /// Suspended by us, what it waits for has come, and its process can be continued.
    fn may_resume(&self, vm: VmId, look: &Outlook) -> bool {
        if self.is_away(vm) {
            return false;
        }
        match &self.vms[vm.index()].guest.run {
            Run::Suspended { cause, .. } => {
                self.cause_wait(vm, cause, look).is_none()
                    && self.monitor_wait(vm).is_none()
                    && self.dwell_wait(vm, look.now).is_none()
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
