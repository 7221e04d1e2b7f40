//! One path as this worker loads it: its capacity and its window, and what the selector sees of both.

use super::Router;
use crate::ids::PathId;
use crate::schedule::Cost;
use crate::select::{Heard, PathState};
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
        state.heard = Heard::Lately;
        self.show_capacity(state);
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
