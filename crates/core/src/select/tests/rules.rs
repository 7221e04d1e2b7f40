//! One table for each rule. Paths are described in words; `a` is the first.

use crate::ids::PathId;
use crate::plan::{Health, PathRoute};
use crate::select::{Ask, Choice, Heard, Level, Pace, PathState, headroom, select};
use crate::spec::{Access, PathSelector};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const A: PathId = PathId(0);
const B: PathId = PathId(1);
const C: PathId = PathId(2);
/// There may be room for higher levels than this.
fn kept(level: usize) -> Choice {
    Choice::Full(Level::below(level))
}

const FULL: Choice = Choice::Full(Level::TOP);

fn route(health: Health, access: Access, preferred: bool) -> PathRoute {
    PathRoute { health, access, preferred }
}

/// Optimized, up, preferred; 1 MiB of window, 100 MiB/s; nothing in flight.
fn up() -> PathState {
    PathState::new(route(Health::Up, Access::Optimized, true), MIB, 100 * MIB)
}

fn of(route: PathRoute) -> PathState {
    PathState::new(route, MIB, 100 * MIB)
}

fn far() -> PathState {
    of(route(Health::Up, Access::NonOptimized, true))
}

fn marginal() -> PathState {
    of(route(Health::Marginal, Access::Optimized, true))
}

fn standby() -> PathState {
    of(route(Health::Up, Access::Optimized, false))
}

fn disabled() -> PathState {
    of(route(Health::Disabled, Access::Optimized, true))
}

/// With that much in flight, all of it from VMs of `level`.
fn busy(path: PathState, pending: u64, level: usize) -> PathState {
    let mut path = path;
    path.dispatched(pending, Level::below(level), 0);
    path
}

fn ask(cost: u64, level: usize) -> Ask<'static> {
    Ask { cost, level: Level::below(level), tried: &[], only: None, patience: None }
}

fn choose(paths: &[PathState], ask: &Ask<'_>) -> Choice {
    by(PathSelector::Vmpath, paths, ask)
}

fn by(selector: PathSelector, paths: &[PathState], ask: &Ask<'_>) -> Choice {
    let among: Vec<PathId> = (0..paths.len()).map(PathId::at).collect();
    select(selector, paths, &among, ask)
}

#[test]
fn rank_comes_before_load() {
    let down = of(route(Health::Down, Access::Optimized, true));
    for (paths, expect, why) in [
        (vec![marginal(), busy(up(), 512 * KIB, 0)], B, "up before marginal"),
        (vec![far(), busy(up(), 512 * KIB, 0)], B, "optimized before non-optimized"),
        (vec![standby(), busy(far(), 512 * KIB, 0)], B, "traffic's own before a standby"),
        (vec![marginal(), disabled()], A, "marginal is used last, not never"),
        (vec![disabled(), standby()], B, "so is a standby"),
        (vec![disabled(), down], B, "and a path that has just come back"),
    ] {
        assert_eq!(choose(&paths, &ask(4096, 0)), Choice::Path(expect), "{why}");
    }
    assert_eq!(choose(&[disabled()], &ask(4096, 0)), Choice::None);
    assert_eq!(choose(&[], &ask(4096, 0)), Choice::None);
}

#[test]
fn the_lowest_expected_completion_time_wins() {
    let slow = PathState { pace: Pace::of(10 * MIB), ..up() };
    let distant = PathState { service: 10_000_000, ..up() };
    let later = PathState { last_dispatch: 2, ..up() };
    let earlier = PathState { last_dispatch: 1, pace: Pace::of(80 * MIB), ..up() };
    let half = busy(up(), 512 * KIB, 0);
    for (paths, cost, expect, why) in [
        (vec![half, up()], 4096, B, "a queue"),
        (vec![distant, later], 4096, B, "far away, though idle"),
        (vec![slow, half], 4096, A, "an idle slow path beats a long queue"),
        (vec![slow, half], 256 * KIB, B, "but not for a large request"),
        (vec![later, earlier], 256 * KIB, B, "as good as equal: in turn"),
        (vec![PathState { last_dispatch: 9, ..up() }, slow], 256 * KIB, A, "ten times slower is not"),
    ] {
        assert_eq!(choose(&paths, &ask(cost, 0)), Choice::Path(expect), "{why}");
    }
}

#[test]
fn tried_paths_are_used_last_and_others_than_the_only_one_not_at_all() {
    let tried = Ask { tried: &[A], ..ask(4096, 0) };
    assert_eq!(choose(&[up(), marginal()], &tried), Choice::Path(B));
    assert_eq!(choose(&[up()], &tried), Choice::Path(A), "there is no other");
    assert_eq!(choose(&[up(), disabled()], &tried), Choice::Path(A));
    let full = busy(up(), MIB, 0);
    let tried = Ask { tried: &[B], ..ask(4096, 1) };
    assert_eq!(choose(&[full, far()], &tried), FULL, "nobody spills to where it failed");
    let only = Ask { only: Some(B), ..ask(4096, 0) };
    assert_eq!(choose(&[up(), marginal()], &only), Choice::Path(B));
    assert_eq!(choose(&[up(), busy(marginal(), MIB, 0)], &only), FULL);
    assert_eq!(choose(&[up(), disabled()], &only), Choice::None);
    let among = [C, A];
    let paths = [up(), up(), up()];
    assert_ne!(select(PathSelector::Vmpath, &paths, &among, &ask(4096, 0)), Choice::Path(B));
}

#[test]
fn a_window_is_never_overdrawn_but_an_empty_path_takes_anything() {
    let nearly = busy(up(), MIB - 8 * KIB, 0);
    assert_eq!(choose(&[nearly], &ask(8 * KIB, 0)), Choice::Path(A));
    assert_eq!(choose(&[nearly], &ask(9 * KIB, 0)), FULL);
    assert_eq!(choose(&[up()], &ask(32 * MIB, 3)), Choice::Path(A));
    let many = PathState { pending_requests: 8, window_requests: 8, ..nearly };
    assert_eq!(choose(&[many], &ask(4096, 0)), FULL, "as many requests as may be");
    assert_eq!(choose(&[PathState { window: 0, ..up() }], &ask(4096, 0)), Choice::Path(A), "empty");
}

#[test]
fn each_level_leaves_headroom_to_those_above() {
    assert_eq!(headroom(MIB), 128 * KIB);
    assert_eq!(headroom(256 * KIB), 64 * KIB, "room for a request or two");
    assert_eq!(headroom(128 * KIB), 16 * KIB);
    let eighth = 128 * KIB;
    for (pending, of_level, cost, level, expect) in [
        (7 * eighth, 1, 64 * KIB, 0, Choice::Path(A)),
        (7 * eighth, 1, 64 * KIB, 1, kept(1)),
        (6 * eighth, 1, eighth, 1, Choice::Path(A)),
        (6 * eighth, 1, eighth, 2, Choice::Path(A)),
        (6 * eighth, 2, eighth, 2, kept(2)),
        (6 * eighth, 2, eighth, 1, Choice::Path(A)),
        (5 * eighth, 3, eighth, 3, kept(3)),
        (4 * eighth, 3, eighth, 3, Choice::Path(A)),
        // What higher ones fill is not counted against those below: they are not shut out.
        (7 * eighth, 0, eighth, 3, Choice::Path(A)),
        (7 * eighth, 0, eighth + 1, 3, FULL),
    ] {
        let paths = [busy(up(), pending, of_level)];
        let is = choose(&paths, &ask(cost, level));
        assert_eq!(is, expect, "{pending} of level {of_level}, {cost} of level {level}");
    }
    let mixed = busy(busy(up(), 2 * eighth, 0), 4 * eighth, 2);
    assert_eq!(choose(&[mixed], &ask(2 * eighth, 2)), Choice::Path(A));
    assert_eq!(choose(&[mixed], &ask(2 * eighth + 1, 2)), FULL);
    let lower = busy(up(), 5 * eighth, 2);
    assert_eq!(choose(&[lower], &ask(eighth, 3)), Choice::Path(A));
    assert_eq!(choose(&[lower], &ask(2 * eighth, 3)), kept(2), "levels 2 and 3 together leave 2/8");
}

#[test]
fn who_shares_the_room_that_a_request_waits_for_leaves_it_what_comes_free() {
    let claimed = |level| PathState { claim: Some(Level::below(level)), ..busy(up(), 64 * KIB, 0) };
    for (claim, level, expect) in [
        (1, 0, Choice::Path(A)),
        (1, 1, kept(1)),
        (1, 3, kept(1)),
        (3, 2, Choice::Path(A)),
        (0, 0, FULL),
        (0, 3, FULL),
    ] {
        assert_eq!(choose(&[claimed(claim)], &ask(4096, level)), expect, "{claim} against {level}");
    }
    let empty = PathState { claim: Some(Level::TOP), ..up() };
    assert_eq!(choose(&[empty], &ask(4096, 3)), Choice::Path(A), "an empty path takes any");
}

#[test]
fn who_outranks_others_waits_for_a_fast_path_rather_than_take_a_slow_one() {
    let fast = busy(up(), MIB, 0);
    let slow = PathState { service: 50_000_000, ..up() };
    let waited = |patience| Ask { patience, ..ask(64 * KIB, 0) };
    assert_eq!(choose(&[fast, slow], &waited(None)), Choice::Path(B), "what has room");
    assert_eq!(choose(&[fast, slow], &waited(Some(0))), FULL);
    assert_eq!(
        choose(&[fast, slow], &waited(Some(50_000_000))),
        Choice::Path(B),
        "not for longer than that takes"
    );
    let near = PathState { service: 1_000_000, ..up() };
    assert_eq!(choose(&[fast, near], &waited(Some(0))), Choice::Path(B), "as good");
}

#[test]
fn without_room_the_lower_ones_spill() {
    let full = busy(up(), MIB, 0);
    let slow_far = PathState { pace: Pace::of(60 * MIB), ..far() };
    let quick_far = PathState { pace: Pace::of(300 * MIB), ..far() };
    let large = 512 * KIB;
    for (second, cost, level, expect, why) in [
        (far(), 4096, 1, Choice::Path(B), "to a non-optimized path"),
        (marginal(), 4096, 1, Choice::Path(B), "to a marginal path"),
        (standby(), 4096, 3, FULL, "not to a standby that waits for failback"),
        (of(route(Health::Marginal, Access::Optimized, false)), 4096, 3, FULL, "nor to a marginal one"),
        (
            of(route(Health::Down, Access::Optimized, true)),
            4096,
            3,
            FULL,
            "nor to one that has just come back",
        ),
        (disabled(), 4096, 3, FULL, "nor to a disabled one"),
        (busy(far(), MIB, 0), 4096, 1, FULL, "nor where there is no room either"),
        (slow_far, large, 0, FULL, "the highest wait"),
        (quick_far, large, 0, Choice::Path(B), "unless it is twice as fast"),
    ] {
        assert_eq!(choose(&[full, second], &ask(cost, level)), expect, "{why}");
    }
    let by_headroom = busy(up(), 7 * 128 * KIB, 1);
    assert_eq!(choose(&[by_headroom, far()], &ask(4096, 1)), Choice::Path(B), "headroom is no room");
    assert_eq!(choose(&[by_headroom, far()], &ask(4096, 0)), Choice::Path(A));
    assert_eq!(choose(&[full, marginal(), far()], &ask(4096, 1)), Choice::Path(C), "by rank");
    assert_eq!(choose(&[up(), far()], &ask(4096, 3)), Choice::Path(A), "only without room");
}

#[test]
fn a_path_unheard_of_for_long_is_probed_by_one_request() {
    let quiet = PathState { heard: Heard::LongAgo, last_dispatch: 1, ..up() };
    let probed = PathState { pace: Pace::of(MIB * 1000), ..busy(quiet, 12 * KIB, 0) };
    let other = PathState { last_dispatch: 2, ..up() };
    assert_eq!(choose(&[quiet, other], &ask(4096, 0)), Choice::Path(A), "the probe");
    assert_eq!(choose(&[probed, other], &ask(4096, 0)), Choice::Path(B), "no herd");
    assert_eq!(choose(&[probed, probed], &ask(4096, 0)), Choice::Path(A), "nothing better is known");
    assert_eq!(choose(&[probed], &ask(4096, 0)), Choice::Path(A), "there is no other");
    assert_eq!(choose(&[probed, disabled()], &ask(4096, 0)), Choice::Path(A));
    let only = Ask { only: Some(A), ..ask(4096, 0) };
    assert_eq!(choose(&[probed, other], &only), Choice::Path(A), "it may take no other");
    let heard = PathState { heard: Heard::Lately, ..probed };
    assert_eq!(choose(&[heard, other], &ask(4096, 0)), Choice::Path(A));
}

#[test]
fn the_kernels_selectors() {
    use PathSelector::{QueueLength, RoundRobin, ServiceTime};
    let a = PathState { last_dispatch: 5, ..busy(busy(up(), 4 * KIB, 0), 4 * KIB, 0) };
    let b = PathState { last_dispatch: 9, ..busy(up(), 256 * KIB, 0) };
    let fast = PathState { pace: Pace::of(1000 * MIB), last_dispatch: 10, ..busy(b, 64 * KIB, 0) };
    for (selector, paths, expect) in [
        (RoundRobin, vec![a, b], A),
        (RoundRobin, vec![b, a], B),
        (QueueLength, vec![a, b], B),
        (QueueLength, vec![fast, a], B),
        (ServiceTime, vec![b, a], B),
        (ServiceTime, vec![fast, b], A),
        (RoundRobin, vec![far(), b], B),
        (QueueLength, vec![disabled(), far(), a], C),
        (ServiceTime, vec![marginal(), far()], B),
    ] {
        let paths: Vec<PathState> = paths;
        assert_eq!(by(selector, &paths, &ask(4096, 0)), Choice::Path(expect), "{selector:?}");
        assert_eq!(by(selector, &paths, &ask(4096, 3)), Choice::Path(expect), "{selector:?} knows no VMs");
    }
    let full = PathState { last_dispatch: 1, ..busy(up(), MIB, 0) };
    assert_eq!(by(RoundRobin, &[full, b], &ask(4096, 0)), FULL, "it is that one's turn");
    assert_eq!(by(QueueLength, &[full, far()], &ask(4096, 3)), FULL, "nobody spills");
    let by_headroom = busy(up(), 7 * 128 * KIB, 1);
    assert_eq!(by(RoundRobin, &[by_headroom], &ask(64 * KIB, 1)), Choice::Path(A), "no headroom");
}

#[test]
fn what_is_counted_when_it_is_sent_is_counted_back() {
    let mut path = up();
    path.dispatched(10, Level::below(2), 7);
    path.dispatched(5, Level::TOP, 8);
    assert_eq!((path.from_level, path.pending_requests, path.last_dispatch), ([15, 10, 10, 0], 2, 8));
    path.ended(10, Level::below(2));
    assert_eq!((path.from_level, path.pending_requests), ([5, 0, 0, 0], 1));
    path.ended(5, Level::TOP);
    assert_eq!((path.pending(), path.pending_requests), (0, 0));
    assert_eq!(Level::below(9), Level::below(3));
}

#[test]
fn a_pace_is_the_inverse_of_a_rate() {
    for rate in [MIB, 100 * MIB, 10_000 * MIB] {
        let is = Pace::of(rate).nanos(64 * MIB);
        let should = 64 * MIB * 1_000_000_000 / rate;
        assert!(is.abs_diff(should) <= should / 200, "{is} ns for {should} ns");
    }
    assert!(Pace::of(0).nanos(1 << 41) > 0, "nothing overflows");
    assert!(Pace::of(u64::MAX).nanos(1 << 20) > 0);
}
