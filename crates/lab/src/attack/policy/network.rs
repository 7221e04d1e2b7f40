//! Links and paths as an outsider knows them: from the workers' reports, and from what the operator has taken out.
//!
//! Invariant: what must have been proven is a lower bound (`proof_low`) and an upper one (`proof_high`), and the truth is
//! between them; so that a rule about "too early" and one about "too late" can both be sure.
//! It does not know VMs' states, nor what core thinks of a path.

use std::collections::BTreeMap;
use vmpath_core::controller::Controller;
use vmpath_core::event::{Fault, LinkChange, LinkReport};
use vmpath_core::ids::{PathId, UnitId, VmId};
use vmpath_core::plan::{Health, PathRoute};
use vmpath_core::spec::Spec;
use vmpath_core::time::{Duration, Instant};
use vmpath_core::view::LinkState;

/// How long a first connection may take before it is a failure.
const GRACE: Duration = Duration::from_secs(10);
/// A failure so soon after the last repair is a relapse, however fast former ones are forgotten.
const RELAPSE_WITHIN: Duration = Duration::from_secs(30);
/// Nothing proves itself for longer.
const PROOF_MAX: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Link {
    /// No connection yet; a failure after `until`. `gone`: what the last attempt met is that there is no such unit.
    Waiting {
        until: Instant,
        gone: bool,
    },
    Up {
        since: Instant,
    },
    /// `gone`: the target says that there is no such unit.
    Down {
        gone: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// Not up since the start, a restart or the operator's enable.
    Fresh,
    Up {
        since: Instant,
    },
    Failed,
    Disabled,
}

/// The failures of one path or link.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    /// Ever.
    failures: u32,
    /// It has failed since it was last taken at its word.
    must_prove: bool,
    /// Failures in a row, each soon after the repair before.
    relapses: u32,
    back: Option<Instant>,
}

impl Past {
    fn failed(&mut self, now: Instant) {
        let relapsed = self.back.is_some_and(|back| now.since(back) < RELAPSE_WITHIN);
        self.relapses = if relapsed { self.relapses + 1 } else { 0 };
        self.failures += 1;
        self.must_prove = true;
        self.back = None;
    }

    /// It is taken at its word when it comes up next. What is remembered all the same only delays it.
    fn trusted(self) -> Self {
        Self { failures: self.failures, ..Self::default() }
    }

    fn low(self, base: Duration) -> Duration {
        if self.must_prove { doubled(base, self.relapses) } else { Duration::ZERO }
    }

    fn high(self, base: Duration) -> Duration {
        doubled(base, self.failures)
    }
}

fn doubled(base: Duration, times: u32) -> Duration {
    base.saturating_mul(1 << times.min(20)).min(PROOF_MAX.max(base))
}

#[derive(Clone, Debug)]
pub(super) struct Network {
    links: BTreeMap<(PathId, UnitId), (Link, Past)>,
    /// By `PathId`.
    paths: Vec<(Path, Past)>,
}

/// What is asked of a path before it is called good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// At least so much must have been proven.
    Least,
    /// So much is enough, whatever was remembered.
    Most,
}

impl Network {
    pub(super) fn new(spec: &Spec, now: Instant) -> Self {
        let mut network = Self { links: BTreeMap::new(), paths: vec![] };
        network.fill(spec, now);
        network
    }

    /// Adds what a configuration has and the one before had not.
    pub(super) fn fill(&mut self, spec: &Spec, now: Instant) {
        self.paths.resize(spec.paths.len(), (Path::Fresh, Past::default()));
        for unit in spec.unit_ids() {
            for path in spec.paths_of_unit(unit) {
                self.links.entry((path, unit)).or_insert((first(now), Past::default()));
            }
        }
        let there = |p: &PathId, u: &UnitId| p.index() < spec.paths.len() && u.index() < spec.units.len();
        self.links.retain(|(p, u), _| there(p, u));
    }

    pub(super) fn report(&mut self, now: Instant, report: &LinkReport) {
        let Some((link, past)) = self.links.get_mut(&(report.path, report.unit)) else { return };
        let (seen, disabled) = (report.at.min(now), self.paths[report.path.index()].0 == Path::Disabled);
        match &report.change {
            LinkChange::Up => match *link {
                Link::Up { .. } => {}
                Link::Waiting { .. } => *link = Link::Up { since: seen },
                Link::Down { .. } => {
                    past.back = Some(seen);
                    *link = Link::Up { since: seen };
                }
            },
            LinkChange::Down { fault: Fault::Disabled, .. } if !disabled => {
                if matches!(link, Link::Up { .. }) {
                    *link = first(now);
                }
            }
            LinkChange::Down { fault, .. } => {
                let gone = matches!(fault, Fault::UnitGone(_));
                match link {
                    Link::Waiting { gone: known, .. } => *known = gone,
                    Link::Up { .. } => {
                        past.failed(seen);
                        *link = Link::Down { gone };
                    }
                    Link::Down { .. } => *link = Link::Down { gone },
                }
            }
            LinkChange::FailedOver { .. } => {}
        }
        self.settle(report.path, now);
    }

    /// After the event of this time: first connections for which it is too late count as failures, and so may their paths.
    pub(super) fn expire(&mut self, now: Instant) {
        let mut late = vec![];
        for ((path, _), (link, past)) in &mut self.links {
            if let Link::Waiting { until, gone } = *link
                && until <= now
            {
                past.failed(now);
                *link = Link::Down { gone };
                late.push(*path);
            }
        }
        late.dedup();
        for path in late {
            self.settle(path, now);
        }
    }

    /// Brings a path into agreement with its links.
    fn settle(&mut self, path: PathId, now: Instant) {
        let range = (path, UnitId(0))..=(path, UnitId(u16::MAX));
        let links: Vec<Link> = self.links.range(range).map(|(_, (link, _))| *link).collect();
        let up = links.iter().filter_map(|link| match link {
            Link::Up { since } => Some(*since),
            Link::Waiting { .. } | Link::Down { .. } => None,
        });
        let (up, is_any_down) = (up.min(), links.iter().any(|link| matches!(link, Link::Down { .. })));
        let (state, past) = &mut self.paths[path.index()];
        match (*state, up) {
            (Path::Disabled | Path::Up { .. }, Some(_)) | (Path::Disabled | Path::Failed, None) => {}
            (Path::Fresh, Some(since)) => *state = Path::Up { since },
            (Path::Failed, Some(since)) => {
                past.back = Some(since);
                *state = Path::Up { since };
            }
            (Path::Up { .. }, None) => {
                if is_any_down {
                    past.failed(now);
                    *state = Path::Failed;
                }
            }
            (Path::Fresh, None) => {
                if links.iter().all(|link| matches!(link, Link::Down { .. })) && !links.is_empty() {
                    past.failed(now);
                    *state = Path::Failed;
                }
            }
        }
    }

    /// What a plan says that the operator has done.
    pub(super) fn planned(&mut self, now: Instant, routes: &[PathRoute]) {
        for (index, route) in routes.iter().enumerate().take(self.paths.len()) {
            let path = PathId::at(index);
            let is_out = matches!(route.health, Health::Disabled | Health::Draining);
            match (self.paths[index].0 == Path::Disabled, is_out) {
                (false, true) => self.paths[index].0 = Path::Disabled,
                (true, false) => self.enabled(now, path),
                (true, true) | (false, false) => {}
            }
        }
    }

    /// The operator vouches for a path.
    pub(super) fn enabled(&mut self, now: Instant, path: PathId) {
        self.paths[path.index()] = (Path::Fresh, self.paths[path.index()].1.trusted());
        let range = (path, UnitId(0))..=(path, UnitId(u16::MAX));
        for (_, (link, past)) in self.links.range_mut(range) {
            *past = past.trusted();
            if !matches!(link, Link::Up { .. }) {
                *link = first(now);
            }
        }
        self.settle(path, now);
    }

    /// Another process of ours goes on: what was up must connect again, and what its memory holds of former failures may
    /// be older than what happened. What it finds down has failed once more than was seen from here.
    pub(super) fn restarted(&mut self, now: Instant, controller: &Controller) {
        let view = controller.view(now);
        for unit in &view.units {
            for shown in &unit.links {
                let Some((link, past)) = self.links.get_mut(&(shown.path, unit.unit)) else { continue };
                *past = past.trusted();
                *link = match &shown.state {
                    LinkState::Down(fault) => {
                        (past.must_prove, past.failures) = (true, past.failures + 1);
                        Link::Down { gone: matches!(fault, Fault::UnitGone(_)) }
                    }
                    LinkState::Connecting | LinkState::Up => first(now),
                };
            }
        }
        for row in &view.paths {
            let (state, past) = &mut self.paths[row.path.index()];
            let mut fresh = past.trusted();
            *state = match (row.health, row.preferred) {
                (Health::Disabled | Health::Draining, _) => Path::Disabled,
                (Health::Down, false) => {
                    (fresh.must_prove, fresh.failures) = (true, fresh.failures + 1);
                    Path::Failed
                }
                (Health::Up | Health::Marginal, _) => Path::Up { since: Instant::ZERO },
                (Health::Down, true) => Path::Fresh,
            };
            *past = fresh;
        }
    }

    pub(super) fn link(&self, path: PathId, unit: UnitId) -> Option<Link> {
        self.links.get(&(path, unit)).map(|(link, _)| *link)
    }

    pub(super) fn path(&self, path: PathId) -> Path {
        self.paths[path.index()].0
    }

    /// The path is up and has been for as long as it had to.
    pub(super) fn proven_path(&self, spec: &Spec, path: PathId, proof: Proof, now: Instant) -> bool {
        let base = spec.target(spec.path(path).target).repair_after;
        match self.paths[path.index()] {
            (Path::Up { since }, past) => now.since(since) >= needed(past, proof, base),
            (Path::Fresh | Path::Failed | Path::Disabled, _) => false,
        }
    }

    /// It has not failed since it was last taken at its word.
    pub(super) fn is_trusted(&self, path: PathId) -> bool {
        !self.paths[path.index()].1.must_prove
    }

    /// The path has proven itself, and for so much longer.
    pub(super) fn proven_for(&self, spec: &Spec, path: PathId, wait: Duration, now: Instant) -> bool {
        let base = spec.target(spec.path(path).target).repair_after;
        match self.paths[path.index()] {
            (Path::Up { since }, past) => now.since(since) >= past.low(base) + wait || !past.must_prove,
            (Path::Fresh | Path::Failed | Path::Disabled, _) => false,
        }
    }

    /// In words: since when it is up, and for how long it had to be.
    pub(super) fn proof_words(&self, spec: &Spec, path: PathId, now: Instant) -> String {
        let base = spec.target(spec.path(path).target).repair_after;
        let (state, past) = self.paths[path.index()];
        let name = spec.path_name(path);
        match state {
            Path::Up { since } => format!(
                "{name} has been up for {:?}, and must be for at least {:?} ({} relapses)",
                now.since(since),
                past.low(base),
                past.relapses
            ),
            Path::Fresh => format!("{name} has not been up yet"),
            Path::Failed => format!("{name} is down"),
            Path::Disabled => format!("{name} is disabled"),
        }
    }

    pub(super) fn proven_link(&self, spec: &Spec, at: (PathId, UnitId), proof: Proof, now: Instant) -> bool {
        let base = spec.target(spec.path(at.0).target).repair_after;
        match self.links.get(&at) {
            Some((Link::Up { since }, past)) => now.since(*since) >= needed(*past, proof, base),
            Some((Link::Waiting { .. } | Link::Down { .. }, _)) | None => false,
        }
    }

    pub(super) fn usable(&self, path: PathId, unit: UnitId) -> bool {
        self.path(path) != Path::Disabled && matches!(self.link(path, unit), Some(Link::Up { .. }))
    }

    /// It failed, and nobody took it out.
    pub(super) fn lost(&self, path: PathId, unit: UnitId) -> bool {
        self.path(path) != Path::Disabled && matches!(self.link(path, unit), Some(Link::Down { .. }))
    }

    /// No link of the path to any unit is down.
    pub(super) fn is_whole(&self, path: PathId) -> bool {
        let range = (path, UnitId(0))..=(path, UnitId(u16::MAX));
        !self.links.range(range).any(|(_, (link, _))| matches!(link, Link::Down { .. }))
    }

    /// Every unit of the VM has a path that could take a request.
    pub(super) fn serves(&self, spec: &Spec, vm: VmId) -> bool {
        spec.units_of_vm(vm).all(|unit| self.serves_unit(spec, vm, unit))
    }

    pub(super) fn serves_unit(&self, spec: &Spec, vm: VmId, unit: UnitId) -> bool {
        allowed(spec, vm, unit).any(|path| self.usable(path, unit))
    }

    /// A unit of the VM to which surely no path leads, nor is about to for the first time.
    pub(super) fn cut_off(&self, spec: &Spec, vm: VmId) -> Option<UnitId> {
        spec.units_of_vm(vm).find(|unit| self.is_cut_off(spec, vm, *unit))
    }

    /// The same of one of its units.
    pub(super) fn is_cut_off(&self, spec: &Spec, vm: VmId, unit: UnitId) -> bool {
        let open = |path: PathId, unit: UnitId| match self.link(path, unit) {
            Some(Link::Up { .. } | Link::Waiting { .. }) => true,
            Some(Link::Down { .. }) | None => false,
        };
        !allowed(spec, vm, unit).any(|p| self.path(p) != Path::Disabled && open(p, unit))
    }

    /// Every path that leads to some unit of the VM, and that nobody took out, says that it does not exist.
    pub(super) fn says_gone(&self, spec: &Spec, vm: VmId) -> bool {
        let gone = |p, u| matches!(self.link(p, u), Some(Link::Down { gone: true }));
        spec.units_of_vm(vm).any(|unit| {
            let mut tried = allowed(spec, vm, unit).filter(|p| self.path(*p) != Path::Disabled).peekable();
            tried.peek().is_some() && tried.all(|path| gone(path, unit))
        })
    }
}

/// A first connection, from its beginning.
fn first(now: Instant) -> Link {
    Link::Waiting { until: now + GRACE, gone: false }
}

fn needed(past: Past, proof: Proof, base: Duration) -> Duration {
    match proof {
        Proof::Least => past.low(base),
        Proof::Most => past.high(base),
    }
}

/// The paths that a VM may use to a unit.
pub(super) fn allowed(spec: &Spec, vm: VmId, unit: UnitId) -> impl Iterator<Item = PathId> + '_ {
    spec.paths_of_unit(unit).filter(move |path| !spec.vm(vm).avoid_paths.contains(path))
}
