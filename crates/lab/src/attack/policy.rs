//! What the control owner decides, judged by rules that share no code with it.
//!
//! It is told what goes in (events), what comes out (effects) and what hypervisors really do, and works out the rest anew
//! (`network`, `story`); each rule has a file. A rule is asked only where the facts leave no doubt, so a violation is a fault.
//! Rejected: comparing with a second implementation of the controller, which would have its misunderstandings.
//! It does not know requests: the data checkers do.

mod facts;
mod few;
mod flapping;
mod gates;
mod hold;
mod incidents;
mod keep;
mod network;
mod resume;
mod story;
#[cfg(test)]
mod tests;
mod words;

use super::violation::Violation;
use facts::Facts;
use few::Few;
use flapping::Flapping;
use hold::Hold;
use incidents::Incidents;
use keep::Keep;
use network::Proof;
use resume::Resume;
use std::sync::Arc;
use story::Ours;
use vmpath_core::controller::Controller;
use vmpath_core::effect::{Effect, JournalEntry, JournalKind, Subject};
use vmpath_core::event::{Command, Event, RunState};
use vmpath_core::ids::{PathId, VmId};
use vmpath_core::plan::{Gate, Health, PathRoute};
use vmpath_core::spec::{Failback, Spec};
use vmpath_core::time::Instant;
use words::Cause;

type Verdict = Result<(), Violation>;

fn broken(rule: &'static str, text: String) -> Verdict {
    Err(Violation { rule, text })
}

/// All rules about what the control owner decides, over one simulated host's life.
#[derive(Debug)]
pub(super) struct PolicyChecks {
    facts: Facts,
    keep: Keep,
    resume: Resume,
    flapping: Flapping,
    hold: Hold,
    few: Few,
    incidents: Incidents,
    /// Of the last plan; none before the first one of a process.
    generation: Option<u64>,
    /// By `TargetId`: when the operator last failed back.
    failed_back: Vec<Option<Instant>>,
    /// What `guest` or `restarted` found; said at the next chance.
    now: Instant,
}

impl PolicyChecks {
    /// `now`: when the controller is made.
    pub(super) fn new(spec: Arc<Spec>, now: Instant) -> Self {
        Self {
            keep: Keep::new(&spec),
            resume: Resume::default(),
            flapping: Flapping::default(),
            hold: Hold::default(),
            few: Few::default(),
            incidents: Incidents::default(),
            generation: None,
            failed_back: vec![None; spec.targets.len()],
            now,
            facts: Facts::new(spec, now),
        }
    }

    /// Before the controller is told.
    pub(super) fn event(&mut self, now: Instant, event: &Event) {
        self.now = now;
        self.facts.event(now, event);
        match event {
            Event::Load(report) => {
                self.keep.load(now, &self.facts.spec, report);
                self.hold.load(&self.facts, now, report);
                self.few.load(&self.facts, report);
            }
            Event::Reload(spec) => {
                self.keep.configured(spec);
                self.failed_back.resize(spec.targets.len(), None);
            }
            Event::Link(_)
            | Event::Hypervisor { .. }
            | Event::Silent(_)
            | Event::Cluster(_)
            | Event::Command { .. }
            | Event::Tick => {}
        }
    }

    /// After each call of the controller, whatever came out; also after it was made anew.
    ///
    /// # Errors
    /// The first rule that is broken.
    pub(super) fn effects(&mut self, now: Instant, controller: &Controller, effects: &[Effect]) -> Verdict {
        let before = self.facts.routes.clone();
        self.facts.begin(now, effects);
        self.keep.elapsed(now, &self.facts.spec);
        for story in &mut self.facts.stories {
            story.elapsed(now);
        }
        self.hold.begin(&self.facts, now);
        self.commands(now);
        self.plans(now, effects, &before)?;
        self.orders(effects)?;
        for effect in effects {
            if let Effect::Record(entry) = effect {
                self.record(now, controller, entry, effects)?;
            }
        }
        self.hold.settled(&self.facts, &self.flapping, now)?;
        self.few.settled(&self.facts, now)?;
        gates::settled(&self.facts, now)?;
        for (story, gate) in self.facts.stories.iter_mut().zip(&self.facts.gates) {
            if *gate == Gate::Open {
                story.is_routed(now);
            }
        }
        self.keep.settled(&self.facts, now)?;
        self.resume.settled(&self.facts, &self.flapping, now)?;
        self.incidents.settled(&self.facts, controller, now)
    }

    /// A hypervisor's run state has really changed, heard or not.
    ///
    /// # Errors
    /// The rule that is broken.
    pub(super) fn guest(&mut self, now: Instant, vm: VmId, state: RunState) -> Verdict {
        self.now = now;
        if let Some(story) = self.facts.stories.get_mut(vm.index()) {
            story.is_really(now, state);
        }
        Ok(())
    }

    /// Another process of ours goes on, with what was saved; before its first effects are looked at.
    pub(super) fn restarted(&mut self, now: Instant, controller: &Controller) {
        for vm in self.facts.spec.vm_ids() {
            let story = self.facts.story(vm);
            if story.awaits_cont() && story.is_first_attempt && story.is_counted {
                self.flapping.not_resumed(vm);
            }
        }
        self.facts.restarted(now, controller);
        self.keep.configured(&self.facts.spec);
        self.hold =
            self.hold.restarted(self.facts.heard, controller.view(now).vms.iter().map(|row| &row.gate));
        self.few.restarted();
        self.incidents.restarted(now, self.facts.heard, controller);
        self.generation = None;
    }

    /// Everything is healed and has been quiet for long.
    ///
    /// # Errors
    /// Who does not run, and what is still open.
    pub(super) fn end(&mut self, now: Instant, controller: &Controller) -> Verdict {
        Resume::end(&self.facts, now)?;
        Incidents::end(&self.facts, controller, now)
    }

    fn commands(&mut self, now: Instant) {
        for command in &self.facts.done {
            match command {
                Command::Failback(target) => self.failed_back[target.index()] = Some(now),
                Command::ResumeVm(vm) => {
                    self.keep.pardon(*vm);
                    self.few.pardon(*vm);
                }
                Command::DisablePath(_)
                | Command::DrainPath(..)
                | Command::EnablePath(_)
                | Command::SetAccess(..)
                | Command::SuspendVm(_)
                | Command::MigrateVm { .. }
                | Command::ReturnVm(_)
                | Command::CancelMigration(_) => {}
            }
        }
    }

    fn plans(&mut self, now: Instant, effects: &[Effect], before: &[PathRoute]) -> Verdict {
        for (at, effect) in effects.iter().enumerate() {
            let Effect::Publish(plan) = effect else { continue };
            if at > 0 || self.generation.is_some_and(|last| plan.generation != last + 1) {
                let text = format!("plan {} after {:?}, as effect {at}", plan.generation, self.generation);
                return broken("plan", text);
            }
            self.generation = Some(plan.generation);
            for (index, route) in plan.paths.iter().enumerate() {
                self.route(now, PathId::at(index), before.get(index), route)?;
            }
        }
        Ok(())
    }

    /// A path counts as up, and gets its traffic back, only when it has proven itself.
    fn route(&self, now: Instant, path: PathId, before: Option<&PathRoute>, route: &PathRoute) -> Verdict {
        let (spec, network) = (&self.facts.spec, &self.facts.network);
        if route.health == Health::Up && !network.proven_path(spec, path, Proof::Least, now) {
            return broken("proof", format!("it counts as up: {}", network.proof_words(spec, path, now)));
        }
        let gets_back = route.health == Health::Up
            && route.preferred
            && before.is_some_and(|b| !b.preferred && b.health != Health::Disabled);
        if !gets_back {
            return Ok(());
        }
        let target = spec.path(path).target;
        let waited = match spec.target(target).failback {
            Failback::Immediate | Failback::Followover => true,
            Failback::After(wait) => network.proven_for(spec, path, wait, now),
            Failback::Manual => network.is_trusted(path),
        };
        let by_hand = self.failed_back[target.index()] == Some(now);
        if waited || by_hand {
            return Ok(());
        }
        let text = format!("traffic is back too early: {}", network.proof_words(spec, path, now));
        broken("failback", text)
    }

    /// Every order to a hypervisor is told, and goes to the right process.
    fn orders(&mut self, effects: &[Effect]) -> Verdict {
        let is_told = |vm: VmId, kind: JournalKind| {
            effects.iter().any(|effect| match effect {
                Effect::Record(entry) => entry.kind == kind && entry.subject == Subject::Vm(vm),
                Effect::Publish(_)
                | Effect::Stop { .. }
                | Effect::Continue { .. }
                | Effect::Monitor { .. }
                | Effect::Cluster(_)
                | Effect::Answer { .. } => false,
            })
        };
        for effect in effects {
            match effect {
                Effect::Stop { vm, instance } => {
                    let known = self.facts.story(*vm).monitor;
                    let is_there =
                        known.is_some_and(|m| m.instance == *instance && m.state != RunState::Other);
                    if !is_there
                        || !(is_told(*vm, JournalKind::VmSuspending)
                            || is_told(*vm, JournalKind::PolicyBlocked))
                    {
                        let text =
                            format!("`stop` for {}, process {instance}: {known:?}", self.facts.vm_name(*vm));
                        return broken("process", text);
                    }
                }
                Effect::Continue { vm, instance } => {
                    Resume::process(&self.facts, *vm, *instance)?;
                    if !is_told(*vm, JournalKind::VmResuming) {
                        return broken("process", format!("an untold `cont` of {}", self.facts.vm_name(*vm)));
                    }
                }
                Effect::Publish(_)
                | Effect::Monitor { .. }
                | Effect::Cluster(_)
                | Effect::Record(_)
                | Effect::Answer { .. } => {}
            }
        }
        Ok(())
    }

    fn record(
        &mut self,
        now: Instant,
        controller: &Controller,
        entry: &JournalEntry,
        effects: &[Effect],
    ) -> Verdict {
        is_explained(entry)?;
        self.hold.record(entry);
        self.incidents.record(&self.facts, entry)?;
        let Some((vm, kind, cause)) = Facts::told(entry) else { return Ok(()) };
        // One batch may take a `stop` back and send another for a new cause: that is no `cont`.
        let resumes = kind == JournalKind::VmResuming;
        let order = effects.iter().find_map(|effect| match effect {
            Effect::Stop { vm: v, instance } => (*v == vm && !resumes).then_some(*instance),
            Effect::Continue { vm: v, instance } => (*v == vm && resumes).then_some(*instance),
            Effect::Publish(_)
            | Effect::Monitor { .. }
            | Effect::Cluster(_)
            | Effect::Record(_)
            | Effect::Answer { .. } => None,
        });
        let was = self.facts.story(vm).ours;
        if kind == JournalKind::ReservationLost && cause == Cause::Shed {
            return self.keep.shed(&self.facts, vm, now);
        }
        let goes_on = words::is_late_cont(&entry.reason);
        let is_new = kind == JournalKind::VmSuspending && was != Ours::Stopping && !goes_on;
        if words::is_by_other(&entry.reason) && self.facts.story(vm).may_continue_late(now) {
            let text =
                format!("a `cont` of our own is taken for somebody else's: {}", self.facts.vm_name(vm));
            return broken("late-cont", text);
        }
        if is_new && cause == Cause::Shed {
            self.keep.shed(&self.facts, vm, now)?;
        }
        if is_new && cause == Cause::NoPath {
            Few::suspended(&self.facts, vm)?;
        }
        let shed_for = if is_new && cause == Cause::Shed {
            self.keep.keep_set(&self.facts, now).missing(&self.facts, vm, now)
        } else {
            vec![]
        };
        if kind == JournalKind::VmResuming && order.is_some() {
            self.resume.cont(&self.facts, &self.flapping, vm, now)?;
            self.count_round(vm, now)?;
        }
        self.facts.stories[vm.index()].told(now, entry, order);
        match (is_new, cause) {
            (true, Cause::Shed) => {
                self.facts.stories[vm.index()].lost = shed_for;
                self.keep.was_shed(&self.facts, vm, now);
            }
            (true, Cause::PathLoss) => self.note_lost(now, controller, vm, entry),
            (true, Cause::Operator | Cause::NoPath | Cause::Other) | (false, _) => {}
        }
        self.changed(vm, now, was, (is_new, cause));
        Ok(())
    }

    /// After a VM's story has gone on.
    fn changed(&mut self, vm: VmId, now: Instant, was: Ours, (is_new, cause): (bool, Cause)) {
        let ours = self.facts.story(vm).ours;
        let stood = matches!(was, Ours::Stopping | Ours::Stopped { .. } | Ours::Withdrawn { .. });
        if stood && ours != was && matches!(ours, Ours::Continuing | Ours::Withdrawn { .. }) {
            self.flapping.went_on(vm, now);
        }
        if ours != was && !(is_new && cause == Cause::Shed) {
            self.keep.stir();
        }
        if matches!(ours, Ours::Withdrawn { .. }) && matches!(was, Ours::Stopped { .. }) {
            // Somebody else continued it.
            self.keep.pardon(vm);
            self.few.pardon(vm);
        }
    }

    fn count_round(&mut self, vm: VmId, now: Instant) -> Verdict {
        let story = self.facts.story(vm);
        let is_by_operator = self.facts.done.contains(&Command::ResumeVm(vm));
        let is_counted = story.is_first_cont() && story.cause.is_some_and(Cause::is_by_failure);
        if !is_counted || is_by_operator {
            return Ok(());
        }
        let since = story.suspended_at;
        self.facts.stories[vm.index()].is_counted = true;
        let name = self.facts.vm_name(vm);
        self.flapping.resumed(vm, name, since, now)
    }

    /// The paths that `on_path_loss` suspends it for: those that it has lost, and that failed in the incident named.
    fn note_lost(&mut self, now: Instant, controller: &Controller, vm: VmId, entry: &JournalEntry) {
        let view = controller.view(now);
        let incident = view.incidents.iter().find(|i| Some(i.incident) == entry.incident);
        let spec = &self.facts.spec;
        let is_lost = |p: &PathId| {
            let mut units = spec.units_of_vm(vm).filter(|u| network::allowed(spec, vm, *u).any(|q| q == *p));
            units.any(|unit| self.facts.network.lost(*p, unit))
        };
        let lost = incident.into_iter().flat_map(|i| i.paths.iter().copied()).filter(is_lost).collect();
        self.facts.stories[vm.index()].lost = lost;
    }
}

/// Everything has a reason; what holds or stops a VM has an end.
fn is_explained(entry: &JournalEntry) -> Verdict {
    let needs_end = matches!(
        entry.kind,
        JournalKind::VmHeld
            | JournalKind::VmSuspending
            | JournalKind::VmSuspended
            | JournalKind::NoPath
            | JournalKind::VmFailing
    );
    if entry.reason.is_empty() || needs_end && entry.until.as_ref().is_none_or(String::is_empty) {
        return broken("explained", format!("no reason or no end: {entry:?}"));
    }
    Ok(())
}
