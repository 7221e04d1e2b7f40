//! Incidents: every failure belongs to one, and it lasts as long as the failure.
//!
//! It does not know which failures are one: paths that share a target or a component may be.

use super::facts::Facts;
use super::network::Path;
use super::story::Ours;
use super::{Verdict, broken};
use std::collections::BTreeMap;
use vmpath_core::controller::Controller;
use vmpath_core::effect::{JournalEntry, JournalKind, Subject};
use vmpath_core::ids::{IncidentId, PathId};
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::IncidentView;

/// Views are made of words: they are looked at after records that concern incidents, and else so often.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// What was told so shortly before a process of ours died may have died with it, its numbers too.
const LOST_WITHIN: Duration = Duration::from_secs(2);
/// What is over is closed within this.
const CLOSED_WITHIN: Duration = Duration::from_secs(45);

#[derive(Debug, Default)]
pub(super) struct Incidents {
    /// The newest, and one that is old enough to be remembered.
    newest: Option<IncidentId>,
    kept: Option<IncidentId>,
    opened_at: Instant,
    /// Open ones, with the paths that failed in them as last seen, and since when nothing of them is left.
    open: BTreeMap<IncidentId, (Vec<PathId>, Option<Instant>)>,
    looked: Instant,
    due: bool,
    /// Opened by the record before.
    just_opened: Option<IncidentId>,
}

impl Incidents {
    /// `heard`: when the process before was told something last.
    pub(super) fn restarted(&mut self, now: Instant, heard: Instant, controller: &Controller) {
        self.open =
            controller.view(now).incidents.iter().map(|i| (i.incident, (i.paths.clone(), None))).collect();
        self.due = true;
        if heard.since(self.opened_at) < LOST_WITHIN {
            self.newest = self.kept;
        }
    }

    pub(super) fn record(&mut self, facts: &Facts, entry: &JournalEntry) -> Verdict {
        let just_opened = self.just_opened.take();
        if entry.kind == JournalKind::IncidentOpened {
            self.just_opened = entry.incident;
            return self.opened(entry);
        }
        if entry.kind == JournalKind::IncidentClosed {
            return self.closed(facts, entry);
        }
        let is_failure = matches!(entry.kind, JournalKind::PathDown | JournalKind::LinkDown);
        self.due |= is_failure;
        if is_failure && entry.incident.is_none_or(|id| !self.open.contains_key(&id)) {
            return broken("incident", format!("a failure in no open incident: {}", entry.reason));
        }
        if let (Some(id), Subject::Path(path)) = (just_opened, entry.subject)
            && is_failure
            && entry.incident == Some(id)
        {
            return self.shares_none(facts, id, path);
        }
        Ok(())
    }

    /// What fails with a component that another failure has in common with it is no incident of its own.
    fn shares_none(&self, facts: &Facts, id: IncidentId, path: PathId) -> Verdict {
        let via = &facts.spec.path(path).via;
        let shares = |other: &&PathId| {
            **other != path
                && other.index() < facts.spec.paths.len()
                && facts.network.path(**other) == Path::Failed
                && facts.spec.path(**other).via.iter().any(|component| via.contains(component))
        };
        let others = self.open.iter().filter(|(open, _)| **open != id);
        match others
            .flat_map(|(open, (paths, _))| paths.iter().map(move |p| (open, p)))
            .find(|(_, p)| shares(p))
        {
            Some((open, other)) => {
                let (path, other) = (facts.spec.path_name(path), facts.spec.path_name(*other));
                broken(
                    "incident",
                    format!("{path} fails in {id}, and {other} in {open}: they share {}", via.join(", ")),
                )
            }
            None => Ok(()),
        }
    }

    fn opened(&mut self, entry: &JournalEntry) -> Verdict {
        self.due = true;
        if entry.incident <= self.newest {
            let text = format!("{:?} was opened after {:?}", entry.incident, self.newest);
            return broken("incident", text);
        }
        if entry.at.since(self.opened_at) >= LOST_WITHIN {
            self.kept = self.newest;
        }
        (self.newest, self.opened_at) = (entry.incident, entry.at);
        self.open.extend(entry.incident.map(|id| (id, (vec![], None))));
        Ok(())
    }

    fn closed(&mut self, facts: &Facts, entry: &JournalEntry) -> Verdict {
        let paths = entry.incident.and_then(|id| self.open.remove(&id)).map(|(paths, _)| paths);
        let is_bad = |p: &PathId| {
            p.index() < facts.spec.paths.len()
                && match facts.network.path(*p) {
                    Path::Failed => true,
                    Path::Up { .. } => !facts.network.is_whole(*p),
                    Path::Fresh | Path::Disabled => false,
                }
        };
        match paths.unwrap_or_default().iter().find(|p| is_bad(p)) {
            Some(path) => {
                let text =
                    format!("{:?} was closed while {} is lost", entry.incident, facts.spec.path_name(*path));
                broken("incident", text)
            }
            None => Ok(()),
        }
    }

    /// At the end of a batch.
    pub(super) fn settled(&mut self, facts: &Facts, controller: &Controller, now: Instant) -> Verdict {
        if !self.due && now.since(self.looked) < LOOK_EVERY {
            return Ok(());
        }
        (self.looked, self.due) = (now, false);
        let incidents = controller.view(now).incidents;
        self.each_loss_in_one(facts, &incidents)?;
        for seen in &incidents {
            let (paths, over) = self.open.entry(seen.incident).or_default();
            paths.clone_from(&seen.paths);
            *over = if is_over(facts, seen) { over.or(Some(now)) } else { None };
            if over.is_some_and(|since| now.since(since) > CLOSED_WITHIN) {
                let text =
                    format!("{} is open though nothing is left of it: {}", seen.incident, seen.summary);
                return broken("incident", text);
            }
        }
        Ok(())
    }

    fn each_loss_in_one(&self, facts: &Facts, incidents: &[IncidentView]) -> Verdict {
        for path in facts.spec.path_ids() {
            let mut units = facts.spec.unit_ids().filter(|u| facts.network.link(path, *u).is_some());
            if !units.any(|unit| facts.network.lost(path, unit)) {
                continue;
            }
            let of: Vec<_> = incidents.iter().filter(|i| i.paths.contains(&path)).collect();
            // A first connection that has not come counts only when its grace is over, by core's clock.
            let is_sure = matches!(facts.network.path(path), Path::Failed | Path::Up { .. });
            if is_sure && of.len() != 1 {
                let text =
                    format!("the loss of {} is in {} open incidents", facts.spec.path_name(path), of.len());
                return broken("incident", text);
            }
        }
        Ok(())
    }

    pub(super) fn end(facts: &Facts, controller: &Controller, now: Instant) -> Verdict {
        match controller.view(now).incidents.iter().find(|seen| is_over(facts, seen)) {
            Some(seen) => {
                broken("incident", format!("{} is open in the end: {}", seen.incident, seen.summary))
            }
            None => Ok(()),
        }
    }
}

/// Every path of every target is at work, and no VM is anywhere but running as it likes.
fn is_over(facts: &Facts, incident: &IncidentView) -> bool {
    let paths = facts.spec.path_ids().all(|p| facts.at_work(p) && facts.network.is_whole(p));
    let vms = facts
        .spec
        .vm_ids()
        .all(|vm| facts.story(vm).ours == Ours::Nothing && facts.network.serves(&facts.spec, vm));
    paths && vms && incident.incident.0 > 0
}
