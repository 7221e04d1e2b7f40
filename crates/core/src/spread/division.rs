//! Control's account of all windows: the workers' reports in, parts out, and no more new parts than are worth a plan.
//!
//! Invariant: at any time the parts of a path add up to the whole, and a worker whose VMs may not use it has none. A report
//! counts together with the one before it, so that bursts which alternate between workers move nothing, and a step has
//! arrived with the second report. While nobody waits nothing changes: then no part is too small.
//! Rejected: a filter with a longer memory; half a second of wrong parts after a step is what priorities must not have.
//! It does not know windows: a worker takes its part of the one that it steers itself.

use super::demand::Demand;
use super::divide::{Part, divide};
use super::users;
use crate::event::LoadReport;
use crate::ids::{PathId, WorkerId};
use crate::spec::Spec;
use crate::time::{Duration, Instant};
use std::sync::Arc;

/// The parts of all windows, as a plan carries them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    workers: usize,
    /// By `PathId`, then by `WorkerId`.
    rows: Arc<Vec<Part>>,
}

/// A part that has changed by more than `by` of itself is published, if the last ones are older than `after`. The first is
/// for steps, the second for loads that drift or tremble, the third takes away the error that the others leave.
const WORTH_A_PLAN: [(f64, Duration); 3] =
    [(0.20, Duration::ZERO), (0.05, Duration::from_millis(500)), (0.002, Duration::from_secs(5))];
/// A sum of rates that is below what the path has shown lowers it by so much with each report: rates dip after a step.
const FORGET: f64 = 1.0 / 8.0;

#[derive(Clone, Debug)]
pub struct Division {
    workers: usize,
    /// By `PathId`: a bit for each worker whose VMs may use it.
    users: Vec<u64>,
    /// By `PathId`, device bytes per second; zero while nothing is known.
    capacity: Vec<f64>,
    /// By `WorkerId`, then by `PathId`: of the last report, and of the one before.
    said: Vec<[Vec<Demand>; 2]>,
    parts: Parts,
    published: Option<Instant>,
}

impl Parts {
    /// A worker's part of a path's window. Where nothing was divided, a lone worker has the whole and several have equal parts.
    #[must_use]
    fn of(&self, path: PathId, worker: WorkerId) -> Option<Part> {
        self.rows.get(path.index() * self.workers..)?.get(..self.workers)?.get(worker.index()).copied()
    }

    /// Equal parts for all whose VMs may use a path.
    fn equal(workers: usize, users: &[u64]) -> Self {
        let part = |users: u64, worker: usize| match users >> worker & 1 {
            0 => Part::NONE,
            _ => Part::one_of(users.count_ones()),
        };
        let rows = users.iter().flat_map(|users| (0..workers).map(move |worker| part(*users, worker)));
        Self { workers, rows: Arc::new(rows.collect()) }
    }
}

/// What a worker may use of a path's window by a plan. A plan that divides nothing gives a lone worker the whole, and each of
/// several an equal part.
#[must_use]
pub fn part_of(plan: &crate::plan::RoutePlan, path: PathId, worker: WorkerId) -> Part {
    let equal = || Part::one_of(u32::from(plan.spec.host.workers));
    plan.parts.of(path, worker).unwrap_or_else(equal)
}

impl Division {
    #[must_use]
    pub fn new(spec: &Spec) -> Self {
        let workers = usize::from(spec.host.workers.max(1));
        let users = users(spec);
        Self {
            workers,
            capacity: spec.paths.iter().map(|p| p.capacity.map_or(0.0, |rate| rate.0 as f64)).collect(),
            said: vec![[Vec::new(), Vec::new()]; workers],
            parts: Parts::equal(workers, &users),
            users,
            published: None,
        }
    }

    /// After a reload. Rows have kept their places; who may use a path may have changed.
    pub fn configure(&mut self, spec: &Spec) {
        if users(spec) != self.users {
            *self = Self { published: self.published, ..Self::new(spec) };
        }
    }

    #[must_use]
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Takes in one worker's report.
    pub fn report(&mut self, report: &LoadReport, now: Instant) {
        if self.workers == 1 || report.worker.index() >= self.workers {
            return;
        }
        let said = &mut self.said[report.worker.index()];
        said.swap(0, 1);
        said[0] = report.paths.iter().map(|path| path.demand.clone()).collect();
        let mut fresh = Vec::with_capacity(self.parts.rows.len());
        let mut change = 0.0_f64;
        for path in 0..self.users.len() {
            let row = self.parts.rows[path * self.workers..][..self.workers].to_vec();
            let wanted = self.wanted(path, &row);
            for (old, new) in row.iter().zip(&wanted) {
                let larger = old.share().max(new.share());
                if larger > 0.0 {
                    change = change.max((old.share() - new.share()).abs() / larger);
                }
            }
            fresh.extend(wanted);
        }
        let age = self.published.map(|at| now.since(at));
        let worth = |(by, after): &(f64, Duration)| change > *by && age.is_none_or(|age| age >= *after);
        if WORTH_A_PLAN.iter().any(worth) {
            self.parts.rows = Arc::new(fresh);
            self.published = Some(now);
        }
    }

    /// By `WorkerId`.
    fn wanted(&mut self, path: usize, row: &[Part]) -> Vec<Part> {
        let users: Vec<usize> =
            (0..self.workers).filter(|worker| self.users[path] >> worker & 1 == 1).collect();
        let demands: Vec<Demand> = users.iter().map(|worker| self.demand(*worker, path)).collect();
        if users.len() < 2 || !demands.iter().any(Demand::waits) {
            return row.to_vec();
        }
        let carried: f64 = demands.iter().map(Demand::carried).sum();
        let known = &mut self.capacity[path];
        *known = if carried > *known { carried } else { *known - (*known - carried) * FORGET };
        let mut wanted = vec![Part::NONE; self.workers];
        for (worker, part) in users.into_iter().zip(divide(*known, &demands)) {
            wanted[worker] = part;
        }
        wanted
    }

    /// The mean of the last two reports.
    fn demand(&self, worker: usize, path: usize) -> Demand {
        let [last, before] = &self.said[worker];
        match (last.get(path), before.get(path)) {
            (Some(last), Some(before)) => last.mean(before),
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Demand::default(),
        }
    }
}
