//! What must be known of a unit's writes after the process is gone: each write that may take effect late has a slot.
//!
//! Rule: a slot is noted before its write can leave, and freed only when nothing of the write can come any more. A slot
//! without an end belongs to a write that its guest has open; one with an end is a ghost's, which nobody may take for
//! his own. Rejected: a log; what counts is only what is still open, and a log would have to be cleaned on the I/O path.
//! It does not know where slots are kept, nor how.

use super::Extent;
use crate::time::Instant;

/// Small: at most as many as there are writes in flight and ranges in quarantine at one time.
pub type Slot = u32;

/// What is to be written down, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Note {
    Remember { slot: Slot, range: Extent, until: Option<Instant> },
    Forget { slot: Slot },
}

/// Slots in use, and the notes not yet taken. One for all units of a router.
#[derive(Debug, Default)]
pub struct Record {
    free: Vec<Slot>,
    slots: Slot,
    notes: Vec<Note>,
}

impl Record {
    /// A slot for a write; `until` as in [`Self::change`].
    pub(super) fn remember(&mut self, range: &Extent, until: Option<Instant>) -> Slot {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots += 1;
            self.slots - 1
        });
        self.change(slot, range, until);
        slot
    }

    /// None: its guest has it open. Otherwise it is a ghost up to then; for ever means until its answer.
    pub(super) fn change(&mut self, slot: Slot, range: &Extent, until: Option<Instant>) {
        self.notes.push(Note::Remember { slot, range: range.clone(), until });
    }

    pub(super) fn forget(&mut self, slot: Slot) {
        self.free.push(slot);
        self.notes.push(Note::Forget { slot });
    }

    pub(crate) fn take_notes(&mut self) -> std::vec::Drain<'_, Note> {
        self.notes.drain(..)
    }
}
