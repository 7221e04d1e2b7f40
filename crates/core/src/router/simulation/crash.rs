//! The process dies at any moment, in the middle of its actions too, and another takes its place at once.
//!
//! What was on the wire is lost with its connections. What is left is the record, and each guest's open requests: they
//! are replayed in the order of their submission, or, by clients that know no better, sent again as if they were new.

use super::ledger::{LinkState, Progress, Rule, require};
use super::rng::Rng;
use super::storage::BLOCK;
use super::world::{Backlog, Event, Weather, World};
use crate::ids::UnitId;
use crate::router::{Action, Extent, Origin, Request, Slot};
use crate::time::{Duration, Instant};
use std::collections::BTreeMap;
use std::ops::Range;

/// What is written down, by slot.
pub(super) type Remembered = BTreeMap<Slot, (UnitId, Extent, Option<Instant>)>;

/// The process and its end. Its dice are its own, so that worlds without crashes stay as they are.
pub(super) struct Process {
    rng: Option<Rng>,
    /// It dies in the middle of the next actions.
    doomed: bool,
}

impl Process {
    pub(super) fn immortal() -> Self {
        Self { rng: None, doomed: false }
    }

    pub(super) fn mortal(seed: u64) -> Self {
        Self { rng: Some(Rng::new(seed ^ 0x5eed_dead)), doomed: false }
    }

    /// When it is to die next.
    pub(super) fn next_crash(&mut self) -> Option<Duration> {
        self.rng.as_mut().map(|rng| rng.micros(2000..40_000))
    }

    pub(super) fn doom(&mut self) {
        self.doomed = true;
    }

    /// How many of the actions are still performed, if it dies now.
    pub(super) fn dies_after(&mut self, actions: usize) -> Option<usize> {
        let rng = self.rng.as_mut().filter(|_| self.doomed)?;
        self.doomed = false;
        Some(rng.index(actions + 1))
    }
}

fn blocks_of(range: &Extent) -> Range<usize> {
    (range.start / BLOCK) as usize..(range.end / BLOCK) as usize
}

impl World {
    /// A world in which the process dies again and again.
    pub(super) fn with_crashes(mut self, seed: u64) -> Self {
        self.process = Process::mortal(seed);
        self
    }

    pub(super) fn schedule_crash(&mut self) {
        if let (Weather::Chaos, Some(after)) = (self.weather, self.process.next_crash()) {
            self.schedule(after, Event::Crash);
        }
    }

    pub(super) fn remember(&mut self, slot: Slot, unit: UnitId, range: Extent, until: Option<Instant>) {
        self.record.insert(slot, (unit, range, until));
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        let known = self.record.remove(&slot).is_some();
        require!(self.ledger, known, Rule::Record, || format!("slot {slot} is forgotten and was never used"));
    }

    /// A write is in the record, as open, before it leaves.
    pub(super) fn check_recorded(&mut self, request: &Request) {
        let unit = UnitId::at(self.ledger.tokens[request.token as usize].unit);
        let range = request.extent();
        let holds = |row: &(UnitId, Extent, Option<Instant>)| *row == (unit, range.clone(), None);
        let is_there = !request.operation.changes_data() || self.record.values().any(holds);
        require!(self.ledger, is_there, Rule::Record, || format!(
            "{request:?} leaves and is not in the record"
        ));
    }

    /// Performs some of the actions, and dies.
    pub(super) fn die(&mut self, mut actions: Vec<Action>, after: usize) {
        actions.truncate(after);
        for action in actions {
            self.perform(action);
        }
        self.tally.crashes += 1;
        for link in 0..self.ledger.links.len() {
            if self.ledger.links[link].state != LinkState::Dead {
                self.lose_link(link);
            }
        }
        self.presume_lost();
        self.samplings.fill(None);
        self.losses.iter_mut().for_each(|lost| lost.fill(false));
        // Neither process knows of what the other has let through.
        self.backlogs.iter_mut().for_each(|backlog| *backlog = Backlog { levels: [0; 2], at: self.now });
        let record = std::mem::take(&mut self.record);
        self.tally.restored += record.len() as u64;
        self.forget_confirmations();
        self.driver.crash(self.plan.clone(), record, self.now);
        self.replay();
        for path in 0..self.wires.len() {
            self.connect_all(path);
        }
    }

    /// To the next process each write that the record calls open is lost from now on: one that was lost before, and one
    /// that was answered and not forgotten in time.
    fn presume_lost(&mut self) {
        let fence = self.now + self.scene.quiesce;
        let mut seen: Vec<(usize, Range<usize>)> = Vec::new();
        for (unit, range, until) in self.record.values() {
            if until.is_none() {
                let place = (unit.index(), blocks_of(range));
                let twins = seen.iter().filter(|other| **other == place).count();
                self.ledger.presumed_lost(&place, twins, fence);
                seen.push(place);
            }
        }
    }

    /// All that it carried is unknown to the next process. What was not given to the socket is discarded.
    fn lose_link(&mut self, link: usize) {
        let fence = self.now + self.scene.quiesce;
        self.ledger.links[link].state = LinkState::Dead;
        for attempt in std::mem::take(&mut self.ledger.links[link].in_flight) {
            let record = &self.ledger.attempts[attempt];
            let is_write = record.request.operation.changes_data();
            let is_ghost = is_write && record.progress == Progress::OnWire && self.rng.percent(75);
            self.ledger.lost(attempt, Some(fence));
            if is_ghost {
                let after = self.haunting(self.scene.quiesce);
                self.schedule(after, Event::Ghost(attempt));
            }
        }
        let unit = self.ledger.links[link].unit;
        self.storage.link_dead(unit, link, || self.rng.percent(50));
    }

    fn replay(&mut self) {
        let know = self.scene.spec.disks.iter().map(|_| self.rng.percent(70)).collect::<Vec<_>>();
        for token in self.ledger.survivors() {
            let mut request = self.ledger.tokens[token as usize].request;
            if self.ledger.tokens[token as usize].abandoned {
                self.ledger.vanished(token);
                self.again(0..2000, Event::Submit(request.disk.index()));
                continue;
            }
            if know[request.disk.index()] {
                request.origin = Origin::Replayed;
            }
            self.ledger.replayed(token, request.origin);
            let key = self.driver.submit(request, self.now);
            self.ledger.tokens[token as usize].key = key;
        }
    }
}
