//! Which path: the load-distribution function over routing information and VM information.
//!
//! The best rank wins (up before marginal, optimized before non-optimized, traffic's own paths before standbys); within
//! it, the lowest expected completion time: `(pending + this) / rate`, or what requests take anyway; close ones take turns. VMs that a higher-priority one competes with
//! leave headroom in each window: together they fill a part of it only. Rejected: sending nothing of theirs while the
//! window is fuller than that, by whomever; a higher-priority VM that always has work waiting would shut them out.
//! It does not know queues, connections or time.

use crate::plan::{Health, PathRoute};
use crate::spec::Access;
use crate::time::Duration;

/// The part of a window that VMs leave to competing VMs of higher priority: one eighth.
const HEADROOM_SHIFT: u32 = 3;

/// Expected times within a half of the lowest are as good as equal: the estimates are no better than that. Such paths take
/// turns, so that under a light load each stays measured, and its loss is seen at once.
const CLOSE_DIVISOR: u128 = 2;

/// A path as the selector sees it. One entry for each path that has a live connection to the unit.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub route: PathRoute,
    /// Device bytes in flight on it, from all units and VMs.
    pub pending: u64,
    /// Of these, what VMs sent while one of higher priority competed.
    pub pending_outranked: u64,
    pub window: u64,
    /// Estimated device bytes per second; at least 1.
    pub rate: u64,
    /// What requests have lately taken on it; zero if that is not known. A path far away is slow without any queue.
    pub service_time: Duration,
    pub tried: Tried,
    /// Grows with each dispatch on any path: the path with the lowest has not had one for longest.
    pub last_dispatch: u64,
}

/// Whether this request has already failed on the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tried {
    No,
    Yes,
}

/// Whether a VM of higher priority competes for the same paths now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Highest,
    Outranked,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Index into the candidates.
    Path(usize),
    /// Usable paths exist, but the windows of the best ranked are full.
    Full,
    None,
}

/// Lower is better; none if the path must not be used.
#[must_use]
pub fn rank(route: PathRoute) -> Option<u8> {
    let base = match (route.health, route.preferred) {
        (Health::Up, true) => 0,
        // A live connection on a path that the plan still calls down has just come back: as good as marginal.
        (Health::Up, false) | (Health::Marginal | Health::Down, _) => 2,
        (Health::Disabled, _) => return None,
    };
    Some(base + u8::from(route.access == Access::NonOptimized))
}

/// Chooses among the candidates for a request that costs `cost` device bytes.
#[must_use]
pub fn select(candidates: &[Candidate], cost: u64, standing: Standing) -> Choice {
    let key = |c: &Candidate| rank(c.route).map(|rank| (c.tried, rank));
    let Some(best) = candidates.iter().filter_map(key).min() else {
        return Choice::None;
    };
    let usable = |c: &Candidate| key(c) == Some(best) && has_room(c, cost, standing);
    let Some(soonest) = candidates.iter().filter(|c| usable(c)).map(|c| expected_nanos(c, cost)).min() else {
        return Choice::Full;
    };
    let close = soonest + soonest / CLOSE_DIVISOR;
    candidates
        .iter()
        .enumerate()
        .filter(|(_, c)| usable(c) && expected_nanos(c, cost) <= close)
        .min_by_key(|(_, c)| c.last_dispatch)
        .map_or(Choice::Full, |(index, _)| Choice::Path(index))
}

/// An empty path takes any request, so that one larger than the window can still go.
#[must_use]
pub fn has_room(path: &Candidate, cost: u64, standing: Standing) -> bool {
    let headroom_is_left = match standing {
        Standing::Highest => true,
        Standing::Outranked => {
            path.pending_outranked == 0
                || path.pending_outranked + cost <= path.window - (path.window >> HEADROOM_SHIFT)
        }
    };
    path.pending == 0 || (path.pending + cost <= path.window && headroom_is_left)
}

fn expected_nanos(path: &Candidate, cost: u64) -> u128 {
    let queue = u128::from(path.pending + cost) * 1_000_000_000 / u128::from(path.rate.max(1));
    queue.max(path.service_time.as_nanos())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn up() -> Candidate {
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        Candidate {
            route,
            pending: 0,
            pending_outranked: 0,
            window: 1 << 20,
            rate: 100 << 20,
            service_time: Duration::ZERO,
            tried: Tried::No,
            last_dispatch: 0,
        }
    }

    #[test]
    fn the_lowest_expected_completion_time_wins() {
        let busy = Candidate { pending: 512 << 10, ..up() };
        let slow = Candidate { rate: 10 << 20, ..up() };
        let earlier = Candidate { last_dispatch: 1, ..up() };
        let later = Candidate { last_dispatch: 2, rate: 120 << 20, ..up() };
        assert_eq!(
            select(&[later, earlier], 4096, Standing::Highest),
            Choice::Path(1),
            "as good as equal: in turn"
        );
        let far = Candidate { service_time: Duration::from_millis(10), last_dispatch: 0, ..up() };
        assert_eq!(select(&[far, later], 4096, Standing::Highest), Choice::Path(1), "far away, though idle");
        assert_eq!(select(&[busy, up()], 4096, Standing::Highest), Choice::Path(1));
        assert_eq!(
            select(&[slow, busy], 4096, Standing::Highest),
            Choice::Path(0),
            "an idle slow path beats a long queue"
        );
        assert_eq!(
            select(&[slow, busy], 256 << 10, Standing::Highest),
            Choice::Path(1),
            "but not for a large request"
        );
    }

    #[test]
    fn rank_comes_before_load() {
        let full = Candidate { pending: 1 << 20, ..up() };
        let marginal = Candidate { route: PathRoute { health: Health::Marginal, ..up().route }, ..up() };
        let far = Candidate { route: PathRoute { access: Access::NonOptimized, ..up().route }, ..up() };
        let standby = Candidate { route: PathRoute { preferred: false, ..up().route }, ..up() };
        assert_eq!(select(&[full, marginal], 4096, Standing::Highest), Choice::Full, "marginal is used last");
        assert_eq!(select(&[marginal], 4096, Standing::Highest), Choice::Path(0), "not never");
        assert_eq!(select(&[marginal, far], 4096, Standing::Highest), Choice::Path(1));
        assert_eq!(select(&[standby, far], 4096, Standing::Highest), Choice::Path(1));
    }

    #[test]
    fn a_disabled_path_is_never_used_and_a_tried_one_only_last() {
        let disabled = Candidate { route: PathRoute { health: Health::Disabled, ..up().route }, ..up() };
        let tried = Candidate { tried: Tried::Yes, ..up() };
        let marginal = Candidate { route: PathRoute { health: Health::Marginal, ..up().route }, ..up() };
        assert_eq!(select(&[disabled], 4096, Standing::Highest), Choice::None);
        assert_eq!(select(&[tried, marginal], 4096, Standing::Highest), Choice::Path(1));
        assert_eq!(select(&[tried], 4096, Standing::Highest), Choice::Path(0));
    }

    #[test]
    fn the_outranked_leave_headroom_and_an_empty_path_takes_anything() {
        let pending = (1 << 20) - (64 << 10);
        let nearly = Candidate { pending, pending_outranked: pending, ..up() };
        assert_eq!(select(&[nearly], 32 << 10, Standing::Highest), Choice::Path(0));
        assert_eq!(select(&[nearly], 32 << 10, Standing::Outranked), Choice::Full);
        let of_others = Candidate { pending_outranked: 0, ..nearly };
        assert_eq!(
            select(&[of_others], 32 << 10, Standing::Outranked),
            Choice::Path(0),
            "they are not shut out"
        );
        assert_eq!(select(&[of_others], 65 << 10, Standing::Outranked), Choice::Full);
        assert_eq!(select(&[up()], 32 << 20, Standing::Outranked), Choice::Path(0));
    }
}
