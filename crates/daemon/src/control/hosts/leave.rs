//! The steps of a move at the host that the VM leaves.

use super::{Asked, Hands, Hosts, Leaving, leaving};
use crate::cluster::{ClusterOrder, Ticket};
use crate::dataplane::WorkerOrder;
use crate::hypervisor::{self, Order};
use crate::peer::{self, PeerAnswer, PeerRequest};
use vmpath_core::event::Event;
use vmpath_core::ids::VmId;
use vmpath_core::migration::source::{Act, Input};
use vmpath_core::migration::{Answer, MoveId};
use vmpath_core::ownership::UnitEpoch;

impl Hosts {
    pub(super) fn leave(&mut self, vm: VmId, id: MoveId, act: Act, hands: &mut Hands<'_>) -> Vec<Event> {
        let asked = |what| Asked::Leaving { vm, move_id: id.clone(), what };
        match act {
            Act::Probe { to, units } => {
                self.ask_peer(vm, id, Leaving::Probe, &to, PeerRequest::Probe { units })
            }
            Act::Claim { to, room } => self.claim(vm, id, to, room),
            Act::Unclaim => {
                self.claims_no_more(&id);
                self.drop_room(&id);
                vec![]
            }
            Act::Prepare(plan) => {
                let to = plan.to.clone();
                self.ask_peer(vm, id, Leaving::Prepare, &to, PeerRequest::Prepare(*plan))
            }
            Act::HandOver(hand_over) => {
                let to = hand_over.to.clone();
                self.ask_peer(vm, id, Leaving::HandOver, &to, PeerRequest::HandOver(*hand_over))
            }
            Act::Discard { to, why } => {
                let request = PeerRequest::Discard { move_id: id.clone(), why };
                self.ask_peer(vm, id, Leaving::Discard, &to, request)
            }
            Act::Settle { by } => {
                let by = hands.now + by;
                let failed = |why| leaving(vm, &id, Input::Settled(Err(why)));
                self.order(
                    asked(Leaving::Settle),
                    hands,
                    |ticket| WorkerOrder::Settle { ticket, vm, by },
                    failed,
                )
            }
            Act::Revoke => {
                self.insist(vm, WorkerOrder::Revoke { vm }, hands);
                vec![]
            }
            Act::Commit { to, units } => self.commit(vm, id, to, units),
            Act::ReadOwners { units } => {
                self.ask_cluster(asked(Leaving::Owners), |ticket| ClusterOrder::ReadOwners { ticket, units })
            }
            Act::Bump { units } => {
                self.ask_cluster(asked(Leaving::Bump), |ticket| ClusterOrder::Bump { ticket, units })
            }
            Act::Own { units } => {
                self.owners.own(vm, &units);
                self.tell_owners(hands)
            }
            Act::Disown { units } => {
                self.owners.disown(vm, &units);
                self.tell_owners(hands)
            }
            Act::Migrate { instance, uri } => {
                self.tell_left((vm, &id), &Order::Migrate { instance, uri }, hands)
            }
            Act::Continue { instance } => {
                self.tell_left((vm, &id), &Order::MigrateContinue { instance }, hands)
            }
            Act::Cancel { instance } => self.tell_left((vm, &id), &Order::MigrateCancel { instance }, hands),
            Act::Query { instance } => self.tell_left((vm, &id), &Order::QueryMigrate { instance }, hands),
            Act::Stop { instance } => self.tell_left((vm, &id), &Order::Stop { instance }, hands),
            Act::Resume { instance } => self.tell_left((vm, &id), &Order::Continue { instance }, hands),
        }
    }

    /// Nobody after this process may take them for its own.
    fn commit(&mut self, vm: VmId, id: MoveId, to: String, units: Vec<UnitEpoch>) -> Vec<Event> {
        if let Err(why) = self.owners.give(vm, &units) {
            return vec![leaving(vm, &id, Input::NotCommitted(why))];
        }
        let asked = Asked::Leaving { vm, move_id: id.clone(), what: Leaving::Commit };
        self.ask_cluster(asked, |ticket| ClusterOrder::Commit { ticket, id, to, units })
    }

    /// The process that a VM has left. It flushes its disks before it ends, which nobody here may do for it any more.
    pub(super) fn end_left(&mut self, vm: VmId, instance: u64, hands: &mut Hands<'_>) -> Vec<Event> {
        self.insist(vm, WorkerOrder::Left { vm }, hands);
        self.tell_hypervisor(vm, &Order::Quit { instance }, hands)
    }

    /// Tells the process that the move is about. Its monitor may be silent for many reasons; that it has ended is said by the kernel.
    fn tell_left(&self, (vm, id): (VmId, &MoveId), order: &Order, hands: &Hands<'_>) -> Vec<Event> {
        if hypervisor::has_ended(order.instance()) {
            return vec![leaving(vm, id, Input::Replaced)];
        }
        self.tell_hypervisor(vm, order, hands)
    }

    /// What another host has answered.
    pub(super) fn peer_answer(&mut self, ticket: Ticket, outcome: peer::Outcome) -> Vec<Event> {
        let plain = |outcome: peer::Outcome| match outcome {
            Answer::Done(_) => Answer::Done(()),
            Answer::Refused(why) => Answer::Refused(why),
            Answer::Unknown(why) => Answer::Unknown(why),
        };
        self.leaving_answer(ticket, |what| match what {
            Leaving::Probe => Input::Probed(plain(outcome)),
            Leaving::HandOver => Input::HandedOver(plain(outcome)),
            Leaving::Discard => Input::Discarded(discarded(outcome)),
            Leaving::Prepare => Input::Prepared(match outcome {
                Answer::Done(PeerAnswer::Incoming(uri)) => Answer::Done(uri),
                Answer::Done(PeerAnswer::Done | PeerAnswer::State(_)) => {
                    Answer::Unknown("it has answered something else".into())
                }
                Answer::Refused(why) => Answer::Refused(why),
                Answer::Unknown(why) => Answer::Unknown(why),
            }),
            Leaving::Claim(_) | Leaving::Settle | Leaving::Commit | Leaving::Owners | Leaving::Bump => {
                unreachable!("no other host is asked that")
            }
        })
    }

    pub(super) fn leaving_answer(
        &mut self,
        ticket: Ticket,
        input: impl FnOnce(&Leaving) -> Input,
    ) -> Vec<Event> {
        let Some(Asked::Leaving { vm, move_id, what }) = self.asked.remove(&ticket) else { return vec![] };
        vec![leaving(vm, &move_id, input(&what))]
    }
}

/// Only the other host's own word says that the VM has landed there: to believe a refusal of the way would give a living VM up.
fn discarded(outcome: peer::Outcome) -> Answer {
    match outcome {
        Answer::Done(PeerAnswer::State(landed)) => Answer::Refused(landed),
        Answer::Done(PeerAnswer::Done | PeerAnswer::Incoming(_)) => Answer::Done(()),
        Answer::Refused(why) | Answer::Unknown(why) => Answer::Unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_other_host_s_own_word_says_that_the_vm_is_there() {
        let why = || "nobody listens".to_owned();
        assert_eq!(
            discarded(Answer::Done(PeerAnswer::State("it runs".into()))),
            Answer::Refused("it runs".into())
        );
        assert_eq!(discarded(Answer::Done(PeerAnswer::Done)), Answer::Done(()));
        assert_eq!(discarded(Answer::Refused(why())), Answer::Unknown(why()));
        assert_eq!(discarded(Answer::Unknown(why())), Answer::Unknown(why()));
    }
}
