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
use crate::attack::violation::Violation;
use std::collections::{BTreeMap, BTreeSet};
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::event::{LoadReport, RunState, StopsOnError};
use vmpath_core::ids::{UnitId, VmId};
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

/// How long a VM is held before it is suspended; none if it never is.
pub(super) fn suspends_after(policy: &OnNoPath) -> Option<Duration> {
    let steps = steps(policy);
    let at = steps.iter().position(|step| matches!(step, Step::Suspend(_)))?;
    let holds = steps[..at].iter().map(|step| match step {
        Step::Hold(bound) => *bound,
        Step::Suspend(_) | Step::Migrate | Step::Fail => Duration::ZERO,
    });
    Some(holds.sum())
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

/// One unit of a VM without any path.
#[derive(Clone, Copy, Debug)]
struct Loss {
    since: Instant,
    /// Since when its ladder counts it at the latest: a VM that was let go, or whose process was replaced, while its paths were
    /// only connecting lacks nothing then, and has its whole hold before it when it is cut off again.
    counted: Instant,
    /// Since when no other unit of the VM is lost for longer: the rungs go by this one.
    first: Option<Instant>,
    told: bool,
}

#[derive(Debug, Default)]
pub(super) struct Hold {
    losses: BTreeMap<(VmId, UnitId), Loss>,
    /// Units whose guest sees errors. That outlives a process of ours, unlike what is known of the loss.
    failing: BTreeSet<(VmId, UnitId)>,
    /// Losses that have ended and whose end may not be on disk yet, as (since, ended).
    ended: BTreeMap<(VmId, UnitId), Vec<(Instant, Instant)>>,
    /// Since when the loss counts that the process before may have left. This one goes on with it until the unit is served,
    /// whether or not it had ended: what was served before a restart is not known after it.
    carried: BTreeMap<(VmId, UnitId), Instant>,
    /// Since when a target refuses everything for want of resources, as the workers say.
    short: BTreeMap<(VmId, UnitId), Instant>,
}

/// The units of which a gate lets the guest see errors.
fn failing(gate: &Gate) -> Vec<UnitId> {
    match gate {
        Gate::Fail(_, failing) => failing.cut_off.iter().chain(&failing.refused).copied().collect(),
        Gate::Open | Gate::Hold(_) | Gate::Bounce(_) => vec![],
    }
}

impl Hold {
    /// Another process of ours goes on, and these are the gates that it begins with. `heard`: when the one before heard
    /// something last.
    pub(super) fn restarted<'a>(&self, heard: Instant, gates: impl Iterator<Item = &'a Gate>) -> Self {
        let mut left: BTreeMap<(VmId, UnitId), Instant> = self.carried.clone();
        let mut leave = |key, since: Instant| {
            let known = left.entry(key).or_insert(since);
            *known = since.min(*known);
        };
        self.losses.iter().for_each(|(key, loss)| leave(*key, loss.since));
        for (key, ended) in &self.ended {
            let fresh = ended.iter().filter(|(_, ended)| heard.since(*ended) < SAVED_WITHIN);
            fresh.for_each(|(since, _)| leave(*key, *since));
        }
        let its = |(at, gate): (usize, &Gate)| {
            failing(gate).into_iter().map(move |unit| (VmId::at(at), unit)).collect::<Vec<_>>()
        };
        Self { failing: gates.enumerate().flat_map(its).collect(), carried: left, ..Self::default() }
    }

    pub(super) fn load(&mut self, facts: &Facts, now: Instant, report: &LoadReport) {
        for short in &report.short {
            let disk = facts.spec.disk(short.disk);
            self.short.insert((disk.vm, disk.unit), now - short.lasts);
        }
    }

    /// The loss that the rungs of a VM go by.
    fn first(&self, vm: VmId) -> Option<(UnitId, Loss)> {
        let its = self.losses.iter().filter(|((of, _), _)| *of == vm);
        its.map(|((_, unit), loss)| (*unit, *loss)).min_by_key(|(_, loss)| loss.since)
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
        for (_, loss) in self.losses.iter_mut().filter(|((of, _), _)| *of == vm) {
            loss.told |= entry.kind == JournalKind::PolicyBlocked;
        }
    }

    /// At the beginning of a batch: who is cut off from what.
    pub(super) fn begin(&mut self, facts: &Facts, now: Instant) {
        for vm in facts.spec.vm_ids() {
            for unit in facts.spec.units_of_vm(vm) {
                self.begin_unit(facts, (vm, unit), now);
            }
            if let Some((unit, _)) = self.first(vm)
                && let Some(loss) = self.losses.get_mut(&(vm, unit))
            {
                loss.first.get_or_insert(now);
            }
        }
    }

    fn begin_unit(&mut self, facts: &Facts, (vm, unit): (VmId, UnitId), now: Instant) {
        let key = (vm, unit);
        if facts.network.serves_unit(&facts.spec, vm, unit) {
            let lost = self.losses.remove(&key).map(|loss| loss.since);
            let since = self.carried.remove(&key).or(lost);
            let ended = self.ended.entry(key).or_default();
            ended.retain(|(_, ended)| now.since(*ended) < SAVED_WITHIN);
            ended.extend(since.map(|since| (since, now)));
            return;
        }
        if !facts.network.is_cut_off(&facts.spec, vm, unit) {
            return;
        }
        let new = Loss { since: now, counted: now, first: None, told: false };
        let loss = self.losses.entry(key).or_insert(new);
        if loss.counted < facts.story(vm).anew_since {
            loss.counted = now;
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
        let Some(gate) = facts.gate(vm) else { return Ok(()) };
        for unit in failing(gate) {
            let is_refused = matches!(gate, Gate::Fail(_, failing) if failing.refused.contains(&unit));
            if is_refused {
                self.refused_early(facts, (vm, unit), now)?;
            } else {
                self.unit_early(facts, (vm, unit), now)?;
            }
        }
        self.failing.retain(|(of, _)| *of != vm);
        self.failing.extend(failing(gate).into_iter().map(|unit| (vm, unit)));
        Ok(())
    }

    fn unit_early(&self, facts: &Facts, (vm, unit): (VmId, UnitId), now: Instant) -> Verdict {
        let name = format!("{}'s requests to {}", facts.vm_name(vm), facts.spec.unit_name(unit));
        if facts.network.serves_unit(&facts.spec, vm, unit) {
            return broken("fail-rung", format!("{name} fail though it has paths"));
        }
        let hold = holds_before_fail(facts, vm)?;
        if self.failing.contains(&(vm, unit)) {
            return Ok(());
        }
        let Some(loss) = self.losses.get(&(vm, unit)) else {
            return broken("fail-rung", format!("{name} begin to fail while a path may yet come up"));
        };
        // Over a restart the loss is older than this process.
        let carried = self.carried.get(&(vm, unit)).copied();
        let is_known = carried.is_some() || loss.since > facts.fresh_since;
        let lasts = now.since(carried.unwrap_or(loss.since));
        if is_known && lasts < hold && !facts.network.says_gone(&facts.spec, vm) {
            return broken("fail-rung", format!("{name} fail after {lasts:?}, not after {hold:?}"));
        }
        Ok(())
    }

    /// What a target refuses for want of resources is held as long as what has no path.
    fn refused_early(&self, facts: &Facts, (vm, unit): (VmId, UnitId), now: Instant) -> Verdict {
        let hold = holds_before_fail(facts, vm)?;
        if self.failing.contains(&(vm, unit)) {
            return Ok(());
        }
        let name = format!("{}'s requests to {}", facts.vm_name(vm), facts.spec.unit_name(unit));
        let Some(since) = self.short.get(&(vm, unit)) else {
            return broken("fail-rung", format!("{name} are refused by nobody, and fail"));
        };
        let lasts = now.since(*since);
        if lasts < hold {
            return broken(
                "fail-rung",
                format!("{name} fail after {lasts:?} of refusals, not after {hold:?}"),
            );
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
        let Some((_, loss)) = self.first(vm) else { return Ok(()) };
        let since = story.suspended_at.max(story.monitor_since).max(facts.fresh_since + SETTLE);
        let since = since.max(loss.since).max(loss.first.unwrap_or(now));
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
        let Some((unit, loss)) = self.first(vm) else { return Ok(()) };
        let story = facts.story(vm);
        if !story.is_free() || facts.network.cut_off(&facts.spec, vm).is_none() {
            return Ok(());
        }
        self.others_late(facts, vm, now)?;
        let (hold, expected) = Self::expected(facts, vm);
        let since = loss.counted.max(loss.first.unwrap_or(now)).max(story.free_since).max(facts.fresh_since);
        let changed = story.monitor_since.max(facts.fresh_since + SETTLE);
        // A rung that its monitor makes possible or impossible may begin with that.
        let due = since.max(changed) + hold + SLACK;
        let fails = facts.gate(vm).is_some_and(|gate| !failing(gate).is_empty());
        let is_seen = match expected {
            // It would not be free; or it has been, and goes on with errors.
            Expected::Suspended => fails,
            Expected::Failing => fails || !facts.network.is_cut_off(&facts.spec, vm, unit),
            // Whichever of its losses the rungs go by among those of one moment.
            Expected::Told => self.losses.iter().any(|((of, _), loss)| *of == vm && loss.told),
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

    /// Behind a VM whose requests fail already, each further unit has its own time, that of a suspend included.
    fn others_late(&self, facts: &Facts, vm: VmId, now: Instant) -> Verdict {
        let fails = facts.gate(vm).map(failing).unwrap_or_default();
        if fails.is_empty() {
            return Ok(());
        }
        let bounds = steps(&facts.spec.vm(vm).on_no_path).into_iter().map(|step| match step {
            Step::Hold(bound) => bound,
            Step::Suspend(bound) => bound.unwrap_or_default(),
            Step::Migrate | Step::Fail => Duration::ZERO,
        });
        let bounds: Duration = bounds.sum();
        let story = facts.story(vm);
        for ((_, unit), loss) in self.losses.iter().filter(|((of, _), _)| *of == vm) {
            let since = loss.counted.max(story.free_since).max(facts.fresh_since + SETTLE);
            let is_cut = facts.network.is_cut_off(&facts.spec, vm, *unit);
            if is_cut && !fails.contains(unit) && now > since + bounds + SLACK {
                let (name, unit) = (facts.vm_name(vm), facts.spec.unit_name(*unit));
                let text =
                    format!("{name} has had no path to {unit} for {:?}, and that is held", now.since(since));
                return broken("hold-bound", text);
            }
        }
        Ok(())
    }
}

/// The sum of the holds of a ladder that has the rung `fail`.
fn holds_before_fail(facts: &Facts, vm: VmId) -> Result<Duration, Violation> {
    let steps = steps(&facts.spec.vm(vm).on_no_path);
    if !steps.contains(&Step::Fail) {
        let text = format!("{}'s requests fail, and it has no such rung", facts.vm_name(vm));
        return broken("fail-rung", text).map(|()| Duration::ZERO);
    }
    let holds = steps.iter().map(|step| match step {
        Step::Hold(bound) => *bound,
        Step::Suspend(_) | Step::Migrate | Step::Fail => Duration::ZERO,
    });
    Ok(holds.sum())
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
