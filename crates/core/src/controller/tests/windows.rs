//! Windows between workers: loads in, parts in the plan, and no plan without a reason.

use super::world::spec;
use crate::controller::Controller;
use crate::effect::Effect;
use crate::event::{Event, LoadReport, PathLoad};
use crate::ids::{PathId, WorkerId};
use crate::plan::RoutePlan;
use crate::spread::{Asked, Demand, Part, part_of};
use crate::time::{Duration, Instant};
use std::sync::Arc;

const INTERVAL: Duration = Duration::from_millis(200);

struct Host {
    controller: Controller,
    plan: RoutePlan,
    plans: u32,
    now: Instant,
}

impl Host {
    /// Gold on the first worker, with three times the shares of bronze on the second.
    fn new(workers: u16) -> Self {
        let mut spec = spec(&[("gold", 100, 0), ("bronze", 10, 0)]);
        spec.host.workers = workers;
        let now = Instant::from_millis(1000);
        let (controller, effects) = Controller::new(Arc::new(spec), now);
        let plan = published(&effects).expect("the first effect is a plan");
        Self { controller, plan, plans: 0, now }
    }

    fn handle(&mut self, event: Event) {
        let effects = self.controller.handle(self.now, event);
        if let Some(plan) = published(&effects) {
            self.plan = plan;
            self.plans += 1;
        }
    }

    /// Both workers report, `waited` by VM.
    fn loads(&mut self, waited: [f64; 2]) {
        for (worker, shares) in [3000, 1000].into_iter().enumerate() {
            self.now += INTERVAL / 2;
            let carried = if waited[worker] > 0.0 { 40_000_000 } else { 0 };
            let mut demand = Demand::default();
            demand.add(&Asked {
                priority: 10,
                shares,
                reserved: 0,
                paths: 2,
                carried,
                waited: waited[worker],
            });
            let path = PathLoad { demand, ..PathLoad::default() };
            self.handle(Event::Load(LoadReport {
                worker: WorkerId::at(worker),
                interval: INTERVAL,
                paths: vec![path.clone(), path],
                ..LoadReport::default()
            }));
        }
    }

    fn percent(&self, path: u16) -> [u64; 2] {
        [0, 1].map(|worker| (part_of(&self.plan, PathId(path), WorkerId(worker)).of(1000) + 5) / 10)
    }
}

fn published(effects: &[Effect]) -> Option<RoutePlan> {
    let plan = |effect: &Effect| if let Effect::Publish(plan) = effect { Some(plan.clone()) } else { None };
    effects.iter().find_map(plan)
}

#[test]
fn parts_follow_the_loads_and_plans_only_the_parts() {
    let mut host = Host::new(2);
    assert_eq!(host.percent(0), [50, 50], "at the start");
    (0..5).for_each(|_| host.loads([0.0, 0.0]));
    assert_eq!((host.plans, host.percent(0)), (0, [50, 50]), "nobody waits");
    (0..2).for_each(|_| host.loads([1.0, 1.0]));
    assert_eq!((host.percent(0), host.percent(1)), ([75, 25], [75, 25]), "by shares, with the second report");
    (0..50).for_each(|_| host.loads([1.0, 1.0]));
    host.plans = 0;
    (0..100).for_each(|_| host.loads([1.0, 1.0]));
    assert_eq!(host.plans, 0, "nothing has changed");
    (0..2).for_each(|_| host.loads([0.0, 1.0]));
    assert_eq!(host.percent(0), [6, 94], "gold is idle, and may start at once");
    assert!((1..=4).contains(&host.plans), "{} plans", host.plans);
}

#[test]
fn a_lone_worker_has_the_whole() {
    let mut host = Host::new(1);
    (0..5).for_each(|_| host.loads([1.0, 1.0]));
    assert_eq!(host.plans, 0);
    assert_eq!(part_of(&host.plan, PathId(1), WorkerId(0)), Part::WHOLE);
}

#[test]
fn a_worker_has_no_part_of_a_path_that_its_vms_may_not_use() {
    let mut host = Host::new(2);
    let mut changed = spec(&[("gold", 100, 0), ("bronze", 10, 0)]);
    changed.host.workers = 2;
    changed.vms[1].avoid_paths = vec![PathId(0)];
    host.handle(Event::Reload(Arc::new(changed)));
    assert_eq!((host.percent(0), host.percent(1)), ([100, 0], [50, 50]));
    (0..5).for_each(|_| host.loads([1.0, 1.0]));
    assert_eq!((host.percent(0), host.percent(1)), ([100, 0], [75, 25]));
}
