//! Two paths under load in virtual time: what the load itself does to latency is not the path's sickness, and what is added is.

use super::PathLoad;
use crate::ids::{PathId, TargetId};
use crate::path::Sickness;
use crate::plan::{Health, PathRoute};
use crate::schedule::Cost;
use crate::select::{Level, PathState};
use crate::spec::{Access, ByteRate, PathSpec};
use crate::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
const REPORT: Duration = Duration::from_millis(200);

/// A path's device: one request after the other at a rate, and then a latency for each.
struct Device {
    rate: u64,
    latency: Duration,
    free_at: Instant,
    in_flight: Vec<(Instant, Instant)>,
    load: PathLoad,
    state: PathState,
    /// Each of so many bytes, and at most so many at once, as far as the window lets them.
    bytes: u64,
    depth: usize,
}

impl Device {
    fn new(rate: u64, capacity: Option<u64>, (bytes, depth): (u64, usize)) -> Self {
        let spec =
            PathSpec { capacity: capacity.map(ByteRate), ..crate::testing::spec(1, vec![]).paths[0].clone() };
        let spec = PathSpec { window_max: 64 * MIB, ..spec };
        let route = PathRoute { health: Health::Up, access: Access::Optimized, preferred: true };
        Self {
            rate,
            latency: Duration::from_micros(300),
            free_at: Instant::ZERO,
            in_flight: vec![],
            load: PathLoad::new(&spec),
            state: PathState::new(route, 64 * MIB, rate),
            bytes,
            depth,
        }
    }

    fn cost(&self) -> Cost {
        Cost { bytes: self.bytes }
    }

    fn fill(&mut self, now: Instant) {
        let cost = self.cost().device_bytes();
        while self.in_flight.len() < self.depth
            && (self.in_flight.is_empty() || self.state.pending() + cost <= self.load.window.bytes())
        {
            self.load.dispatched(&self.state, now);
            self.state.dispatched(cost, Level::TOP, 0);
            let served = Duration::from_nanos(cost * 1_000_000_000 / self.rate);
            self.free_at = self.free_at.max(now) + served;
            self.in_flight.push((self.free_at + self.latency, now));
        }
        if self.in_flight.len() < self.depth {
            self.load.window.found_full();
        }
    }

    /// Everything until then.
    fn run(&mut self, from: Instant, until: Instant) {
        self.fill(from);
        while let Some((at, sent)) = self.in_flight.first().copied().filter(|(at, _)| *at <= until) {
            self.in_flight.remove(0);
            let cost = self.cost();
            self.load.ending(&self.state, at);
            let pending = self.state.pending();
            self.state.ended(cost.device_bytes(), Level::TOP);
            self.load.served(&mut self.state, (cost, at.since(sent)), pending, at);
            self.fill(at);
        }
    }
}

/// When the first path was found sick: seconds after the change at five seconds.
fn sick_after(mut paths: [Device; 2], change: impl Fn(&mut Device)) -> Option<f64> {
    let mut sickness = Sickness::new(2);
    let mut now = Instant::ZERO;
    for turn in 0..100 {
        if turn == 25 {
            change(&mut paths[0]);
        }
        for (at, path) in paths.iter_mut().enumerate() {
            path.run(now, now + REPORT);
            sickness.take(PathId::at(at), &path.load.take_vitals());
        }
        now += REPORT;
        sickness.judge(now, &[Some((TargetId(0), Access::Optimized)); 2]);
        assert!(sickness.ailment(PathId(1)).is_none(), "the other path is well");
        if sickness.ailment(PathId(0)).is_some() {
            return Some(now.since(Instant::ZERO).as_secs_f64() - 5.0);
        }
    }
    None
}

#[test]
fn a_narrow_path_under_load_is_not_sick() {
    for load in [(4096, 64), (64 << 10, 32), (MIB, 16), (MIB, 2), (4096, 1)] {
        for capacity in [None, Some(100 * MIB)] {
            let paths = [Device::new(100 * MIB, capacity, load), Device::new(400 * MIB, None, load)];
            assert_eq!(sick_after(paths, |_| {}), None, "{load:?}, {capacity:?}");
        }
    }
}

#[test]
fn nor_is_the_one_of_two_alike_that_is_given_everything() {
    for depth in [8, 64, 256] {
        let light = (64 << 10, 1);
        let paths = [Device::new(200 * MIB, None, (64 << 10, depth)), Device::new(200 * MIB, None, light)];
        assert_eq!(sick_after(paths, |_| {}), None, "{depth}");
    }
}

#[test]
fn a_path_that_adds_to_each_request_is_found_under_any_load() {
    for load in [(4096, 1), (4096, 64), (64 << 10, 8), (64 << 10, 64), (MIB, 4)] {
        let paths = [Device::new(200 * MIB, None, load), Device::new(200 * MIB, None, load)];
        let found = sick_after(paths, |path| path.latency += Duration::from_millis(60));
        assert!(found.is_some_and(|after| (0.0..=5.0).contains(&after)), "{load:?}: {found:?}");
    }
}

#[test]
fn a_path_that_falls_to_a_twentieth_is_found() {
    for load in [(64 << 10, 8), (MIB, 4)] {
        let paths = [Device::new(200 * MIB, None, load), Device::new(200 * MIB, None, load)];
        let found = sick_after(paths, |path| path.rate /= 20);
        assert!(found.is_some_and(|after| (0.0..=5.0).contains(&after)), "{load:?}: {found:?}");
    }
}
