//! Which path: the load-distribution function over routing information and VM information.
//!
//! The best rank wins (up before marginal, optimized before non-optimized, traffic's own paths before standbys). Within it,
//! the lowest expected completion time: `(pending + this) / rate`, or what requests take anyway; close ones take turns.
//! VMs with higher priorities above them leave headroom in each window, and go first to paths of a worse rank when there is no
//! room. Invariants: never a disabled path; never over a window, except into an empty path. Rejected: one score over rank,
//! load and priority; nobody could say why a path was taken. It does not know queues, connections or time.

mod kernel;
mod path;
#[cfg(test)]
mod tests;

pub use path::{Heard, LEVELS, Level, Pace, PathState, Rank, Spill};

use crate::ids::PathId;
use crate::schedule::Phase;
use crate::spec::PathSelector;

/// Of a window, what each level leaves to those above it: one eighth,
const HEADROOM_SHIFT: u32 = 3;
/// but no less than this, where that is a quarter of the window at most: room for a few small requests or one medium one. With
/// only an eighth of a narrow window a higher one's request would nearly always have to wait for a reply first.
const HEADROOM_MIN: u64 = 64 << 10;

/// What is asked of the selector for one request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Device bytes.
    pub cost: u64,
    pub level: Level,
    /// Why it is this VM's turn, and the VM's priority.
    pub right: (Phase, u32),
    /// Paths on which it has failed already: used last.
    pub tried: &'a [PathId],
    /// The one path that it may take, whatever others there are.
    pub only: Option<PathId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Path(PathId),
    /// Usable paths exist, but those that this request may take now have no room.
    Full(Shortage),
    /// No path is usable.
    None,
}

/// Why there is no room for a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shortage {
    /// There is room, but it is kept for VMs of higher priority.
    Headroom,
    /// The window is full, or claimed by who waits with a better right, or the path is being probed.
    Window,
}

/// Chooses among the paths `among` of `paths` (which is by `PathId`).
#[must_use]
pub fn select(selector: PathSelector, paths: &[PathState], among: &[PathId], ask: &Ask<'_>) -> Choice {
    let usable = Usable { paths, among, ask };
    match selector {
        PathSelector::Vmpath => usable.soonest(),
        PathSelector::RoundRobin => usable.first_by(kernel::turn),
        PathSelector::QueueLength => usable.first_by(kernel::queue_length),
        PathSelector::ServiceTime => usable.first_by(|path| kernel::service_time(path, ask.cost)),
    }
}

/// Whether the window has room for a request. An empty path takes any, so that one larger than the window can still go.
///
/// # Errors
/// Why there is none.
#[inline]
pub fn has_room(path: &PathState, ask: &Ask<'_>) -> Result<(), Shortage> {
    if path.pending_requests == 0 {
        return Ok(());
    }
    let fits = path.pending() + ask.cost <= path.window && path.pending_requests < path.window_requests;
    if !fits || path.claim.is_some_and(|claim| claim >= ask.right) {
        return Err(Shortage::Window);
    }
    if ask.level == Level::TOP {
        return Ok(());
    }
    let step = headroom(path.window);
    let mut kept = 0;
    for &pending in &path.from_level[1..=ask.level.index()] {
        kept += step;
        // The first of a level always may, or one that is larger than what its level may fill would never go.
        if pending != 0 && pending + ask.cost + kept > path.window {
            return Err(Shortage::Headroom);
        }
    }
    Ok(())
}

/// Device bytes of a window that each level leaves to those above it.
#[must_use]
pub const fn headroom(window: u64) -> u64 {
    let part = window >> HEADROOM_SHIFT;
    if part < HEADROOM_MIN && window >= 4 * HEADROOM_MIN { HEADROOM_MIN } else { part }
}

/// When a request would be done on the path, in ns from now, as far as can be told.
#[inline]
fn expected(path: &PathState, cost: u64) -> u64 {
    path.pace.nanos(path.pending() + cost).max(path.service)
}

/// Times that are as good as equal to the lowest: the estimates are no better than that. Such paths take turns, so that
/// under a light load each stays measured, and its loss is seen at once.
const fn close_to(soonest: u64) -> u64 {
    soonest + (soonest >> 1)
}

/// The question at hand.
#[derive(Clone, Copy)]
struct Usable<'a> {
    paths: &'a [PathState],
    among: &'a [PathId],
    ask: &'a Ask<'a>,
}

/// Orders paths before any load: first those not tried, then by rank.
type Order = u8;
const TRIED: Order = 1 << 7;

impl<'a> Usable<'a> {
    /// Each path that may be used, with its place in the order.
    #[inline]
    fn each(self) -> impl Iterator<Item = (PathId, &'a PathState, Order)> + Clone {
        let Self { paths, among, ask } = self;
        among.iter().filter_map(move |&id| {
            let path = &paths[id.index()];
            let rank = path.rank?.value();
            if ask.only.is_some_and(|only| only != id) {
                return None;
            }
            let tried = if ask.tried.contains(&id) { TRIED } else { 0 };
            Some((id, path, rank | tried))
        })
    }

    fn soonest(self) -> Choice {
        let mut best = Order::MAX;
        let mut soonest = u64::MAX;
        for (_, path, order) in self.each() {
            if order < best {
                (best, soonest) = (order, u64::MAX);
            }
            let time = expected(path, self.ask.cost);
            if order == best && time < soonest && self.room(path).is_ok() {
                soonest = time;
            }
        }
        if best == Order::MAX {
            return Choice::None;
        }
        if soonest == u64::MAX {
            return self.without_room(best);
        }
        let close = close_to(soonest);
        let mut turn = u64::MAX;
        let mut chosen = Choice::None;
        for (id, path, order) in self.each() {
            let next = path.last_dispatch < turn || chosen == Choice::None;
            if next && order == best && expected(path, self.ask.cost) <= close && self.room(path).is_ok() {
                turn = path.last_dispatch;
                chosen = Choice::Path(id);
            }
        }
        chosen
    }

    /// As [`has_room`]; but what is known of a path that was unheard of for long is one request's answer, if there is another
    /// that was heard of.
    #[inline]
    fn room(self, path: &PathState) -> Result<(), Shortage> {
        if path.is_probed() && self.has_known() {
            return Err(Shortage::Window);
        }
        has_room(path, self.ask)
    }

    #[cold]
    fn has_known(self) -> bool {
        self.each().any(|(_, path, _)| path.heard == Heard::Lately)
    }

    /// No path of the best order has room: those below others go to a worse one that is meant for it. Who has nobody above
    /// waits, unless it is known that even that would be done in half of the time.
    #[cold]
    fn without_room(self, best: Order) -> Choice {
        let cost = self.ask.cost;
        let waiting = self.each().filter(|(_, _, order)| *order == best);
        let wait = waiting.clone().map(|(_, path, _)| expected(path, cost)).min().unwrap_or(0);
        let allowed = |(_, path, order): &(PathId, &PathState, Order)| {
            let is_faster = path.heard == Heard::Lately && expected(path, cost) < wait >> 1;
            let worth_it = self.ask.level > Level::TOP || is_faster;
            let worse = *order > best && *order & TRIED == best & TRIED;
            worse && path.spill == Spill::Allowed && worth_it && self.room(path).is_ok()
        };
        let spill = self.each().filter(allowed);
        let taken = spill.min_by_key(|(_, path, order)| (*order, expected(path, cost), path.last_dispatch));
        if let Some((id, _, _)) = taken {
            return Choice::Path(id);
        }
        let shortage = waiting.filter_map(|(_, path, _)| self.room(path).err()).min();
        Choice::Full(shortage.unwrap_or(Shortage::Window))
    }

    /// The first by `key` of the best order, whoever asks. If that one has no room the request waits for it: another would
    /// not be the selector's choice.
    fn first_by<K: Ord>(self, key: impl Fn(&PathState) -> K) -> Choice {
        let ask = Ask { level: Level::TOP, ..*self.ask };
        let first = self.each().min_by_key(|(_, path, order)| (*order, key(path)));
        match first.map(|(id, path, _)| (id, has_room(path, &ask))) {
            Some((id, Ok(()))) => Choice::Path(id),
            Some((_, Err(shortage))) => Choice::Full(shortage),
            None => Choice::None,
        }
    }
}
