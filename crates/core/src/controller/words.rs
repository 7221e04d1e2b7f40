//! The sentences that an operator reads: what is the matter, and what is waited for.
//!
//! Invariant: a sentence about a wait names what ends it, and the command where one is needed.
//! It does not decide, except that "nothing to wait for" and "may go on" are the same question, answered here.

use super::Controller;
use super::shed::Outlook;
use crate::event::RunState;
use crate::ids::{PathId, UnitId, VmId};
use crate::path::{Link, PathState, UnitReach};
use crate::plan::Health;
use crate::policy::rules::{OnLoss, Rung, on_loss, rung, rungs_words};
use crate::policy::{Cause, Ladder, Monitor, RESUME_ATTEMPTS_MAX, Run, STOP_ATTEMPTS_MAX, Why};
use crate::spec::{Failback, ResumeOn, ShedWhen};
use crate::time::{Duration, Instant};

pub(super) fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) && !time.is_zero() {
        format!("{} ms", time.as_millis().max(1))
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

pub(super) fn run_state_word(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Paused => "paused",
        RunState::IoError => "io-error",
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
            PathState::Disabled { .. } => {
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
    pub(super) fn cause_wait(&self, vm: VmId, cause: &Cause, look: &Outlook) -> Option<String> {
        let now = look.now;
        let own = match &cause.why {
            Why::Operator | Why::GaveUp => {
                return Some(format!("the operator: `vmpath vm resume {}`", self.spec.vm(vm).name));
            }
            Why::PathLoss { paths, .. } | Why::Shed { paths } => self.paths_wait(vm, paths, now),
            Why::NoPath { .. } | Why::Restart => self.served_wait(vm, now),
        };
        own.or_else(|| self.rule_wait(vm, now))
            .or_else(|| self.network.unserved_unit(vm).map(|unit| self.a_path_to(unit)))
            .or_else(|| if self.would_be_shed(vm, cause) { self.fit_wait(vm, look) } else { None })
    }

    /// `on_path_loss` would suspend it again: for a path that is lost now, or that may relapse any moment.
    fn rule_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        match on_loss(self.spec.vm(vm).on_path_loss) {
            OnLoss::Suspend(_) => {
                let shaky = self.subject_to_loss_rule(vm, self.network.shaky_paths(vm, now));
                self.paths_wait(vm, &shaky, now)
            }
            OnLoss::Stay | OnLoss::Migrate => None,
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

    /// After a loss of all paths: for each unit, one good path is enough.
    fn served_wait(&self, vm: VmId, now: Instant) -> Option<String> {
        let rule = self.spec.vm(vm).resume;
        let unserved = |u: &&UnitReach| !self.network.served_again(u, rule, now);
        let unit = self.network.reach(vm).units.iter().find(unserved)?;
        let promising = unit.paths.iter().max_by_key(|p| promise(self.network.state(**p)));
        let wait =
            promising.and_then(|p| self.path_wait(vm, *p, now)).unwrap_or_else(|| self.a_path_to(unit.unit));
        Some(if unit.paths.len() > 1 { format!("{wait} (or another path)") } else { wait })
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
            Run::Held { cause, .. } => self.cause_wait(vm, cause, look).or_else(|| self.ladder_wait(vm, now)),
            Run::Suspending { cause, attempt, deadline, .. } => {
                let end = self.cause_wait(vm, cause, look);
                let confirm = match deadline {
                    Some(_) => format!("`stop` confirmed (attempt {attempt} of {STOP_ATTEMPTS_MAX})"),
                    None => "`stop` confirmed, though it is not repeated any more".into(),
                };
                Some(end.map_or(confirm.clone(), |end| format!("{confirm}, then {end}")))
            }
            Run::Withdrawing { .. } => Some("a `stop` that may still take effect; `cont` follows it".into()),
            Run::Suspended { cause, .. } => {
                let wait = self.cause_wait(vm, cause, look).or_else(|| self.monitor_wait(vm));
                wait.or_else(|| Some("its turn: one VM is resumed at a time, highest priority first".into()))
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
        match &state.ladder {
            Ladder::Clear => None,
            Ladder::Holding { since, unit, .. } => {
                let rest = (*since + policy.hold).since(now);
                let path = self.a_path_to(*unit);
                Some(match rung(policy, &state.guest.monitor) {
                    Rung::Moot => format!("{path}; it does not run anyway"),
                    Rung::Suspend | Rung::Fail | Rung::Nothing(_) => {
                        format!("{path}; in {} at the latest: {}", seconds(rest), rungs_words(policy))
                    }
                })
            }
            Ladder::Stranded { unit, .. } | Ladder::Failing { unit, .. } => Some(self.a_path_to(*unit)),
        }
    }
}

fn failback_words(failback: Failback, target: &str) -> String {
    match failback {
        Failback::Immediate => "failback = immediate".into(),
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
        PathState::Disabled { .. } => 0,
    }
}
