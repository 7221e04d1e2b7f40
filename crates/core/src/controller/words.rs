//! The sentences that an operator reads: what is the matter, and what is waited for.
//!
//! Invariant: a sentence about a wait names what ends it, and the command where one is needed.
//! It does not decide, except that "nothing to wait for" and "may go on" are the same question, answered here.

use super::Controller;
use super::shed::Outlook;
use crate::event::RunState;
use crate::ids::{PathId, TargetId, UnitId, VmId};
use crate::mutant::{self, Mutant};
use crate::path::{Drain, Link, PathState, UnitReach};
use crate::plan::Health;
use crate::policy::rules::{OnLoss, Stopping, on_loss, requests, rungs_after, stopping};
use crate::policy::{
    Cause, Lack, Ladder, Monitor, RESUME_ATTEMPTS_MAX, RESUMES_MAX, RESUMES_WITHIN, Run, STOP_ATTEMPTS_MAX,
    Why,
};
use crate::spec::{Failback, NoPathAction, ResumeOn, ShedWhen};
use crate::time::{Duration, Instant};

/// What has to happen before a hold or suspension may end.
pub(super) enum Wait {
    Said(String),
    /// Room for its reservation there. Those words name every party, and the rounds of decisions need none of them.
    Room(TargetId),
}

/// `250 ms`, `12.5 s`, `11 min 29 s`, `48 h 0 min`: as precise as somebody who reads it needs it.
pub(super) fn seconds(time: Duration) -> String {
    let whole = time.as_secs();
    match whole {
        0 if !time.is_zero() => format!("{} ms", time.as_millis().max(1)),
        0..300 => format!("{:.1} s", time.as_secs_f64()),
        300..7200 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole / 60 % 60),
    }
}

pub(super) fn run_state_word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::IoError => "io-error",
        RunState::Sent => "has sent its VM away",
        RunState::Other => "in another state",
    }
}

impl Controller {
    /// What is the matter with a path; none if nothing is.
    pub(super) fn path_trouble(&self, path: PathId, now: Instant) -> Option<String> {
        let name = self.spec.path_name(path);
        let target = self.spec.target(self.spec.path(path).target);
        match self.network.state(path) {
            PathState::Connecting { since } => {
                let links = self.network.links_of(path).count();
                let what = if links == 0 { "is used by no disk" } else { "is not connected yet" };
                let last = self.network.links_of(path).find_map(|(_, link)| match link {
                    Link::Connecting { last, .. } => last.as_ref(),
                    Link::Up { .. } | Link::Down { .. } => None,
                });
                let why = last.map_or_else(String::new, |fault| format!(": {fault}"));
                Some(format!("path {name} {what}, {} after the start{why}", seconds(now.since(*since))))
            }
            PathState::Active { .. } => self.lost_links(path, now).or_else(|| self.sick_words(path, now)),
            PathState::Down { since, fault } => {
                let latest = self.network.links_of(path).find_map(|(_, link)| match link {
                    Link::Down { latest, .. } if latest != fault => Some(latest),
                    Link::Down { .. } | Link::Connecting { .. } | Link::Up { .. } => None,
                });
                let newest = latest.map_or_else(String::new, |fault| format!("; now: {fault}"));
                let incident = self.incidents.of(self.spec.path(path).target);
                let incident = incident.map_or_else(String::new, |id| format!(" ({id})"));
                Some(format!(
                    "path {name} has been down for {}: {fault}{newest}{incident}",
                    seconds(now.since(*since))
                ))
            }
            PathState::Probation { since, required } => Some(format!(
                "path {name} has been up again for {}; it must stay good for {} before it counts",
                seconds(now.since(*since)),
                seconds(*required)
            )),
            PathState::Repaired { since } => Some(format!(
                "path {name} has been repaired for {}; its traffic is not back yet ({})",
                seconds(now.since(*since)),
                failback_words(target.failback, &target.name)
            )),
            PathState::Draining { since, stage } => {
                Some(self.draining_words(path, now.since(*since), *stage))
            }
            PathState::Disabled { since } => Some(format!(
                "path {name} has been disabled by the operator for {} (`vmpath path enable {name}`)",
                seconds(now.since(*since))
            )),
        }
    }

    fn lost_links(&self, path: PathId, now: Instant) -> Option<String> {
        let mut lost = vec![];
        for (unit, link) in self.network.links_of(path) {
            if let Link::Down { since, cause, .. } = link {
                let unit = self.spec.unit_name(unit);
                lost.push(format!("{unit} for {} ({cause})", seconds(now.since(*since))));
            }
        }
        let name = self.spec.path_name(path);
        (!lost.is_empty()).then(|| format!("path {name} is up but has lost {}", lost.join(", ")))
    }

    /// What this VM waits for on this path before it may go on; none if the path is good for it.
    fn path_wait(&self, vm: VmId, path: PathId, now: Instant) -> Option<String> {
        let rule = self.spec.vm(vm).resume;
        if self.network.good_again(vm, path, rule, now) {
            return None;
        }
        let name = self.spec.path_name(path);
        let target = self.spec.target(self.spec.path(path).target);
        let and_failback = match rule {
            ResumeOn::Repair => String::new(),
            ResumeOn::Failback => {
                format!(" and failed back ({})", failback_words(target.failback, &target.name))
            }
        };
        let wait = match self.network.state(path) {
            PathState::Connecting { .. } => format!("{name} connected"),
            PathState::Down { .. } => {
                let base = target.repair_after;
                let required = self.network.machine(path).damping().required(base);
                format!("{name} repaired (up, and good for {}){and_failback}", seconds(required))
            }
            PathState::Probation { since, required } => {
                let rest = required.saturating_sub(now.since(*since));
                format!("{name} good for another {}{and_failback}", seconds(rest))
            }
            PathState::Repaired { .. } | PathState::Active { .. } if !self.links_good(vm, path, now) => {
                format!("{name}'s link to its unit repaired and proven{and_failback}")
            }
            PathState::Repaired { .. } => {
                format!("traffic back on {name} ({})", failback_words(target.failback, &target.name))
            }
            PathState::Active { .. } => format!("{name} good again"),
            PathState::Draining { .. } | PathState::Disabled { .. } => {
                format!("{name} enabled by the operator: `vmpath path enable {name}`")
            }
        };
        Some(wait)
    }

    fn links_good(&self, vm: VmId, path: PathId, now: Instant) -> bool {
        let mut units = self.network.reach(vm).units.iter().filter(|u| u.paths.contains(&path));
        units.all(|u| self.network.proven_at(path, u.unit).is_some_and(|at| at <= now))
    }

    /// What has to happen before a hold or suspension with this cause may end; none if it may end now.
    pub(super) fn cause_wait(&self, vm: VmId, cause: &Cause, look: &Outlook) -> Option<Wait> {
        self.cause_but_room(vm, cause, look.now).map(Wait::Said).or_else(|| {
            let lacks = if self.would_be_shed(vm, cause) { self.lacks_room(vm, look) } else { None };
            lacks.map(Wait::Room)
        })
    }

    fn cause_words(&self, vm: VmId, cause: &Cause, look: &Outlook) -> Option<String> {
        self.cause_wait(vm, cause, look).map(|wait| match wait {
            Wait::Said(words) => words,
            Wait::Room(target) => self.room_words(vm, target, look),
        })
    }

    fn cause_but_room(&self, vm: VmId, cause: &Cause, now: Instant) -> Option<String> {
        let own = match &cause.why {
            Why::Operator if mutant::active(Mutant::OperatorOverruled) => None,
            Why::Operator | Why::GaveUp => {
                return Some(format!("the operator: `vmpath vm resume {}`", self.spec.vm(vm).name));
            }
            Why::PathLoss { paths, .. } | Why::Shed { paths } => self.paths_wait(vm, paths, now),
            Why::NoPath { .. } | Why::FewPaths { .. } | Why::Restart | Why::Erred => {
                self.served_wait(vm, now)
            }
        };
        own.or_else(|| self.rule_wait(vm, now))
            .or_else(|| self.few_wait(vm, now))
            .or_else(|| self.network.unserved_unit(vm).map(|unit| self.a_path_to(unit)))
    }

    /// `on_path_loss` would suspend it again: for a path that is lost now, or that may relapse any moment.
    fn rule_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        match on_loss(self.spec.vm(vm).on_path_loss) {
            OnLoss::Suspend(_) => {
                let shaky = self.subject_to_loss_rule(vm, self.network.shaky_paths(vm, now));
                self.paths_wait(vm, &shaky, now)
            }
            OnLoss::Stay | OnLoss::Migrate(_) => None,
        }
    }

    fn would_be_shed(&self, vm: VmId, cause: &Cause) -> bool {
        let reserved = match self.spec.host.shed_when {
            ShedWhen::Reserved => self.spec.vm(vm).may_suspend,
            ShedWhen::Unmet => false,
        };
        reserved || matches!(cause.why, Why::Shed { .. })
    }

    fn paths_wait(&self, vm: VmId, paths: &[PathId], now: Instant) -> Option<String> {
        // A path that is no longer configured is waited for no longer.
        let there = paths.iter().filter(|p| p.index() < self.spec.paths.len());
        let waits: Vec<_> = there.filter_map(|p| self.path_wait(vm, *p, now)).collect();
        (!waits.is_empty()).then(|| waits.join("; "))
    }

    /// After a loss of all paths, or of too many: for each unit, `min_paths` good ones are enough.
    fn served_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        let (rule, min) = (self.spec.vm(vm).resume, self.spec.vm(vm).min_paths as usize);
        let unserved = |u: &&UnitReach| self.network.serve_again(u, rule, now) < min;
        let unit = self.network.reach(vm).units.iter().find(unserved)?;
        let waits = unit.paths.iter().filter(|p| !self.network.good_again(vm, **p, rule, now));
        let promising = waits.max_by_key(|p| promise(self.network.state(**p)));
        let wait =
            promising.and_then(|p| self.path_wait(vm, *p, now)).unwrap_or_else(|| self.a_path_to(unit.unit));
        let good = self.network.serve_again(unit, rule, now);
        let other = if unit.paths.len() > good + 1 { " (or another path)" } else { "" };
        let min =
            if min > 1 { format!("; it needs min_paths = {min}, and {good} good") } else { String::new() };
        Some(format!("{wait}{other}{min}"))
    }

    /// `min_paths` would suspend it again, whatever has suspended it.
    fn few_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        let min = self.spec.vm(vm).min_paths;
        let unit = self.network.short_unit(vm, min).filter(|_| min > 1)?;
        let incident = self.incidents.of(self.spec.unit(unit).target);
        let pardoned = incident.is_some() && self.vms[vm.index()].pardon == incident;
        if pardoned { None } else { self.served_wait(vm, now) }
    }

    /// What keeps a VM suspended though its cause is over. Our own restart is no such cause.
    pub(super) fn dwell_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        if self.is_by_restart(vm) { None } else { self.resumes_wait(vm, now) }
    }

    /// It was resumed too often, or has only just been stopped.
    pub(super) fn resumes_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        if mutant::active(Mutant::NoDwell) {
            return None;
        }
        let ready = self.vms[vm.index()].dwell.ready_at();
        if ready > now {
            let (many, within) = (RESUMES_MAX, RESUMES_WITHIN.as_secs() / 60);
            return Some(format!(
                "{} to pass: a VM is resumed at most {many} times in {within} minutes",
                seconds(ready.since(now))
            ));
        }
        let rested = self.rested_at(vm);
        (rested > now).then(|| format!("{} to pass: it was stopped a moment ago", seconds(rested.since(now))))
    }

    /// The paths to a unit that are up and that the VM may not use, in words; none if there are none. A path that no VM uses
    /// is not known to be up.
    pub(super) fn barred_words(&self, vm: VmId, unit: UnitId) -> Option<String> {
        let spec = self.spec.vm(vm);
        let (barred, own): (Vec<_>, Vec<_>) =
            self.spec.paths_of_unit(unit).partition(|p| spec.avoid_paths.contains(p));
        let named = |paths: &[PathId]| {
            let names: Vec<_> = paths.iter().map(|p| self.spec.path_name(*p)).collect();
            names.join(" and ")
        };
        let up = |p: &PathId| self.network.state(*p).health() == Health::Up;
        let up: Vec<_> = barred.into_iter().filter(up).collect();
        let (are, them) = if up.len() == 1 { ("is", "it") } else { ("are", "them") };
        (!up.is_empty()).then(|| {
            format!(
                "{} {are} up, but {} may not use {them}: its paths and avoid leave it only {}",
                named(&up),
                spec.name,
                named(&own)
            )
        })
    }

    pub(super) fn a_path_to(&self, unit: UnitId) -> String {
        format!("a usable path to {}", self.spec.unit_name(unit))
    }

    /// Why a suspended VM cannot be continued, as far as its hypervisor is concerned.
    pub(super) fn monitor_wait(&self, vm: VmId) -> Option<String> {
        let guest = &self.vms[vm.index()].guest;
        if guest.monitor.continuable().is_some() && guest.monitor.continuable() == guest.run.instance() {
            return None;
        }
        Some(match &guest.monitor {
            Monitor::Unknown => "its monitor".into(),
            Monitor::Absent { why, .. } => format!("its monitor to come back ({why})"),
            Monitor::Present { state, .. } => {
                format!("its hypervisor to be paused again (it is {})", run_state_word(*state))
            }
        })
    }

    /// What ends the state that a VM is in; for the journal, where something always does.
    pub(super) fn until(&self, vm: VmId) -> String {
        self.waits_for(vm, &Outlook::at(self.now)).unwrap_or_else(|| "its turn".into())
    }

    pub(super) fn waits_for(&self, vm: VmId, look: &Outlook) -> Option<String> {
        let now = look.now;
        let state = &self.vms[vm.index()];
        match &state.guest.run {
            Run::Free { .. } | Run::Proving { .. } => self.ladder_wait(vm, now),
            Run::Held { cause, since, .. } => {
                let rest = seconds((*since + self.hold_bound(vm)).since(now));
                let wait = self
                    .cause_words(vm, cause, look)
                    .map(|wait| format!("{wait}; for another {rest} at most"));
                wait.or_else(|| self.ladder_wait(vm, now))
            }
            Run::Suspending { cause, attempt, deadline, .. } => {
                let end = self.cause_words(vm, cause, look);
                let confirm = if *attempt <= STOP_ATTEMPTS_MAX {
                    format!("`stop` confirmed (attempt {attempt} of {STOP_ATTEMPTS_MAX})")
                } else {
                    format!("`stop` confirmed (attempt {attempt}; again in {})", seconds(deadline.since(now)))
                };
                let end = end.map(|end| format!(", then {end}")).unwrap_or_default();
                Some(format!("{confirm}{end}{}", self.bound_words(vm, now)))
            }
            Run::Withdrawing { .. } => Some("a `stop` that may still take effect; `cont` follows it".into()),
            Run::Suspended { cause, .. } => {
                let wait = self.cause_words(vm, cause, look).or_else(|| self.monitor_wait(vm));
                let wait = wait.or_else(|| self.dwell_wait(vm, now));
                let turn = || "its turn: one VM is resumed at a time, highest priority first".into();
                Some(format!("{}{}", wait.unwrap_or_else(turn), self.bound_words(vm, now)))
            }
            Run::Resuming { attempt, next_try, .. } => Some(format!(
                "`cont` to take effect (attempt {attempt} of {RESUME_ATTEMPTS_MAX}; again in {})",
                seconds(next_try.since(now))
            )),
        }
    }

    fn ladder_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        let state = &self.vms[vm.index()];
        let policy = &self.spec.vm(vm).on_no_path;
        let paths = |loss: &crate::policy::Loss| match loss.lack {
            Lack::NoPath => self.a_path_to(loss.unit),
            Lack::Short => format!("{} to be served by its target again", self.spec.unit_name(loss.unit)),
            Lack::FewPaths => {
                format!("{} usable paths to {}", self.spec.vm(vm).min_paths, self.spec.unit_name(loss.unit))
            }
        };
        match &state.ladder {
            Ladder::Clear => None,
            Ladder::Waiting { loss, rung, since } => {
                let path = paths(loss);
                let rest =
                    self.rung_bound(vm, *rung).map_or(Duration::ZERO, |bound| (*since + bound).since(now));
                let next = rungs_after(policy, *rung);
                let moot = policy.has(NoPathAction::Suspend)
                    && stopping(&state.guest.monitor, requests(loss.lack)) == Stopping::Moot;
                Some(if *rung == NoPathAction::Migrate {
                    format!("{path}, or its turn to move to another host")
                } else if moot {
                    format!("{path}; it does not run anyway")
                } else if next.is_empty() {
                    format!("{path}; in {} at the latest it is told that no rung is left", seconds(rest))
                } else {
                    format!("{path}; in {} at the latest: {next}", seconds(rest))
                })
            }
            Ladder::Suspended { loss, .. } | Ladder::Stranded { loss, .. } | Ladder::Failing { loss, .. } => {
                Some(paths(loss))
            }
        }
    }

    /// What ends a suspend by time; nothing if nothing does.
    fn bound_words(&self, vm: VmId, now: Instant) -> String {
        let Ladder::Suspended { since, .. } = &self.vms[vm.index()].ladder else { return String::new() };
        let Some(bound) = self.suspend_bound(vm) else { return String::new() };
        let next = rungs_after(&self.spec.vm(vm).on_no_path, NoPathAction::Suspend);
        match (*since + bound).since(now) {
            _ if next.is_empty() => String::new(),
            rest if rest.is_zero() => format!("; without a path: {next}"),
            rest => format!("; without a path, in {}: {next}", seconds(rest)),
        }
    }

    fn draining_words(&self, path: PathId, since: Duration, stage: Drain) -> String {
        let (name, since) = (self.spec.path_name(path), seconds(since));
        let up = self.network.links_of(path).filter(|(_, link)| matches!(link, Link::Up { .. })).count();
        let doing = match stage {
            Drain::Shedding => "whoever does not fit without it leaves first".to_owned(),
            Drain::Finishing => {
                let links = if up == 1 { "link is" } else { "links are" };
                format!("it gets no new requests, and {up} {links} not empty yet")
            }
        };
        format!(
            "path {name} is being drained by the operator for {since}: {doing} (`vmpath path enable {name}` ends it)"
        )
    }
}

fn failback_words(failback: Failback, target: &str) -> String {
    match failback {
        Failback::Immediate => "failback = immediate".into(),
        Failback::Followover => "failback = followover".into(),
        Failback::After(wait) => format!("failback = after {}", seconds(wait)),
        Failback::Manual => format!("failback = manual: run `vmpath failback {target}`"),
    }
}

/// How near a path is to being usable.
fn promise(state: &PathState) -> u8 {
    match state {
        PathState::Active { .. } => 5,
        PathState::Repaired { .. } => 4,
        PathState::Probation { .. } => 3,
        PathState::Connecting { .. } => 2,
        PathState::Down { .. } => 1,
        PathState::Draining { .. } | PathState::Disabled { .. } => 0,
    }
}
