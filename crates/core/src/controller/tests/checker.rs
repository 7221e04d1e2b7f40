//! The rules that hold whatever happens, checked on every event from outside of the controller.
//!
//! It knows only what was sent in and what came out: nothing of the controller's own state but its view.

use crate::controller::Controller;
use crate::effect::{Effect, JournalKind, Subject};
use crate::event::{Command, Event, HypervisorReport, RunState, StopsOnError};
use crate::ids::{IncidentId, VmId};
use crate::plan::{Gate, RoutePlan};
use crate::policy::RESUMES_WITHIN;
use crate::time::Instant;
use crate::view::VmState;

/// What an outsider knows of one VM.
#[derive(Clone, Default)]
struct Seen {
    /// Process, state, and whether it stops on errors, as last reported.
    monitor: Option<(u64, RunState, StopsOnError)>,
    /// The process that was told to stop, or that stopped on our EIO.
    stopped: Option<u64>,
    /// The process that ran when it was last heard of, before a restart of ours.
    ran: Option<u64>,
    /// When it was resumed, not for an operator.
    resumed: Vec<Instant>,
    /// The operator has asked for it, or somebody else has continued it, and it was not continued by us since.
    asked_for: bool,
    /// It was told to continue, and does not run yet.
    continued: bool,
}

#[derive(Clone)]
pub(super) struct Checker {
    vms: Vec<Seen>,
    plan: RoutePlan,
    newest: Option<IncidentId>,
}

type Verdict = Result<(), String>;

fn must(rule: bool, text: impl FnOnce() -> String) -> Verdict {
    if rule { Ok(()) } else { Err(text()) }
}

impl Checker {
    pub(super) fn new(first: &RoutePlan) -> Self {
        Self { vms: vec![Seen::default(); first.vms.len()], plan: first.clone(), newest: None }
    }

    /// Another process of ours goes on, with this first plan and without any monitor.
    pub(super) fn restarted(&mut self, first: &RoutePlan) {
        for seen in &mut self.vms {
            if let Some((instance, state, _)) = seen.monitor.take() {
                seen.ran = (state == RunState::Running).then_some(instance);
            }
        }
        self.plan = RoutePlan { generation: 0, ..first.clone() };
    }

    /// Before the controller is told.
    pub(super) fn before(&mut self, event: &Event) {
        if let Event::Command { command: Command::ResumeVm(vm), .. } = event {
            self.vms[vm.index()].asked_for = true;
        }
        let Event::Hypervisor { vm, report } = event else { return };
        let gate = &self.plan.vms[vm.index()].gate;
        let answers_eio = matches!(gate, Gate::Bounce(_) | Gate::Fail(..));
        let seen = &mut self.vms[vm.index()];
        match report {
            HypervisorReport::Connected { instance, state, stops_on_error } => {
                if seen.stopped != Some(*instance) {
                    seen.stopped = None;
                }
                // Its disks were away with us.
                if seen.ran.take() == Some(*instance) && *state == RunState::IoError {
                    seen.stopped = Some(*instance);
                }
                seen.monitor = Some((*instance, *state, *stops_on_error));
            }
            HypervisorReport::Lost { .. } => seen.monitor = None,
            HypervisorReport::State(state) => {
                if *state == RunState::Running && !std::mem::take(&mut seen.continued) {
                    seen.asked_for = true;
                }
                if let Some((instance, known, _)) = &mut seen.monitor {
                    *known = *state;
                    if *state == RunState::IoError && answers_eio {
                        seen.stopped = Some(*instance);
                    }
                }
            }
            HypervisorReport::Refused { .. }
            | HypervisorReport::Machine(_)
            | HypervisorReport::Migration(_)
            | HypervisorReport::MigrationRefused { .. }
            | HypervisorReport::Deaf { .. } => {}
        }
    }

    /// After the controller has answered.
    pub(super) fn after(&mut self, effects: &[Effect], controller: &Controller) -> Verdict {
        self.plans(effects)?;
        self.numbers(effects)?;
        for (at, effect) in effects.iter().enumerate() {
            match effect {
                Effect::Publish(_) => must(at == 0, || "a plan comes first".into())?,
                Effect::Stop { vm, instance } => {
                    self.stop(*vm, *instance)?;
                    let kinds = [JournalKind::VmSuspending, JournalKind::PolicyBlocked];
                    must(kinds.iter().any(|kind| told(effects, *vm, *kind)), || {
                        format!("an untold stop of {vm}")
                    })?;
                }
                Effect::Continue { vm, instance } => {
                    self.cont(*vm, *instance)?;
                    must(told(effects, *vm, JournalKind::VmResuming), || format!("an untold cont of {vm}"))?;
                    self.resumed(effects, *vm, controller.now)?;
                }
                Effect::Record(entry) => {
                    must(!entry.reason.is_empty(), || format!("no reason: {entry:?}"))?;
                    let needs_end = matches!(
                        entry.kind,
                        JournalKind::VmHeld
                            | JournalKind::VmSuspending
                            | JournalKind::VmSuspended
                            | JournalKind::NoPath
                            | JournalKind::VmFailing
                    );
                    must(!needs_end || entry.until.is_some(), || format!("no end: {entry:?}"))?;
                }
                Effect::Monitor { .. } | Effect::Cluster(_) | Effect::Answer { .. } => {}
            }
        }
        self.gates()?;
        // What decided nothing has changed no row.
        if effects.is_empty() { Ok(()) } else { self.views(controller) }
    }

    fn plans(&mut self, effects: &[Effect]) -> Verdict {
        let plans: Vec<_> = effects
            .iter()
            .filter_map(|effect| match effect {
                Effect::Publish(plan) => Some(plan),
                Effect::Stop { .. }
                | Effect::Continue { .. }
                | Effect::Monitor { .. }
                | Effect::Cluster(_)
                | Effect::Record(_)
                | Effect::Answer { .. } => None,
            })
            .collect();
        must(plans.len() <= 1, || format!("{} plans for one event", plans.len()))?;
        if let Some(plan) = plans.first() {
            must(plan.generation == self.plan.generation + 1, || {
                format!("generation {} after {}", plan.generation, self.plan.generation)
            })?;
            self.vms.resize(plan.vms.len(), Seen::default());
            self.plan = (*plan).clone();
        }
        Ok(())
    }

    fn numbers(&mut self, effects: &[Effect]) -> Verdict {
        for effect in effects {
            let Effect::Record(entry) = effect else { continue };
            if entry.kind == JournalKind::IncidentOpened {
                must(entry.incident > self.newest, || {
                    format!("{:?} after {:?}", entry.incident, self.newest)
                })?;
                self.newest = entry.incident;
            }
        }
        Ok(())
    }

    fn stop(&mut self, vm: VmId, instance: u64) -> Verdict {
        let seen = &mut self.vms[vm.index()];
        let (known, state, _) = seen.monitor.ok_or_else(|| format!("stop of {vm} without a monitor"))?;
        must(known == instance, || format!("stop of {vm}'s process {instance}, but it is {known}"))?;
        must(state != RunState::Other, || format!("stop of {vm} in a state that is not ours"))?;
        seen.stopped = Some(instance);
        Ok(())
    }

    fn cont(&self, vm: VmId, instance: u64) -> Verdict {
        let seen = &self.vms[vm.index()];
        let (known, state, _) = seen.monitor.ok_or_else(|| format!("cont of {vm} without a monitor"))?;
        must(known == instance, || format!("cont of {vm}'s process {instance}, but it is {known}"))?;
        must(seen.stopped == Some(instance), || format!("cont of {vm}, which we did not stop"))?;
        must(matches!(state, RunState::Paused | RunState::IoError), || format!("cont of {vm} in {state:?}"))?;
        let gate = &self.plan.vms[vm.index()].gate;
        must(matches!(gate, Gate::Open | Gate::Fail(..)), || {
            format!("cont of {vm} behind a shut gate: {gate:?}")
        })
    }

    /// No VM is suspended and resumed more than twice in five minutes; the attempts of one resume count once, one that our
    /// own restart had stopped does not count.
    fn resumed(&mut self, effects: &[Effect], vm: VmId, now: Instant) -> Verdict {
        let seen = &mut self.vms[vm.index()];
        seen.continued = true;
        if !begins_resume(effects, vm) || std::mem::take(&mut seen.asked_for) {
            return Ok(());
        }
        seen.resumed.push(now);
        let [.., first, _, third] = seen.resumed[..] else { return Ok(()) };
        must(third >= first + RESUMES_WITHIN, || format!("{vm} resumed three times from {first} to {third}"))
    }

    fn gates(&self) -> Verdict {
        for (index, route) in self.plan.vms.iter().enumerate() {
            let stops = matches!(self.vms[index].monitor, Some((_, _, StopsOnError::Yes)));
            match &route.gate {
                Gate::Open => {}
                Gate::Hold(reason) | Gate::Fail(reason, _) => {
                    must(!reason.text.is_empty(), || format!("vm {index}: a gate without a reason"))?;
                }
                Gate::Bounce(reason) => {
                    must(stops, || format!("vm {index}: EIO for a guest that may not stop on it"))?;
                    must(!reason.text.is_empty(), || format!("vm {index}: a gate without a reason"))?;
                }
            }
        }
        Ok(())
    }

    fn views(&self, controller: &Controller) -> Verdict {
        let view = controller.view(controller.now);
        for row in &view.vms {
            let kept = row.gate != Gate::Open
                || matches!(
                    row.state,
                    VmState::Suspending | VmState::Suspended | VmState::Resuming | VmState::Migrating
                );
            must(!kept || !row.because.is_empty(), || format!("no sentence says why: {row:?}"))?;
            must(!kept || row.waits_for.is_some(), || format!("it waits for nothing: {row:?}"))?;
            must(row.gate == self.plan.vms[row.vm.index()].gate, || format!("not published: {row:?}"))?;
        }
        must(controller.next_deadline().is_none_or(|at| at > controller.now), || {
            "a deadline that has passed".into()
        })
    }
}

fn told(effects: &[Effect], vm: VmId, kind: JournalKind) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Record(entry) => entry.kind == kind && entry.subject == Subject::Vm(vm),
        Effect::Publish(_)
        | Effect::Stop { .. }
        | Effect::Continue { .. }
        | Effect::Monitor { .. }
        | Effect::Cluster(_)
        | Effect::Answer { .. } => false,
    })
}

fn begins_resume(effects: &[Effect], vm: VmId) -> bool {
    effects.iter().any(|effect| match effect {
        Effect::Record(entry) => {
            entry.kind == JournalKind::VmResuming
                && entry.subject == Subject::Vm(vm)
                && entry.reason.starts_with("`cont` is sent;")
                && !entry.reason.contains("while vmpath was being restarted")
        }
        Effect::Publish(_)
        | Effect::Stop { .. }
        | Effect::Continue { .. }
        | Effect::Monitor { .. }
        | Effect::Cluster(_)
        | Effect::Answer { .. } => false,
    })
}
