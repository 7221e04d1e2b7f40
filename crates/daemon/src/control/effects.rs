//! Doing what the controller decided: one `match`, and the only caller of hypervisors.
//!
//! Invariant: nothing here waits. A plan is published, an order is queued, a line is appended. What cannot be done
//! comes back as a report, as if the hypervisor had refused. An order to a hypervisor leaves only when the state that
//! remembers it is on the disk, or when the disk is late: a kill in between would leave a VM stopped by nobody. It decides
//! nothing.

use super::journal::Journal;
use crate::dataplane::Dataplane;
use crate::hypervisor::{Hypervisors, Order};
use crate::store::{Store, Ticket};
use crate::sys::clock;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use vmpath_core::effect::{CommandError, Effect};
use vmpath_core::event::Event;
use vmpath_core::ids::VmId;
use vmpath_core::spec::Spec;
use vmpath_core::time::Instant;

/// A commit takes some milliseconds; behind a disk that takes longer, a VM is stopped all the same.
const ORDER_WAIT: Duration = Duration::from_millis(200);

/// What the owner acts on.
#[derive(Debug)]
pub struct Performer {
    pub dataplane: Dataplane,
    pub hypervisors: Hypervisors,
    pub journal: Journal,
    pub store: Store,
    /// In the order in which they were given.
    pub orders: VecDeque<WaitingOrder>,
}

/// An order that waits for the state that remembers it to be on the disk.
#[derive(Clone, Debug)]
pub struct WaitingOrder {
    vm: VmId,
    order: Order,
    needs: Ticket,
    /// At the latest.
    until: Instant,
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
                Effect::Stop { vm, instance } => self.order(vm, Order::Stop { instance }, outcome),
                Effect::Continue { vm, instance } => self.order(vm, Order::Continue { instance }, outcome),
                Effect::Monitor { vm, wanted } => self.hypervisors.set(spec, vm, wanted),
                Effect::Record(entry) => {
                    let at_unix_us = clock::unix_micros(entry.at);
                    let line = self.journal.append(entry, spec, at_unix_us);
                    self.store.append(&line, self.journal.first_seq(), clock::now());
                }
                // Nothing is heard of a store yet, so nothing is asked.
                Effect::Cluster(ask) => tracing::error!("asked of a cluster that is not there: {ask:?}"),
                Effect::Answer { ticket, result } => outcome.answers.push(Answered { ticket, result }),
            }
        }
    }

    /// Whether any of these needs its state to be kept first.
    #[must_use]
    pub fn orders_anything(effects: &[Effect]) -> bool {
        effects.iter().any(|effect| match effect {
            Effect::Stop { .. } | Effect::Continue { .. } | Effect::Cluster(_) => true,
            Effect::Publish(_) | Effect::Monitor { .. } | Effect::Record(_) | Effect::Answer { .. } => false,
        })
    }

    fn order(&mut self, vm: VmId, order: Order, outcome: &mut Outcome) {
        let (needs, now) = (self.store.ticket(), clock::now());
        self.orders.push_back(WaitingOrder { vm, order, needs, until: now + ORDER_WAIT });
        self.release(now, outcome);
    }

    /// Sends the orders that need not wait any longer.
    pub fn release(&mut self, now: Instant, outcome: &mut Outcome) {
        while let Some(waiting) = self.orders.front() {
            let kept = waiting.needs <= self.store.committed() || self.store.is_late();
            if !kept && now < waiting.until {
                return;
            }
            let Some(WaitingOrder { vm, order, .. }) = self.orders.pop_front() else { return };
            if let Err(why) = self.hypervisors.send(vm, order.clone()) {
                outcome.events.push(Event::Hypervisor { vm, report: order.refused(why) });
            }
        }
    }

    /// When [`Self::release`] has something to do, whatever the disk does.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.orders.front().map(|waiting| waiting.until)
    }
}
