//! What link reports mean: paths change, the journal is told, incidents open and close.
//!
//! Invariant: a path's failure is told once, as the path's; a link's own failure is told only while its path is up.
//! It does not know what a loss means to any VM.

use super::Controller;
use super::incidents::Opened;
use super::words::seconds;
use crate::effect::{JournalKind, Subject};
use crate::event::{Fault, LinkChange, LinkReport};
use crate::ids::{IncidentId, PathId, TargetId, UnitId};
use crate::mutant::{self, Mutant};
use crate::path::{Before, Link, LinkEdge, PathChange, PathState};
use crate::plan::Health;
use crate::policy::{Monitor, Run};
use crate::spec::Failback;
use crate::time::Duration;
use std::mem::discriminant;

impl Controller {
    pub(super) fn take_link(&mut self, report: &LinkReport) {
        let known = self.network.link(report.path, report.unit).is_some();
        if let (LinkChange::FailedOver { to, after }, true) = (&report.change, known) {
            self.tell_failed_over(report, *to, *after);
        }
        self.tell_refused(report);
        match self.network.report(&self.spec, self.now, report) {
            LinkEdge::Nothing | LinkEdge::Connected => {}
            LinkEdge::Lost => self.out.lost_links.push((report.path, report.unit)),
            LinkEdge::Back { after } => self.out.back_links.push((report.path, report.unit, after)),
        }
    }

    /// What answers on a path that is down is not the unit, or says that there is none: why nobody goes on over it.
    fn tell_refused(&mut self, report: &LinkReport) {
        let LinkChange::Down { fault: fault @ (Fault::Identity(_) | Fault::UnitGone(_)), .. } =
            &report.change
        else {
            return;
        };
        match self.network.link(report.path, report.unit) {
            // Other words for the same, attempt after attempt, are no news.
            Some(Link::Down { latest, .. }) if discriminant(latest) != discriminant(fault) => {}
            Some(Link::Down { .. } | Link::Connecting { .. } | Link::Up { .. }) | None => return,
        }
        let (path, unit) = (self.spec.path_name(report.path), self.spec.unit_name(report.unit));
        let what = format!("{path} is refused for {unit}: {fault}");
        self.enter_incident(self.spec.path(report.path).target, Some(report.path), &what);
        self.tell_link(JournalKind::LinkDown, report.path, report.unit, &format!("refused: {fault}"));
    }

    fn tell_failed_over(&mut self, report: &LinkReport, to: PathId, after: Duration) {
        if to.index() >= self.spec.paths.len() {
            return;
        }
        let target = self.spec.path(report.path).target;
        let reason = format!(
            "the first request for {} that was lost with {} completed over {}, {} ms after the loss",
            self.spec.unit_name(report.unit),
            self.spec.path_name(report.path),
            self.spec.path_name(to),
            after.as_millis()
        );
        let incident = self.incidents.of(target);
        self.record(JournalKind::FailedOver, Subject::Path(report.path), incident, reason);
    }

    /// Brings paths into agreement with links and time, and tells what changed.
    pub(super) fn settle_paths(&mut self) {
        let expired = self.network.expire(self.now);
        self.out.lost_links.extend(expired);
        let changes = self.network.settle(&self.spec, self.now);
        for (path, change) in &changes {
            self.tell_path(*path, change);
        }
        let told = |path: PathId| changes.iter().any(|(p, _)| *p == path);
        for (path, unit) in std::mem::take(&mut self.out.lost_links) {
            if !told(path) && self.is_up(path) {
                self.tell_link_down(path, unit);
            }
        }
        for (path, unit, after) in std::mem::take(&mut self.out.back_links) {
            if !told(path) && self.is_up(path) {
                let reason = format!("up again after {}", seconds(after));
                self.tell_link(JournalKind::LinkUp, path, unit, &reason);
            }
        }
    }

    fn is_up(&self, path: PathId) -> bool {
        match self.network.state(path).health() {
            Health::Up | Health::Marginal => true,
            Health::Down | Health::Draining | Health::Disabled => false,
        }
    }

    fn tell_link_down(&mut self, path: PathId, unit: UnitId) {
        let Some(Link::Down { cause, requests_lost, .. }) = self.network.link(path, unit) else { return };
        let (fault, outstanding) = (cause.to_string(), outstanding(*requests_lost));
        let what = format!("{} lost {}: {fault}", self.spec.path_name(path), self.spec.unit_name(unit));
        self.enter_incident(self.spec.path(path).target, Some(path), &what);
        self.tell_link(JournalKind::LinkDown, path, unit, &format!("{fault}{outstanding}"));
    }

    fn tell_link(&mut self, kind: JournalKind, path: PathId, unit: UnitId, reason: &str) {
        let incident = self.incidents.of(self.spec.path(path).target);
        let text = format!("its link to {}: {reason}", self.spec.unit_name(unit));
        self.record(kind, Subject::Path(path), incident, text);
    }

    pub(super) fn tell_path(&mut self, path: PathId, change: &PathChange) {
        let target = self.spec.path(path).target;
        let (kind, reason) = match change {
            PathChange::Connected => (JournalKind::PathUp, "connected".into()),
            PathChange::Failed { fault, before } => {
                let reason = self.failure(path, fault, *before);
                let what = format!("{}: {fault}", self.spec.path_name(path));
                self.enter_incident(target, Some(path), &what);
                (JournalKind::PathDown, reason)
            }
            PathChange::Back { down_for, required, relapses } => {
                let relapses = match relapses {
                    0 => String::new(),
                    1 => " (1 relapse)".into(),
                    more => format!(" ({more} relapses: each doubles that time)"),
                };
                let reason = format!(
                    "up again after {}; it must stay good for {} before it counts{relapses}",
                    seconds(*down_for),
                    seconds(*required)
                );
                (JournalKind::PathUp, reason)
            }
            PathChange::Repaired { good_for } => {
                let back = match self.spec.target(target).failback {
                    Failback::Immediate | Failback::Followover => "traffic returns at once".into(),
                    Failback::After(wait) => format!("traffic returns after {}", seconds(wait)),
                    Failback::Manual => {
                        format!("traffic returns by `vmpath failback {}`", self.spec.target(target).name)
                    }
                };
                let reason = format!("good for {}: the failure is corrected; {back}", seconds(*good_for));
                (JournalKind::PathRepaired, reason)
            }
            PathChange::FailedBack => (JournalKind::Failback, "traffic is back".into()),
            PathChange::Draining => {
                let reason = "being taken out by the operator: those whose reservations do not fit without it leave first";
                (JournalKind::PathDraining, reason.into())
            }
            PathChange::Leaving => {
                (JournalKind::PathDraining, "it gets no new requests; those in flight finish".into())
            }
            PathChange::Drained { after } => (JournalKind::PathDrained, self.drained_words(path, *after)),
            PathChange::Disabled => (JournalKind::PathDisabled, "taken out by the operator".into()),
            PathChange::Enabled => {
                (JournalKind::PathEnabled, "put back by the operator: used as soon as it connects".into())
            }
        };
        let incident = self.incidents.of(target);
        self.record(kind, Subject::Path(path), incident, reason);
    }

    /// A path that failed on its way out is empty, too, but what it carried was not finished there.
    fn drained_words(&self, path: PathId, after: Duration) -> String {
        let failed = self.network.links_of(path).filter_map(|(_, link)| match link {
            Link::Down { cause: Fault::Disabled, .. } | Link::Connecting { .. } | Link::Up { .. } => None,
            // Others had failed before.
            Link::Down { since, .. } if self.now.since(*since) > after => None,
            Link::Down { cause, requests_lost, .. } => Some((cause, *requests_lost)),
        });
        let failed: Vec<_> = failed.collect();
        let (took, lost) = (seconds(after), failed.iter().map(|(_, lost)| lost).sum::<u32>());
        let Some((fault, _)) = failed.iter().max_by_key(|(_, lost)| *lost) else {
            return format!("nothing of it is in flight any more, after {took}: it can be worked on");
        };
        if lost == 0 {
            return format!(
                "it failed while it was being taken out, after {took}: {fault}; nothing was in flight on what failed: it can be \
                 worked on"
            );
        }
        let quiesce = seconds(self.spec.target(self.spec.path(path).target).quiesce);
        format!(
            "it failed while it was being taken out, after {took}: {fault}{}: they were not finished there but go elsewhere, and \
             writes among them may take effect late, for {quiesce} from the loss if nothing proves more; it can be worked on",
            outstanding(lost)
        )
    }

    fn failure(&self, path: PathId, fault: &Fault, before: Before) -> String {
        let lost = self.network.links_of(path).map(|(_, link)| match link {
            Link::Down { requests_lost, .. } => *requests_lost,
            Link::Connecting { .. } | Link::Up { .. } => 0,
        });
        let outstanding = outstanding(lost.sum());
        match before {
            Before::Up => format!("{fault}{outstanding}"),
            Before::NeverUp => format!("not up within {}: {fault}", seconds(crate::path::CONNECT_GRACE)),
        }
    }

    /// The target's open incident, which it opens if there is none.
    pub(super) fn enter_incident(
        &mut self,
        target: TargetId,
        path: Option<PathId>,
        what: &str,
    ) -> IncidentId {
        let (network, spec) = (&self.network, &self.spec);
        let shares = |other: PathId| {
            if mutant::active(Mutant::ComponentIgnored) {
                return false;
            }
            let away = !matches!(network.state(other), PathState::Active { .. });
            let via = path.map_or(&[][..], |path| &spec.path(path).via);
            away && spec.path(other).via.iter().any(|component| via.contains(component))
        };
        match self.incidents.enter(self.now, target, (path, what), shares) {
            Opened::Joined(id) => {
                self.tell_component(target, path, id);
                id
            }
            Opened::Again(id) => id,
            Opened::New(id) => {
                self.record(JournalKind::IncidentOpened, Subject::Target(target), Some(id), what.into());
                id
            }
        }
    }

    /// Closes each incident of which nothing is left: no path away from its work, no VM waiting for it.
    /// Whether there was one.
    pub(super) fn close_incidents(&mut self) -> bool {
        let over: Vec<_> = self.incidents.open().iter().filter(|i| self.is_over(i)).cloned().collect();
        for incident in &over {
            self.incidents.close(incident.id);
            let names: Vec<_> = incident.targets.iter().map(|t| self.spec.target(*t).name.as_str()).collect();
            let reason = format!(
                "over after {}: every path of {} carries its traffic again, and no VM waits for it",
                seconds(self.now.since(incident.opened)),
                names.join(", ")
            );
            let subject = Subject::Target(incident.targets[0]);
            self.record(JournalKind::IncidentClosed, subject, Some(incident.id), reason);
        }
        !over.is_empty()
    }

    fn is_over(&self, incident: &super::incidents::Incident) -> bool {
        let mut paths =
            self.spec.path_ids().filter(|p| incident.targets.contains(&self.spec.path(*p).target));
        let at_work = |path: PathId| match self.network.state(path) {
            PathState::Active { .. } => {
                self.network.links_of(path).all(|(_, link)| !matches!(link, Link::Down { .. }))
            }
            PathState::Draining { .. } | PathState::Disabled { .. } => true,
            PathState::Connecting { .. }
            | PathState::Down { .. }
            | PathState::Probation { .. }
            | PathState::Repaired { .. } => false,
        };
        let short = incident.targets.iter().any(|target| self.short(*target).is_some());
        let waits = self.vms.iter().zip(self.spec.vm_ids()).any(|(vm, id)| {
            let its = vm.guest.run.incident() == Some(incident.id);
            // A stopped process that is gone, or that somebody else moves, is not waited for.
            let there = match &vm.guest.run {
                // Its monitor may not be back yet after a restart of ours.
                Run::Suspended { .. } | Run::Resuming { .. } => {
                    vm.guest.monitor.continuable().is_some() || vm.guest.monitor == Monitor::Unknown
                }
                Run::Free { .. }
                | Run::Held { .. }
                | Run::Suspending { .. }
                | Run::Withdrawing { .. }
                | Run::Proving { .. } => true,
            };
            let cut_off = vm.ladder.loss().is_some_and(|loss| loss.incident == incident.id);
            // Closed now, it would be opened again for a VM that was let run on purpose.
            let few = || self.network.short_unit(id, self.spec.vm(id).min_paths).is_some();
            let pardoned = vm.pardon == Some(incident.id) && (short || few());
            its && there || cut_off || pardoned
        });
        paths.all(at_work) && !waits
    }
}

fn outstanding(requests: u32) -> String {
    match requests {
        0 => String::new(),
        1 => "; 1 request was outstanding".into(),
        many => format!("; {many} requests were outstanding"),
    }
}
