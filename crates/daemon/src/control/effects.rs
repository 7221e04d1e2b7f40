//! Doing what the controller decided: one `match`, and the only caller of hypervisors.
//!
//! Invariant: nothing here waits. A plan is published, an order is queued, a line is appended. What cannot be done
//! comes back as a report, as if the hypervisor had refused. It decides nothing.

use super::journal::Journal;
use crate::dataplane::Dataplane;
use crate::hypervisor::{Hypervisors, Order};
use crate::sys::clock;
use std::sync::Arc;
use vmpath_core::effect::{CommandError, Effect};
use vmpath_core::event::{Event, HypervisorReport};
use vmpath_core::ids::VmId;
use vmpath_core::spec::Spec;

/// What the owner acts on.
#[derive(Debug)]
pub struct Performer {
    pub dataplane: Dataplane,
    pub hypervisors: Hypervisors,
    pub journal: Journal,
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
                Effect::Publish(plan) => self.dataplane.publish(Arc::new(plan)),
                Effect::Stop { vm, instance } => self.order(vm, Order::Stop { instance }, outcome),
                Effect::Continue { vm, instance } => self.order(vm, Order::Continue { instance }, outcome),
                Effect::Record(entry) => {
                    let at_unix_us = clock::unix_micros(entry.at);
                    self.journal.append(entry, spec, at_unix_us);
                }
                Effect::Answer { ticket, result } => outcome.answers.push(Answered { ticket, result }),
            }
        }
    }

    fn order(&self, vm: VmId, order: Order, outcome: &mut Outcome) {
        if let Err(why) = self.hypervisors.send(vm, order) {
            outcome.events.push(Event::Hypervisor { vm, report: HypervisorReport::Refused { why } });
        }
    }
}
