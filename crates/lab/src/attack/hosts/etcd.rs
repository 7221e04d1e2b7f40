//! The way to the store and back: orders that are lost, late, or answered to nobody; sessions; watches.
//!
//! Invariant: an order is answered exactly once. Refused is only what the store has said or what never left; what may take effect
//! later is unknown. It does not know why a unit changes hands.

use super::event::{Event, Life};
use super::store::Change;
use super::takeover::Taking;
use super::tally::Fault;
use super::world::World;
use vmpath_core::cluster::Heard;
use vmpath_core::event::Event as Told;
use vmpath_core::ids::VmId;
use vmpath_core::migration::{Answer, MoveId, destination, source};
use vmpath_core::ownership::{Found, keeper::Reply};
use vmpath_core::placement::Claim;
use vmpath_core::time::{Duration, Instant};

/// An order without an answer is over then.
const CALL_MAX: Duration = Duration::from_secs(3);

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Session {
    pub(super) up: bool,
    number: u64,
    watch_due: Instant,
}

/// Who wants to know.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    Keeper(usize),
    Leaving(usize, MoveId),
    Arriving(usize, MoveId),
    Taking(Taking),
}

#[derive(Clone, Debug)]
pub(super) enum Wish {
    Read,
    Change(Change),
    /// `seen`: the latest promise that the decision knew of.
    Room {
        id: String,
        seen: u64,
        claims: Vec<Claim>,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Order {
    number: u32,
    life: Life,
    /// With the epochs that it compares.
    units: Vec<(usize, Option<u64>)>,
    wish: Wish,
    reply: Travels,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Travels {
    Arrives,
    IsLost,
}

#[derive(Clone, Debug)]
enum Outcome {
    Done(Vec<Found>),
    There(Vec<Found>),
    NotAsked,
    Unknown,
}

/// What became of an order.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    asker: Asker,
    wish: Wish,
    outcome: Option<Outcome>,
}

impl World {
    pub(super) fn order(
        &mut self,
        life: Life,
        asker: Asker,
        mut units: Vec<(usize, Option<u64>)>,
        wish: Wish,
    ) {
        let number = self.orders.len() as u32;
        self.orders.push(Asked { asker, wish: wish.clone(), outcome: None });
        if !self.process(life.host).is_some_and(|process| process.session.up) {
            return self.answer(life, number, Outcome::NotAsked, Duration::from_millis(1));
        }
        if wish_is(&wish, &Change::Claim) {
            // It reads, and then compares with what it has read.
            for (unit, epoch) in &mut units {
                *epoch = Some(self.store.records[*unit].epoch);
            }
        }
        let (slow, lossy) = (self.net.is_slow(life.host) || self.net.store_slow, self.lossy());
        let there = if slow { self.rng.millis(20..900) } else { self.rng.micros(300..6000) };
        let mut order = Order { number, life, units, wish, reply: Travels::Arrives };
        // Where it matters most.
        let decides = matches!(&order.wish, Wish::Change(Change::Release | Change::Commit { .. }));
        let lossy = if decides { (3 * lossy).min(75) } else { lossy };
        match self.rng.below(100) {
            chance if chance < lossy / 3 => self.fault(Fault::StoreLost, life.host),
            chance if chance < 2 * lossy / 3 => {
                order.reply = Travels::IsLost;
                self.fault(Fault::StoreReplyLost, life.host);
                self.at(there, Event::StoreTakes(Box::new(order)));
            }
            chance if chance < lossy => {
                order.reply = Travels::IsLost;
                self.fault(Fault::StoreLate, life.host);
                let late = self.rng.millis(500..15_000);
                self.at(late, Event::StoreTakes(Box::new(order)));
            }
            _ => self.at(there, Event::StoreTakes(Box::new(order))),
        }
        let gives_up = if self.rng.percent(50) { CALL_MAX } else { there + self.rng.millis(10..2900) };
        // Whoever does not hear of it within that gives it up; an answer that comes first counts.
        self.answer(
            life,
            number,
            Outcome::Unknown,
            gives_up.max(there + Duration::from_millis(30)).min(CALL_MAX),
        );
    }

    fn answer(&mut self, life: Life, number: u32, outcome: Outcome, after: Duration) {
        let asked = &mut self.orders[number as usize];
        if !matches!(outcome, Outcome::Unknown) && asked.outcome.is_none() {
            asked.outcome = Some(outcome);
        }
        self.at(after, Event::Answered { life, order: number });
    }

    pub(super) fn store_takes(&mut self, order: Order) {
        let host = order.life.host;
        if !self.net.reaches_store(host) {
            // What lies in a queue somewhere may come out of it.
            if self.rng.percent(20) {
                let late = self.rng.millis(500..9000);
                self.at(late, Event::StoreTakes(Box::new(order)));
            }
            return;
        }
        let done = match &order.wish {
            Wish::Read => true,
            Wish::Change(change) => {
                let done = self.store.change(host, &order.units, change);
                self.trace.say(self.now, || {
                    let word = if done { "takes" } else { "refuses" };
                    format!("    the store {word} {change:?} of kvm{} for {:?}", host + 1, order.units)
                });
                if done {
                    self.owners_changed(host, &order.units, change);
                }
                done
            }
            Wish::Room { id, seen, claims } => self.store.promise(id, *seen, claims.clone()),
        };
        if order.reply == Travels::IsLost {
            return;
        }
        let found = order.units.iter().map(|(unit, _)| self.found(*unit)).collect();
        let back = self.rng.micros(300..6000);
        let outcome = if done { Outcome::Done(found) } else { Outcome::There(found) };
        self.answer(order.life, order.number, outcome, back);
    }

    fn found(&self, unit: usize) -> Found {
        self.store.found(unit, &self.unit_name(unit))
    }

    pub(super) fn answered(&mut self, host: usize, number: u32) {
        let asked = &mut self.orders[number as usize];
        let (outcome, asker, wish) = match asked.outcome.take() {
            // Taken already.
            Some(Outcome::Unknown) => {
                asked.outcome = Some(Outcome::Unknown);
                return;
            }
            Some(outcome) => (outcome, asked.asker.clone(), asked.wish.clone()),
            None => (Outcome::Unknown, asked.asker.clone(), asked.wish.clone()),
        };
        asked.outcome = Some(Outcome::Unknown);
        match asker {
            Asker::Keeper(vm) => {
                let reply = match outcome {
                    Outcome::Done(found) => Reply::Done(found),
                    Outcome::There(found) => Reply::There(found),
                    Outcome::NotAsked => Reply::NotAsked,
                    Outcome::Unknown => Reply::Unknown,
                };
                let now = self.now;
                if let Some(process) = self.process(host) {
                    process.keepers[vm].answered(now, reply);
                }
                self.keep(host);
            }
            Asker::Taking(taking) => {
                if let Outcome::Done(found) = outcome {
                    self.taken_over(host, &taking, &found);
                }
            }
            Asker::Leaving(vm, move_id) => {
                let Some(input) = to_leaving(&wish, outcome) else { return };
                let heard = Heard::Leaving { vm: VmId::at(vm), move_id, input };
                self.tell(host, Told::Cluster(heard));
            }
            Asker::Arriving(vm, move_id) => {
                let Some(input) = to_arriving(&wish, outcome) else { return };
                let heard = Heard::Arriving { vm: VmId::at(vm), move_id, input };
                self.tell(host, Told::Cluster(heard));
            }
        }
    }

    /// Watches tell everybody who listens.
    pub(super) fn tell_watchers(&mut self, units: &[(usize, Option<u64>)]) {
        for host in 0..self.hosts.len() {
            let Some(life) = self.life(host) else { continue };
            if !self.net.reaches_store(host) {
                continue;
            }
            let delay = self.rng.micros(500..if self.net.is_slow(host) { 400_000 } else { 30_000 });
            let now = self.now;
            let Some(process) = self.process(host).filter(|process| process.session.up) else { continue };
            let due = process.session.watch_due.max(now + delay);
            process.session.watch_due = due;
            for (unit, _) in units {
                let found = self.found(*unit);
                self.when(due, Event::Watched { life, unit: *unit, found });
            }
        }
    }

    /// The way to the store has changed; the session finds out.
    pub(super) fn session_changes(&mut self, host: usize, after: Duration) {
        let Some(life) = self.life(host) else { return };
        let Some(process) = self.process(host) else { return };
        process.session.number += 1;
        let number = process.session.number;
        self.at(after, Event::Session { life, number });
    }

    pub(super) fn session(&mut self, host: usize, number: u64) {
        let reaches = self.net.reaches_store(host);
        let Some(process) = self.process(host) else { return };
        if process.session.number != number || process.session.up == reaches {
            return;
        }
        process.session.up = reaches;
        if reaches {
            let nonce = process.nonce;
            self.refresh_hosts(host);
            self.tell(host, Told::Cluster(Heard::Up { nonce }));
            for unit in 0..self.store.records.len() {
                let found = self.found(unit);
                self.watched(host, unit, &found);
            }
        } else {
            let why = "no quorum".to_owned();
            self.tell(host, Told::Cluster(Heard::Down { why }));
        }
    }
}

fn wish_is(wish: &Wish, change: &Change) -> bool {
    matches!(wish, Wish::Change(its) if its == change)
}

fn plain(outcome: &Outcome) -> Answer {
    match outcome {
        Outcome::Done(_) => Answer::Done(()),
        Outcome::There(_) => Answer::Refused("something else is there".into()),
        Outcome::NotAsked => Answer::Refused("etcd was not asked".into()),
        Outcome::Unknown => Answer::Unknown("etcd did not answer".into()),
    }
}

fn read(outcome: Outcome) -> Result<Vec<Found>, String> {
    match outcome {
        Outcome::Done(found) => Ok(found),
        Outcome::There(_) | Outcome::NotAsked | Outcome::Unknown => Err("etcd did not answer".into()),
    }
}

fn to_leaving(wish: &Wish, outcome: Outcome) -> Option<source::Input> {
    Some(match wish {
        Wish::Read => source::Input::Owners(read(outcome)),
        Wish::Room { .. } => source::Input::Claimed(plain(&outcome)),
        Wish::Change(Change::Commit { .. }) => source::Input::Committed(plain(&outcome)),
        Wish::Change(Change::Bump) => source::Input::Bumped(plain(&outcome)),
        Wish::Change(
            Change::Claim
            | Change::Release
            | Change::GiveBack { .. }
            | Change::Bar { .. }
            | Change::TakeOver { .. },
        ) => {
            return None;
        }
    })
}

fn to_arriving(wish: &Wish, outcome: Outcome) -> Option<destination::Input> {
    Some(match wish {
        Wish::Read => destination::Input::Owners(read(outcome)),
        Wish::Change(Change::Bar { .. }) => destination::Input::Barred(plain(&outcome)),
        Wish::Change(Change::Bump) => destination::Input::Bumped(plain(&outcome)),
        Wish::Change(Change::GiveBack { .. }) => destination::Input::GaveBack(plain(&outcome)),
        Wish::Room { .. }
        | Wish::Change(Change::Claim | Change::Release | Change::Commit { .. } | Change::TakeOver { .. }) => {
            return None;
        }
    })
}
