//! Measured load: per path what is pending, how long it takes and how fast it goes; per VM what was done and starved.

use super::Router;
use crate::event::{LoadReport, PathLoad as PathReport, VmLoad};
use crate::schedule::{Cost, Phase};
use crate::select::Standing;
use crate::spec::PathSpec;
use crate::spread::Share;
use crate::time::{Duration, Instant};

/// Believed of a path before anything is known of it.
const RATE_UNKNOWN: u64 = 100 << 20;
/// A rate is re-estimated after this much busy time.
const RATE_SAMPLE: Duration = Duration::from_millis(50);
/// With fewer requests in flight than this, on average, a path has not shown what it can do.
const LOADED_DEPTH: u32 = 4;
/// After idling for this long a path's measured rate is forgotten: a path that was slow once must get another chance,
/// and only requests can show that it is well again.
const RATE_STALE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub(super) struct PathLoad {
    pub(super) pending_bytes: u64,
    pub(super) pending_requests: u32,
    /// Of the pending ones, what VMs sent while one of higher priority competed.
    pub(super) outranked_bytes: u64,
    /// This worker's part of the path's.
    pub(super) window: u64,
    /// In one round of dispatching: who waits for room here, by what right and with which priority, so that smaller
    /// requests of its equals, or shares before a floor, do not take each byte that comes free.
    pub(super) claimed_by: Option<(Phase, u32)>,
    /// The number of the attempt that was dispatched last.
    pub(super) last_dispatch: u64,
    pub(super) errors: u64,
    pub(super) completed_requests: u64,
    pub(super) completed_bytes: u64,
    pub(super) service_time: Duration,
    /// This worker's part of what the path is believed to carry. Zero, as the window, if it has none.
    rate_believed: u64,
    measured_rate: Option<u64>,
    /// Device bytes answered in `busy`, since the last estimate.
    sample_bytes: u64,
    sample_busy: Duration,
    /// That busy time, each moment counted once for each request then in flight.
    sample_queue: Duration,
    /// As `service_time`, but none after a loss or an idle while.
    recent_service: Option<Duration>,
    busy_since: Option<Instant>,
    idle_since: Instant,
    saturated_since: Option<Instant>,
    saturated: Duration,
}

impl PathLoad {
    pub(super) fn new(path: &PathSpec, share: Share) -> Self {
        Self {
            pending_bytes: 0,
            pending_requests: 0,
            outranked_bytes: 0,
            window: share.window,
            claimed_by: None,
            last_dispatch: 0,
            errors: 0,
            completed_requests: 0,
            completed_bytes: 0,
            service_time: Duration::ZERO,
            rate_believed: rate_believed(path, share),
            measured_rate: None,
            sample_bytes: 0,
            sample_busy: Duration::ZERO,
            sample_queue: Duration::ZERO,
            recent_service: None,
            busy_since: None,
            idle_since: Instant::ZERO,
            saturated_since: None,
            saturated: Duration::ZERO,
        }
    }

    pub(super) fn configure(&mut self, path: &PathSpec, share: Share) {
        self.window = share.window;
        self.rate_believed = rate_believed(path, share);
    }

    /// Device bytes per second that the selector reckons with.
    pub(super) fn rate(&self, now: Instant) -> u64 {
        if self.is_stale(now) { self.rate_believed } else { self.rate_known() }
    }

    fn rate_known(&self) -> u64 {
        self.measured_rate.unwrap_or(self.rate_believed)
    }

    fn start_sample(&mut self) {
        self.sample_bytes = 0;
        self.sample_queue = Duration::ZERO;
        self.sample_busy = Duration::ZERO;
    }

    /// Zero if nothing is known of late.
    pub(super) fn recent_service_time(&self, now: Instant) -> Duration {
        self.recent_service.filter(|_| !self.is_stale(now)).unwrap_or(Duration::ZERO)
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.pending_requests == 0 && now.since(self.idle_since) >= RATE_STALE
    }

    pub(super) fn dispatched(&mut self, device_bytes: u64, standing: Standing, now: Instant) {
        if self.is_stale(now) {
            self.forget_rate();
        }
        if self.busy_since.is_some() {
            self.sample(now);
        }
        self.pending_bytes += device_bytes;
        self.pending_requests += 1;
        if standing == Standing::Outranked {
            self.outranked_bytes += device_bytes;
        }
        self.busy_since.get_or_insert(now);
    }

    /// Adds the time since the last change to the sample.
    fn sample(&mut self, now: Instant) {
        if let Some(since) = self.busy_since.replace(now) {
            self.sample_busy += now.since(since);
            self.sample_queue += now.since(since) * self.pending_requests;
        }
    }

    /// An attempt is over, however it ended.
    pub(super) fn ended(&mut self, device_bytes: u64, standing: Standing, now: Instant) {
        self.sample(now);
        self.pending_bytes -= device_bytes;
        self.pending_requests -= 1;
        if standing == Standing::Outranked {
            self.outranked_bytes -= device_bytes;
        }
        self.busy_since = (self.pending_requests > 0).then_some(now);
        self.idle_since = now;
        if let Some(since) = self.saturated_since.take() {
            self.saturated += now.since(since);
        }
    }

    /// The target has done what was asked.
    pub(super) fn served(&mut self, cost: Cost, took: Duration) {
        self.completed_requests += 1;
        self.completed_bytes += cost.bytes;
        self.sample_bytes += cost.device_bytes();
        self.service_time = self.recent_service.map_or(took, |known| (known * 7 + took) / 8);
        self.recent_service = Some(self.service_time);
        if self.sample_busy >= RATE_SAMPLE {
            let rate = u128::from(self.sample_bytes) * 1_000_000_000 / self.sample_busy.as_nanos();
            let rate = u64::try_from(rate).unwrap_or(u64::MAX).max(1);
            let known = self.rate_known();
            // With few requests in flight the sample tells how little was asked of the path, not how much it could do:
            // it can only raise the estimate.
            let was_loaded = self.sample_queue >= self.sample_busy * LOADED_DEPTH;
            if was_loaded || rate > known {
                self.measured_rate = Some(known / 4 * 3 + rate / 4);
            }
            self.start_sample();
        }
    }

    /// What was measured while a path was dying, or long ago, says nothing of it now.
    pub(super) fn forget_rate(&mut self) {
        self.measured_rate = None;
        self.recent_service = None;
        self.start_sample();
    }

    /// A request found the window full.
    pub(super) fn saturated(&mut self, now: Instant) {
        self.saturated_since.get_or_insert(now);
    }
}

/// As the window is divided, so is the rate: what is in flight of one is set against the other.
fn rate_believed(path: &PathSpec, share: Share) -> u64 {
    if share.window == 0 {
        return 0;
    }
    (path.capacity.map_or(RATE_UNKNOWN, |c| c.0) / share.parts).max(1)
}

/// Where the counters stood at the last report.
#[derive(Clone, Debug)]
pub(super) struct ReportMark {
    at: Instant,
    vms: Vec<(u64, u64, Duration)>,
    paths: Vec<(u64, Duration)>,
}

impl ReportMark {
    pub(super) fn new(at: Instant) -> Self {
        Self { at, vms: Vec::new(), paths: Vec::new() }
    }
}

impl Router {
    /// What was done since the last call.
    pub fn load_report(&mut self, now: Instant) -> LoadReport {
        let interval = now.since(self.last_report.at);
        let part = |d: Duration| (d.as_secs_f64() / interval.as_secs_f64().max(1e-9)).min(1.0);
        let mut mark = ReportMark::new(now);
        let mut report = LoadReport { interval, ..LoadReport::default() };
        for (index, lane) in self.lanes.iter().enumerate() {
            let starved = lane.counters.starved + lane.starved_since.map_or(Duration::ZERO, |s| now.since(s));
            let total = (lane.counters.completed_bytes, lane.counters.completed_requests, starved);
            let before = self.last_report.vms.get(index).copied().unwrap_or_default();
            report.vms.push(VmLoad {
                bytes_completed: total.0 - before.0,
                requests_completed: total.1 - before.1,
                backlogged: part(total.2.saturating_sub(before.2)),
            });
            mark.vms.push(total);
        }
        for (index, path) in self.paths.iter().enumerate() {
            let saturated = path.saturated + path.saturated_since.map_or(Duration::ZERO, |s| now.since(s));
            let before = self.last_report.paths.get(index).copied().unwrap_or_default();
            report.paths.push(PathReport {
                bytes_completed: path.completed_bytes - before.0,
                saturated: part(saturated.saturating_sub(before.1)),
            });
            mark.paths.push((path.completed_bytes, saturated));
        }
        self.last_report = mark;
        report
    }
}
