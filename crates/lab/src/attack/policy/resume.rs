//! Resuming: never too early, never the wrong one, never forgotten.
//!
//! Invariant: "too early" is judged by the least that must have been proven, "forgotten" and "out of turn" by the most that may be
//! asked, so that neither judges what a rule leaves open.
//! It does not know how often: see `flapping`.

use super::facts::Facts;
use super::flapping::Flapping;
use super::hold;
use super::network::{Proof, allowed};
use super::story::Ours;
use super::words::Cause;
use super::{Verdict, broken};
use vmpath_core::event::{Command, RunState};
use vmpath_core::ids::{PathId, VmId};
use vmpath_core::plan::Gate;
use vmpath_core::spec::{Presence, ResumeOn};
use vmpath_core::time::{Duration, Instant};

/// VMs are resumed one at a time.
const PACE: Duration = Duration::from_millis(500);
/// A VM for which everything is as it should be is continued within this, besides its turn.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(20);
/// A VM that was suspended is left so for a while, whatever comes back.
const REST: Duration = Duration::from_secs(10);
/// Attempts before the operator is asked.
const ATTEMPTS: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Resume {
    last: Option<Instant>,
    /// By `VmId`: since when it could surely be resumed.
    ready: Vec<Option<Instant>>,
}

impl Resume {
    /// A `cont` is about to be sent to a VM's process `instance`.
    pub(super) fn cont(&mut self, facts: &Facts, flapping: &Flapping, vm: VmId, now: Instant) -> Verdict {
        let story = facts.story(vm);
        let is_by_operator = facts.done.contains(&Command::ResumeVm(vm));
        if story.operator && !is_by_operator {
            return broken(
                "operator",
                format!("{} is continued, which the operator suspended", facts.vm_name(vm)),
            );
        }
        if matches!(facts.gate(vm), Some(Gate::Fail(..))) && !facts.network.serves(&facts.spec, vm) {
            return Self::to_fail(facts, vm, now);
        }
        if !matches!(facts.gate(vm), Some(Gate::Open)) {
            return broken("gate", format!("{} is continued behind a shut gate", facts.vm_name(vm)));
        }
        // A `stop` that nobody wanted any more has taken effect: that is undone, whatever is up.
        let is_late = matches!(story.ours, Ours::Withdrawn { .. });
        if !is_late && !facts.network.serves(&facts.spec, vm) {
            return broken("resume", format!("{} is continued without a usable path", facts.vm_name(vm)));
        }
        if is_by_operator || !story.is_first_cont() {
            return Ok(());
        }
        self.conditions(facts, vm, now)?;
        self.order(facts, flapping, vm, now)?;
        self.last = Some(now);
        Ok(())
    }

    /// Of the process: it is the one that we stopped, and it stands still.
    pub(super) fn process(facts: &Facts, vm: VmId, instance: u64) -> Verdict {
        let (story, name) = (facts.story(vm), facts.vm_name(vm));
        let Some(monitor) = story.monitor else {
            return broken("process", format!("{name} is continued without a monitor"));
        };
        if monitor.instance != instance || story.stopped != Some(instance) {
            let text = format!(
                "{name}'s process {instance} is continued; there is {}, and {:?} was stopped by us",
                monitor.instance, story.stopped
            );
            return broken("process", text);
        }
        match monitor.state {
            RunState::Paused | RunState::IoError => Ok(()),
            RunState::Running | RunState::Sent | RunState::Other => {
                broken("process", format!("{name} is continued, though it is {:?}", monitor.state))
            }
        }
    }

    /// Its time on the rung `suspend` is over, and the next one is `fail`: it goes on to meet its errors.
    fn to_fail(facts: &Facts, vm: VmId, now: Instant) -> Verdict {
        let (story, name) = (facts.story(vm), facts.vm_name(vm));
        let bound = hold::fails_after(&facts.spec.vm(vm).on_no_path);
        let stood = now.since(story.suspended_at);
        if story.is_first_cont() && bound.is_none_or(|bound| stood < bound) {
            let text = format!("{name} is continued into errors after {stood:?}, and may be after {bound:?}");
            return broken("fail-rung", text);
        }
        Ok(())
    }

    fn conditions(&self, facts: &Facts, vm: VmId, now: Instant) -> Verdict {
        let (spec, story) = (&facts.spec, facts.story(vm));
        let name = facts.vm_name(vm);
        let lost: Vec<PathId> = story.lost.iter().copied().filter(|p| p.index() < spec.paths.len()).collect();
        for path in lost {
            let mut units = spec.units_of_vm(vm).filter(|u| allowed(spec, vm, *u).any(|p| p == path));
            let links = units.all(|u| facts.network.proven_link(spec, (path, u), Proof::Least, now));
            if !links || !is_trusted(facts, vm, path, now) {
                let why = facts.network.proof_words(spec, path, now);
                let rule = spec.vm(vm).resume;
                return broken("resume", format!("{name} (resume: {rule:?}) is continued too early: {why}"));
            }
        }
        for unit in spec.units_of_vm(vm) {
            let good = |p: PathId| match story.cause {
                Some(Cause::NoPath | Cause::Other) => {
                    facts.network.proven_link(spec, (p, unit), Proof::Least, now)
                        && is_trusted(facts, vm, p, now)
                }
                // It waits for what it was suspended for; elsewhere a path that is usable is enough.
                Some(Cause::PathLoss | Cause::Shed | Cause::Operator) | None => facts.network.usable(p, unit),
            };
            let needed = match story.cause {
                Some(Cause::NoPath | Cause::Other) => spec.vm(vm).min_paths.max(1) as usize,
                Some(Cause::PathLoss | Cause::Shed | Cause::Operator) | None => 1,
            };
            if allowed(spec, vm, unit).filter(|p| good(*p)).count() < needed {
                let paths: Vec<_> =
                    allowed(spec, vm, unit).map(|p| facts.network.proof_words(spec, p, now)).collect();
                let text = format!(
                    "{name} ({:?}) is continued too early for {}: {}",
                    story.cause,
                    spec.unit_name(unit),
                    paths.join("; ")
                );
                return broken("resume", text);
            }
        }
        Ok(())
    }

    fn order(&self, facts: &Facts, flapping: &Flapping, vm: VmId, now: Instant) -> Verdict {
        let name = facts.vm_name(vm);
        if let Some(last) = self.last.filter(|last| now.since(*last) < PACE) {
            let text = format!("{name} is continued {:?} after the one before", now.since(last));
            return broken("resume-pace", text);
        }
        let order = facts.by_priority();
        let higher = order.iter().take_while(|other| **other != vm);
        let priority = facts.spec.vm(vm).priority;
        for other in higher.filter(|other| facts.spec.vm(**other).priority > priority) {
            if is_ready(facts, flapping, *other, now) && now.since(facts.story(*other).suspended_at) > REST {
                let text = format!("{name} is continued before {}", facts.vm_name(*other));
                return broken("resume-order", text);
            }
        }
        Ok(())
    }

    /// Nobody who could surely be resumed waits for longer than the turns of all.
    pub(super) fn settled(&mut self, facts: &Facts, flapping: &Flapping, now: Instant) -> Verdict {
        self.ready.resize(facts.spec.vms.len(), None);
        let mut waiting = 0;
        for vm in facts.spec.vm_ids() {
            let is_ready = is_ready(facts, flapping, vm, now);
            let since = &mut self.ready[vm.index()];
            *since = if is_ready { since.or(Some(now)) } else { None };
            waiting += u32::from(is_ready);
        }
        for vm in facts.spec.vm_ids() {
            let bound = FORGOTTEN_AFTER + PACE * waiting;
            if self.ready[vm.index()].is_some_and(|since| now.since(since) > bound) {
                let text = format!(
                    "{} is suspended by us, nothing is in its way, and for {bound:?} it is not continued",
                    facts.vm_name(vm)
                );
                return broken("forgotten", text);
            }
        }
        Ok(())
    }

    /// Once all is healed and quiet.
    pub(super) fn end(facts: &Facts, now: Instant) -> Verdict {
        for vm in facts.spec.vm_ids() {
            let story = facts.story(vm);
            let is_given_up = story.gave_up && story.attempts >= ATTEMPTS;
            let is_still = match story.ours {
                // The `cont` has taken effect, and the word of it is on its way; or somebody let it run when a crash had
                // forgotten that it was stopped.
                Ours::Continuing | Ours::Stopping | Ours::Stopped { .. } => {
                    story.truth != Some(RunState::Running)
                }
                Ours::Held => true,
                Ours::Nothing | Ours::Withdrawn { .. } | Ours::Proving { .. } => false,
            };
            let is_there = facts.spec.vm(vm).presence == Presence::Present;
            if is_still && is_there && is_healed(facts, vm, now) && !story.operator && !is_given_up {
                let text = format!(
                    "{} is {:?} in the end, for {:?}; its hypervisor is {:?}",
                    facts.vm_name(vm),
                    story.ours,
                    story.cause,
                    story.truth
                );
                return broken("forgotten", text);
            }
        }
        Ok(())
    }
}

/// The failure of this path is surely not corrected, unless this holds.
fn is_trusted(facts: &Facts, vm: VmId, path: PathId, now: Instant) -> bool {
    let traffic_is_back = match facts.spec.vm(vm).resume {
        ResumeOn::Repair => true,
        ResumeOn::Failback => facts.routes.get(path.index()).is_some_and(|route| route.preferred),
    };
    traffic_is_back && facts.network.proven_path(&facts.spec, path, Proof::Least, now)
}

/// Suspended by us, and whatever may be asked for its resume is there: its process, and every path of every target that it
/// uses is at work and proven beyond doubt, and it has not been suspended often.
fn is_ready(facts: &Facts, flapping: &Flapping, vm: VmId, now: Instant) -> bool {
    let (spec, story) = (&facts.spec, facts.story(vm));
    let is_stopped = matches!(story.ours, Ours::Stopped { .. });
    if !is_stopped || story.operator || story.gave_up || !story.is_continuable() {
        return false;
    }
    if spec.vm(vm).presence != Presence::Present || flapping.is_restless(vm, now) {
        return false;
    }
    is_healed(facts, vm, now)
}

/// Every path of every target that it uses is at work, and proven beyond doubt.
fn is_healed(facts: &Facts, vm: VmId, now: Instant) -> bool {
    let spec = &facts.spec;
    spec.units_of_vm(vm).all(|unit| {
        spec.paths_of_unit(unit).all(|path| {
            facts.at_work(path)
                && facts.network.is_whole(path)
                && facts.network.proven_link(spec, (path, unit), Proof::Most, now)
                && facts.network.proven_path(spec, path, Proof::Most, now)
        })
    })
}
