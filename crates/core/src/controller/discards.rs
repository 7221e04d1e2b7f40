//! Destinations that were told to end what they had begun for a VM, and have not answered: they are told again.
//!
//! Invariant: each has an end: its answer, or the time at which it gives up waiting by itself. A move that is here may never be
//! committed any more; one whose units were given is asked about by its own machine.
//! Rejected: to keep the move's machine until the answer comes. The VM could not be moved anywhere meanwhile.
//! It does not know how anything is sent.

use super::Controller;
use crate::cluster::Ask;
use crate::ids::VmId;
use crate::migration::destination::WAIT_MAX;
use crate::migration::{Answer, MoveId, Pace, source};
use crate::saved::SavedDiscard;
use crate::time::{Duration, Instant};

/// A call is over by then, answered or not.
const AGAIN_AFTER: Duration = Duration::from_secs(5);
/// More are begun by no host within the time; the oldest ends by itself at its destination.
const MAX: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Discard {
    vm: VmId,
    move_id: MoveId,
    to: String,
    why: String,
    until: Instant,
    pace: Pace,
}

impl Controller {
    /// The first time it is the move's own act.
    pub(super) fn is_discarding(&mut self, vm: VmId, move_id: &MoveId, act: &source::Act) {
        let source::Act::Discard { to, why } = act else { return };
        let until = self.now + WAIT_MAX;
        self.discard(
            vm,
            SavedDiscard {
                vm: String::new(),
                move_id: move_id.clone(),
                to: to.clone(),
                why: why.clone(),
                until,
            },
        );
    }

    fn discard(&mut self, vm: VmId, SavedDiscard { move_id, to, why, until, .. }: SavedDiscard) {
        self.discards.retain(|known| known.move_id != move_id);
        if self.discards.len() == MAX {
            self.discards.remove(0);
        }
        let pace = Pace::first(self.now, AGAIN_AFTER);
        self.discards.push(Discard { vm, move_id, to, why, until, pace });
    }

    /// Whatever the other host says of it, it knows now.
    pub(super) fn discard_answered(&mut self, move_id: &MoveId, answer: &Answer) {
        match answer {
            Answer::Done(()) | Answer::Refused(_) => self.discards.retain(|known| known.move_id != *move_id),
            Answer::Unknown(_) => {}
        }
    }

    pub(super) fn discard_again(&mut self) {
        let now = self.now;
        self.discards.retain(|known| known.until > now);
        for known in self.discards.iter_mut().filter(|known| known.pace.at <= now) {
            known.pace = known.pace.next(now);
            let act = source::Act::Discard { to: known.to.clone(), why: known.why.clone() };
            self.out.asks.push(Ask::Leave { vm: known.vm, move_id: known.move_id.clone(), act });
        }
    }

    pub(super) fn discard_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.discards.iter().map(|known| known.pace.at)
    }

    pub(super) fn save_discards(&self) -> Vec<SavedDiscard> {
        let saved = |known: &Discard| SavedDiscard {
            vm: self.spec.vm(known.vm).name.clone(),
            move_id: known.move_id.clone(),
            to: known.to.clone(),
            why: known.why.clone(),
            until: known.until,
        };
        self.discards.iter().map(saved).collect()
    }

    pub(super) fn restore_discards(&mut self, saved: Vec<SavedDiscard>) {
        for known in saved {
            if let Some(vm) = self.spec.vm_by_name(&known.vm) {
                self.discard(vm, known);
            }
        }
    }
}
