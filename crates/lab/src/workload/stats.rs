//! What the load has seen: counts, latencies, the longest time without a completion.
//!
//! Invariant: counters only grow. A gap counts only while requests are open, and not while the guest is stopped: it is
//! what the guest's user would have noticed. Rejected: keeping every latency.
//! It does not know: what is good or bad; reports judge.

use super::model::Mismatch;
use serde_json::{Value, json};
use std::time::Duration;

/// Details kept of mismatches; beyond these only the count grows.
const MISMATCHES_KEPT: usize = 20;

/// Counters of one disk's load.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub requests: u64,
    pub reads: u64,
    pub writes: u64,
    pub flushes: u64,
    /// Read and written; zeroes are not counted, since no bytes move for them.
    pub bytes: u64,
    /// Requests that failed for good.
    pub errors: u64,
    /// Times that a request was failed and kept, to be repeated when the guest goes on.
    pub io_errors_kept: u64,
    pub blocks_verified: u64,
    pub mismatches: u64,
    pub mismatch_details: Vec<Mismatch>,
    /// Replies to nothing: to an unknown request, or a second one.
    pub completed_twice: u64,
    /// Requests that were never answered.
    pub lost: u64,
    pub latency: Histogram,
    pub longest_gap: Duration,
    /// Since the last sample.
    pub recent_gap: Duration,
    gap_from: Option<Duration>,
}

impl Stats {
    /// A request was sent while none was open.
    pub fn first_sent(&mut self, now: Duration) {
        self.gap_from.get_or_insert(now);
    }

    /// A request was answered; `open` others are.
    pub fn completed(&mut self, now: Duration, open: usize) {
        self.look(now);
        self.gap_from = (open > 0).then_some(now);
    }

    /// The gap that is open counts, too.
    pub fn look(&mut self, now: Duration) {
        let gap = self.gap_from.map_or(Duration::ZERO, |from| now.saturating_sub(from));
        self.longest_gap = self.longest_gap.max(gap);
        self.recent_gap = self.recent_gap.max(gap);
    }

    /// The guest was stopped for that long: nobody noticed.
    pub fn forgive(&mut self, stopped: Duration) {
        self.gap_from = self.gap_from.map(|from| from + stopped);
    }

    pub fn add_mismatches(&mut self, found: Vec<Mismatch>) {
        self.mismatches += found.len() as u64;
        let room = MISMATCHES_KEPT.saturating_sub(self.mismatch_details.len());
        self.mismatch_details.extend(found.into_iter().take(room));
    }

    /// The counters, for a sample line. Ends the interval of the recent gap.
    pub fn sample(&mut self) -> Value {
        let gap = std::mem::take(&mut self.recent_gap);
        json!({
            "requests": self.requests,
            "bytes": self.bytes,
            "errors": self.errors,
            "io_errors_kept": self.io_errors_kept,
            "mismatches": self.mismatches,
            "completed_twice": self.completed_twice,
            "longest_gap_ms": millis(gap),
        })
    }

    /// Everything, for a report.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let quantile = |q: f64| millis(self.latency.quantile(q));
        json!({
            "requests": self.requests,
            "reads": self.reads,
            "writes": self.writes,
            "flushes": self.flushes,
            "bytes": self.bytes,
            "errors": self.errors,
            "io_errors_kept": self.io_errors_kept,
            "blocks_verified": self.blocks_verified,
            "mismatches": self.mismatches,
            "mismatch_details": self.mismatch_details,
            "completed_twice": self.completed_twice,
            "lost": self.lost,
            "longest_gap_ms": millis(self.longest_gap),
            "latency_ms": {
                "p50": quantile(0.5), "p90": quantile(0.9), "p99": quantile(0.99), "p999": quantile(0.999),
                "max": millis(self.latency.max()),
            },
        })
    }
}

/// Milliseconds with a fraction, to the microsecond.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    time.as_micros() as f64 / 1000.0
}

/// Bits of a latency that are told apart: buckets are at most 1/16 wide.
const FINE_BITS: u32 = 4;

/// Latencies in buckets that grow with them: microseconds, or whatever unit the raw methods are used with.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        let rows = (u64::BITS - FINE_BITS + 1) as usize;
        Self { buckets: vec![0; rows << FINE_BITS], count: 0, max: 0 }
    }
}

impl Histogram {
    pub fn add(&mut self, latency: Duration) {
        self.add_raw(latency.as_micros() as u64);
    }

    /// Adds a latency in a unit of the caller's.
    pub fn add_raw(&mut self, latency: u64) {
        self.buckets[bucket(latency)] += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// The latency that the part `q` (0 to 1) of all stay at or below, to a sixteenth; zero if there is none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Duration {
        Duration::from_micros(self.quantile_raw(q))
    }

    /// The same in the unit of [`Histogram::add_raw`].
    #[must_use]
    pub fn quantile_raw(&self, q: f64) -> u64 {
        let rank = (q * self.count as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map_or(0, |bucket| upper_end(bucket).min(self.max))
    }

    /// The longest of all.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max)
    }
}

fn bucket(value: u64) -> usize {
    let row = (u64::BITS - value.leading_zeros()).saturating_sub(FINE_BITS + 1);
    let fine = (value >> row) as usize;
    ((row as usize) << FINE_BITS) + fine
}

fn upper_end(bucket: usize) -> u64 {
    let row = (bucket >> FINE_BITS).saturating_sub(1);
    let fine = (bucket - (row << FINE_BITS)) as u64;
    ((fine + 1) << row) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for micros in (0..5000).chain([1 << 20, (1 << 40) + 12345]) {
            let at = bucket(micros);
            let end = upper_end(at);
            assert!(micros <= end && end - micros <= micros / 16 + 1, "{micros} in {at}, up to {end}");
            assert_eq!(bucket(end), at);
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (q, ms) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = millis(histogram.quantile(q));
            assert!((ms..=ms * 1.07).contains(&found), "{q}: {found}");
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn a_gap_needs_an_open_request() {
        let ms = Duration::from_millis;
        let mut stats = Stats::default();
        stats.first_sent(ms(0));
        stats.completed(ms(10), 0);
        stats.first_sent(ms(500));
        stats.completed(ms(520), 1);
        stats.forgive(ms(300));
        stats.completed(ms(830), 0);
        stats.look(ms(2000));
        assert_eq!(stats.longest_gap, ms(20));
    }
}
