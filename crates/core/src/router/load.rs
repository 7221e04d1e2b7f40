//! One path as this worker loads it: its capacity and its window, and what the selector sees of both.

use super::Router;
use crate::event::PathVitals;
use crate::ids::PathId;
use crate::schedule::Cost;
use crate::select::{Heard, Pace, PathState};
use crate::spec::{PathSpec, SchedulerKind};
use crate::spread::part_of;
use crate::time::{Duration, Instant};
use crate::window::{Capacity, RATE_UNKNOWN, Reply, Window};

#[derive(Clone, Debug)]
pub(super) struct PathLoad {
    /// Of the whole path, as seen from here.
    pub(super) window: Window,
    /// What this worker gets of it.
    pub(super) capacity: Capacity,
    pub(super) errors: u64,
    pub(super) completed_requests: u64,
    pub(super) completed_bytes: u64,
    /// Kept over an idle while, for displays.
    pub(super) service_time: Duration,
    /// Since the last report.
    vitals: PathVitals,
    /// The most that it was seen to carry of late, in device bytes per second; zero if it was not.
    best: u64,
    /// Of `best`, or as believed: by this what is in flight is taken for our own queue.
    best_pace: Pace,
    saturated_since: Option<Instant>,
    saturated: Duration,
}

impl PathLoad {
    pub(super) fn new(path: &PathSpec) -> Self {
        Self {
            window: Window::new(path.window_start(), path.window_max),
            capacity: Capacity::new(believed(path)),
            errors: 0,
            completed_requests: 0,
            completed_bytes: 0,
            service_time: Duration::ZERO,
            vitals: PathVitals::default(),
            best: 0,
            best_pace: Pace::of(believed(path)),
            saturated_since: None,
            saturated: Duration::ZERO,
        }
    }

    pub(super) fn configure(&mut self, path: &PathSpec) {
        self.window.configure(path.window_start(), path.window_max);
        self.capacity.configure(believed(path));
    }

    /// What was measured of an idle path is forgotten after a while.
    pub(super) fn refresh_idle(&mut self, state: &mut PathState, now: Instant) {
        if state.heard == Heard::Lately && self.capacity.is_stale(now) {
            self.forget(state, now);
        }
    }

    /// An attempt is sent; `state` is as it was before.
    pub(super) fn dispatched(&mut self, state: &PathState, now: Instant) {
        self.capacity.dispatched(state.pending_requests, now);
        if state.pending_requests == 0 {
            self.window.resumed(now);
        }
    }

    /// An attempt is over, however it ended; `state` is as it was before.
    pub(super) fn ending(&mut self, state: &PathState, now: Instant) {
        self.capacity.ended(state.pending_requests, now);
        if let Some(since) = self.saturated_since.take() {
            self.saturated += now.since(since);
        }
    }

    /// The target has done what was asked. `pending` device bytes of the whole path were in flight, this one included.
    pub(super) fn served(
        &mut self,
        state: &mut PathState,
        (cost, took): (Cost, Duration),
        pending: u64,
        now: Instant,
    ) {
        self.completed_requests += 1;
        self.completed_bytes += cost.bytes;
        let (bytes, device_bytes) = (cost.bytes, cost.device_bytes());
        self.capacity.served(bytes, device_bytes, took);
        self.window.served(Reply { bytes, device_bytes, took, pending, now });
        self.service_time = self.capacity.service_time();
        self.vitals.answered += 1;
        if bytes > 0 {
            self.vitals.requests.add(self.without_queue(took, pending));
        }
        state.heard = Heard::Lately;
        self.show_capacity(state);
    }

    /// What a request took besides waiting for the others in flight. Where those explain half of it or more, all of it is
    /// theirs: a path is not sick for what it is given. Their pace is the best that the path has shown, or a path that has
    /// become slow would explain itself.
    fn without_queue(&self, took: Duration, pending: u64) -> Duration {
        let queue = Duration::from_nanos(self.best_pace.nanos(pending));
        if queue * 2 > took { Duration::ZERO } else { took - queue }
    }

    /// An answer to a ping has come.
    pub(super) fn pinged(&mut self, took: Duration) {
        self.vitals.pings.add(took);
    }

    /// Another path has served a request that this one failed.
    pub(super) fn blamed(&mut self) {
        self.vitals.failed = self.vitals.failed.saturating_add(1);
        self.vitals.answered = self.vitals.answered.saturating_add(1);
    }

    /// What was seen since the last call, a few times a second.
    pub(super) fn take_vitals(&mut self) -> PathVitals {
        /// At five reports a second, the best is forgotten over a minute.
        const FORGET_SHIFT: u32 = 8;
        self.best -= self.best >> FORGET_SHIFT;
        if self.capacity.byte_rate().is_some() {
            self.best = self.best.max(self.capacity.device_rate());
        }
        self.best_pace = if self.best > 0 { Pace::of(self.best) } else { self.capacity.pace() };
        std::mem::take(&mut self.vitals)
    }

    /// What was measured while a path was dying, or long ago, says nothing of it now.
    pub(super) fn forget(&mut self, state: &mut PathState, now: Instant) {
        self.capacity.forget();
        self.window.forget(now);
        state.heard = Heard::LongAgo;
        self.show_capacity(state);
    }

    pub(super) fn show_capacity(&self, state: &mut PathState) {
        state.pace = self.capacity.pace();
        state.service = u64::try_from(self.capacity.service_time().as_nanos()).unwrap_or(u64::MAX);
    }

    /// Time in which requests found the window full.
    pub(super) fn saturated(&self, now: Instant) -> Duration {
        self.saturated + self.saturated_since.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// A request has found the window full.
    pub(super) fn saturated_from(&mut self, now: Instant) {
        self.saturated_since.get_or_insert(now);
    }
}

fn believed(path: &PathSpec) -> u64 {
    path.capacity.map_or(RATE_UNKNOWN, |c| c.0).max(1)
}

impl Router {
    /// The path's state as the plan and its window have it now.
    pub(super) fn follow_path(&mut self, path: PathId) {
        let state = &mut self.states[path.index()];
        state.route(self.plan.paths[path.index()]);
        self.paths[path.index()].show_capacity(state);
        self.fit_window(path);
    }

    /// A path has answered a ping.
    pub fn pinged(&mut self, path: PathId, took: Duration) {
        self.paths[path.index()].pinged(took);
    }

    /// This worker's part of the path's window, as it is steered now.
    pub(super) fn fit_window(&mut self, path: PathId) {
        let state = &mut self.states[path.index()];
        if self.plan.spec.host.scheduler == SchedulerKind::None {
            (state.window, state.window_requests) = (u64::MAX, u32::MAX);
            return;
        }
        let window = &self.paths[path.index()].window;
        let part = part_of(&self.plan, path, self.worker);
        state.window = part.of(window.bytes());
        state.window_requests = window.requests();
    }
}
