//! Parts beside the ideal: what one scheduler over the VMs of all workers would give each of them.

use super::super::{Asked, Demand, Division, Part, divide, part_of};
use crate::event::{LoadReport, PathLoad};
use crate::ids::{PathId, WorkerId};
use crate::plan::RoutePlan;
use crate::spec::Spec;
use crate::testing::{spec, vm};
use crate::time::{Duration, Instant};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use std::collections::BTreeSet;
use std::sync::Arc;

const REPORT: Duration = Duration::from_millis(200);
/// Device bytes per second.
const CAPACITY: f64 = 100e6;

#[derive(Clone, Copy, Debug)]
struct Guest {
    worker: usize,
    priority: u32,
    shares: u32,
    reserved: f64,
    /// What it asks for; infinite if it always has more.
    wants: f64,
}

fn greedy(worker: usize, shares: u32) -> Guest {
    Guest { worker, priority: 100, shares, reserved: 0.0, wants: f64::INFINITY }
}

/// One scheduler over these: reservations first, by priority if they do not fit, equals by the same part of theirs; the rest by
/// shares, of both the larger. By halving, not by corners: it shares nothing with what it checks.
fn ideal(guests: &[Guest], capacity: f64) -> Vec<f64> {
    let reserved = |g: &Guest| g.reserved.min(g.wants);
    if guests.iter().map(reserved).sum::<f64>() <= capacity {
        let at = |g: &Guest, level: f64| g.reserved.max(f64::from(g.shares) * level).min(g.wants);
        let level = halved(1e12, |level| guests.iter().map(|g| at(g, level)).sum::<f64>() < capacity);
        return guests.iter().map(|g| at(g, level)).collect();
    }
    let mut left = capacity;
    let mut got = vec![0.0; guests.len()];
    let priorities: BTreeSet<u32> = guests.iter().map(|g| g.priority).collect();
    for priority in priorities.into_iter().rev() {
        let at = |g: &Guest, met: f64| (g.reserved * met).min(g.wants);
        let equals = || guests.iter().filter(|g| g.priority == priority);
        let met = halved(1.0, |met| equals().map(|g| at(g, met)).sum::<f64>() < left);
        for (got, guest) in got.iter_mut().zip(guests).filter(|(_, g)| g.priority == priority) {
            *got = at(guest, met);
            left = (left - *got).max(0.0);
        }
    }
    got
}

/// The largest number up to `most` that is too low.
fn halved(most: f64, too_low: impl Fn(f64) -> bool) -> f64 {
    let (mut low, mut high) = (0.0, most);
    for _ in 0..64 {
        let middle = (low + high) / 2.0;
        if too_low(middle) { low = middle } else { high = middle }
    }
    low
}

/// Workers at one path. Their windows are steered together: when some leave room, all windows grow until the path is full.
struct World {
    division: Division,
    spec: Arc<Spec>,
    guests: Vec<Guest>,
    now: Instant,
    plans: u32,
}

impl World {
    fn new(workers: u16, guests: Vec<Guest>) -> Self {
        let mut spec = spec(1, (0..workers).map(|i| vm(&format!("vm{i}"))).collect());
        spec.host.workers = workers;
        Self {
            division: Division::new(&spec),
            spec: Arc::new(spec),
            guests,
            now: Instant::from_millis(1000),
            plans: 0,
        }
    }

    fn parts(&self) -> Vec<f64> {
        let plan = RoutePlan {
            generation: 1,
            spec: self.spec.clone(),
            link_reports: vec![],
            paths: vec![],
            vms: vec![],
            parts: self.division.parts().clone(),
        };
        (0..self.spec.host.workers).map(|w| part_of(&plan, PathId(0), WorkerId(w)).share()).collect()
    }

    /// What each guest gets by the present parts.
    fn served(&self) -> Vec<f64> {
        let parts = self.parts();
        let of = |worker: usize| self.guests.iter().filter(move |g| g.worker == worker).copied();
        let asked: Vec<f64> = (0..parts.len()).map(|w| of(w).map(|g| g.wants).sum()).collect();
        let with = |scale: f64| parts.iter().zip(&asked).map(move |(part, asked)| (part * scale).min(*asked));
        let scale = halved(CAPACITY * 1e6, |scale| with(scale).sum::<f64>() < CAPACITY);
        let rates: Vec<f64> = with(scale).collect();
        let mut served = vec![0.0; self.guests.len()];
        for (worker, rate) in rates.into_iter().enumerate() {
            let own: Vec<usize> =
                (0..self.guests.len()).filter(|at| self.guests[*at].worker == worker).collect();
            let guests: Vec<Guest> = own.iter().map(|at| self.guests[*at]).collect();
            for (at, got) in own.into_iter().zip(ideal(&guests, rate)) {
                served[at] = got;
            }
        }
        served
    }

    /// One report of each worker, one after the other.
    fn round(&mut self, tremble: f64) {
        let workers = usize::from(self.spec.host.workers);
        for worker in 0..workers {
            let served = self.served();
            let mut demand = Demand::default();
            for (guest, got) in self.guests.iter().zip(served).filter(|(g, _)| g.worker == worker) {
                let wave = if (self.now.as_nanos() / 1000).is_multiple_of(2) {
                    1.0 + tremble
                } else {
                    1.0 - tremble
                };
                demand.add(&asked(guest, got * wave, if got < guest.wants * 0.999 { 1.0 } else { 0.0 }));
            }
            let before = self.division.parts().clone();
            let path = PathLoad { demand, ..PathLoad::default() };
            let worker = WorkerId::at(worker);
            let report = LoadReport { worker, interval: REPORT, paths: vec![path], ..LoadReport::default() };
            self.now += REPORT / u32::try_from(workers).expect("few");
            self.division.report(&report, self.now);
            self.plans += u32::from(*self.division.parts() != before);
        }
    }

    fn settle(&mut self) {
        (0..60).for_each(|_| self.round(0.0));
    }

    /// The worst guest's error, as a part of what it should have (of those that should have a hundredth of the path), and as
    /// a part of the path.
    fn worst(&self) -> (f64, f64) {
        let mut worst = (0.0_f64, 0.0_f64);
        for (got, should) in self.served().into_iter().zip(ideal(&self.guests, CAPACITY)) {
            let error = (got - should).abs();
            worst.1 = worst.1.max(error / CAPACITY);
            if should > CAPACITY / 100.0 {
                worst.0 = worst.0.max(error / should);
            }
        }
        worst
    }
}

fn asked(guest: &Guest, carried: f64, waited: f64) -> Asked {
    Asked {
        priority: guest.priority,
        shares: guest.shares,
        reserved: guest.reserved as u64,
        paths: 1,
        carried: carried as u64,
        waited,
    }
}

fn demand(guests: &[Asked]) -> Demand {
    let mut demand = Demand::default();
    guests.iter().for_each(|asked| demand.add(asked));
    demand
}

fn percent(parts: &[Part]) -> Vec<f64> {
    parts.iter().map(|part| (part.share() * 1000.0).round() / 10.0).collect()
}

/// `(shares, reserved, carried, waited)`, rates in millions, at the same priority.
type Numbers = (u32, u64, u64, f64);
/// In words; what each worker's VMs ask for; percent of each worker.
type Rule = (&'static str, Vec<Vec<Numbers>>, Vec<f64>);

fn numbers((shares, reserved, carried, waited): Numbers) -> Asked {
    let million = 1_000_000;
    Asked {
        priority: 100,
        shares,
        reserved: reserved * million,
        paths: 1,
        carried: carried * million,
        waited,
    }
}

#[test]
fn rules() {
    let cases: [Rule; 10] = [
        ("nobody wants anything", vec![vec![], vec![]], vec![50.0, 50.0]),
        ("by shares", vec![vec![(2000, 0, 50, 1.0)], vec![(500, 0, 50, 1.0)]], vec![80.0, 20.0]),
        ("of all its VMs", vec![vec![(1000, 0, 9, 1.0); 3], vec![(1000, 0, 9, 1.0)]], vec![75.0, 25.0]),
        (
            "a reservation is a floor, not a gift",
            vec![vec![(1000, 50, 50, 1.0)], vec![(1000, 0, 50, 1.0)]],
            vec![50.0, 50.0],
        ),
        (
            "a reservation above the shares",
            vec![vec![(1000, 70, 50, 1.0)], vec![(1000, 0, 50, 1.0)]],
            vec![70.0, 30.0],
        ),
        (
            "each VM has the larger of its two, not the worker of its sums",
            vec![vec![(1, 50, 50, 1.0), (10, 0, 5, 1.0)], vec![(10, 0, 45, 1.0)]],
            vec![75.0, 25.0],
        ),
        (
            "who does not wait has a little more than it carries",
            vec![vec![(1000, 0, 20, 0.0)], vec![(1000, 0, 80, 1.0)]],
            vec![23.8, 76.2],
        ),
        (
            "but not more than its shares, if others wait",
            vec![vec![(1000, 0, 80, 0.0)], vec![(1000, 0, 20, 1.0)]],
            vec![50.0, 50.0],
        ),
        ("who is idle has its floor", vec![vec![], vec![(1000, 0, 99, 1.0)]], vec![5.9, 94.1]),
        ("half of the time", vec![vec![(1000, 0, 40, 0.5)], vec![(1000, 0, 60, 1.0)]], vec![46.9, 53.1]),
    ];
    for (rule, workers, expected) in cases {
        let demands: Vec<Demand> =
            workers.iter().map(|vms| demand(&vms.iter().copied().map(numbers).collect::<Vec<_>>())).collect();
        assert_eq!(percent(&divide(CAPACITY, &demands)), expected, "{rule}");
    }
    assert_eq!(percent(&divide(0.0, &[Demand::default(), Demand::default()])), [50.0, 50.0]);
}

#[test]
fn reservations_that_do_not_fit_are_met_by_priority() {
    let of = |priority: u32, reserved: u64| Asked { priority, ..numbers((1000, reserved, 30, 1.0)) };
    let parts = |vms: [Asked; 3]| percent(&divide(CAPACITY, &vms.map(|asked| demand(&[asked]))));
    assert_eq!(parts([of(1, 60), of(3, 60), of(2, 60)]), [0.5, 59.7, 39.8], "the lowest has its floor");
    assert_eq!(parts([of(2, 60), of(3, 80), of(2, 20)]), [15.0, 80.0, 5.0], "equals by what is reserved");
}

#[test]
fn what_a_vm_has_is_spread_over_its_paths() {
    let two = Asked { paths: 2, ..numbers((1000, 60, 30, 1.0)) };
    let parts = divide(CAPACITY, &[demand(&[two]), demand(&[numbers((500, 0, 30, 1.0))])]);
    assert_eq!(percent(&parts), [50.0, 50.0], "30 of its 60 here, and half of its shares");
}

#[test]
fn equal_settings_are_one_claim() {
    let mut demand = Demand::default();
    for carried in 0..1000 {
        demand.add(&numbers((1000, 5, carried, if carried % 2 == 0 { 1.0 } else { 0.0 })));
    }
    assert_eq!(demand.claims().len(), 2);
    assert_eq!(demand.mean(&demand).claims().len(), 2);
}

#[test]
fn a_step_has_arrived_with_the_second_report() {
    for shares in [[1000, 1000], [4000, 100]] {
        let mut world = World::new(2, vec![greedy(0, shares[0]), greedy(1, shares[1])]);
        world.guests[1].wants = 0.0;
        world.settle();
        assert!(world.parts()[0] > 0.93, "the other one is idle: {:?}", world.parts());
        (world.guests[0].wants, world.guests[1].wants) = (0.0, f64::INFINITY);
        world.round(0.0);
        world.round(0.0);
        assert!(world.parts()[1] > 0.93, "the demand has moved: {:?}", world.parts());
        world.guests[0].wants = f64::INFINITY;
        world.round(0.0);
        world.round(0.0);
        let should = f64::from(shares[0]) / f64::from(shares[0] + shares[1]);
        assert!((world.parts()[0] - should).abs() < 0.01, "both wait: {:?}", world.parts());
    }
}

#[test]
fn loads_that_alternate_between_workers_move_nothing() {
    let mut world = World::new(2, vec![greedy(0, 1000), greedy(1, 1000), greedy(0, 1), greedy(1, 1)]);
    world.settle();
    let before = world.plans;
    for turn in 0..100 {
        let (busy, idle) = if turn % 2 == 0 { (0, 1) } else { (1, 0) };
        (world.guests[busy].wants, world.guests[idle].wants) = (f64::INFINITY, 0.0);
        world.round(0.0);
        assert!(world.parts().iter().all(|part| (0.3..0.7).contains(part)), "{:?}", world.parts());
    }
    assert!(world.plans - before < 25, "{} plans in 20 s", world.plans - before);
}

#[test]
fn a_load_that_trembles_makes_few_plans() {
    let mut guests = vec![greedy(0, 1000), greedy(1, 700), greedy(2, 50)];
    guests.push(Guest { wants: 20e6, ..greedy(2, 1000) });
    let mut world = World::new(3, guests);
    world.settle();
    assert!(world.plans <= 8, "{} plans to settle", world.plans);
    world.plans = 0;
    (0..300).for_each(|_| world.round(0.0));
    assert_eq!(world.plans, 0, "nothing changes");
    (0..300).for_each(|_| world.round(0.10));
    assert!(world.plans <= 60, "{} plans in a minute", world.plans);
}

fn guest(workers: usize) -> impl Strategy<Value = Guest> {
    let reserved = prop_oneof![Just(0.0), 1e6..30e6_f64];
    let wants = prop_oneof![2 => Just(f64::INFINITY), 1 => 0.5e6..60e6_f64];
    let numbers = (0..workers, 1_u32..4, 50_u32..4000, reserved, wants);
    numbers.prop_map(|(worker, priority, shares, reserved, wants)| Guest {
        worker,
        priority,
        shares,
        reserved,
        wants,
    })
}

fn world() -> impl Strategy<Value = (u16, Vec<Guest>)> {
    (2_u16..7)
        .prop_flat_map(|workers| (Just(workers), prop::collection::vec(guest(usize::from(workers)), 2..30)))
}

/// The ideal leaves each worker that waits well above its floor, and somebody waits.
fn above_floors(workers: u16, guests: &[Guest]) -> bool {
    let ideal = ideal(guests, CAPACITY);
    let of = |w: usize| guests.iter().zip(&ideal).filter(move |(g, _)| g.worker == w);
    let waits = |w: usize| of(w).any(|(guest, got)| *got < guest.wants * 0.999);
    let rate = |w: usize| of(w).map(|(_, got)| got).sum::<f64>();
    let n = usize::from(workers);
    (0..n).any(waits)
        && (0..n).all(|w| !waits(w) || rate(w) > CAPACITY * 2.0 * super::FLOOR_WAITING / n as f64)
}

proptest! {
    #[test]
    fn the_parts_are_the_whole(
        capacity in 1e3..1e10_f64,
        workers in prop::collection::vec(
            prop::collection::vec((1_u32..100_000, 0_u64..200, 0_u64..200, 0.0..1.0_f64), 0..6), 1..64),
    ) {
        let demands: Vec<Demand> =
            workers.into_iter().map(|vms| demand(&vms.into_iter().map(numbers).collect::<Vec<_>>())).collect();
        let parts = divide(capacity, &demands);
        prop_assert_eq!(parts.iter().map(|part| part.of(1 << 20)).sum::<u64>(), 1 << 20);
        let floor = super::FLOOR_WAITING / demands.len() as f64 / (super::SLACK + super::FLOOR_IDLE) - 2e-6;
        prop_assert!(parts.iter().all(|part| part.share() >= floor));
    }

}

/// Prints the figures of decision 17: `cargo test -p vmpath-core at_rest -- --nocapture`.
#[test]
fn at_rest_each_vm_has_what_one_scheduler_would_give_it() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut errors: [Vec<(f64, f64)>; 4] = Default::default();
    let mut of_short: Vec<f64> = Vec::new();
    while errors[0].len() < 300 {
        let (workers, guests) = world().new_tree(&mut runner).expect("a tree").current();
        if !above_floors(workers, &guests) {
            continue;
        }
        let fits = guests.iter().map(|g| g.reserved.min(g.wants)).sum::<f64>() < CAPACITY;
        let mut world = World::new(workers, guests);
        if !fits {
            world.settle();
            of_short.push(world.worst().1);
            continue;
        }
        for (errors, reports) in errors.iter_mut().zip([0, 2, 3, 55]) {
            (0..reports).for_each(|_| world.round(0.0));
            errors.push(world.worst());
        }
    }
    let line = |what: &str, mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        let [median, high, worst] =
            [all.len() / 2, all.len() * 99 / 100, all.len() - 1].map(|at| all[at] * 100.0);
        println!("{what}: median {median:.2} %, p99 {high:.2} %, worst {worst:.2} %");
        worst / 100.0
    };
    for (errors, when) in errors.iter().zip(["equal parts", "2 reports", "5 reports"]) {
        line(&format!("{when}, of its own"), errors.iter().map(|e| e.0).collect());
        line(&format!("{when}, of the path"), errors.iter().map(|e| e.1).collect());
    }
    let worst = [
        line("at rest, of its own", errors[3].iter().map(|e| e.0).collect()),
        line("at rest, of the path", errors[3].iter().map(|e| e.1).collect()),
        line("at rest where reservations do not fit, of the path", of_short),
    ];
    assert!(worst[0] < 0.10 && worst[1] < 0.02 && worst[2] < 0.01, "{worst:?}");
}
