//! Flapping: every relapse doubles the time that something must stay good before it counts again.
//!
//! A relapse is a failure within the time in which the last one is remembered: [`FORGET_FACTOR`] times the time it had
//! to stay good, at least [`FORGET_MIN`]. Rejected: counting only failures during probation, which a path that fails
//! just after each probation escapes.
//! It does not know whether it damps a path or a link.

use crate::time::{Duration, Instant};

/// Nothing has to prove itself for longer: past this, an operator who repaired it would be kept waiting.
pub const REPAIR_AFTER_MAX: Duration = Duration::from_secs(300);
/// A failure is forgotten after this many times the required good time.
const FORGET_FACTOR: u32 = 10;
/// ... but never sooner than this, so that a base of some milliseconds still damps a loose cable.
const FORGET_MIN: Duration = Duration::from_secs(60);
/// 2^20 s is far above the cap.
const DOUBLINGS_MAX: u32 = 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Damping {
    relapses: u32,
    /// When it came up after its last failure; none before the first failure and while it is down.
    back_since: Option<Instant>,
}

impl Damping {
    /// As it was before a restart: relapses, and when it came up after its last failure.
    #[must_use]
    pub fn from_parts(relapses: u32, back_since: Option<Instant>) -> Self {
        Self { relapses, back_since }
    }

    /// Relapses, and when it came up after its last failure.
    #[must_use]
    pub fn parts(&self) -> (u32, Option<Instant>) {
        (self.relapses, self.back_since)
    }

    /// How long it must stay good, given the configured `base`.
    #[must_use]
    pub fn required(&self, base: Duration) -> Duration {
        base.saturating_mul(1 << self.relapses.min(DOUBLINGS_MAX)).min(REPAIR_AFTER_MAX.max(base))
    }

    /// How long it would have to stay good if it failed and came back at `now` without a further relapse.
    #[must_use]
    pub fn required_at(&self, now: Instant, base: Duration) -> Duration {
        if self.forgotten(now, base) { base } else { self.required(base) }
    }

    /// Relapses that still count at `now`.
    #[must_use]
    pub fn relapses(&self, now: Instant, base: Duration) -> u32 {
        if self.forgotten(now, base) { 0 } else { self.relapses }
    }

    pub fn came_up(&mut self, now: Instant) {
        self.back_since = Some(now);
    }

    pub fn went_down(&mut self, now: Instant, base: Duration) {
        self.relapses = match self.back_since {
            Some(_) if !self.forgotten(now, base) => self.relapses.saturating_add(1),
            Some(_) | None => 0,
        };
        self.back_since = None;
    }

    fn forgotten(&self, now: Instant, base: Duration) -> bool {
        let remember = self.required(base).saturating_mul(FORGET_FACTOR).max(FORGET_MIN);
        self.back_since.is_some_and(|back| now.since(back) >= remember)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Instant {
        Instant::from_millis(seconds * 1000)
    }

    #[test]
    fn each_relapse_doubles_up_to_the_cap() {
        let mut damping = Damping::default();
        damping.went_down(at(100), BASE);
        let mut required = vec![damping.required(BASE).as_secs()];
        for round in 0..11 {
            damping.came_up(at(101 + 2 * round));
            damping.went_down(at(102 + 2 * round), BASE);
            required.push(damping.required(BASE).as_secs());
        }
        assert_eq!(required, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }

    #[test]
    fn a_failure_is_forgotten_after_ten_times_the_required_time() {
        let mut damping = Damping::default();
        damping.went_down(at(0), BASE);
        for _ in 0..4 {
            damping.came_up(at(1));
            damping.went_down(at(2), BASE);
        }
        assert_eq!(damping.required(BASE).as_secs(), 16);
        damping.came_up(at(10));
        assert_eq!((damping.relapses(at(169), BASE), damping.relapses(at(170), BASE)), (4, 0));
        damping.went_down(at(170), BASE);
        assert_eq!(damping.required(BASE), BASE);
    }

    #[test]
    fn a_base_above_the_cap_is_kept() {
        let base = Duration::from_secs(900);
        assert_eq!(Damping::default().required(base), base);
    }
}
