//! The steps of a move at the host that the VM comes to.

use super::calls::Question;
use super::{Arriving, Asked, Hands, Hosts, arriving};
use crate::cluster::{ClusterOrder, Ticket};
use crate::dataplane::WorkerOrder;
use crate::hypervisor::Order;
use crate::peer::PeerAnswer;
use crate::peer::agent::Launch;
use std::sync::Arc;
use vmpath_core::controller::Controller;
use vmpath_core::effect::Wanted;
use vmpath_core::event::Event;
use vmpath_core::ids::VmId;
use vmpath_core::migration::destination::{Act, Input};
use vmpath_core::migration::{Answer, MoveId};

impl Hosts {
    pub(super) fn arrive(&mut self, vm: VmId, id: MoveId, act: Act, hands: &mut Hands<'_>) -> Vec<Event> {
        let asked = |what| Asked::Arriving { vm, move_id: id.clone(), what };
        match act {
            Act::Launch => {
                // First the disks: whoever is launched attaches to them at once.
                let expect = |ticket| WorkerOrder::Expect { ticket, vm, move_id: id.clone() };
                let failed = |why| arriving(vm, &id, Input::Launched(Err(why)));
                self.order(asked(Arriving::Expect), hands, expect, failed)
            }
            Act::AnswerPrepare(result) => {
                let answer = match result {
                    Ok(uri) => Answer::Done(PeerAnswer::Incoming(uri)),
                    Err(why) => Answer::Refused(why),
                };
                self.answer(&id, Question::Prepare, &answer)
            }
            Act::AnswerHandOver(result) => self.answer(&id, Question::HandOver, &done(result)),
            Act::AnswerDiscard(result) => {
                let answer = result.map_or_else(PeerAnswer::State, |()| PeerAnswer::Done);
                self.answer(&id, Question::Discard, &Answer::Done(answer))
            }
            Act::Store(hand_over) => {
                let hand_over = Arc::from(hand_over);
                let failed = |why| arriving(vm, &id, Input::Stored(Err(why)));
                self.order(
                    asked(Arriving::Store),
                    hands,
                    |ticket| WorkerOrder::Offer { ticket, hand_over },
                    failed,
                )
            }
            Act::ReadOwners { units } => {
                self.ask_cluster(asked(Arriving::Owners), |ticket| ClusterOrder::ReadOwners { ticket, units })
            }
            Act::GiveBack { to, units } => {
                if let Err(why) = self.owners.give(vm, &units) {
                    return vec![arriving(vm, &id, Input::GaveBack(Answer::Refused(why)))];
                }
                let give = |ticket| ClusterOrder::GiveBack { ticket, to, units };
                self.ask_cluster(asked(Arriving::GiveBack), give)
            }
            Act::Bar { owner, units } => {
                self.ask_cluster(asked(Arriving::Bar), |ticket| ClusterOrder::Bar { ticket, owner, units })
            }
            Act::Bump { units } => {
                self.ask_cluster(asked(Arriving::Bump), |ticket| ClusterOrder::Bump { ticket, units })
            }
            Act::Own { units } => {
                self.owners.own(vm, &units);
                self.tell_owners(hands)
            }
            Act::Disown { units } => {
                self.owners.disown(vm, &units);
                self.tell_owners(hands)
            }
            Act::Withdraw => self.withdraw(vm, id, hands),
            Act::Query => match self.instances.get(&vm).copied() {
                Some(instance) => self.tell_hypervisor(vm, &Order::QueryMigrate { instance }, hands),
                None => vec![],
            },
            Act::End if self.agent.end(&id) => vec![],
            Act::End => vec![arriving(vm, &id, Input::Ended("it is not there any more".into()))],
            Act::Keep => {
                self.agent.keep(&id);
                self.calls.forget(&id);
                vec![]
            }
            Act::Forget => self.forget(vm, id, hands),
        }
    }

    fn answer(&mut self, id: &MoveId, question: Question, outcome: &crate::peer::Outcome) -> Vec<Event> {
        self.calls.answer(id, question, outcome);
        vec![]
    }

    fn forget(&mut self, vm: VmId, id: MoveId, hands: &Hands<'_>) -> Vec<Event> {
        self.calls.forget(&id);
        self.insist(vm, WorkerOrder::Withdraw { ticket: 0, vm, move_id: id.clone() }, hands);
        self.insist(vm, WorkerOrder::Forget { vm, move_id: id }, hands);
        vec![]
    }

    fn withdraw(&mut self, vm: VmId, id: MoveId, hands: &Hands<'_>) -> Vec<Event> {
        self.give_late(hands);
        // It is asked again.
        if self.late.concerns(vm) {
            return vec![];
        }
        let ticket = self.ticket(Asked::Arriving { vm, move_id: id.clone(), what: Arriving::Withdraw });
        if hands.dataplane.order(WorkerOrder::Withdraw { ticket, vm, move_id: id }).is_err() {
            self.asked.remove(&ticket);
        }
        vec![]
    }

    /// The disks wait for their guest: it may be launched.
    pub(super) fn expected(
        &mut self,
        ticket: Ticket,
        result: Result<(), String>,
        controller: &Controller,
        hands: &mut Hands<'_>,
    ) -> Vec<Event> {
        let Some(Asked::Arriving { vm, move_id, .. }) = self.asked.remove(&ticket) else { return vec![] };
        let Some(plan) = controller.arriving_plan(vm).filter(|plan| plan.id == move_id) else {
            return vec![];
        };
        let launched = result.and_then(|()| {
            let its = self.spec.vm(vm);
            let (Some(command), Some(qmp)) = (its.launch.clone(), its.qmp.clone()) else {
                return Err(format!("{} has no `launch` and `qmp` here", its.name));
            };
            let (vm, memory) = (its.name.clone(), plan.memory);
            self.agent.launch(Launch { move_id: move_id.clone(), vm, command, qmp, memory })
        });
        match launched {
            // QEMU serves one client, and whoever launches it asks it first.
            Ok(()) => {
                hands.hypervisors.set(&self.spec, vm, Wanted::No);
                vec![]
            }
            Err(why) => vec![arriving(vm, &move_id, Input::Launched(Err(why)))],
        }
    }

    pub(super) fn arriving_answer(&mut self, ticket: Ticket, input: Input) -> Vec<Event> {
        let Some(Asked::Arriving { vm, move_id, .. }) = self.asked.remove(&ticket) else { return vec![] };
        vec![arriving(vm, &move_id, input)]
    }
}

fn done(result: Result<(), String>) -> crate::peer::Outcome {
    match result {
        Ok(()) => Answer::Done(PeerAnswer::Done),
        Err(why) => Answer::Refused(why),
    }
}
