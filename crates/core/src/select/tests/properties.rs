//! Any paths, any request: against a reference that is written as the rules are told, and the rules that hold for all.

use crate::ids::PathId;
use crate::plan::{Health, PathRoute};
use crate::select::{Ask, Choice, Heard, LEVELS, Level, Pace, PathState, select};
use crate::spec::{Access, PathSelector};
use proptest::prelude::*;

const KIB: u64 = 1 << 10;

/// A path with its route, from which the reference takes rank and spill by itself.
type Path = (PathState, PathRoute);

fn routes() -> impl Strategy<Value = PathRoute> {
    let health = prop_oneof![
        6 => Just(Health::Up), 2 => Just(Health::Marginal), 1 => Just(Health::Down), 1 => Just(Health::Disabled)
    ];
    let access = prop_oneof![3 => Just(Access::Optimized), 1 => Just(Access::NonOptimized)];
    (health, access, prop::bool::weighted(0.8)).prop_map(|(health, access, preferred)| PathRoute {
        health,
        access,
        preferred,
    })
}

fn levels() -> impl Strategy<Value = Level> {
    (0..LEVELS).prop_map(Level::below)
}

fn paths() -> impl Strategy<Value = Vec<Path>> {
    // Amounts are few and coarse, so that windows are often just full.
    let load = prop::collection::vec((0_usize..LEVELS, (1_u64..40).prop_map(|n| n * 16 * KIB)), 0..6);
    let windows = prop_oneof![(0_u64..16).prop_map(|n| n * 128 * KIB), Just(272 * KIB)];
    let speed = ((1_u64..8).prop_map(|n| n << 22), (0_u64..8).prop_map(|n| n * 2_000_000));
    let rest = (prop::option::weighted(0.2, levels()), 1_u32..12, 0_u64..9, prop::bool::weighted(0.8));
    let one = (routes(), load, windows, speed, rest);
    let one = one.prop_map(|(route, load, window, (rate, service), (claim, requests, turn, heard))| {
        let mut path = PathState::new(route, window, rate);
        for (level, cost) in load {
            path.dispatched(cost, Level::below(level), turn);
        }
        path.claim = claim;
        path.window_requests = requests;
        path.service = service;
        path.last_dispatch = turn;
        path.heard = if heard { Heard::Lately } else { Heard::LongAgo };
        (path, route)
    });
    prop::collection::vec(one, 1..8)
}

#[derive(Clone, Debug)]
struct Question {
    cost: u64,
    level: usize,
    tried: Vec<PathId>,
    only: Option<PathId>,
    among: Vec<PathId>,
}

fn questions() -> impl Strategy<Value = Question> {
    let ids = |max| prop::collection::vec((0_u16..8).prop_map(PathId), 0..max);
    let only = prop::option::weighted(0.1, (0_u16..8).prop_map(PathId));
    ((1_u64..40).prop_map(|n| n * 16 * KIB), 0..LEVELS, ids(3), only, ids(12))
        .prop_map(|(cost, level, tried, only, among)| Question { cost, level, tried, only, among })
}

impl Question {
    fn among(&self, paths: usize) -> Vec<PathId> {
        let mut among: Vec<PathId> = self.among.iter().copied().filter(|id| id.index() < paths).collect();
        among.sort_unstable();
        among.dedup();
        if among.is_empty() { (0..paths).map(PathId::at).collect() } else { among }
    }

    fn ask(&self) -> Ask<'_> {
        let level = Level::below(self.level);
        Ask { cost: self.cost, level, tried: &self.tried, only: self.only, patience: None }
    }

    fn choose(&self, selector: PathSelector, paths: &[Path]) -> Choice {
        let states: Vec<PathState> = paths.iter().map(|(state, _)| *state).collect();
        select(selector, &states, &self.among(paths.len()), &self.ask())
    }
}

fn reference_rank(route: PathRoute) -> Option<u8> {
    let far = u8::from(route.access == Access::NonOptimized);
    match route.health {
        Health::Draining | Health::Disabled => None,
        Health::Up if route.preferred => Some(far),
        Health::Up | Health::Marginal | Health::Down => Some(2 + far),
    }
}

fn spills_to(route: PathRoute) -> bool {
    let worse = route.health == Health::Marginal || route.access == Access::NonOptimized;
    route.preferred && worse && matches!(route.health, Health::Up | Health::Marginal)
}

fn reference_room(path: &PathState, question: &Question, another_is_known: bool) -> Option<Level> {
    if path.pending_requests == 0 {
        return None;
    }
    let probing = path.heard == Heard::LongAgo && another_is_known;
    let over = path.from_level[0] + question.cost > path.window;
    if probing || over || path.pending_requests + 1 > path.window_requests {
        return Some(Level::TOP);
    }
    if let Some(claim) = path.claim
        && claim.index() <= question.level
    {
        return Some(claim);
    }
    for level in 1..=question.level {
        let part = if path.window >= 256 * KIB { (path.window / 8).max(64 * KIB) } else { path.window / 8 };
        let most = path.window.saturating_sub(level as u64 * part);
        if path.from_level[level] > 0 && path.from_level[level] + question.cost > most {
            return Some(Level::below(level));
        }
    }
    None
}

fn reference_time(path: &PathState, cost: u64) -> u64 {
    path.pace.nanos(path.from_level[0] + cost).max(path.service)
}

fn reference(paths: &[Path], question: &Question) -> Choice {
    let key =
        |id: &PathId| reference_rank(paths[id.index()].1).map(|rank| (question.tried.contains(id), rank));
    let mut usable = question.among(paths.len());
    usable.retain(|id| key(id).is_some() && question.only.is_none_or(|only| only == *id));
    let state = |id: &PathId| &paths[id.index()].0;
    let is_known = usable.iter().any(|id| state(id).heard == Heard::Lately);
    let shortage = |id: &PathId| reference_room(state(id), question, is_known);
    let Some(best) = usable.iter().map(key).min() else { return Choice::None };
    let (first, rest): (Vec<PathId>, Vec<PathId>) = usable.iter().partition(|id| key(id) == best);
    let time = |id: &PathId| reference_time(state(id), question.cost);
    let free: Vec<PathId> = first.iter().copied().filter(|id| shortage(id).is_none()).collect();
    if let Some(soonest) = free.iter().map(time).min() {
        let close = free.iter().filter(|id| time(id) <= soonest + soonest / 2);
        return Choice::Path(*close.min_by_key(|id| state(id).last_dispatch).unwrap());
    }
    let wait = first.iter().map(time).min().unwrap();
    let mut spill: Vec<PathId> = rest;
    spill.retain(|id| {
        let same = key(id).unwrap().0 == best.unwrap().0;
        let worth_it = question.level > 0 || (state(id).heard == Heard::Lately && time(id) < wait / 2);
        same && worth_it && spills_to(paths[id.index()].1) && shortage(id).is_none()
    });
    match spill.iter().min_by_key(|id| (key(id), time(id), state(id).last_dispatch)) {
        Some(id) => Choice::Path(*id),
        None => Choice::Full(first.iter().filter_map(shortage).max().unwrap()),
    }
}

const ALL: [PathSelector; 4] =
    [PathSelector::Vmpath, PathSelector::RoundRobin, PathSelector::QueueLength, PathSelector::ServiceTime];

proptest! {
    #![proptest_config(crate::testing::cases(2000))]

    #[test]
    fn the_choice_is_the_references(paths in paths(), question in questions()) {
        prop_assert_eq!(question.choose(PathSelector::Vmpath, &paths), reference(&paths, &question));
    }

    #[test]
    fn no_selector_breaks_a_rule_of_all(paths in paths(), question in questions()) {
        for selector in ALL {
            let Choice::Path(id) = question.choose(selector, &paths) else { continue };
            let (path, route) = &paths[id.index()];
            prop_assert_ne!(route.health, Health::Disabled);
            prop_assert!(question.among(paths.len()).contains(&id));
            prop_assert!(question.only.is_none_or(|only| only == id));
            let fits = path.pending() + question.cost <= path.window
                && path.pending_requests < path.window_requests;
            prop_assert!(path.pending_requests == 0 || fits, "{selector:?} overdraws a window");
        }
    }

    /// Who has fewer above gets a path too, unless it waits for a better one by its own choice: then the lower one's is of a
    /// worse rank, and unheard of for long, or half of the wait or more.
    #[test]
    fn a_higher_level_is_never_worse_off(paths in paths(), question in questions(), below in 1..LEVELS) {
        let lower = Question { level: below, ..question.clone() };
        let upper = Question { level: below - 1, ..question };
        let rank = |choice| match choice {
            Choice::Path(PathId(id)) => reference_rank(paths[usize::from(id)].1),
            Choice::Full(_) | Choice::None => None,
        };
        let lower = lower.choose(PathSelector::Vmpath, &paths);
        let higher = upper.choose(PathSelector::Vmpath, &paths);
        match (lower, higher) {
            (Choice::Path(taken), Choice::Path(other)) => {
                // Who has nobody above goes to a worse rank only if that is known to be faster.
                let time = |id: PathId| reference_time(&paths[id.index()].0, upper.cost);
                let is_unknown = paths[taken.index()].0.heard == Heard::LongAgo;
                let by_choice = upper.level == 0 && (is_unknown || time(other) < time(taken));
                prop_assert!(rank(higher) <= rank(lower) || by_choice);
            }
            (Choice::Path(taken), Choice::Full(_)) => {
                prop_assert_eq!(upper.level, 0);
                let among = upper.among(paths.len());
                let better = among.iter().filter(|id| reference_rank(paths[id.index()].1) < rank(lower));
                let wait = better.map(|id| reference_time(&paths[id.index()].0, upper.cost)).min();
                let there = reference_time(&paths[taken.index()].0, upper.cost);
                let is_unknown = paths[taken.index()].0.heard == Heard::LongAgo;
                let waits = wait.is_some_and(|wait| is_unknown || there >= wait / 2);
                prop_assert!(waits, "it waits for nothing better");
            }
            (Choice::Path(_), Choice::None) => prop_assert!(false, "the same paths are usable"),
            (Choice::Full(_) | Choice::None, _) => {}
        }
    }

    #[test]
    fn pace_orders_as_rate_does(a in 1_u64..1 << 34, b in 1_u64..1 << 34) {
        prop_assert_eq!(a <= b, Pace::of(a) >= Pace::of(b) || a == b);
    }
}
