//! `on_no_path`: a VM that lacks paths goes down its ladder, rung by rung, each with its bound.
//!
//! Invariant: a VM on its ladder has an incident, a rung, and either a time at which the next one comes or a state that is
//! told again and again; no guest sees an error but by a `fail` that its own ladder names, with no path up.
//! Rejected: one timer for the whole ladder. What one rung lasts would then depend on what another could not do.
//! It does not know what a rung needs to be possible: see [`crate::policy::rules::stand`].

use super::Controller;
use super::words::seconds;
use crate::cluster::Whereto;
use crate::effect::{JournalKind, Subject};
use crate::ids::{UnitId, VmId};
use crate::mutant::{self, Mutant};
use crate::policy::rules::{self, Gone, Migrating, On, Plight, Stand};
use crate::policy::{Cause, Input, Lack, Ladder, Loss, Reason, Retell, Run, Why};
use crate::spec::NoPathAction;
use crate::time::{Duration, Instant};

impl Controller {
    pub(super) fn climb_ladder(&mut self, vm: VmId) {
        self.follow_losses(vm);
        self.fail_no_more(vm);
        match &self.vms[vm.index()].guest.run {
            Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. } => {
                self.climb_running(vm);
            }
            Run::Suspending { cause, since, .. }
            | Run::Suspended { cause, since, .. }
            | Run::Resuming { cause, since, .. } => match cause.lacks().zip(cause.incident) {
                Some(((unit, lack), incident)) => {
                    let loss = Loss { since: *since, unit, incident, lack };
                    self.climb_stopped(vm, loss);
                }
                // Something else than its ladder has stopped it.
                None => self.vms[vm.index()].ladder = Ladder::Clear,
            },
        }
    }

    /// What the VM lacks now, as far as its ladder is concerned.
    fn lack(&self, vm: VmId) -> Option<(UnitId, Lack)> {
        if let Some(unit) = self.network.cut_off_unit(vm) {
            return Some((self.oldest_loss(vm).map_or(unit, |lost| lost.unit), Lack::NoPath));
        }
        // One path is there: it is not cut off.
        if self.network.unserved_unit(vm).is_some() {
            return None;
        }
        if let Some(unit) = self.short_of_resources(vm) {
            return Some((unit, Lack::Short));
        }
        let min_paths = self.spec.vm(vm).min_paths;
        if min_paths <= 1 || mutant::active(Mutant::MinPathsIgnored) {
            return None;
        }
        let asked = min_paths + u32::from(mutant::active(Mutant::MinPathsExceeded));
        let unit = self.network.short_unit(vm, asked)?;
        let incident = self.incidents.of(self.spec.unit(unit).target);
        let pardoned = incident.is_some() && self.vms[vm.index()].pardon == incident;
        (!pardoned).then_some((unit, Lack::FewPaths))
    }

    fn climb_running(&mut self, vm: VmId) {
        if matches!(self.vms[vm.index()].ladder, Ladder::Suspended { .. }) {
            // Somebody has let it run.
            self.vms[vm.index()].ladder = Ladder::Clear;
            self.follow_losses(vm);
        }
        match (self.vms[vm.index()].ladder.loss(), self.lack(vm)) {
            (None, None) => {}
            (None, Some((unit, lack))) => self.step_on_ladder(vm, unit, lack),
            (Some(loss), Some((unit, lack))) if loss.lack == lack => {
                if self.is_another(vm, loss, unit) {
                    self.go_on_with(vm, loss, (unit, lack));
                } else {
                    self.next_rung(vm);
                }
            }
            (Some(_), Some((unit, Lack::NoPath))) => self.step_on_ladder(vm, unit, Lack::NoPath),
            (Some(_), Some((_, Lack::FewPaths | Lack::Short)) | None) => self.step_off_ladder(vm),
        }
    }

    /// What its rungs go by is over, though `unit` lacks the same.
    fn is_another(&self, vm: VmId, loss: Loss, unit: UnitId) -> bool {
        match loss.lack {
            Lack::NoPath => !self.is_still_lost(vm, loss),
            Lack::Short => loss.unit != unit,
            Lack::FewPaths => false,
        }
    }

    pub(super) fn step_on_ladder(&mut self, vm: VmId, unit: UnitId, lack: Lack) {
        let name = self.spec.unit_name(unit);
        let what = match lack {
            Lack::NoPath => format!("no path to {name}"),
            Lack::Short => self.short_words(unit),
            Lack::FewPaths => format!("too few paths to {name} for {}", self.spec.vm(vm).name),
        };
        let incident = self.enter_incident(self.spec.unit(unit).target, None, &what);
        // Another of its units may have kept it on a rung since before.
        let lost = self.oldest_loss(vm).filter(|lost| lack == Lack::NoPath && lost.unit == unit);
        let since = lost.map_or(self.now, |lost| lost.since);
        let loss = Loss { since, unit, incident, lack };
        let rung = self.first_rung(vm);
        self.vms[vm.index()].ladder = Ladder::Waiting { loss, rung, since };
        let (_, passed) = rules::stand(&self.spec.vm(vm).on_no_path, &self.plight(vm, loss), On::Start);
        let barred = self.barred_words(vm, unit).unwrap_or_default();
        let barred = and(&barred) + &self.passed_at_once(vm, &passed);
        let (kind, reason) = match lack {
            Lack::NoPath if self.network.gone_for_good(vm, unit) => {
                let gone = "the target says that it does not exist, so nothing is waited for";
                (JournalKind::NoPath, format!("{what}: {gone}{barred}"))
            }
            Lack::NoPath => (JournalKind::NoPath, format!("{what}: its requests are held{barred}")),
            Lack::Short => (JournalKind::TargetShort, format!("{what}: they are held and tried again")),
            Lack::FewPaths => {
                let few = self.few_words(vm, unit);
                (JournalKind::FewPaths, format!("{few}: its requests go on over what is left{barred}"))
            }
        };
        let until = Some(self.until(vm));
        self.record_until(kind, Subject::Vm(vm), Some(incident), (reason, until));
        self.next_rung(vm);
    }

    /// A host may have it at once, where there are others.
    pub(super) fn first_rung(&self, vm: VmId) -> NoPathAction {
        let first = self.spec.vm(vm).on_no_path.rungs.first().map(|rung| rung.action);
        match (first, &self.spec.cluster) {
            (Some(NoPathAction::Migrate), Some(_)) => NoPathAction::Migrate,
            (Some(NoPathAction::Migrate), None)
            | (Some(NoPathAction::Hold | NoPathAction::Suspend | NoPathAction::Fail) | None, _) => {
                NoPathAction::Hold
            }
        }
    }

    /// Of the rungs before the first hold.
    fn passed_at_once(&self, vm: VmId, passed: &str) -> String {
        let first = self.spec.vm(vm).on_no_path.rungs.first().map(|rung| rung.action);
        if first == Some(NoPathAction::Migrate) { and(passed) } else { String::new() }
    }

    pub(super) fn step_off_ladder(&mut self, vm: VmId) {
        let Some(loss) = self.vms[vm.index()].ladder.loss() else { return };
        let (name, after) = (self.spec.unit_name(loss.unit), seconds(self.now.since(loss.since)));
        let reason = match loss.lack {
            // A path that is only connecting serves nobody yet.
            Lack::NoPath if self.network.unserved_unit(vm).is_some() => return,
            Lack::NoPath => format!("a path to {name} is usable again after {after}"),
            Lack::Short => format!("{name} is no longer refused for want of resources, after {after}"),
            Lack::FewPaths => format!("it has its min_paths to {name} again, or was let run, after {after}"),
        };
        self.vms[vm.index()].ladder = Ladder::Clear;
        self.record(JournalKind::VmReleased, Subject::Vm(vm), Some(loss.incident), reason);
    }

    fn plight(&self, vm: VmId, loss: Loss) -> Plight<'_> {
        let gone = if self.network.gone_for_good(vm, loss.unit) { Gone::ForGood } else { Gone::No };
        let monitor = &self.vms[vm.index()].guest.monitor;
        let migrating = match loss.lack {
            Lack::NoPath | Lack::FewPaths => self.migrating(vm),
            Lack::Short => {
                Migrating::Impossible("the target is as short of resources for another host".into())
            }
        };
        Plight { monitor, lack: loss.lack, gone, migrating }
    }

    /// What is to be done now, as far as it is not done already. Asked again at each event: a monitor may have come back.
    fn next_rung(&mut self, vm: VmId) {
        let ladder = &self.vms[vm.index()].ladder;
        let (loss, on) = match ladder {
            // What its guest has been told cannot be taken back.
            Ladder::Failing { .. } => return self.fail_further(vm),
            Ladder::Clear | Ladder::Suspended { .. } => return,
            Ladder::Waiting { loss, rung, since } => (*loss, self.on_rung(*rung, *since)),
            Ladder::Stranded { loss, .. } => (*loss, On::Past),
        };
        let (stand, passed) = rules::stand(&self.spec.vm(vm).on_no_path, &self.plight(vm, loss), on);
        match stand {
            Stand::Moot => {}
            Stand::Wait(rung) => self.wait_on(vm, rung, &passed),
            Stand::Migrate => self.move_for(vm, loss, &passed),
            Stand::Suspend => {
                let (unit, rule) = (loss.unit, self.ladder_rule(vm, loss) + &and(&passed));
                self.vms[vm.index()].ladder = Ladder::Suspended { loss, since: self.now };
                let why = match loss.lack {
                    Lack::NoPath | Lack::Short => Why::NoPath { unit },
                    Lack::FewPaths => Why::FewPaths { unit },
                };
                self.tell(vm, Input::Suspend(Cause { incident: Some(loss.incident), why, rule }));
            }
            Stand::Fail if self.fails_too_soon(loss) => {}
            Stand::Fail => {
                self.fail(vm, loss, &passed);
            }
            Stand::Nothing(why) => self.strand(vm, loss, why),
        }
    }

    fn on_rung(&self, rung: NoPathAction, since: Instant) -> On {
        let spent = if mutant::active(Mutant::HoldForever) { Duration::ZERO } else { self.now.since(since) };
        On::Rung(rung, spent)
    }

    /// From the hold to a suspend that cannot be done: it is held for as long as that might have lasted.
    fn wait_on(&mut self, vm: VmId, next: NoPathAction, passed: &str) {
        let Ladder::Waiting { loss, rung, .. } = self.vms[vm.index()].ladder else { return };
        if rung == next {
            return;
        }
        self.vms[vm.index()].ladder = Ladder::Waiting { loss, rung: next, since: self.now };
        let stopping = rules::stopping(&self.vms[vm.index()].guest.monitor, rules::requests(loss.lack));
        let why = match stopping {
            _ if next != NoPathAction::Suspend => and(passed),
            rules::Stopping::Impossible(why) => format!("; {why}"),
            rules::Stopping::Possible | rules::Stopping::Moot => String::new(),
        };
        let stays = match loss.lack {
            Lack::NoPath | Lack::Short => "its requests stay held instead",
            Lack::FewPaths => "its requests go on meanwhile",
        };
        let reason = format!("{}{why}; {stays}", self.ladder_rule(vm, loss));
        let until = Some(self.until(vm));
        let kind = JournalKind::PolicyBlocked;
        self.record_until(kind, Subject::Vm(vm), Some(loss.incident), (reason, until));
    }

    /// What is open moves with it: it is held here anyway.
    fn move_for(&mut self, vm: VmId, loss: Loss, passed: &str) {
        let rule = self.ladder_rule(vm, loss) + &and(passed);
        let requests = rules::requests(loss.lack);
        let reason = Reason { incident: Some(loss.incident), rule, requests };
        self.wants_move(vm, reason, Whereto::Best);
    }

    /// Not yet, if the unit that the rungs go by is only connecting and no other is due.
    fn fail(&mut self, vm: VmId, mut loss: Loss, passed: &str) -> Begun {
        if loss.lack == Lack::NoPath {
            let due = self.due_to_fail(vm, Some(loss.unit));
            let first = due.iter().find(|unit| **unit == loss.unit).or(due.first());
            let Some(first) = first else { return Begun::No };
            loss = self.loss_of(vm, *first).filter(|_| *first != loss.unit).unwrap_or(loss);
            self.begin_to_fail(vm, &due);
        }
        let rule = self.ladder_rule(vm, loss) + &and(passed);
        let reason = format!("{rule}; its requests are answered with errors");
        self.vms[vm.index()].ladder = Ladder::Failing { loss, rule };
        let until = Some(self.until(vm));
        self.record_until(JournalKind::VmFailing, Subject::Vm(vm), Some(loss.incident), (reason, until));
        Begun::Yes
    }

    /// Nothing of the ladder can be done, any more or at all. Told at once, when the reason changes, and then again and again.
    fn strand(&mut self, vm: VmId, loss: Loss, why: String) {
        let known = match &self.vms[vm.index()].ladder {
            Ladder::Stranded { why: last, retell, .. } if *last == why => Some(*retell),
            Ladder::Stranded { .. }
            | Ladder::Clear
            | Ladder::Waiting { .. }
            | Ladder::Suspended { .. }
            | Ladder::Failing { .. } => None,
        };
        let (again, retell) = match known {
            Some(retell) if retell.at > self.now => return,
            Some(retell) => ("still: ", retell.next(self.now)),
            None => ("", Retell::first(self.now)),
        };
        let stays = match (&self.vms[vm.index()].guest.run, loss.lack) {
            (Run::Suspending { .. } | Run::Suspended { .. } | Run::Resuming { .. }, _) => {
                "it stays suspended"
            }
            (Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. }, lack) => {
                match lack {
                    Lack::NoPath | Lack::Short => "its requests stay held",
                    Lack::FewPaths => "its requests go on over what is left",
                }
            }
        };
        let rule = self.ladder_rule(vm, loss);
        let reason = format!("{again}{rule}; nothing more of it can be done: {why}; {stays}");
        self.vms[vm.index()].ladder = Ladder::Stranded { loss, why, retell };
        let until = Some(self.until(vm));
        let kind = JournalKind::PolicyBlocked;
        self.record_until(kind, Subject::Vm(vm), Some(loss.incident), (reason, until));
    }

    /// Suspended for want of paths, on its way to that, or about to be continued; `stopped` says since when and for what.
    fn climb_stopped(&mut self, vm: VmId, stopped: Loss) {
        let (loss, since) = match &self.vms[vm.index()].ladder {
            // Suspended by a vmpath that kept no ladder for that, or in another way that counts as this rung.
            Ladder::Clear | Ladder::Waiting { .. } => {
                let loss = self.vms[vm.index()].ladder.loss().unwrap_or(stopped);
                self.vms[vm.index()].ladder = Ladder::Suspended { loss, since: stopped.since };
                (loss, Some(stopped.since))
            }
            Ladder::Suspended { loss, since } => (*loss, Some(*since)),
            // What ended its suspend is over; the next lack has its whole time again.
            Ladder::Stranded { loss, .. } if self.lack(vm).is_none() => {
                let (loss, since) = (*loss, self.now);
                self.vms[vm.index()].ladder = Ladder::Suspended { loss, since };
                return;
            }
            Ladder::Stranded { loss, .. } => (*loss, None),
            Ladder::Failing { .. } => return self.fail_stopped(vm),
        };
        let lasts = match (since, self.suspend_bound(vm)) {
            (Some(since), Some(bound)) => since + bound > self.now,
            (Some(_), None) => true,
            (None, _) => false,
        };
        // One that stands still says nothing of what its target would refuse.
        let Some((unit, lack)) = self.lack(vm).filter(|(_, lack)| *lack != Lack::Short) else {
            if self.network.unserved_unit(vm).is_none() {
                self.rest_on_suspend(vm, loss);
            }
            return;
        };
        if lack == Lack::NoPath && lack == loss.lack && self.is_another(vm, loss, unit) {
            let loss = self.loss_of(vm, unit).unwrap_or(loss);
            self.vms[vm.index()].ladder = Ladder::Suspended { loss, since: self.now };
            return;
        }
        if lack != loss.lack {
            self.rest_on_suspend(vm, Loss { unit, lack, ..loss });
            return;
        }
        if lasts {
            return;
        }
        let plight = Plight { lack, ..self.plight(vm, loss) };
        let (stand, passed) = rules::stand(&self.spec.vm(vm).on_no_path, &plight, On::AfterSuspend);
        match stand {
            Stand::Fail => self.continue_to_fail(vm, loss, &passed),
            Stand::Nothing(why) => self.strand(vm, loss, why),
            // Neither stands after a suspend.
            Stand::Wait(_) | Stand::Suspend | Stand::Moot => {}
            Stand::Migrate => self.move_for(vm, loss, &passed),
        }
    }

    /// What it lacked is there again while something else keeps it suspended, or it lacks something else: that has the whole
    /// rung before it.
    fn rest_on_suspend(&mut self, vm: VmId, loss: Loss) {
        let loss = Loss { since: self.now, ..loss };
        self.vms[vm.index()].ladder = Ladder::Suspended { loss, since: self.now };
    }

    pub(super) fn suspend_bound(&self, vm: VmId) -> Option<Duration> {
        let rungs = &self.spec.vm(vm).on_no_path.rungs;
        rungs.iter().find(|rung| rung.action == NoPathAction::Suspend).and_then(|rung| rung.bound)
    }

    /// Its errors reach its guest only when it runs.
    fn continue_to_fail(&mut self, vm: VmId, loss: Loss, passed: &str) {
        let cannot = match &self.vms[vm.index()].guest.run {
            Run::Suspended { .. } => self.monitor_wait(vm).is_some(),
            Run::Suspending { .. } => false,
            Run::Resuming { .. }
            | Run::Free { .. }
            | Run::Held { .. }
            | Run::Withdrawing { .. }
            | Run::Proving { .. } => true,
        };
        if cannot || self.resumes_wait(vm, self.now).is_some() {
            return;
        }
        if self.fail(vm, loss, passed) == Begun::No {
            return;
        }
        self.vms[vm.index()].dwell.resumed(self.now);
        self.tell(vm, Input::Release);
    }

    /// It was continued to meet its errors.
    fn fail_stopped(&mut self, vm: VmId) {
        let state = &self.vms[vm.index()];
        let Some(loss) = state.ladder.loss() else { return };
        match &state.guest.run {
            // It has stopped by itself on them.
            Run::Suspended { since, .. } => {
                self.vms[vm.index()].ladder = Ladder::Suspended { loss, since: *since };
                self.hold_all_lost(vm);
            }
            Run::Resuming { .. } | Run::Suspending { .. } => {
                if self.network.unserved_unit(vm).is_none() {
                    self.step_off_ladder(vm);
                }
            }
            Run::Free { .. } | Run::Held { .. } | Run::Withdrawing { .. } | Run::Proving { .. } => {}
        }
    }

    /// When time alone takes it further.
    pub(super) fn ladder_deadline(&self, vm: VmId) -> Option<Instant> {
        match &self.vms[vm.index()].ladder {
            Ladder::Clear | Ladder::Stranded { .. } => None,
            Ladder::Failing { .. } => self.next_to_fail(vm),
            Ladder::Waiting { rung, since, .. } => {
                let rung = self.rung_bound(vm, *rung).map(|bound| *since + bound);
                rung.into_iter().chain(self.next_to_fail(vm)).filter(|at| *at > self.now).min()
            }
            Ladder::Suspended { since, .. } => Some(*since + self.suspend_bound(vm)?),
        }
    }

    /// When it is told again that nothing can be done.
    pub(super) fn retell_deadline(&self, vm: VmId) -> Option<Instant> {
        match &self.vms[vm.index()].ladder {
            Ladder::Stranded { retell, .. } => Some(retell.at),
            Ladder::Clear | Ladder::Failing { .. } | Ladder::Waiting { .. } | Ladder::Suspended { .. } => {
                None
            }
        }
    }

    /// None also if the configuration has no such rung any more.
    pub(super) fn rung_bound(&self, vm: VmId, action: NoPathAction) -> Option<Duration> {
        let rungs = &self.spec.vm(vm).on_no_path.rungs;
        rungs.iter().find(|rung| rung.action == action).and_then(|rung| rung.bound)
    }

    /// The rule that applies, with its numbers.
    pub(super) fn ladder_rule(&self, vm: VmId, loss: Loss) -> String {
        let policy = &self.spec.vm(vm).on_no_path;
        let (name, time) = (self.spec.unit_name(loss.unit), seconds(self.now.since(loss.since)));
        let gone = if self.network.gone_for_good(vm, loss.unit) {
            ", and the target says that it is gone"
        } else {
            ""
        };
        match loss.lack {
            Lack::NoPath => format!("on_no_path = \"{policy}\": no path to {name} for {time}{gone}"),
            Lack::Short => format!("on_no_path = \"{policy}\": {} for {time}", self.short_words(loss.unit)),
            Lack::FewPaths => {
                format!("on_no_path = \"{policy}\": {} for {time}", self.few_words(vm, loss.unit))
            }
        }
    }

    /// "1 usable path to san0/db1 and min_paths = 2".
    pub(super) fn few_words(&self, vm: VmId, unit: UnitId) -> String {
        let paths = match self.network.usable_paths(vm, unit) {
            1 => "1 usable path".to_owned(),
            many => format!("{many} usable paths"),
        };
        format!("{paths} to {} and min_paths = {}", self.spec.unit_name(unit), self.spec.vm(vm).min_paths)
    }
}

/// Whether a VM's requests fail from now on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Begun {
    Yes,
    No,
}

/// A further part of a sentence; nothing if there is none.
fn and(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!("; {words}") }
}
