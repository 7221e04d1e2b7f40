//! Two to five paths of one target in virtual time, each with a latency of its own.

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);
/// As often as workers report.
const REPORT: Duration = Duration::from_millis(200);

/// What one path does in a report's time.
#[derive(Clone, Copy, Debug)]
struct Load {
    took: Duration,
    requests: u32,
    pings: u32,
    failed: u32,
}

const FAST: Load = Load { took: Duration::from_micros(400), requests: 20, pings: 0, failed: 0 };
const SLOW: Load = Load { took: Duration::from_millis(20), ..FAST };

struct Lab {
    now: Instant,
    sickness: Sickness,
    siblings: Vec<Siblings>,
    /// Seconds, path, whether sick.
    told: Vec<(f64, usize, bool)>,
}

impl Lab {
    fn new(paths: usize) -> Self {
        let siblings = vec![Some((TargetId(0), Access::Optimized)); paths];
        Self { now: Instant::ZERO, sickness: Sickness::new(paths), siblings, told: vec![] }
    }

    /// `load` says what the path with that index does at that time.
    fn run(&mut self, length: Duration, mut load: impl FnMut(usize, Duration) -> Load) {
        let began = self.now;
        while self.now < began + length {
            self.now += REPORT;
            for path in 0..self.siblings.len() {
                let Load { took, requests, pings, failed } = load(path, self.now.since(began));
                let is_sick = self.sickness.ailment(PathId::at(path)).is_some();
                // Used last: while it is sick, pings are all that it gets.
                let (requests, pings) = if is_sick { (0, pings.max(1)) } else { (requests, pings) };
                let sum = |count| Took { count, total: took * count };
                let failed = if is_sick { 0 } else { failed };
                let vitals = PathVitals {
                    requests: sum(requests),
                    pings: sum(pings),
                    failed,
                    answered: requests + failed,
                };
                self.sickness.take(PathId::at(path), &vitals);
            }
            for (path, edge) in self.sickness.judge(self.now, &self.siblings) {
                let sick = matches!(edge, SickEdge::Sick { .. });
                self.told.push((self.now.since(Instant::ZERO).as_secs_f64(), path.index(), sick));
            }
            self.one_is_well();
        }
    }

    fn one_is_well(&self) {
        let sick =
            (0..self.siblings.len()).filter(|p| self.sickness.ailment(PathId::at(*p)).is_some()).count();
        assert!(sick < self.siblings.len(), "all are sick at {:?}", self.now);
    }
}

fn of(slow: impl Fn(usize) -> bool) -> impl FnMut(usize, Duration) -> Load {
    move |path, _| if slow(path) { SLOW } else { FAST }
}

#[test]
fn a_slow_path_is_seen_within_four_seconds_and_is_well_ten_seconds_after_it_is() {
    let mut lab = Lab::new(2);
    lab.run(10 * 1000 * MS, of(|_| false));
    assert_eq!(lab.told, []);
    lab.run(10 * 1000 * MS, of(|path| path == 1));
    assert!(matches!(lab.told[..], [(at, 1, true)] if (12.5..=14.0).contains(&at)), "{:?}", lab.told);
    let (ailment, _) = lab.sickness.ailment(PathId::at(1)).unwrap();
    assert_eq!(ailment, Ailment::Slow { takes: SLOW.took, siblings: FAST.took });
    lab.run(20 * 1000 * MS, of(|_| false));
    assert!(matches!(lab.told[1..], [(at, 1, false)] if (30.0..=34.0).contains(&at)), "{:?}", lab.told);
}

#[test]
fn relapses_double_the_proof_and_good_time_undoes_them() {
    let mut lab = Lab::new(2);
    let mut required = vec![];
    for _ in 0..4 {
        lab.run(5 * 1000 * MS, of(|path| path == 0));
        required.push(lab.sickness.required(PathId::at(0)).as_secs());
        lab.run(100 * 1000 * MS, of(|_| false));
        assert!(lab.sickness.ailment(PathId::at(0)).is_none(), "well at last: {:?}", lab.told);
    }
    assert_eq!(required, [10, 20, 40, 80]);
    // The last relapse is undone after 800 s and the one before after 400 more.
    lab.run(1300 * 1000 * MS, of(|_| false));
    lab.run(5 * 1000 * MS, of(|path| path == 0));
    assert_eq!(lab.sickness.required(PathId::at(0)).as_secs(), 40);
}

#[test]
fn one_path_alone_is_never_sick() {
    let mut lab = Lab::new(1);
    lab.run(60 * 1000 * MS, |_, _| Load { failed: 10, ..SLOW });
    assert_eq!(lab.told, []);
    // Nor one among paths of other targets or access states.
    let mut lab = Lab::new(3);
    lab.siblings = vec![
        Some((TargetId(0), Access::Optimized)),
        Some((TargetId(1), Access::Optimized)),
        Some((TargetId(0), Access::NonOptimized)),
    ];
    lab.run(60 * 1000 * MS, of(|path| path == 0));
    assert_eq!(lab.told, []);
}

#[test]
fn where_all_become_slow_nobody_is_an_outlier() {
    let mut lab = Lab::new(3);
    lab.run(10 * 1000 * MS, of(|path| path == 0));
    assert!(lab.sickness.ailment(PathId::at(0)).is_some());
    lab.run(60 * 1000 * MS, of(|_| true));
    assert!((0..3).all(|path| lab.sickness.ailment(PathId::at(path)).is_none()), "{:?}", lab.told);
}

#[test]
fn of_three_two_may_be_sick_and_the_third_then_stays_well() {
    let mut lab = Lab::new(3);
    lab.run(10 * 1000 * MS, of(|path| path != 2));
    assert_eq!(
        lab.told.iter().map(|(_, path, sick)| (*path, *sick)).collect::<Vec<_>>(),
        [(0, true), (1, true)]
    );
}

#[test]
fn a_few_milliseconds_or_a_factor_alone_are_no_sickness() {
    for (fast, slow) in [(Duration::from_micros(100), 5 * MS), (20 * MS, 70 * MS)] {
        let mut lab = Lab::new(2);
        lab.run(60 * 1000 * MS, |path, _| Load { took: if path == 0 { slow } else { fast }, ..FAST });
        assert_eq!(lab.told, [], "{fast:?} and {slow:?}");
    }
}

#[test]
fn requests_are_not_compared_with_pings() {
    // All the traffic goes one way, and seeks; the other path is pinged, out of a cache.
    let mut lab = Lab::new(2);
    lab.run(60 * 1000 * MS, |path, _| match path {
        0 => Load { took: 30 * MS, ..FAST },
        _ => Load { took: MS / 10, requests: 0, pings: 1, failed: 0 },
    });
    assert_eq!(lab.told, []);
}

#[test]
fn an_idle_path_is_judged_by_its_pings() {
    let mut lab = Lab::new(2);
    let mut turn = 0;
    // One ping every two seconds, not in the same period as the other's.
    lab.run(40 * 1000 * MS, |path, _| {
        turn += 1;
        let pings = u32::from(turn / 2 % 10 == 5 * path);
        Load { requests: 0, pings, ..if path == 0 { SLOW } else { FAST } }
    });
    assert!(matches!(lab.told[..], [(at, 0, true)] if at < 16.0), "{:?}", lab.told);
}

#[test]
fn a_single_stall_is_no_sickness_however_long() {
    let mut lab = Lab::new(2);
    lab.run(60 * 1000 * MS, |path, at| {
        // Everything that was outstanding is answered after two seconds of silence, once in ten seconds.
        match (path, at.as_millis() % 10_000) {
            (0, 0..2000) => Load { requests: 0, ..FAST },
            (0, 2000..2200) => Load { took: 2000 * MS, ..FAST },
            _ => FAST,
        }
    });
    assert_eq!(lab.told, []);
}

#[test]
fn errors_that_others_do_not_have_are_seen_and_tried_again_later() {
    let mut lab = Lab::new(2);
    // One request in ten.
    lab.run(5 * 1000 * MS, |path, _| Load { failed: if path == 1 { 2 } else { 0 }, ..FAST });
    assert!(matches!(lab.told[..], [(at, 1, true)] if at <= 2.0), "{:?}", lab.told);
    assert!(matches!(lab.sickness.ailment(PathId::at(1)), Some((Ailment::Errors { .. }, _))));
    lab.run(60 * 1000 * MS, |path, _| Load { failed: if path == 1 { 2 } else { 0 }, ..FAST });
    let sick: Vec<f64> = lab.told.iter().filter(|(_, _, sick)| *sick).map(|(at, ..)| *at).collect();
    assert!(sick.len() <= 3 && sick.windows(2).all(|pair| pair[1] - pair[0] >= 10.0), "{sick:?}");
    // Errors everywhere are the unit's, not a path's.
    let mut lab = Lab::new(2);
    lab.run(60 * 1000 * MS, |_, _| Load { failed: 2, ..FAST });
    assert_eq!(lab.told, []);
}

#[test]
fn a_path_that_is_down_is_not_judged_and_proves_itself_anew() {
    let mut lab = Lab::new(2);
    lab.run(5 * 1000 * MS, of(|path| path == 0));
    lab.run(8 * 1000 * MS, of(|_| false));
    let group = lab.siblings[0].take();
    lab.run(20 * 1000 * MS, of(|_| false));
    assert_eq!(lab.told.len(), 1, "not well while it is down");
    lab.siblings[0] = group;
    lab.run(9 * 1000 * MS, of(|_| false));
    assert_eq!(lab.told.len(), 1, "the eight seconds before do not count");
    lab.run(5 * 1000 * MS, of(|_| false));
    assert_eq!(lab.told.len(), 2, "{:?}", lab.told);
}

proptest! {
    /// Noise of up to three times either way around the same latency, and now and then a stall.
    #[test]
    fn noise_makes_no_path_sick(
        paths in 1_usize..6,
        base in 50_u64..30_000,
        noise in prop::collection::vec((1_u64..9, 0_u32..40, 0_u32..100), 300..900),
    ) {
        let mut lab = Lab::new(paths);
        let mut at = 0;
        let length = REPORT * u32::try_from(noise.len() / paths).unwrap();
        lab.run(length, |_, _| {
            let (factor, requests, odd) = noise[at % noise.len()];
            at += 1;
            let took = Duration::from_micros(base * factor / 3);
            let took = if odd == 0 { 2000 * MS } else { took };
            Load { took, requests, pings: u32::from(requests == 0), failed: 0 }
        });
        // A handful of periods can look alike by chance; no more than one path, once.
        prop_assert!(lab.told.len() <= 1, "{:?}", lab.told);
    }

    /// Whatever happens: one of the siblings is well (the lab looks each time), one alone is never sick, and no path is told
    /// sick more often than damping allows.
    #[test]
    fn whatever_the_paths_do_the_last_is_not_taken(
        paths in 1_usize..5,
        wild in prop::collection::vec((0_u64..200_000, 0_u32..30, 0_u32..3, 0_u32..4), 200..1500),
    ) {
        let mut lab = Lab::new(paths);
        let mut at = 0;
        let length = REPORT * u32::try_from(wild.len() / paths).unwrap();
        lab.run(length, |_, _| {
            let (took, requests, pings, failed) = wild[at % wild.len()];
            at += 1;
            Load { took: Duration::from_micros(took), requests, pings, failed }
        });
        prop_assert!(paths > 1 || lab.told.is_empty());
        for path in 0..paths {
            let sick: Vec<f64> = lab.told.iter().filter(|(_, p, s)| *p == path && *s).map(|t| t.0).collect();
            for (nth, pair) in sick.windows(2).enumerate() {
                let least = 10.0 * f64::from(1_u32 << nth.min(4));
                prop_assert!(pair[1] - pair[0] >= least, "path {path}: {sick:?}");
            }
        }
    }

    /// A path that adds so much to each request, loaded or not, is found within four seconds of the change.
    #[test]
    fn what_is_far_slower_is_found(
        paths in 2_usize..5,
        fast in 50_u64..4_000,
        times in 5_u64..50,
        more in 6_000_u64..100_000,
        requests in 2_u32..200,
    ) {
        let slow = Duration::from_micros((fast * times).max(fast + more));
        let fast = Duration::from_micros(fast);
        let mut lab = Lab::new(paths);
        lab.run(3 * 1000 * MS, |_, _| Load { took: fast, requests, ..FAST });
        lab.run(4 * 1000 * MS, |path, _| Load { took: if path == 0 { slow } else { fast }, requests, ..FAST });
        prop_assert!(lab.told.len() == 1 && lab.told[0].1 == 0, "{:?}", lab.told);
    }
}
