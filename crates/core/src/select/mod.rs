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
    /// Paths on which it has failed already: used last.
    pub tried: &'a [PathId],
    /// The one path that it may take, whatever others there are.
    pub only: Option<PathId>,
    /// How long it has waited, in ns, if it would rather wait for room on a fast path than take a slow one: others of lower
    /// priority take that. None: it takes what has room.
    pub patience: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Path(PathId),
    /// Usable paths exist, but those that this request may take now have no room for it. What it lacks is shared by the VMs of
    /// this level and those below; for higher ones there may be room. [`Level::TOP`]: for nobody.
    Full(Level),
    /// No path is usable.
    None,
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
/// The level from which on there is none. Higher ones do not use what this request waits for.
#[inline]
pub fn has_room(path: &PathState, ask: &Ask<'_>) -> Result<(), Level> {
    if path.pending_requests == 0 {
        return Ok(());
    }
    let fits = path.pending() + ask.cost <= path.window && path.pending_requests < path.window_requests;
    if !fits {
        return Err(Level::TOP);
    }
    if let Some(claim) = path.claim.filter(|claim| ask.level >= *claim) {
        return Err(claim);
    }
    if ask.level == Level::TOP {
        return Ok(());
    }
    let step = headroom(path.window);
    let mut kept = 0;
    for (level, &pending) in path.from_level.iter().enumerate().take(ask.level.index() + 1).skip(1) {
        kept += step;
        // The first of a level always may, or one that is larger than what its level may fill would never go.
        if pending != 0 && pending + ask.cost + kept > path.window {
            return Err(Level::below(level));
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
        let Self { paths, among, .. } = self;
        among.iter().filter_map(move |&id| {
            let path = &paths[id.index()];
            Some((id, path, self.order(id, path)?))
        })
    }

    /// A path's place in the order; none if the request may not take it.
    #[inline]
    fn order(self, id: PathId, path: &PathState) -> Option<Order> {
        let rank = path.rank?.value();
        if self.ask.only.is_some_and(|only| only != id) {
            return None;
        }
        Some(if self.ask.tried.contains(&id) { rank | TRIED } else { rank })
    }

    fn soonest(self) -> Choice {
        // Nearly every request may take any path and has failed on none: then the order is the rank.
        if self.ask.only.is_none() && self.ask.tried.is_empty() {
            self.soonest_by(|_, path| path.rank.map(Rank::value))
        } else {
            self.soonest_by(|id, path| self.order(id, path))
        }
    }

    #[inline(always)]
    fn soonest_by(self, order_of: impl Fn(PathId, &PathState) -> Option<Order>) -> Choice {
        let cost = self.ask.cost;
        let mut best = Order::MAX;
        let mut soonest = u64::MAX;
        // Whether or not there is room.
        let mut fastest = u64::MAX;
        for &id in self.among {
            let path = &self.paths[id.index()];
            let Some(order) = order_of(id, path).filter(|order| *order <= best) else { continue };
            if order < best {
                (best, soonest, fastest) = (order, u64::MAX, u64::MAX);
            }
            let time = expected(path, cost);
            fastest = fastest.min(time);
            if time < soonest && self.room(path).is_ok() {
                soonest = time;
            }
        }
        if best == Order::MAX {
            return Choice::None;
        }
        if soonest == u64::MAX {
            return self.without_room(best);
        }
        if let Some(waited) = self.ask.patience
            && fastest < soonest >> 1
            && waited < soonest
        {
            return Choice::Full(Level::TOP);
        }
        let close = close_to(soonest);
        let (mut turn, mut chosen) = (u64::MAX, Choice::None);
        for &id in self.among {
            let path = &self.paths[id.index()];
            if path.last_dispatch < turn
                && expected(path, cost) <= close
                && order_of(id, path) == Some(best)
                && self.room(path).is_ok()
            {
                (turn, chosen) = (path.last_dispatch, Choice::Path(id));
            }
        }
        chosen
    }

    /// As [`has_room`]; but what is known of a path that was unheard of for long is one request's answer, if there is another
    /// that was heard of.
    #[inline]
    fn room(self, path: &PathState) -> Result<(), Level> {
        if path.is_probed() && self.has_known() {
            return Err(Level::TOP);
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
        let shortage = waiting.filter_map(|(_, path, _)| self.room(path).err()).max();
        Choice::Full(shortage.unwrap_or(Level::TOP))
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
