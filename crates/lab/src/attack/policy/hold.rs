//! The rungs of `on_no_path`: each is taken when its time has come, and none before.
//!
//! Invariant: a VM without a path, of which nothing keeps the next rung from being taken, is on that rung at the latest when the
//! bounds before it have passed. A rung that cannot be taken is passed over, and told.
//! It does not know what ends a loss: see `resume` and `gates`.

use super::facts::Facts;
use super::flapping::Flapping;
use super::story::{Ours, SAVED_WITHIN};
use super::words::Cause;
use super::{Verdict, broken};
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::event::{RunState, StopsOnError};
use vmpath_core::ids::VmId;
use vmpath_core::plan::Gate;
use vmpath_core::spec::{NoPathAction, OnNoPath, Presence, Rung};
use vmpath_core::time::{Duration, Instant};

/// Timers are not late in a simulation; decisions that take turns may be.
const SLACK: Duration = Duration::from_secs(1);
/// Of a ladder without a `hold`, where a VM that cannot be stopped has to be held.
const HOLD_DEFAULT: Duration = Duration::from_secs(60);
/// Nothing is done so soon after a start because something is missing.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Hold(Duration),
    /// For so long; without a bound until the repair.
    Suspend(Option<Duration>),
    Migrate,
    Fail,
}

/// The one place here that reads the ladder of a configuration.
fn steps(policy: &OnNoPath) -> Vec<Step> {
    let step = |rung: &Rung| match rung.action {
        NoPathAction::Hold => Step::Hold(rung.bound.unwrap_or_default()),
        NoPathAction::Suspend => Step::Suspend(rung.bound),
        NoPathAction::Migrate => Step::Migrate,
        NoPathAction::Fail => Step::Fail,
    };
    policy.rungs.iter().map(step).collect()
}

/// How long a VM is suspended before its requests fail; none if they never do after that.
pub(super) fn fails_after(policy: &OnNoPath) -> Option<Duration> {
    let steps = steps(policy);
    let bound = steps.iter().find_map(|step| match step {
        Step::Suspend(bound) => *bound,
        Step::Hold(_) | Step::Migrate | Step::Fail => None,
    });
    bound.filter(|_| steps.contains(&Step::Fail))
}

/// What has to be seen when the holds are over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Suspended,
    Failing,
    /// No rung can be taken, which is told.
    Told,
    Nothing,
}

/// One VM's loss of all paths.
#[derive(Clone, Copy, Debug)]
struct Loss {
    since: Instant,
    /// Since when its ladder counts it at the latest: a VM that was let go, or whose process was replaced, while its paths were
    /// only connecting lacks nothing then, and has its whole hold before it when it is cut off again.
    counted: Instant,
    told: bool,
}

#[derive(Debug, Default)]
pub(super) struct Hold {
    /// By `VmId`.
    losses: Vec<Option<Loss>>,
    /// By `VmId`: its guest sees errors. That outlives a process of ours, unlike what is known of its loss: it fails until all
    /// its units are served again, however many losses follow each other until then.
    failing: Vec<bool>,
    /// By `VmId`: losses that have ended and whose end may not be on disk yet, as (since, ended).
    ended: Vec<Vec<(Instant, Instant)>>,
    /// By `VmId`: since when the loss counts that the process before may have left. This one goes on with it until all units are
    /// served, whether or not it had ended: what was served before a restart is not known after it.
    carried: Vec<Option<Instant>>,
}

impl Hold {
    /// Another process of ours goes on, and these are the gates that it begins with. `heard`: when the one before heard
    /// something last.
    pub(super) fn restarted<'a>(&self, heard: Instant, gates: impl Iterator<Item = &'a Gate>) -> Self {
        let left = |(at, loss): (usize, &Option<Loss>)| {
            let ended = self.ended.get(at).into_iter().flatten();
            let ended =
                ended.filter(|(_, ended)| heard.since(*ended) < SAVED_WITHIN).map(|(since, _)| *since);
            let carried = self.carried.get(at).copied().flatten();
            loss.map(|loss| loss.since).into_iter().chain(carried).chain(ended).min()
        };
        Self {
            losses: vec![],
            failing: gates.map(|gate| matches!(gate, Gate::Fail(_))).collect(),
            ended: vec![],
            carried: self.losses.iter().enumerate().map(left).collect(),
        }
    }

    /// How long it is held, and what comes then, as things are now.
    fn expected(facts: &Facts, vm: VmId) -> (Duration, Expected) {
        let mut hold = Duration::ZERO;
        let monitor = facts.story(vm).monitor;
        for step in steps(&facts.spec.vm(vm).on_no_path) {
            match step {
                Step::Hold(bound) => hold += bound,
                Step::Migrate => {}
                Step::Fail => return (hold, Expected::Failing),
                Step::Suspend(bound) => match monitor {
                    Some(m) if m.state != RunState::Running => return (hold, Expected::Nothing),
                    Some(m) if m.stops != StopsOnError::No => return (hold, Expected::Suspended),
                    // It is held for as long as it would have been suspended.
                    Some(_) | None => hold += bound.unwrap_or_default(),
                },
            }
        }
        (hold, Expected::Told)
    }

    pub(super) fn record(&mut self, entry: &JournalEntry) {
        let Subject::Vm(vm) = entry.subject else { return };
        if let Some(Some(loss)) = self.losses.get_mut(vm.index()) {
            loss.told |= entry.kind == JournalKind::PolicyBlocked;
        }
    }

    /// At the beginning of a batch: who is cut off.
    pub(super) fn begin(&mut self, facts: &Facts, now: Instant) {
        self.losses.resize(facts.spec.vms.len(), None);
        self.failing.resize(facts.spec.vms.len(), false);
        self.ended.resize(facts.spec.vms.len(), vec![]);
        self.carried.resize(facts.spec.vms.len(), None);
        for vm in facts.spec.vm_ids() {
            let loss = &mut self.losses[vm.index()];
            let is_cut = facts.network.cut_off(&facts.spec, vm).is_some();
            let is_served = facts.network.serves(&facts.spec, vm);
            if is_served {
                let ended = &mut self.ended[vm.index()];
                ended.retain(|(_, ended)| now.since(*ended) < SAVED_WITHIN);
                let carried = self.carried[vm.index()].take();
                ended.extend(carried.or(loss.map(|loss| loss.since)).map(|since| (since, now)));
            }
            let still = loss.filter(|_| !is_served);
            let new = Loss { since: now, counted: now, told: false };
            *loss = still.or(is_cut.then_some(new));
            if let Some(loss) = loss
                && is_cut
                && loss.counted < facts.story(vm).anew_since
            {
                loss.counted = now;
            }
        }
    }

    /// At the end of a batch: whoever is due has gone on.
    pub(super) fn settled(&mut self, facts: &Facts, flapping: &Flapping, now: Instant) -> Verdict {
        for vm in facts.spec.vm_ids().filter(|vm| facts.spec.vm(*vm).presence == Presence::Present) {
            self.never_early(facts, vm, now)?;
            self.never_late(facts, vm, now)?;
            held_bounded(facts, vm, now)?;
            self.suspend_bounded(facts, flapping, vm, now)?;
        }
        Ok(())
    }

    fn never_early(&mut self, facts: &Facts, vm: VmId, now: Instant) -> Verdict {
        let is_failing = matches!(facts.gate(vm), Some(Gate::Fail(_)));
        let was_failing = std::mem::replace(&mut self.failing[vm.index()], is_failing);
        let name = facts.vm_name(vm);
        if is_failing && facts.network.serves(&facts.spec, vm) {
            return broken("fail-rung", format!("{name}'s requests fail though it has paths"));
        }
        if !is_failing || was_failing {
            return Ok(());
        }
        let Some(loss) = self.losses[vm.index()] else {
            return broken(
                "fail-rung",
                format!("{name}'s requests begin to fail while a path may yet come up"),
            );
        };
        let steps = steps(&facts.spec.vm(vm).on_no_path);
        if !steps.contains(&Step::Fail) {
            return broken("fail-rung", format!("{name}'s requests fail, and it has no such rung"));
        }
        let holds = steps.iter().map(|step| match step {
            Step::Hold(bound) => *bound,
            Step::Suspend(_) | Step::Migrate | Step::Fail => Duration::ZERO,
        });
        let hold: Duration = holds.sum();
        // Over a restart the loss is older than this process.
        let carried = self.carried[vm.index()];
        let is_known = carried.is_some() || loss.since > facts.fresh_since;
        let lasts = now.since(carried.unwrap_or(loss.since));
        if is_known && lasts < hold && !facts.network.says_gone(&facts.spec, vm) {
            let text = format!("{name}'s requests fail after {lasts:?}, not after {hold:?}");
            return broken("fail-rung", text);
        }
        Ok(())
    }

    /// A suspend for want of a path that has a bound and a `fail` after it ends with that.
    fn suspend_bounded(&self, facts: &Facts, flapping: &Flapping, vm: VmId, now: Instant) -> Verdict {
        let story = facts.story(vm);
        let Some(bound) = fails_after(&facts.spec.vm(vm).on_no_path) else { return Ok(()) };
        let is_its = matches!(story.ours, Ours::Stopped { .. }) && story.cause == Some(Cause::NoPath);
        // An error would only stop such a VM again.
        let can = story.is_continuable() && story.monitor.is_some_and(|m| m.stops != StopsOnError::Yes);
        let cut = facts.network.cut_off(&facts.spec, vm).is_some();
        if !is_its || !can || !cut || story.operator || story.gave_up || flapping.is_restless(vm, now) {
            return Ok(());
        }
        let Some(loss) = self.losses[vm.index()] else { return Ok(()) };
        let since =
            story.suspended_at.max(story.monitor_since).max(facts.fresh_since + SETTLE).max(loss.since);
        if now > since + bound + SLACK {
            let stood = now.since(story.suspended_at);
            let text = format!(
                "{} is suspended without a path for {stood:?}, longer than {bound:?}",
                facts.vm_name(vm)
            );
            return broken("hold-bound", text);
        }
        Ok(())
    }

    fn never_late(&self, facts: &Facts, vm: VmId, now: Instant) -> Verdict {
        let Some(loss) = self.losses[vm.index()] else { return Ok(()) };
        let story = facts.story(vm);
        if !story.is_free() || facts.network.cut_off(&facts.spec, vm).is_none() {
            return Ok(());
        }
        let (hold, expected) = Self::expected(facts, vm);
        let since = loss.counted.max(story.free_since).max(facts.fresh_since);
        let changed = story.monitor_since.max(facts.fresh_since + SETTLE);
        // A rung that its monitor makes possible or impossible may begin with that.
        let due = since.max(changed) + hold + SLACK;
        let is_seen = match expected {
            // It would not be free; or it has been, and goes on with errors.
            Expected::Suspended => matches!(facts.gate(vm), Some(Gate::Fail(_))),
            Expected::Failing => matches!(facts.gate(vm), Some(Gate::Fail(_))),
            Expected::Told => loss.told,
            Expected::Nothing => true,
        };
        if now > due && !is_seen {
            let text = format!(
                "{} has had no path for {:?}, its holds are over after {hold:?}, and it is not: {expected:?}",
                facts.vm_name(vm),
                now.since(loss.since)
            );
            return broken("hold-bound", text);
        }
        Ok(())
    }
}

/// A VM that a rule would suspend and that cannot be is held for as long as it would be without a path, and no longer.
fn held_bounded(facts: &Facts, vm: VmId, now: Instant) -> Verdict {
    let story = facts.story(vm);
    let holds = steps(&facts.spec.vm(vm).on_no_path).into_iter().map(|step| match step {
        Step::Hold(bound) => bound,
        Step::Suspend(_) | Step::Migrate | Step::Fail => Duration::ZERO,
    });
    let hold: Duration = holds.sum();
    let hold = if hold.is_zero() { HOLD_DEFAULT } else { hold };
    let since = story.ours_since.max(facts.fresh_since);
    if story.ours == Ours::Held && now > since + hold + SLACK {
        let text = format!("{} is held for {:?}, longer than {hold:?}", facts.vm_name(vm), now.since(since));
        return broken("hold-bound", text);
    }
    Ok(())
}
