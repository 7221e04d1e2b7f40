//! Doing what the controller decided: one `match`, and the only caller of hypervisors.
//!
//! Invariant: nothing here waits. A plan is published, an order is queued, a line is appended. What cannot be done
//! comes back as a report, as if the hypervisor had refused. An order to a hypervisor, or an operator's answer, leaves only when
//! the state that remembers it is on the disk, or, when the disk is late, in a note on tmpfs: a kill in between would leave a VM
//! stopped by nobody, or undo what somebody was told is done. It decides nothing.

use super::handle::{Begun, Confirmed};
use super::hosts::{Hands, Hosts, News};
use super::journal::Journal;
use crate::dataplane::{Dataplane, OrderReport};
use crate::hypervisor::{Hypervisors, Order};
use crate::store::{Store, Ticket};
use crate::sys::clock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::cluster::{Ask, Heard};
use vmpath_core::controller::Controller;
use vmpath_core::effect::{CommandError, Effect};
use vmpath_core::event::Event;
use vmpath_core::ids::{DiskId, VmId};
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;
use vmpath_core::view::WorkerView;

/// A commit takes some milliseconds; behind a disk that takes longer, a VM is stopped all the same.
const KEPT_WITHIN: Duration = Duration::from_millis(200);

/// What the owner acts on.
#[derive(Debug)]
pub struct Performer {
    pub dataplane: Dataplane,
    pub hypervisors: Hypervisors,
    /// None without `[cluster]`.
    pub hosts: Option<Hosts>,
    pub journal: Journal,
    pub store: Store,
    /// In the order in which they were decided.
    pub waiting: VecDeque<Waiting>,
}

/// What leaves when the state that remembers it is on the disk.
#[derive(Debug)]
pub struct Waiting {
    leaves: Leaving,
    needs: Ticket,
    /// At the latest.
    until: Instant,
}

#[derive(Debug)]
enum Leaving {
    Order(VmId, Order),
    Answer(Answered),
    Ask(Ask),
}

/// An operator's command has been decided.
#[derive(Debug)]
pub struct Answered {
    pub ticket: u64,
    pub result: Result<String, CommandError>,
}

/// What performing effects leads to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub answers: Vec<Answered>,
    /// To be applied next.
    pub events: Vec<Event>,
}

impl Performer {
    pub fn perform(&mut self, effects: Vec<Effect>, spec: &Spec, outcome: &mut Outcome) {
        for effect in effects {
            match effect {
                Effect::Publish(plan) => self.dataplane.publish(&Arc::new(plan)),
                Effect::Stop { vm, instance } => {
                    self.leave(Leaving::Order(vm, Order::Stop { instance }), outcome);
                }
                Effect::Continue { vm, instance } => {
                    self.leave(Leaving::Order(vm, Order::Continue { instance }), outcome);
                }
                Effect::Monitor { vm, wanted } => self.hypervisors.set(spec, vm, wanted),
                Effect::Record(entry) => {
                    let at_unix_us = clock::unix_micros(entry.at);
                    let line = self.journal.append(entry, spec, at_unix_us);
                    self.store.append(&line, self.journal.first_seq(), clock::now());
                }
                Effect::Cluster(ask) => self.leave(Leaving::Ask(ask), outcome),
                Effect::Answer { ticket, result } => {
                    self.leave(Leaving::Answer(Answered { ticket, result }), outcome);
                }
            }
        }
    }

    /// Whether any of these needs its state to be kept first.
    #[must_use]
    pub fn must_be_kept(effects: &[Effect]) -> bool {
        effects.iter().any(|effect| match effect {
            Effect::Stop { .. } | Effect::Continue { .. } | Effect::Cluster(_) | Effect::Answer { .. } => {
                true
            }
            Effect::Publish(_) | Effect::Monitor { .. } | Effect::Record(_) => false,
        })
    }

    fn leave(&mut self, leaves: Leaving, outcome: &mut Outcome) {
        let (needs, now) = (self.store.state_ticket(), clock::now());
        self.waiting.push_back(Waiting { leaves, needs, until: now + KEPT_WITHIN });
        self.release(now, outcome);
    }

    /// Lets go what need not wait any longer.
    pub fn release(&mut self, now: Instant, outcome: &mut Outcome) {
        while let Some(waiting) = self.waiting.front() {
            let kept = waiting.needs <= self.store.committed() || self.store.is_late();
            if !kept && now < waiting.until {
                return;
            }
            let Some(Waiting { leaves, needs, .. }) = self.waiting.pop_front() else { return };
            self.store.note(needs);
            match leaves {
                Leaving::Order(vm, order) => {
                    if let Err(why) = self.hypervisors.send(vm, order.clone()) {
                        outcome.events.push(Event::Hypervisor { vm, report: order.refused(why) });
                    }
                }
                Leaving::Answer(answered) => outcome.answers.push(answered),
                Leaving::Ask(ask) => {
                    let events = self.with_hosts(|hosts, hands| hosts.perform(ask, hands));
                    outcome.events.extend(events);
                }
            }
        }
    }

    fn with_hosts(&mut self, ask: impl FnOnce(&mut Hosts, &mut Hands<'_>) -> Vec<Event>) -> Vec<Event> {
        let Some(hosts) = &mut self.hosts else { return vec![] };
        let (dataplane, hypervisors) = (&self.dataplane, &mut self.hypervisors);
        ask(hosts, &mut Hands { dataplane, hypervisors, now: clock::now() })
    }

    /// What other hosts, etcd or launched hypervisors say, as events to be applied.
    pub fn hear(&mut self, news: News, controller: &Controller) -> Vec<Event> {
        self.with_hosts(|hosts, hands| hosts.hear(news, controller, hands))
    }

    /// What the data plane says of orders.
    pub fn hear_order(&mut self, report: OrderReport, controller: &Controller) -> Vec<Event> {
        match &report {
            // Also of a VM that was moved by others than vmpath, at a host without `[cluster]`.
            OrderReport::Misfit { disk, why } => vec![misfit(*disk, Some(why.clone()))],
            OrderReport::Fits { disk } => vec![misfit(*disk, None)],
            OrderReport::Probed { .. }
            | OrderReport::Settled { .. }
            | OrderReport::Revoked { .. }
            | OrderReport::Expected { .. }
            | OrderReport::Stored { .. }
            | OrderReport::Withdrawn { .. }
            | OrderReport::Taken { .. }
            | OrderReport::Arrived { .. } => {
                self.with_hosts(|hosts, hands| hosts.hear_order(report, controller, hands))
            }
        }
    }

    /// Begins to take a disk over from a host that is dead.
    pub fn take_over(
        &mut self,
        of: (DiskId, &str),
        sure: (Confirmed, Begun),
        controller: &Controller,
    ) -> (Result<String, CommandError>, Vec<Event>) {
        let Some(hosts) = &mut self.hosts else {
            let why = "this host is configured to be alone: it has no [cluster]".to_owned();
            return (Err(CommandError::Unsupported(why)), vec![]);
        };
        match hosts.take_over(of, sure, controller) {
            Ok((answer, events)) => (Ok(answer), events),
            Err(error) => (Err(error), vec![]),
        }
    }

    /// Claims and releases units as things stand now.
    pub fn look(&mut self, controller: &Controller, view: Option<&WorkerView>) -> Vec<Event> {
        self.with_hosts(|hosts, hands| hosts.look(controller, view, hands))
    }

    /// When [`Self::release`] has something to do, whatever the disk does.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.waiting.front().map(|waiting| waiting.until)
    }
}

fn misfit(disk: DiskId, why: Option<String>) -> Event {
    Event::Cluster(Heard::Misfit { disk, why })
}
