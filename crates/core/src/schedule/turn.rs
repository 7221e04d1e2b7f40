//! The words of the scheduler: what a request costs, whose turn it is and by which right, and what a charge can be undone by.

use super::tags::Paid;
use crate::ids::VmId;

/// Device time that every request costs, in pages, so that small requests are not free.
const BASE_COST_PAGES: u64 = 2;
const PAGE_SHIFT: u32 = 12;
/// Above any request there is; keeps weights far from overflow.
const COST_PAGES_MAX: u64 = 1 << 28;

/// What one request costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Bytes moved; counted against limit and reservation.
    pub bytes: u64,
}

impl Cost {
    /// A device's time for the request, in bytes: a base of 8 KiB, and the bytes rounded up to pages of 4 KiB. What a
    /// path's window and the shares are charged.
    #[must_use]
    pub const fn device_bytes(self) -> u64 {
        self.pages() << PAGE_SHIFT
    }

    pub(super) const fn pages(self) -> u64 {
        let pages = self.bytes.div_ceil(1 << PAGE_SHIFT);
        if pages > COST_PAGES_MAX { COST_PAGES_MAX } else { pages + BASE_COST_PAGES }
    }
}

/// Why a VM is the one to go; what is reserved is more than what is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    Weight,
    Reservation,
}

/// A set of paths, and all that competes for exactly these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClassId(pub u32);

/// Who goes next in a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    pub vm: VmId,
    pub class: ClassId,
    pub phase: Phase,
    pub priority: u32,
    /// When the reservation was due, in nanoseconds; or the virtual time of the VM or its group.
    pub(super) order: u64,
    /// The VM's virtual time inside its group.
    pub(super) inner: u64,
}

impl Turn {
    /// Whether this goes before another class's turn: reservations first, by priority and then the longest due; else who has had
    /// least for its shares. Weights compare between classes of one target.
    #[must_use]
    pub fn goes_before(&self, other: &Self) -> bool {
        match (self.phase, other.phase) {
            (Phase::Reservation, Phase::Weight) => true,
            (Phase::Weight, Phase::Reservation) => false,
            (Phase::Reservation, Phase::Reservation) => {
                (other.priority, self.order, self.vm) < (self.priority, other.order, other.vm)
            }
            (Phase::Weight, Phase::Weight) => {
                (self.order, self.inner, self.vm) < (other.order, other.inner, other.vm)
            }
        }
    }
}

/// What a request was charged: worth one refund.
#[must_use = "a charge that is not to be refunded has to be dropped on purpose"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    pub(super) bytes: u64,
    pub(super) own: Paid,
    pub(super) group: Option<(GroupKey, Paid)>,
    pub(super) class: ClassId,
    pub(super) outer: Mark,
    pub(super) inner: Mark,
}

/// A group as long as the process runs, whatever its place in the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GroupKey(pub(super) u32);

/// The virtual time at which one who was idle joins where nobody waits: that of the last turn.
#[derive(Clone, Debug, Default)]
pub(super) struct Clock {
    pub(super) time: u64,
    turns: u64,
    /// When it last took note of a turn, in nanoseconds.
    moved: u64,
}

/// After so long without a turn for shares nobody contends, and turns by reservation tell the time too: or one that has lived by
/// its reservation would be held back for all of that when another comes.
const UNCONTENDED: u64 = 1_000_000_000;

/// Where a clock stood before a turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    time: u64,
    turn: u64,
}

impl Clock {
    /// A turn, while `least` is the least weight that waits. As long as shares count, a turn by reservation says nothing of them.
    pub(super) fn tick(&mut self, phase: Phase, least: u64, now: u64) -> Mark {
        self.turns += 1;
        let mark = Mark { time: self.time, turn: self.turns };
        let counts = phase == Phase::Weight || now >= self.moved + UNCONTENDED;
        if counts && least != u64::MAX {
            self.time = self.time.max(least);
            self.moved = now;
        }
        mark
    }

    /// Back to before the turn, if it was the last.
    pub(super) fn undo(&mut self, mark: Mark) {
        if mark.turn == self.turns && mark.turn > 0 {
            self.time = mark.time;
            self.turns -= 1;
        }
    }

    pub(super) fn rebase(&mut self, by: u64) {
        self.time = self.time.saturating_sub(by);
        self.turns += 1;
    }
}
