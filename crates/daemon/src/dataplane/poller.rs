//! Whether to spin or to sleep until something happens.
//!
//! A thread that sleeps wakes up tens of microseconds late; one that spins takes a CPU from those who serve it. So a worker
//! spins only while what it waits for has lately come soon, and only for a bounded while: an idle worker sleeps.

use vmpath_core::time::{Duration, Instant};

/// The longest spin; what takes longer is slept for.
const SPIN_MAX: Duration = Duration::from_micros(60);
/// A wait that is remembered as this long at most, so that a busy time after an idle one is noticed soon.
const GAP_MAX: Duration = Duration::from_micros(400);

#[derive(Debug, Default)]
pub(super) struct Poller {
    /// How long waits have lately been.
    expected: Duration,
}

impl Poller {
    /// Until when to spin, of a wait that begins now; `now` itself if it is better to sleep.
    pub(super) fn spin_until(&self, now: Instant) -> Instant {
        if self.expected <= SPIN_MAX { now + SPIN_MAX } else { now }
    }

    /// A wait has ended with something to do.
    pub(super) fn waited(&mut self, took: Duration) {
        self.expected = (self.expected * 3 + took.min(GAP_MAX)) / 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_spins_while_things_come_soon_and_sleeps_when_they_do_not() {
        let now = Instant::from_millis(5);
        let mut poller = Poller::default();
        for _ in 0..10 {
            poller.waited(Duration::from_micros(20));
        }
        assert_eq!(poller.spin_until(now), now + SPIN_MAX);
        poller.waited(Duration::from_secs(3600));
        assert_eq!(poller.spin_until(now), now, "one long wait is enough to sleep");
        let mut waits = 0;
        while poller.spin_until(now) == now {
            poller.waited(Duration::from_micros(30));
            waits += 1;
        }
        assert!((1..10).contains(&waits), "and a few short ones to spin again: {waits}");
    }
}
