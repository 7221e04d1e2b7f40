//! The wall clock, by which processes of one machine stamp what they tell each other.
//!
//! Invariant: only for stamps; waiting and measuring inside a process use its monotonic clock.
//! Rejected: a clock argument here as in core: the lab's drivers are the ones that meet real time.
//! It does not know: time zones, other machines.

use std::time::SystemTime;

/// Microseconds since 1970.
#[must_use]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_micros() as u64
}
