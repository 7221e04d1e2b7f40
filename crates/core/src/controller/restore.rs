//! The way over a restart: what is saved, and how a new controller takes it up.
//!
//! Invariant: nothing of it is trusted further than it was true: paths and links that were up must connect again, a
//! hypervisor process counts only after its monitor has named it, and no rung of `on_no_path` is taken before the
//! monitors had a moment to do so. After a boot only the operator's own settings and the numbering are left.
//! It does not know how or when it is kept.

use super::{Controller, RESUME_PACE, Vm};
use crate::effect::{Effect, JournalKind, Subject};
use crate::ids::VmId;
use crate::mutant::{self, Mutant};
use crate::policy::{Carried, Cause, Dwell, Ladder, Loss, Run, STOP_CONFIRM_WITHIN, StopOrder, Why};
use crate::saved::{Before, Names, Saved, SavedIncident, SavedVm};
use crate::spec::{NoPathAction, Spec};
use crate::time::{Duration, Instant};
use std::sync::Arc;

/// Monitors and paths connect within this when nothing is wrong. What would be done because they are missing waits.
const SETTLE: Duration = Duration::from_secs(2);

impl Controller {
    /// What the next process needs to go on from here.
    #[must_use]
    pub fn save(&self) -> Saved {
        let (paths, links) = self.network.save(&self.spec);
        let vm = |id: VmId| saved_vm(&self.spec.vm(id).name, &self.vms[id.index()]);
        Saved {
            names: Names::of(&self.spec),
            last_incident: self.incidents.last(),
            incidents: self.incidents.open().iter().map(super::incidents::Incident::save).collect(),
            paths,
            links,
            vms: self.spec.vm_ids().filter_map(vm).collect(),
        }
    }

    /// Starts like [`Controller::new`], and goes on with what the process before has saved.
    #[must_use]
    pub fn restore(spec: Arc<Spec>, saved: Saved, before: Before, now: Instant) -> (Self, Vec<Effect>) {
        let mut controller = Self::start(spec, now);
        controller.resume_from = now + RESUME_PACE;
        match before {
            Before::Booted => controller.restore_after_boot(&saved),
            Before::Stopped | Before::Died => controller.restore_all(saved),
        }
        controller.tell_restart(before);
        controller.decide();
        let effects = controller.finish();
        (controller, effects)
    }

    fn restore_after_boot(&mut self, saved: &Saved) {
        self.incidents.restore(saved.last_incident, vec![]);
        self.network.restore_settings(&self.spec, self.now, saved);
        for incident in &saved.incidents {
            let subject =
                saved.names.target(&self.spec, incident.target).map_or(Subject::Host, Subject::Target);
            let reason = "the host was booted: what is still broken is a new incident".to_owned();
            self.record(JournalKind::IncidentClosed, subject, Some(incident.id), reason);
        }
        for vm in saved.vms.iter().filter(|vm| stopped(&vm.run)) {
            let reason =
                format!("the host was booted: the process of {} that was suspended is gone", vm.name);
            let subject = self.spec.vm_by_name(&vm.name).map_or(Subject::Host, Subject::Vm);
            self.record(JournalKind::VmReleased, subject, vm.run.incident(), reason);
        }
    }

    fn restore_all(&mut self, saved: Saved) {
        let Saved { last_incident, .. } = saved;
        let incidents = saved.incidents.iter().filter_map(|i| self.incident(&saved.names, i)).collect();
        self.incidents.restore(last_incident, incidents);
        self.network.restore(&self.spec, self.now, &saved);
        for vm in saved.vms {
            match self.spec.vm_by_name(&vm.name) {
                Some(id) => self.restore_vm(id, &saved.names, vm),
                None if stopped(&vm.run) => {
                    let reason = format!(
                        "{} left the configuration while it was suspended: vmpath will not continue it",
                        vm.name
                    );
                    self.record(JournalKind::VmReleased, Subject::Host, vm.run.incident(), reason);
                }
                None => {}
            }
        }
    }

    fn incident(&self, names: &Names, saved: &SavedIncident) -> Option<super::incidents::Incident> {
        let also = saved.also.iter().copied();
        let targets: Vec<_> =
            std::iter::once(saved.target).chain(also).filter_map(|t| names.target(&self.spec, t)).collect();
        targets.first()?;
        let failures = saved.failures.iter().map(|(path, what)| {
            // What failed stays told, also if its path has left.
            (path.and_then(|p| names.path(&self.spec, p)), what.clone())
        });
        Some(super::incidents::Incident::restored(saved.id, targets, saved.opened, failures.collect()))
    }

    fn restore_vm(&mut self, id: VmId, names: &Names, saved: SavedVm) {
        let (spec, now) = (self.spec.clone(), self.now);
        let settled = |action, since: Instant| {
            // No rung is over before the monitors had a moment to come back.
            self.rung_bound(id, action).map_or(since, |bound| since.max((now + SETTLE) - bound))
        };
        let unit = saved.ladder.loss().and_then(|loss| names.unit(&spec, loss.unit));
        let ladder = match (saved.ladder.loss(), unit) {
            (Some(loss), Some(unit)) => restored_ladder(saved.ladder, Loss { unit, ..loss }, settled),
            (Some(_), None) | (None, _) => Ladder::Clear,
        };
        let vm = &mut self.vms[id.index()];
        vm.ladder = ladder;
        vm.restore_losses();
        if !(mutant::active(Mutant::SuspendForgotten) && stopped(&saved.run)) {
            vm.guest.run = restored_run(saved.run, now, |cause| its_cause(cause, id, names, &spec));
        }
        vm.pardon = saved.pardon;
        vm.blocked = saved.blocked;
        vm.hold_spent = saved.hold_spent;
        vm.dwell = saved.dwell;
        vm.before = saved.ran;
    }

    fn tell_restart(&mut self, before: Before) {
        let how = match before {
            Before::Stopped => "it was stopped",
            Before::Died => "it was killed or it crashed",
            Before::Booted => "the host was booted",
        };
        let mut still = vec![];
        for vm in self.order.iter().filter(|vm| stopped(&self.vms[vm.index()].guest.run)) {
            still.push(self.spec.vm(*vm).name.as_str());
        }
        let suspended =
            if still.is_empty() { String::new() } else { format!("; suspended by it: {}", still.join(", ")) };
        let open: Vec<_> = self.incidents.open().iter().map(|i| i.id.to_string()).collect();
        let open = if open.is_empty() { String::new() } else { format!("; still open: {}", open.join(", ")) };
        let reason = format!("vmpath runs again after {how}{suspended}{open}");
        self.record(JournalKind::Restarted, Subject::Host, None, reason);
    }

    /// Its hypervisor has come back after the restart: a VM that ran until then and stands on an I/O error now has met the
    /// absence of its disks, and nobody else will continue it.
    pub(super) fn adopt_after_restart(&mut self, vm: VmId) {
        let state = &mut self.vms[vm.index()];
        let Some(ran) = state.before.take() else { return };
        if state.guest.monitor.run_state() != Some(crate::event::RunState::IoError)
            || state.guest.monitor.instance() != Some(ran)
        {
            return;
        }
        let rule = "it stopped by itself on an I/O error while vmpath was being restarted".into();
        let own = Cause { incident: None, why: Why::Restart, rule };
        let cause = state.guest.run.cause().cloned().unwrap_or(own);
        self.tell(vm, crate::policy::Input::Adopt(cause));
    }
}

fn saved_vm(name: &str, vm: &Vm) -> Option<SavedVm> {
    let ran = vm.ran.or(vm.before);
    let run = carried_run(vm).unwrap_or_else(|| vm.guest.run.clone());
    let free = matches!(run, Run::Free { .. });
    let quiet = vm.pardon.is_none() && vm.blocked.is_none() && vm.hold_spent.is_none() && ran.is_none();
    if free && vm.ladder == Ladder::Clear && vm.dwell == Dwell::default() && quiet {
        return None;
    }
    // How long it has been left alone is nothing to remember, and would be saved anew each time.
    let run = if free { Run::Free { since: Instant::ZERO } } else { run };
    Some(SavedVm {
        name: name.to_owned(),
        run,
        ladder: vm.ladder.clone(),
        pardon: vm.pardon,
        blocked: vm.blocked.clone(),
        hold_spent: vm.hold_spent,
        dwell: vm.dwell.clone(),
        ran,
    })
}

/// The next process may be the first to hear of its hypervisor: to that it is suspended.
fn carried_run(vm: &Vm) -> Option<Run> {
    let Carried { instance, rule } = vm.travel.carried.as_ref()?;
    let since = match &vm.guest.run {
        Run::Free { since } => *since,
        Run::Held { .. }
        | Run::Suspending { .. }
        | Run::Withdrawing { .. }
        | Run::Suspended { .. }
        | Run::Resuming { .. }
        | Run::Proving { .. } => return None,
    };
    let cause = Cause { incident: None, why: Why::Restart, rule: rule.clone() };
    Some(Run::Suspended { cause, since, instance: (*instance)?, stop: StopOrder::Confirmed })
}

/// Its vCPUs are stopped by us, or may be at any moment.
fn stopped(run: &Run) -> bool {
    match run {
        Run::Suspending { .. } | Run::Suspended { .. } | Run::Resuming { .. } => true,
        Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. } => false,
    }
}

fn its_cause(cause: Cause, vm: VmId, names: &Names, spec: &Spec) -> Cause {
    let paths = |paths: Vec<_>| paths.into_iter().filter_map(|p| names.path(spec, p)).collect();
    let its_unit = |unit| names.unit(spec, unit).or_else(|| spec.units_of_vm(vm).next());
    let why = match cause.why {
        Why::PathLoss { paths: lost, requests } => Why::PathLoss { paths: paths(lost), requests },
        Why::Shed { paths: missing } => Why::Shed { paths: paths(missing) },
        Why::NoPath { unit } => its_unit(unit).map_or(Why::Restart, |unit| Why::NoPath { unit }),
        Why::FewPaths { unit } => its_unit(unit).map_or(Why::Restart, |unit| Why::FewPaths { unit }),
        why @ (Why::Operator | Why::GaveUp | Why::Restart | Why::Erred) => why,
    };
    Cause { why, ..cause }
}

fn restored_run(run: Run, now: Instant, its: impl FnOnce(Cause) -> Cause) -> Run {
    match run {
        Run::Free { .. } => Run::Free { since: now },
        Run::Held { cause, since, late } => Run::Held { cause: its(cause), since, late },
        Run::Suspending { cause, since, instance, attempt, deadline } => {
            let deadline = deadline.max(now + STOP_CONFIRM_WITHIN);
            Run::Suspending { cause: its(cause), since, instance, attempt, deadline }
        }
        Run::Withdrawing { cause, since, late } => Run::Withdrawing { cause: its(cause), since, late },
        Run::Suspended { cause, since, instance, stop } => {
            Run::Suspended { cause: its(cause), since, instance, stop }
        }
        Run::Resuming { cause, since, instance, attempt, next_try } => {
            let next_try = next_try.max(now + SETTLE);
            Run::Resuming { cause: its(cause), since, instance, attempt, next_try }
        }
        Run::Proving { cause, since, instance, attempt } => {
            Run::Proving { cause: its(cause), since, instance, attempt }
        }
    }
}

/// What could not be done before is asked again; what guests are told stays.
fn restored_ladder(saved: Ladder, loss: Loss, settled: impl Fn(NoPathAction, Instant) -> Instant) -> Ladder {
    match saved {
        Ladder::Clear => Ladder::Clear,
        Ladder::Failing { rule, .. } => Ladder::Failing { loss, rule },
        Ladder::Waiting { rung, since, .. } => Ladder::Waiting { loss, rung, since: settled(rung, since) },
        Ladder::Suspended { since, .. } => {
            Ladder::Suspended { loss, since: settled(NoPathAction::Suspend, since) }
        }
        Ladder::Stranded { .. } => {
            let (rung, since) = (NoPathAction::Hold, settled(NoPathAction::Hold, loss.since));
            Ladder::Waiting { loss, rung, since }
        }
    }
}
