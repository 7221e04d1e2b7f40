//! Where a VM may go, by what the others say of themselves; and the room that is claimed for it there.

use super::{Asked, Hosts, Leaving, leaving, refused};
use crate::cluster::{ClusterOrder, Outcome, Refusal, Room};
use std::sync::Arc;
use vmpath_core::cluster::{Chosen, Heard, Whereto};
use vmpath_core::event::Event;
use vmpath_core::ids::{UnitId, VmId};
use vmpath_core::migration::source::Input;
use vmpath_core::migration::{Answer, MoveId, RoomNeed};
use vmpath_core::placement::{Need, place};
use vmpath_core::time::Duration;

/// Until the destination's own summary counts the VM, if this host dies meanwhile.
const ROOM_TTL: Duration = Duration::from_secs(60);

/// How often a claim that has met another is tried on a later view.
const CLAIMS_MAX: u32 = 8;

/// A claim of room.
#[derive(Clone, Debug)]
pub(super) struct Claiming {
    to: String,
    room: Vec<RoomNeed>,
    tries: u32,
}

impl Hosts {
    pub(super) fn placed(&self, vm: VmId, whereto: &Whereto) -> Event {
        let result = self.best(vm, whereto);
        Event::Cluster(Heard::Placed { vm, result })
    }

    fn best(&self, vm: VmId, whereto: &Whereto) -> Result<Chosen, String> {
        if let Some(why) = self.channel.trouble() {
            return Err(format!("this host cannot speak to others: {why}"));
        }
        let size = |unit: UnitId| self.sizes.get(unit.index()).copied().flatten();
        let need = Need::of(&self.spec, vm, whereto, size)?;
        let ranking = place(&need, &self.view);
        ranking.chosen(&need, &self.view).ok_or_else(|| ranking.words(&need, &self.view))
    }

    pub(super) fn claim(&mut self, vm: VmId, id: MoveId, to: String, room: Vec<RoomNeed>) -> Vec<Event> {
        // One without a reservation takes what is left.
        if room.is_empty() {
            return vec![leaving(vm, &id, Input::Claimed(Answer::Done(())))];
        }
        self.ask_room(vm, id, Claiming { to, room, tries: 0 })
    }

    fn ask_room(&mut self, vm: VmId, id: MoveId, claiming: Claiming) -> Vec<Event> {
        let room = Room {
            id: id.to_string(),
            vm: self.vm_name(vm).to_owned(),
            host: claiming.to.clone(),
            targets: claiming.room.iter().map(|need| (need.target.clone(), need.rate)).collect(),
        };
        let seen = Arc::clone(&self.others);
        let asked = Asked::Leaving { vm, move_id: id, what: Leaving::Claim(claiming) };
        self.ask_cluster(asked, |ticket| ClusterOrder::ClaimRoom { ticket, room, seen, ttl: ROOM_TTL })
    }

    /// None: it is tried again when more is known of the others.
    pub(super) fn claim_outcome(
        &mut self,
        vm: VmId,
        id: &MoveId,
        claiming: Claiming,
        outcome: Outcome,
    ) -> Option<Answer> {
        match outcome {
            Outcome::Refused(Refusal::Crowded) if claiming.tries < CLAIMS_MAX => {
                let claiming = Claiming { tries: claiming.tries + 1, ..claiming };
                self.crowded.push((vm, id.clone(), claiming));
                None
            }
            Outcome::Done { .. } => Some(Answer::Done(())),
            Outcome::Refused(refusal) => Some(Answer::Refused(refused(refusal))),
            Outcome::Unknown { why } => Some(Answer::Unknown(why)),
        }
    }

    /// The move is over, or goes elsewhere: nobody would drop what were claimed from now on.
    pub(super) fn claims_no_more(&mut self, id: &MoveId) {
        self.crowded.retain(|(_, of, _)| of != id);
        for asked in self.asked.values_mut() {
            if matches!(asked, Asked::Leaving { move_id, what: Leaving::Claim(_), .. } if move_id == id) {
                *asked = Asked::Unclaimed(id.clone());
            }
        }
    }

    pub(super) fn drop_room(&self, id: &MoveId) {
        // It runs out by itself if this is lost.
        let _ = self.cluster.order(ClusterOrder::DropRoom { id: id.to_string() });
    }

    /// More is known of the others: whoever fits there still claims again.
    pub(super) fn claim_again(&mut self) -> Vec<Event> {
        let mut events = vec![];
        for (vm, id, claiming) in std::mem::take(&mut self.crowded) {
            match self.best(vm, &Whereto::Named(claiming.to.clone())) {
                Ok(_) => events.extend(self.ask_room(vm, id, claiming)),
                Err(why) => events.push(leaving(vm, &id, Input::Claimed(Answer::Refused(why)))),
            }
        }
        events
    }
}
