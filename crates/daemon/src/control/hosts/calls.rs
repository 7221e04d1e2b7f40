//! What other hosts ask of this one, until it is answered.
//!
//! Invariant: a caller is answered once, by what the move's machine says or by what was read; one that is dropped is told that nothing is
//! known. It does not know the wire.

use super::{Asked, Hands, Hosts, arriving, came_by};
use crate::cluster::{ClusterOrder, Ticket};
use crate::dataplane::{ProbedUnit, WorkerOrder};
use crate::peer::{Outcome, PeerAnswer, PeerCall, PeerRequest};
use std::collections::HashMap;
use tokio::sync::oneshot;
use vmpath_core::cluster::Heard;
use vmpath_core::controller::Controller;
use vmpath_core::event::Event;
use vmpath_core::ids::{PathId, UnitId, VmId};
use vmpath_core::migration::{Answer, Move, MoveId, destination::Input};
use vmpath_core::ownership::Found;
use vmpath_core::spec::Spec;

type Reply = oneshot::Sender<Outcome>;

/// What a machine is asked by its other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Question {
    Prepare,
    HandOver,
    Discard,
}

/// Callers that wait for a machine's word.
#[derive(Debug, Default)]
pub(super) struct Calls(HashMap<(MoveId, Question), Vec<Reply>>);

impl Calls {
    fn wait(&mut self, id: MoveId, question: Question, reply: Reply) {
        let waiting = self.0.entry((id, question)).or_default();
        // Those who asked before have given up, or will be answered together.
        waiting.retain(|reply| !reply.is_closed());
        waiting.push(reply);
    }

    pub(super) fn answer(&mut self, id: &MoveId, question: Question, outcome: &Outcome) {
        for reply in self.0.remove(&(id.clone(), question)).unwrap_or_default() {
            // The caller may have given up.
            let _ = reply.send(outcome.clone());
        }
    }

    /// The move is over: whoever still waits learns nothing.
    pub(super) fn forget(&mut self, id: &MoveId) {
        self.0.retain(|(of, _), _| of != id);
    }
}

/// A caller that waits for something else.
#[derive(Debug)]
pub(super) enum Pending {
    /// Its units are being read by some workers.
    Probe { reply: Reply, needs: Vec<UnitId>, workers: usize, read: Vec<ProbedUnit> },
    /// Whether the VM of a move of which nothing is known (any more) is here.
    Landed { reply: Reply, move_id: MoveId },
}

impl Pending {
    pub(super) fn is_of_cluster(&self) -> bool {
        match self {
            Self::Probe { .. } => false,
            Self::Landed { .. } => true,
        }
    }

    pub(super) fn conclude_read(self, found: Result<Vec<Found>, String>, host: &str) {
        let Self::Landed { reply, move_id } = self else { return };
        let outcome = match found {
            Ok(found) if found.iter().any(|found| came_by(found, &move_id, host)) => {
                Answer::Done(PeerAnswer::State("it runs here".into()))
            }
            Ok(_) => Answer::Done(PeerAnswer::Done),
            Err(why) => Answer::Unknown(why),
        };
        let _ = reply.send(outcome);
    }
}

impl Hosts {
    pub(super) fn called(
        &mut self,
        call: PeerCall,
        controller: &Controller,
        hands: &mut Hands<'_>,
    ) -> Vec<Event> {
        let PeerCall { from, request, reply } = call;
        match request {
            PeerRequest::Probe { units } => return self.probe(&units, reply, hands),
            PeerRequest::Prepare(plan) => return self.invited(&from, plan, reply),
            PeerRequest::HandOver(hand_over) => match controller.arriving(&hand_over.move_id) {
                Some(vm) if hand_over.from == from => {
                    let id = hand_over.move_id.clone();
                    self.calls.wait(id.clone(), Question::HandOver, reply);
                    return vec![arriving(vm, &id, Input::HandOver(Box::new(hand_over)))];
                }
                Some(_) | None => {
                    let why = format!("no move {} from {from} is known here", hand_over.move_id);
                    let _ = reply.send(Answer::Refused(why));
                }
            },
            PeerRequest::Discard { move_id, why } => match controller.arriving(&move_id) {
                Some(vm) if move_id.host == from => {
                    self.calls.wait(move_id.clone(), Question::Discard, reply);
                    return vec![arriving(vm, &move_id, Input::Discard(why))];
                }
                Some(_) => {
                    let _ = reply.send(Answer::Refused(format!("{move_id} is not a move of {from}")));
                }
                None => return self.has_landed(move_id, reply),
            },
            PeerRequest::Ask { move_id } => {
                let _ = reply.send(Answer::Done(PeerAnswer::State(state_words(controller, &move_id))));
            }
        }
        vec![]
    }

    fn invited(&mut self, from: &str, plan: Move, reply: Reply) -> Vec<Event> {
        if plan.from != from || plan.id.host != from {
            let _ = reply.send(Answer::Refused(format!("{} is not a move of {from}", plan.id)));
            return vec![];
        }
        self.calls.wait(plan.id.clone(), Question::Prepare, reply);
        vec![Event::Cluster(Heard::Invited(Box::new(plan)))]
    }

    /// Nothing is known of it here any more: the owners are asked.
    fn has_landed(&mut self, move_id: MoveId, reply: Reply) -> Vec<Event> {
        let units: Vec<String> = self.spec.unit_ids().map(|unit| self.spec.unit_name(unit)).collect();
        let pending = Pending::Landed { reply, move_id };
        self.ask_cluster(Asked::Call(pending), |ticket| ClusterOrder::ReadOwners { ticket, units })
    }

    fn probe(&mut self, names: &[String], reply: Reply, hands: &Hands<'_>) -> Vec<Event> {
        let mut needs = vec![];
        for name in names {
            let Some(unit) = self.unit_by_name(name) else {
                let why = format!("{} has no unit {name} in its configuration", self.spec.host.name);
                let _ = reply.send(Answer::Refused(why));
                return vec![];
            };
            needs.push(unit);
        }
        let units = needs.clone();
        let pending = Pending::Probe { reply, needs, workers: 0, read: vec![] };
        let ticket = self.ticket(Asked::Call(pending));
        let given = hands.dataplane.order(WorkerOrder::Probe { ticket, units });
        match (given, self.asked.get_mut(&ticket)) {
            (Ok(given), Some(Asked::Call(Pending::Probe { workers, .. }))) if given > 0 => *workers = given,
            (given, _) => {
                let why = given.err().map_or("it has none of them".to_owned(), |error| error.to_string());
                if let Some(Asked::Call(Pending::Probe { reply, .. })) = self.asked.remove(&ticket) {
                    let _ = reply.send(Answer::Refused(why));
                }
            }
        }
        vec![]
    }

    pub(super) fn probed(&mut self, ticket: Ticket, units: Vec<ProbedUnit>) {
        let Some(Asked::Call(Pending::Probe { workers, read, .. })) = self.asked.get_mut(&ticket) else {
            return;
        };
        read.extend(units);
        *workers = workers.saturating_sub(1);
        if *workers > 0 {
            return;
        }
        let Some(Asked::Call(Pending::Probe { reply, needs, read, .. })) = self.asked.remove(&ticket) else {
            return;
        };
        let missed = needs.iter().find_map(|unit| missed(&self.spec, *unit, &read));
        // The caller may have given up.
        let _ = reply.send(missed.map_or(Answer::Done(PeerAnswer::Done), Answer::Refused));
    }
}

/// What a VM that uses the unit lacks, in words. A path that it avoids does not count.
fn missed(spec: &Spec, unit: UnitId, read: &[ProbedUnit]) -> Option<String> {
    let found = read.iter().find(|found| found.unit == unit);
    let (read, unread) =
        found.map_or((&[][..], &[][..]), |found| (found.read.as_slice(), found.unread.as_slice()));
    let tried = read.len() + unread.len();
    let lacks = |avoided: &[PathId], needed: u32| {
        let has = read.iter().filter(|(path, _)| !avoided.contains(path)).count();
        (has < needed as usize).then(|| {
            let less = if avoided.is_empty() { "" } else { ", less those that the VM avoids" };
            let name = spec.unit_name(unit);
            format!("it could read {name} over {has} of its {tried} connected paths{less}, and {needed} are asked for")
        })
    };
    let mut vms = spec.vm_ids().filter(|vm: &VmId| spec.units_of_vm(*vm).any(|its| its == unit)).peekable();
    if vms.peek().is_none() {
        return lacks(&[], 1);
    }
    vms.find_map(|vm| lacks(&spec.vm(vm).avoid_paths, spec.vm(vm).min_paths.max(1)))
}

fn state_words(controller: &Controller, id: &MoveId) -> String {
    match controller.arriving(id) {
        Some(vm) => controller.arriving_state(vm).to_owned(),
        None => "not known here".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmpath_core::spec::{Source, parse};
    use vmpath_core::time::Duration;

    const CONFIG: &str = "[[target]]\nname = 'san0'\n[[target.path]]\nname = 'a'\nurl = 'nbd://127.0.0.1:1'\n\
        [[target.path]]\nname = 'b'\nurl = 'nbd://127.0.0.1:2'\n[[vm]]\nname = 'db1'\navoid = ['b']\n\
        [[vm.disk]]\nname = 'vda'\nunit = 'san0/u'\nnbd = '/tmp/vda.sock'\n";

    #[test]
    fn a_path_that_the_vm_avoids_shows_nothing() {
        let spec = parse(&[Source { name: "test.toml", text: CONFIG }]).unwrap().spec;
        let read = |path: usize| (PathId::at(path), Duration::ZERO);
        let probed = |read, unread| vec![ProbedUnit { unit: UnitId::at(0), read, unread }];
        assert_eq!(missed(&spec, UnitId::at(0), &probed(vec![read(0), read(1)], vec![])), None);
        let why = missed(&spec, UnitId::at(0), &probed(vec![read(1)], vec![PathId::at(0)])).unwrap();
        assert!(why.contains("over 0 of its 2 connected paths, less those that the VM avoids"), "{why}");
        assert!(missed(&spec, UnitId::at(0), &[]).is_some(), "what was not probed was not read");
    }
}
