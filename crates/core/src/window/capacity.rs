//! What a path carries when it is loaded, in device bytes and in bytes per second, and how long its requests take.
//!
//! Measured over busy time only. With few requests in flight a sample tells how little was asked of the path, so that it
//! may raise the estimate and not lower it. Rejected: a windowed maximum; it would take its whole window to notice that a
//! path has slowed. It does not know windows, workers or who asked.

use super::latency::nanos;
use crate::select::Pace;
use crate::time::{Duration, Instant};

/// Believed of a path before anything is known of it: device bytes per second.
pub const RATE_UNKNOWN: u64 = 100 << 20;
/// A rate is estimated anew after this much busy time, in ns.
const SAMPLE: u64 = 50_000_000;
/// With fewer requests in flight than this, on average, a path has not shown what it can do.
const LOADED_DEPTH: u64 = 4;
/// After idling for this long what was measured is forgotten: a path that was slow once must get another chance, and only
/// requests can show that it is well again.
const STALE: Duration = Duration::from_secs(1);

#[derive(Clone, Debug)]
pub struct Capacity {
    /// Device bytes per second; zero for a worker that has no part of the path.
    believed: u64,
    measured: Option<Rates>,
    /// Since the last estimate: what was answered in `busy` ns, and each moment of that once for each request in flight.
    bytes: u64,
    device_bytes: u64,
    busy: u64,
    depth: u64,
    /// Up to when `busy` was counted; none while nothing is in flight.
    counted: Option<Instant>,
    idle_since: Instant,
    /// In ns; zero if nothing is known.
    service: u64,
    pace: Pace,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    bytes: u64,
    device_bytes: u64,
}

impl Capacity {
    /// `believed` is in device bytes per second: the configured capacity or [`RATE_UNKNOWN`], or a worker's part of it.
    #[must_use]
    pub fn new(believed: u64) -> Self {
        Self {
            believed,
            measured: None,
            bytes: 0,
            device_bytes: 0,
            busy: 0,
            depth: 0,
            counted: None,
            idle_since: Instant::ZERO,
            service: 0,
            pace: Pace::of(believed),
        }
    }

    pub fn configure(&mut self, believed: u64) {
        self.believed = believed;
        self.pace = Pace::of(self.device_rate());
    }

    /// Device bytes per second.
    #[must_use]
    pub fn device_rate(&self) -> u64 {
        self.measured.map_or(self.believed, |rates| rates.device_bytes)
    }

    /// Bytes per second, as requests were lately sized; none if nothing was measured.
    #[must_use]
    pub fn byte_rate(&self) -> Option<u64> {
        self.measured.map(|rates| rates.bytes)
    }

    /// [`Self::device_rate`] as the selector takes it. Changes in [`Self::served`], [`Self::configure`] and
    /// [`Self::forget`] only.
    #[must_use]
    pub const fn pace(&self) -> Pace {
        self.pace
    }

    /// What requests have lately taken, from dispatch to reply, exponentially weighted; zero if nothing is known.
    #[must_use]
    pub const fn service_time(&self) -> Duration {
        Duration::from_nanos(self.service)
    }

    /// Whether the path has idled for so long that what was measured should be forgotten.
    #[must_use]
    pub fn is_stale(&self, now: Instant) -> bool {
        self.counted.is_none() && now.since(self.idle_since) >= STALE
    }

    /// A request is sent; `in_flight` were before it.
    pub fn dispatched(&mut self, in_flight: u32, now: Instant) {
        if self.is_stale(now) {
            self.forget();
        }
        self.count(in_flight, now);
    }

    /// An attempt is over, however it ended; `in_flight` were before that, itself included.
    pub fn ended(&mut self, in_flight: u32, now: Instant) {
        self.count(in_flight, now);
        if in_flight <= 1 {
            self.counted = None;
            self.idle_since = now;
        }
    }

    /// The target has done what was asked. After [`Self::ended`].
    pub fn served(&mut self, bytes: u64, device_bytes: u64, took: Duration) {
        self.bytes += bytes;
        self.device_bytes += device_bytes;
        let took = nanos(took);
        self.service =
            if self.service == 0 { took } else { self.service - (self.service >> 3) + (took >> 3) };
        if self.busy >= SAMPLE {
            self.estimate();
        }
    }

    /// After a loss: what was measured while a path was dying says nothing of it now.
    pub fn forget(&mut self) {
        self.measured = None;
        self.service = 0;
        self.pace = Pace::of(self.believed);
        self.start_sample();
    }

    /// Adds the time since the last change.
    fn count(&mut self, in_flight: u32, now: Instant) {
        if let Some(since) = self.counted.replace(now) {
            let passed = now.as_nanos().saturating_sub(since.as_nanos());
            self.busy += passed;
            self.depth += passed * u64::from(in_flight);
        }
    }

    #[cold]
    fn estimate(&mut self) {
        let per_second = |amount: u64| {
            let rate = u128::from(amount) * 1_000_000_000 / u128::from(self.busy.max(1));
            u64::try_from(rate).unwrap_or(u64::MAX).max(1)
        };
        let seen = Rates { bytes: per_second(self.bytes), device_bytes: per_second(self.device_bytes) };
        let was_loaded = self.depth >= self.busy * LOADED_DEPTH;
        let known = self.device_rate();
        if was_loaded || seen.device_bytes > known {
            let bytes = self.measured.map_or(seen.bytes, |rates| rates.bytes);
            self.measured = Some(Rates {
                bytes: bytes / 4 * 3 + seen.bytes / 4,
                device_bytes: known / 4 * 3 + seen.device_bytes / 4,
            });
            self.pace = Pace::of(self.device_rate());
        }
        self.start_sample();
    }

    fn start_sample(&mut self) {
        (self.bytes, self.device_bytes) = (0, 0);
        (self.busy, self.depth) = (0, 0);
    }
}
