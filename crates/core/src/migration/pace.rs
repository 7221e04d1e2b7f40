//! When a question without a bound of its own is asked again: more and more slowly, and never not at all.

use crate::time::{Duration, Instant};

/// Another host or the store may be back at any moment; a whole host that waits asks once in this time.
const EVERY_MAX: Duration = Duration::from_secs(30);
/// While a guest stands still for it.
const QUICK_MAX: Duration = Duration::from_millis(250);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    pub at: Instant,
    every: Duration,
    max: Duration,
}

impl Pace {
    #[must_use]
    pub(crate) fn first(now: Instant, every: Duration) -> Self {
        Self { at: now + every, every, max: EVERY_MAX }
    }

    /// For what has a bound of its own.
    #[must_use]
    pub(super) fn quick(now: Instant, every: Duration) -> Self {
        Self { max: QUICK_MAX, ..Self::first(now, every) }
    }

    /// After it was asked again.
    #[must_use]
    pub(crate) fn next(self, now: Instant) -> Self {
        let every = (self.every * 2).min(self.max);
        Self { at: now + every, every, ..self }
    }
}
