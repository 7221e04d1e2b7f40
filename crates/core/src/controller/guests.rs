//! What hypervisors report, and what we tell them: each step of a VM's run machine becomes effects here.
//!
//! Invariant: every step that changes a VM's run state is in the journal, with its incident, reason and end.
//! It does not know which rule wanted the step.

use super::words::{run_state_word, seconds};
use super::{Controller, LateCont};
use crate::effect::{Effect, JournalKind, Subject};
use crate::event::{HypervisorReport, RunState, StopsOnError};
use crate::ids::{DiskId, VmId};
use crate::mutant::{self, Mutant};
use crate::policy::rules::{self, Stopping};
use crate::policy::{
    Act, CONT_MAY_BE_LATE, Cause, Input, Ladder, Monitor, Note, Outstanding, RESUME_ATTEMPTS_MAX, Run,
    STOP_ATTEMPTS_MAX, STOP_CONFIRM_WITHIN, StopStage, Why,
};
use crate::view::Standing;

impl Controller {
    pub(super) fn take_hypervisor(&mut self, vm: VmId, report: HypervisorReport) {
        if vm.index() >= self.vms.len() || self.vm_standing(vm) == Standing::Gone {
            return;
        }
        let before = self.vms[vm.index()].guest.monitor.run_state();
        let of_move = report.clone();
        match report {
            HypervisorReport::Connected { instance, state, stops_on_error } => {
                let vhost_user = self.spec.is_vhost_user(vm);
                let stops_on_error = if vhost_user { StopsOnError::NeedNot } else { stops_on_error };
                self.connected(vm, Monitor::Present { instance, state, stops_on_error, since: self.now });
            }
            HypervisorReport::Lost { why } => self.monitor_lost(vm, why),
            HypervisorReport::State(state) => self.run_state(vm, state),
            HypervisorReport::Refused { why } => self.refused(vm, &why),
            HypervisorReport::Machine(_)
            | HypervisorReport::Migration(_)
            | HypervisorReport::MigrationRefused { .. }
            | HypervisorReport::Deaf { .. } => {}
        }
        let state = &mut self.vms[vm.index()];
        if before != Some(RunState::Running) && state.guest.monitor.run_state() == Some(RunState::Running) {
            state.running_since = self.now;
        }
        self.hypervisor_of_move(vm, &of_move);
        self.adopt_carried(vm);
    }

    fn connected(&mut self, vm: VmId, monitor: Monitor) {
        let state = &mut self.vms[vm.index()];
        let known = state.guest.monitor.instance();
        let ours = state.guest.run.instance();
        let (instance, run_state) = (monitor.instance(), monitor.run_state());
        state.ran = instance.filter(|_| run_state == Some(RunState::Running));
        let former = state.process.or(state.before);
        state.process = instance;
        // The guest of a new process has waited for nothing yet, and was told of no error: it has its whole ladder before it.
        let begins_anew = former.is_some() && former != instance && state.ladder.loss().is_some();
        let errors = match &monitor {
            Monitor::Present { stops_on_error: StopsOnError::NeedNot, .. } => {
                "its disks are vhost-user devices"
            }
            monitor if monitor.stops_on_error() => "its disks stop it on errors",
            Monitor::Present { .. } | Monitor::Unknown | Monitor::Absent { .. } => {
                "its disks lack werror=stop,rerror=stop"
            }
        };
        if former.is_some() && former != instance {
            state.error = None;
        }
        state.guest.monitor = monitor;
        if known != instance {
            let word = run_state.map_or("unknown", run_state_word);
            let anew = if begins_anew { "; it is another process: its `on_no_path` begins anew" } else { "" };
            let reason = format!("its monitor is connected: {word}; {errors}{anew}");
            self.record(JournalKind::VmManaged, Subject::Vm(vm), None, reason);
        }
        if begins_anew {
            self.vms[vm.index()].ladder = Ladder::Clear;
        }
        if ours.is_some() && ours != instance {
            // A new process has its whole hold before it.
            self.vms[vm.index()].ladder = Ladder::Clear;
            self.vms[vm.index()].before = None;
            self.tell(vm, Input::Replaced);
            return;
        }
        if known != instance {
            self.tell(vm, Input::Reconnected);
        }
        self.adopt_after_restart(vm);
        if let Some(run_state) = run_state {
            self.tell_state(vm, run_state);
            self.adopt_erred(vm);
        }
    }

    fn monitor_lost(&mut self, vm: VmId, why: String) {
        self.vms[vm.index()].ran = None;
        let monitor = &mut self.vms[vm.index()].guest.monitor;
        if let Monitor::Absent { why: last, .. } = monitor {
            *last = why;
            return;
        }
        *monitor = Monitor::Absent { why: why.clone(), since: self.now };
        let run = &self.vms[vm.index()].guest.run;
        let (stays, incident) = match run {
            Run::Free { .. } | Run::Proving { .. } | Run::Withdrawing { .. } => ("its I/O goes on", None),
            Run::Held { .. } => ("its requests stay held", run.incident()),
            Run::Suspending { .. } => {
                ("whether it has stopped is not known; its requests are held", run.incident())
            }
            Run::Suspended { .. } => {
                ("it stays suspended, and is resumed when its monitor is back", run.incident())
            }
            Run::Resuming { .. } => ("whether it runs again is not known", run.incident()),
        };
        let reason = format!("unmanaged: no monitor ({why}); {stays}");
        self.record(JournalKind::VmUnmanaged, Subject::Vm(vm), incident, reason);
    }

    fn run_state(&mut self, vm: VmId, reported: RunState) {
        let state = &mut self.vms[vm.index()];
        let Monitor::Present { instance, state: run_state, since, .. } = &mut state.guest.monitor else {
            return;
        };
        let ran = *run_state == RunState::Running;
        state.ran = (reported == RunState::Running).then_some(*instance);
        if *run_state != reported {
            (*run_state, *since) = (reported, self.now);
        }
        if let (true, RunState::IoError, Ladder::Failing { loss, .. }) = (ran, reported, &state.ladder) {
            let rule = "it stopped by itself on the errors that `on_no_path` answers it".into();
            let cause = Cause { incident: Some(loss.incident), why: Why::NoPath { unit: loss.unit }, rule };
            self.tell(vm, Input::Adopt(cause));
        }
        self.tell_state(vm, reported);
        self.adopt_erred(vm);
    }

    fn tell_state(&mut self, vm: VmId, reported: RunState) {
        let is_late = reported == RunState::Running && self.takes_late_cont(vm);
        self.tell(vm, if is_late { Input::LateCont } else { Input::Report(reported) });
    }

    /// Whether it runs by a `cont` of ours that was taken back. Once: a monitor carries orders out in order, so whatever
    /// continues it after our next `stop` is somebody else's.
    fn takes_late_cont(&mut self, vm: VmId) -> bool {
        let state = &mut self.vms[vm.index()];
        let Run::Suspended { instance, .. } = &state.guest.run else { return false };
        let late = state.late_cont.take().filter(|_| !mutant::active(Mutant::LateContForeign));
        late.is_some_and(|late| late.instance == *instance && self.now <= late.until)
    }

    fn refused(&mut self, vm: VmId, why: &str) {
        let run = &self.vms[vm.index()].guest.run;
        let asked = match run {
            Run::Suspending { .. } | Run::Withdrawing { .. } => "`stop`",
            Run::Resuming { .. } => "`cont`",
            Run::Free { .. } | Run::Held { .. } | Run::Suspended { .. } | Run::Proving { .. } => return,
        };
        let incident = run.incident();
        let reason = format!("its hypervisor refused {asked}: {why}");
        self.record(JournalKind::PolicyBlocked, Subject::Vm(vm), incident, reason);
        self.tell(vm, Input::Refused);
    }

    /// A hypervisor that has missed the end of its disk's back end starts the device again when the VM is stopped and continued.
    pub(super) fn take_silence(&mut self, disk: DiskId) {
        let vm = self.spec.disk(disk).vm;
        let guest = &self.vms[vm.index()].guest;
        // Another disk of it may have said the same, and a `stop` that is on its way serves both.
        let is_free = matches!(guest.run, Run::Free { .. } | Run::Proving { .. });
        if !is_free || self.is_away(vm) || self.network.unserved_unit(vm).is_some() {
            return;
        }
        let rule = format!(
            "the front end of its disk {} has attached and is silent: a stop and a continue make it start the device",
            self.spec.disk(disk).name
        );
        match rules::stopping(&guest.monitor, Outstanding::FailOver) {
            Stopping::Possible => {
                self.tell(vm, Input::Suspend(Cause { incident: None, why: Why::Restart, rule }));
            }
            // One that stands still starts its device when it is continued, whoever does that.
            Stopping::Moot => {}
            Stopping::Impossible(why) => {
                self.record(JournalKind::PolicyBlocked, Subject::Vm(vm), None, format!("{rule}; {why}"));
            }
        }
    }

    /// Gives one input to a VM's run machine, and turns what comes out into effects.
    pub(super) fn tell(&mut self, vm: VmId, input: Input) {
        let guest = &mut self.vms[vm.index()].guest;
        let before = guest.run.clone();
        let step = guest.run.step(self.now, &guest.monitor, input);
        match step.act {
            Some(Act::Stop { instance }) => self.out.acts.push(Effect::Stop { vm, instance }),
            Some(Act::Continue { instance }) => self.out.acts.push(Effect::Continue { vm, instance }),
            None => {}
        }
        let state = &mut self.vms[vm.index()];
        if matches!(before, Run::Withdrawing { .. })
            && matches!(&state.guest.run, Run::Resuming { cause, .. } if cause.why != Why::Restart)
        {
            state.dwell.late(self.now);
        }
        if !matches!(before, Run::Suspended { .. }) && matches!(state.guest.run, Run::Suspended { .. }) {
            let until = self.now + CONT_MAY_BE_LATE;
            let late = matches!(before, Run::Resuming { .. }).then(|| before.instance()).flatten();
            state.late_cont = late.map(|instance| LateCont { instance, until });
        }
        if let Some(note) = step.note {
            self.note(vm, &before, &note);
        }
    }

    fn note(&mut self, vm: VmId, before: &Run, note: &Note) {
        let run = &self.vms[vm.index()].guest.run;
        let incident = run.incident().or(before.incident());
        let rule = run.cause().or(before.cause()).map_or_else(String::new, |cause| cause.rule.clone());
        let (kind, reason) = self.note_words(note, rule);
        let until = match note {
            Note::Held
            | Note::Suspending
            | Note::Suspended { .. }
            | Note::Retained(_)
            | Note::ResumeRevoked
            | Note::ResumeGaveUp => Some(self.until(vm)),
            Note::StopRepeated { .. } | Note::StopUnanswered { .. } | Note::ContinuedLate => {
                Some(self.until(vm))
            }
            Note::ContinueRepeated { .. } | Note::StoppedAgain { .. } => {
                Some("it runs, or the attempts are used up".into())
            }
            Note::Released { .. }
            | Note::Withdrawn
            | Note::Resuming
            | Note::Resumed { .. }
            | Note::ContinuedByOther
            | Note::Forgotten => None,
        };
        if *note == Note::ContinuedByOther {
            self.vms[vm.index()].pardon = incident;
        }
        self.record_until(kind, Subject::Vm(vm), incident, (reason, until));
    }

    fn note_words(&self, note: &Note, rule: String) -> (JournalKind, String) {
        match note {
            Note::Held => (JournalKind::VmHeld, rule),
            Note::Released { after } => {
                (JournalKind::VmReleased, format!("routed again after {}", seconds(*after)))
            }
            Note::Suspending => (JournalKind::VmSuspending, rule),
            Note::StopRepeated { attempt } => {
                (JournalKind::VmSuspending, format!("`stop` is sent again, attempt {attempt}; {rule}"))
            }
            Note::StopUnanswered { next_in } => (
                JournalKind::PolicyBlocked,
                format!(
                    "its hypervisor did not confirm `stop` in {STOP_ATTEMPTS_MAX} attempts of {} each: it is sent again \
                     now, then in {}, and then more and more slowly; {rule}",
                    seconds(STOP_CONFIRM_WITHIN),
                    seconds(*next_in)
                ),
            ),
            Note::Suspended { after } => {
                (JournalKind::VmSuspended, format!("stopped {} ms after the decision; {rule}", after.as_millis()))
            }
            Note::Retained(StopStage::Asked) => (JournalKind::VmSuspending, format!("it is to stay suspended: {rule}")),
            Note::Retained(StopStage::Confirmed) => (JournalKind::VmSuspended, format!("it stays suspended: {rule}")),
            Note::Withdrawn => (
                JournalKind::VmResuming,
                "the reason is gone before `stop` was confirmed; if it still takes effect, `cont` follows".into(),
            ),
            Note::Resuming => (JournalKind::VmResuming, format!("`cont` is sent; it was suspended because of: {rule}")),
            Note::ContinueRepeated { attempt } => (
                JournalKind::VmResuming,
                format!("`cont` is sent again, attempt {attempt} of {RESUME_ATTEMPTS_MAX}"),
            ),
            Note::StoppedAgain { attempt, next_in } => (
                JournalKind::VmResuming,
                format!(
                    "it stopped on an I/O error again (its disk connection may not be back): attempt {attempt} of \
                     {RESUME_ATTEMPTS_MAX} failed, the next follows in {}",
                    seconds(*next_in)
                ),
            ),
            Note::Resumed { after, attempt } => (
                JournalKind::VmResumed,
                format!("running {} ms after `cont`, attempt {attempt}", after.as_millis()),
            ),
            Note::ResumeRevoked => {
                (JournalKind::VmSuspended, format!("not resumed after all: its paths are gone again; {rule}"))
            }
            Note::ResumeGaveUp => (
                JournalKind::PolicyBlocked,
                format!("it stopped on an I/O error after each of {RESUME_ATTEMPTS_MAX} attempts to resume it"),
            ),
            Note::ContinuedByOther => (
                JournalKind::VmResumed,
                "somebody else continued it: it is not suspended again in this incident".into(),
            ),
            Note::ContinuedLate => (
                JournalKind::VmSuspending,
                format!("a `cont` that was taken back took effect late: it is stopped again; {rule}"),
            ),
            Note::Forgotten => (
                JournalKind::VmReleased,
                "another hypervisor process is there, or it is in a state that is not ours to end: what was asked \
                 of the former one is forgotten"
                    .into(),
            ),
        }
    }
}
