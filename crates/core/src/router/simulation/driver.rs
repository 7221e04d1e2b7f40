//! The worker between world and router; told to misbehave, it shows that the checkers can fail.

use super::crash::Remembered;
use super::rng::Rng;
use crate::ids::{PathId, UnitId, WorkerId};
use crate::plan::{Gate, RoutePlan};
use crate::router::{
    Action, ConnectionKey, Extent, Fence, Loss, Request, RequestKey, Router, Sharing, Support, Traits,
};
use crate::time::Instant;
use crate::volume::verdict::TargetError;
use std::sync::Arc;

/// What the driver, or the router behind it, would do if it were wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mutation {
    None,
    /// Calls a connection dead when it is only closing.
    BuriesAlive,
    /// Calls everything on a dead connection unsent.
    CallsSentUnsent,
    /// Takes the fence for passed after a hundredth of the quiesce bound.
    ShortFence,
    LosesACompletion,
    CompletesTwice,
    TakesErrorsForSuccess,
    OverlooksWakes,
    IgnoresLimits,
    IgnoresHolds,
    IgnoresSampling,
    BelievesInFua,
    SharesWhatMayNotBeShared,
    /// A new process is given back nothing of the record.
    ForgetsTheRecord,
    /// It is told that each write in it was open.
    TakesGhostsForOpen,
}

pub(super) struct Driver {
    pub(super) router: Router,
    mutation: Mutation,
    /// Links called dead before they were.
    buried: Vec<usize>,
    completions: u32,
}

impl Driver {
    pub(super) fn new(plan: RoutePlan, mutation: Mutation, now: Instant) -> Self {
        let plan = Arc::new(mutate(plan, mutation));
        Self { router: Router::new(plan, WorkerId(0), now), mutation, buried: Vec::new(), completions: 0 }
    }

    /// A new process, with the record of the one before.
    pub(super) fn crash(&mut self, plan: RoutePlan, record: Remembered, now: Instant) {
        *self = Self::new(plan, self.mutation, now);
        for (unit, range, until) in record.into_values() {
            let until = until.filter(|_| self.mutation != Mutation::TakesGhostsForOpen);
            if self.mutation != Mutation::ForgetsTheRecord {
                self.router.restore(unit, range, until, now);
            }
        }
    }

    pub(super) fn plan(&mut self, plan: RoutePlan) {
        self.router.plan(Arc::new(mutate(plan, self.mutation)));
    }

    pub(super) fn connection_up(&mut self, path: PathId, unit: UnitId, traits: Traits) -> ConnectionKey {
        let traits = match self.mutation {
            Mutation::BelievesInFua => Traits { fua: Support::Yes, ..traits },
            Mutation::SharesWhatMayNotBeShared => Traits { sharing: Sharing::ManyConnections, ..traits },
            _ => traits,
        };
        self.router.connection_up(path, unit, traits)
    }

    pub(super) fn closing(&mut self, link: usize, key: ConnectionKey, unsent: &[u64], now: Instant) {
        if self.mutation == Mutation::BuriesAlive {
            self.buried.push(link);
            self.router.connection_dead(key, unsent, Loss::OfConnection, Fence::QuiesceBound, now);
        } else {
            self.router.connection_closing(key);
        }
    }

    pub(super) fn dead(&mut self, link: usize, key: ConnectionKey, unsent: &[u64], now: Instant) {
        if !self.buried.contains(&link) {
            self.router.connection_dead(key, unsent, Loss::OfConnection, Fence::QuiesceBound, now);
        }
    }

    /// The attempts to be called unsent, of those that are and those that are not.
    pub(super) fn unsent(&self, unsent: Vec<u64>, sent: &[u64]) -> Vec<u64> {
        if self.mutation == Mutation::CallsSentUnsent { [unsent.as_slice(), sent].concat() } else { unsent }
    }

    pub(super) fn reply(
        &mut self,
        on: (usize, ConnectionKey),
        cookie: u64,
        result: Result<(), TargetError>,
        now: Instant,
    ) {
        if self.buried.contains(&on.0) {
            return;
        }
        let result = if self.mutation == Mutation::TakesErrorsForSuccess { Ok(()) } else { result };
        self.router.reply(on.1, cookie, result, now).expect("the attempt is in flight");
    }

    pub(super) fn submit(&mut self, request: Request, now: Instant) -> RequestKey {
        self.router.submit(request, now)
    }

    pub(super) fn abandon(&mut self, key: RequestKey, token: u32) {
        self.router.abandon(key, token);
    }

    pub(super) fn begin_sampling(&mut self, unit: UnitId, ranges: &[Extent]) -> Vec<Extent> {
        if self.mutation == Mutation::IgnoresSampling {
            return ranges.to_vec();
        }
        self.router.begin_sampling(unit, ranges)
    }

    pub(super) fn poll(&mut self, now: Instant) -> Instant {
        let wake = self.router.poll(now);
        if self.mutation == Mutation::OverlooksWakes { Instant::FAR_FUTURE } else { wake }
    }

    pub(super) fn take_actions(&mut self, into: &mut Vec<Action>, rng: &mut Rng) {
        self.router.take_actions(into);
        if !matches!(self.mutation, Mutation::LosesACompletion | Mutation::CompletesTwice) {
            return;
        }
        for at in (0..into.len()).rev() {
            if !matches!(into[at], Action::Complete { .. }) {
                continue;
            }
            self.completions += 1;
            if self.completions > 50 && rng.percent(2) {
                match self.mutation {
                    Mutation::CompletesTwice => into.push(into[at].clone()),
                    _ => drop(into.remove(at)),
                }
            }
        }
    }
}

fn mutate(mut plan: RoutePlan, mutation: Mutation) -> RoutePlan {
    let spec = Arc::make_mut(&mut plan.spec);
    match mutation {
        Mutation::ShortFence => spec.targets.iter_mut().for_each(|t| t.quiesce /= 100),
        Mutation::IgnoresLimits => {
            spec.vms.iter_mut().for_each(|vm| (vm.limit, vm.limit_iops) = (None, None));
        }
        Mutation::IgnoresHolds => plan.vms.iter_mut().for_each(|vm| vm.gate = Gate::Open),
        _ => {}
    }
    plan
}
