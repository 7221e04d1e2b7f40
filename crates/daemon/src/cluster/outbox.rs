//! What is to be told to the control owner while it has no time: the newest state of each thing, and every answer.
//!
//! Invariant: it is bounded by the units of this host and the orders that it has open, however long the owner takes. What is known
//! of a unit and what is answered leave in the order in which they came.
//! Rejected: a queue of events; of a thousand changes of a view the owner needs the last.
//! It does not know who takes them.

use super::view::View;
use super::{ClusterReport, Outcome, Ticket};
use std::collections::{BTreeMap, VecDeque};
use vmpath_core::ownership::Found;
use vmpath_core::time::{Duration, Instant};

/// Between two views. A decision takes its time, too.
const VIEW_PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Default)]
pub(super) struct Outbox {
    state: Option<ClusterReport>,
    answers: VecDeque<Answer>,
    /// Known since the last of the answers.
    owners: BTreeMap<String, Found>,
    view_told: Option<Instant>,
}

#[derive(Debug)]
struct Answer {
    ticket: Ticket,
    outcome: Outcome,
    /// What was known before it and is to be told first, so that it finds that known.
    owners: BTreeMap<String, Found>,
}

impl Outbox {
    pub(super) fn state(&mut self, report: ClusterReport) {
        self.state = Some(report);
    }

    pub(super) fn owner(&mut self, found: Found) {
        self.owners.insert(found.unit.clone(), found);
    }

    pub(super) fn answer(&mut self, ticket: Ticket, outcome: Outcome) {
        self.answers.push_back(Answer { ticket, outcome, owners: std::mem::take(&mut self.owners) });
    }

    /// When there is something to tell; none if nothing waits.
    pub(super) fn due(&self, view: &View) -> Option<Instant> {
        if self.state.is_some() || !self.owners.is_empty() || !self.answers.is_empty() {
            return Some(Instant::from_nanos(0));
        }
        view.is_dirty().then(|| self.view_due())
    }

    fn view_due(&self) -> Instant {
        self.view_told.map_or(Instant::from_nanos(0), |told| told + VIEW_PAUSE)
    }

    /// The next to tell.
    pub(super) fn next(&mut self, view: &mut View, now: Instant) -> Option<ClusterReport> {
        if let Some(state) = self.state.take() {
            return Some(state);
        }
        let owners = self.answers.front_mut().map_or(&mut self.owners, |answer| &mut answer.owners);
        if let Some((_, found)) = owners.pop_first() {
            return Some(ClusterReport::Owner(found));
        }
        if let Some(Answer { ticket, outcome, .. }) = self.answers.pop_front() {
            return Some(ClusterReport::Answer { ticket, outcome });
        }
        if view.is_dirty() && self.view_due() <= now {
            self.view_told = Some(now);
            return Some(ClusterReport::Others(view.told()));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::Keys;
    use super::super::view::Fact;
    use super::*;

    fn at(millis: u64) -> Instant {
        Instant::from_millis(millis)
    }

    #[test]
    fn the_newest_of_each_and_every_answer_in_its_place() {
        let (mut outbox, mut view) = (Outbox::default(), View::new(Keys::new("/v"), std::iter::empty()));
        assert_eq!(outbox.due(&view), None);
        let away = |why: &str| Outcome::Unknown { why: why.into() };
        let found = |host: &str| Found {
            unit: "t/u".into(),
            owner: Some(vmpath_core::ownership::Owner { host: host.into(), epoch: 1, move_id: None }),
        };
        outbox.state(ClusterReport::Up);
        outbox.state(ClusterReport::Down { why: "x".into() });
        outbox.owner(found("a"));
        outbox.owner(found("b"));
        outbox.answer(1, away("a"));
        outbox.answer(2, away("b"));
        outbox.owner(found("c"));
        outbox.owner(found("d"));
        let told: Vec<_> = std::iter::from_fn(|| outbox.next(&mut view, at(0))).collect();
        let expected = [
            ClusterReport::Down { why: "x".into() },
            ClusterReport::Owner(found("b")),
            ClusterReport::Answer { ticket: 1, outcome: away("a") },
            ClusterReport::Answer { ticket: 2, outcome: away("b") },
            ClusterReport::Owner(found("d")),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn views_are_paced() {
        let (mut outbox, mut view) = (Outbox::default(), View::new(Keys::new("/v"), std::iter::empty()));
        let change = |view: &mut View| {
            view.learn(Fact { key: b"/v/room/a/b/c", value: None, revision: 1 });
        };
        change(&mut view);
        assert!(matches!(outbox.next(&mut view, at(1000)), Some(ClusterReport::Others(_))));
        change(&mut view);
        assert_eq!(outbox.next(&mut view, at(1050)), None);
        assert_eq!(outbox.due(&view), Some(at(1100)));
        assert!(matches!(outbox.next(&mut view, at(1100)), Some(ClusterReport::Others(_))));
    }
}
