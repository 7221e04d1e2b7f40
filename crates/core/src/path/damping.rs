//! Flapping: every relapse doubles the time that something must stay good before it counts again.
//!
//! A relapse is a failure while the last one is remembered: [`FORGET_FACTOR`] times the time it had to stay good, at
//! least [`FORGET_MIN`]. Good time undoes relapses one by one, the last first: each halves the proof asked. Rejected:
//! counting only failures during probation, which a path that fails just after each probation escapes; and forgetting
//! all at once, after which a cable that is loose once an hour is as good as new.
//! It does not know whether it damps a path or a link.

use crate::mutant::{self, Mutant};
use crate::time::{Duration, Instant};

/// Nothing has to prove itself for longer: past this, an operator who repaired it would be kept waiting.
pub const REPAIR_AFTER_MAX: Duration = Duration::from_secs(300);
/// A relapse is undone after this many times the good time that it asks for.
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
        asked(self.relapses, base)
    }

    /// How long it would have to stay good if it failed and came back at `now` without a further relapse.
    #[must_use]
    pub fn required_at(&self, now: Instant, base: Duration) -> Duration {
        asked(self.relapses(now, base), base)
    }

    /// Relapses that still count at `now`.
    #[must_use]
    pub fn relapses(&self, now: Instant, base: Duration) -> u32 {
        self.remembered(now, base).unwrap_or(0)
    }

    pub fn came_up(&mut self, now: Instant) {
        self.back_since = Some(now);
    }

    pub fn went_down(&mut self, now: Instant, base: Duration) {
        // Where the cap is reached there is nothing more to ask for, and nothing more to undo.
        let most = (0..DOUBLINGS_MAX).find(|n| asked(*n, base) >= REPAIR_AFTER_MAX).unwrap_or(DOUBLINGS_MAX);
        self.relapses = match (self.back_since, self.remembered(now, base)) {
            (Some(_), Some(relapses)) => (relapses + 1).min(most),
            (Some(_) | None, _) => 0,
        };
        if mutant::active(Mutant::NoDamping) {
            self.relapses = 0;
        }
        self.back_since = None;
    }

    /// Relapses that its good time has not undone; none if the failure itself is forgotten.
    fn remembered(&self, now: Instant, base: Duration) -> Option<u32> {
        let mut good = self.back_since.map_or(Duration::ZERO, |back| now.since(back));
        // At most `DOUBLINGS_MAX` rounds.
        for relapses in (0..=self.relapses.min(DOUBLINGS_MAX)).rev() {
            let remember = asked(relapses, base).saturating_mul(FORGET_FACTOR).max(FORGET_MIN);
            if good < remember {
                return Some(relapses);
            }
            good -= remember;
        }
        None
    }
}

/// The time that it must stay good after so many relapses.
fn asked(relapses: u32, base: Duration) -> Duration {
    base.saturating_mul(1 << relapses.min(DOUBLINGS_MAX)).min(REPAIR_AFTER_MAX.max(base))
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
    fn good_time_undoes_relapses_one_by_one_and_then_the_failure() {
        let mut damping = Damping::default();
        damping.went_down(at(0), BASE);
        for _ in 0..4 {
            damping.came_up(at(1));
            damping.went_down(at(2), BASE);
        }
        assert_eq!(damping.required(BASE).as_secs(), 16);
        damping.came_up(at(10));
        // 160 s for the fourth, 80 s for the third, then the least: 60 s each.
        for (seconds, asked) in [(169, 16), (170, 8), (249, 8), (250, 4), (310, 2), (370, 1), (429, 1)] {
            assert_eq!(damping.required_at(at(seconds), BASE).as_secs(), asked, "at {seconds} s");
        }
        let after = |seconds| {
            let mut damping = damping.clone();
            damping.went_down(at(seconds), BASE);
            damping.required(BASE).as_secs()
        };
        assert_eq!([after(169), after(170), after(310), after(429), after(430)], [32, 16, 4, 2, 1]);
    }

    #[test]
    fn a_thousand_relapses_are_undone_as_fast_as_those_that_reached_the_cap() {
        let mut damping = Damping::default();
        for round in 0..1000 {
            damping.came_up(at(2 * round));
            damping.went_down(at(2 * round + 1), BASE);
        }
        damping.came_up(at(3000));
        assert_eq!(damping.required_at(at(3000 + 3000), BASE).as_secs(), 256);
        assert_eq!(damping.relapses(at(3000 + 4 * 3000), BASE), 0);
    }

    #[test]
    fn a_base_above_the_cap_is_kept() {
        let base = Duration::from_secs(900);
        assert_eq!(Damping::default().required(base), base);
    }
}
