//! When a portal answers: one server of a given bandwidth for all of its connections, first come, first served.
//!
//! Invariant: over any time in which it is never idle it serves exactly `capacity` bytes a second, both directions
//! together; latency is added beside that, so that requests overlap in it. Rejected: a token bucket, whose burst
//! would let a short test see more than the capacity.
//! It does not know: connections, faults, the clock.

use std::time::Duration;
use tokio::time::Instant;

/// The queue in front of a portal, as the time at which it will be empty.
#[derive(Debug)]
pub(super) struct Service {
    /// Bytes per second; `None` for no limit.
    capacity: Option<u64>,
    latency: Duration,
    free_at: Instant,
}

impl Service {
    #[must_use]
    pub(super) fn new(capacity: Option<u64>, latency: Duration, now: Instant) -> Self {
        Self { capacity: capacity.filter(|rate| *rate > 0), latency, free_at: now }
    }

    /// Queues `bytes` that came at `now`; says when they are served.
    pub(super) fn admit(&mut self, bytes: u32, now: Instant) -> Instant {
        let Some(rate) = self.capacity else { return now + self.latency };
        let time = Duration::from_nanos((u128::from(bytes) * 1_000_000_000 / u128::from(rate)) as u64);
        self.free_at = self.free_at.max(now) + time;
        self.free_at.max(now + self.latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_capacity_is_kept_and_not_saved_up() {
        let start = Instant::now();
        let mut service = Service::new(Some(1_000_000), Duration::ZERO, start);
        assert_eq!(service.admit(1000, start), start + MS);
        assert_eq!(service.admit(1000, start), start + 2 * MS);
        assert_eq!(service.admit(1000, start + 50 * MS), start + 51 * MS);
    }

    #[test]
    fn latency_overlaps() {
        let start = Instant::now();
        let mut service = Service::new(Some(1_000_000), 10 * MS, start);
        assert_eq!(service.admit(1000, start), start + 10 * MS);
        assert_eq!(service.admit(1000, start), start + 10 * MS);
        assert_eq!(Service::new(None, MS, start).admit(1 << 30, start), start + MS);
    }
}
