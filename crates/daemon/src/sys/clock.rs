//! The only reading of clocks in the daemon.

use std::time::{SystemTime, UNIX_EPOCH};
use vmpath_core::time::Instant;

/// CLOCK_MONOTONIC.
#[must_use]
pub fn now() -> Instant {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Instant::from_nanos(t.tv_sec.unsigned_abs() * 1_000_000_000 + t.tv_nsec.unsigned_abs())
}

/// Wall-clock microseconds since 1970 of a monotonic instant, by the clocks' present offset.
#[must_use]
pub fn unix_micros(at: Instant) -> u64 {
    // By the C library, which a test may give another clock.
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_us = u64::try_from(wall.as_micros()).unwrap_or(u64::MAX);
    let present = now();
    let ago = present.since(at).as_micros();
    let ahead = at.since(present).as_micros();
    wall_us
        .saturating_sub(u64::try_from(ago).unwrap_or(u64::MAX))
        .saturating_add(u64::try_from(ahead).unwrap_or(0))
}
